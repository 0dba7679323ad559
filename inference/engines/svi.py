"""Stochastic variational inference: `step(batch) -> loss`, `evaluate_loss(batch)`."""

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyromodels.errors import mismatch
from pyromodels.inference.objectives.closed_form import Bound
from pyromodels.inference.training.checkpoint import (
    flat,
    load_optimizer_tensors,
    optimizer_tensors,
    part_of,
)
from pyromodels.inference.training.finite import FitError, guilty_parameter
from pyromodels.pyro_support.random_state import restored_random_state
from pyromodels.pyro_support.vectorised_runs import Program


class SVI:
    """Gradient ascent on a bound with Adam, over a model's and a guide's own parameters.

    It differs from `pyro.infer.SVI` in that the parameters of modules live in the modules alone,
    not in Pyro's global store; the same models and guides train there as well. Those of a plain
    function, or of a PyroModule that keeps them in the store (Pyro's autoguides do), are found at
    the first step, and stay in the store.

    Args:
        model: any Pyro program, called with the batch.
        guide: its guide, likewise.
        elbo: a Pyro estimator such as `TraceEnum_ELBO`, or a bound in closed form, which has no
            noise, such as `pyromodels.inference.mixture.bound.closed_form_elbo`.
        learning_rate: of Adam.
        num_steps: steps over which the learning rate falls to zero along a half cosine; it stays
            there. None: constant. A noisy gradient needs it to come to rest.
        train_model: also move the model's parameters.
        max_grad_norm: the gradient is scaled down to this norm; None leaves it.

    Raises:
        ValueError: where there is nothing to train.

    Example:
        >>> import pyro.distributions as dist
        >>> class Model(nn.Module):
        ...     def forward(self, x):
        ...         mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> class Guide(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         pyro.sample("mean", dist.Normal(self.loc, 0.7))
        >>> svi = SVI(Model(), Guide(), elbo=pyro.infer.Trace_ELBO(), learning_rate=0.1)
        >>> losses = [svi.step(torch.tensor(2.0)) for _ in range(300)]
        >>> 0.6 < svi.guide.loc.item() < 1.4
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *,
        elbo: ELBO | Bound,
        learning_rate: float = 0.02,
        num_steps: int | None = None,
        train_model: bool = False,
        max_grad_norm: float | None = None,
    ) -> None:
        if not callable(elbo):
            expected = "an estimator of pyro.infer, or a bound in closed form"
            raise ValueError(mismatch("elbo", given=repr(elbo), expected=expected))
        self.model, self.guide, self.elbo = model, guide, elbo
        self.max_grad_norm = max_grad_norm
        self.learning_rate, self.num_steps, self.steps_made = learning_rate, num_steps, 0
        trained = {"guide": guide} | ({"model": model} if train_model else {})
        self.functions = [program for program in trained.values() if not _is_module(program)]
        self._local = not any(_keeps_in_store(program) for program in (model, guide))
        self.parameters: dict[str, Tensor] = {}
        for part, program in trained.items():
            if _is_module(program):
                named = program.named_parameters(prefix=part)
                self.parameters |= {name: p for name, p in named if p.requires_grad}
        self.optimizer: torch.optim.Adam | None = None
        self._waiting: dict[str, Tensor] = {}
        if not self.functions:
            self._start()

    def step(self, batch: Any) -> float:
        """Take one gradient step; return the loss before it, nats, summed over sequences.

        Raises:
            FitError: naming the step and the parameter, where a loss or a gradient is not finite.
        """
        if self.optimizer is None:
            self._find_parameters(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = self._loss(batch)
        # only what is trained gets a gradient: others may share the networks
        gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        checked = [loss.detach(), *(g for g in gradients if g is not None)]
        finite = torch.stack([part.isfinite().all() for part in checked]).all()
        # one transfer for both, which is the step's only wait for the device
        value, all_finite = torch.stack((loss.detach().double(), finite.double())).tolist()
        if not all_finite:
            what = f"SVI: loss {value} at step {self.steps_made + 1}"
            raise FitError(what + guilty_parameter(self.parameters))
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.optimizer.step()
        self.steps_made += 1
        return value

    @torch.no_grad()
    def evaluate_loss(self, batch: Any, num_draws: int = 1) -> float:
        """Return the loss, nats, summed over sequences, averaged over draws of the estimator."""
        if not isinstance(self.elbo, ELBO):
            return self._loss(batch).item()
        if self.optimizer is None:
            self._find_parameters(batch)
        with pyro.settings.context(module_local_params=self._local):
            draws = [self.elbo.loss(self.model, self.guide, batch) for _ in range(num_draws)]
        return sum(draws) / num_draws

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters, Adam's moments and the number of steps, as flat tensors."""
        if self.optimizer is None and self._waiting:
            return dict(self._waiting)
        programs = {"guide": self.guide, "model": self.model}
        parts = {name: p.state_dict() for name, p in programs.items() if _is_module(p)}
        parts["param"] = part_of(self.parameters, "param")
        parts["adam"] = {} if self.optimizer is None else optimizer_tensors(self.optimizer)
        state = {name: tensor.detach().clone() for name, tensor in flat(**parts).items()}
        return {**state, "steps_made": torch.tensor(self.steps_made)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, program in (("guide", self.guide), ("model", self.model)):
            if _is_module(program):
                program.load_state_dict(part_of(state, name))
        self.steps_made = int(state["steps_made"])
        if self.optimizer is None:  # of functions, nothing is there to restore before a batch is
            self._waiting = dict(state)
            return
        with torch.no_grad():
            for name, value in part_of(state, "param").items():
                self.parameters[f"param.{name}"].copy_(value)
        load_optimizer_tensors(self.optimizer, part_of(state, "adam"))

    def _find_parameters(self, batch: Any) -> None:
        """Run the functions once to see which parameters they declare; no draw is lost by it."""
        for program in self.functions:
            local = pyro.settings.context(module_local_params=self._local)
            with local, restored_random_state(), poutine.trace(param_only=True) as capture:
                with torch.no_grad():
                    program(batch)
            for name, site in capture.trace.nodes.items():
                parameter = site["value"].unconstrained()
                if parameter.requires_grad:
                    self.parameters[f"param.{name}"] = parameter
        self._start()
        if self._waiting:
            self.load_state_dict(self._waiting)

    def _start(self) -> None:
        if not self.parameters:
            raise ValueError(
                f"SVI: {_name(self.guide)} has no parameter to train; a MeanField has them as "
                "`guide.parametrised()`, or use VEM"
            )
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=self.learning_rate)

    def _rate(self) -> float:
        if self.num_steps is None:
            return self.learning_rate
        progress = min(1.0, self.steps_made / self.num_steps)
        return self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * progress))

    def _loss(self, batch: Any) -> Tensor:
        if not isinstance(self.elbo, ELBO):
            return -self.elbo(self.model, self.guide, batch).sum()
        with pyro.settings.context(module_local_params=self._local):
            return self.elbo.differentiable_loss(self.model, self.guide, batch)


def _is_module(program: Program) -> bool:
    """Whether a program's parameters are its own, as a torch module's are."""
    return isinstance(program, nn.Module) and not _keeps_in_store(program)


def _keeps_in_store(program: Program) -> bool:
    """Whether a program has a PyroModule that was made to keep its parameters in Pyro's store."""
    modules = program.modules() if isinstance(program, nn.Module) else ()
    return any(
        isinstance(m, PyroModule) and not hasattr(m._pyro_context, "param_state") for m in modules
    )


def _name(program: Program) -> str:
    return getattr(program, "__name__", type(program).__name__)
