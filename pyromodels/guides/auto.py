"""Pyro's automatic guides, and a flow, over the continuous latents of any model."""

import copy
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_sample,
    init_to_value,
)
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints

from pyromodels.errors import mismatch
from pyromodels.guides.base import Guide
from pyromodels.pyro_support.vectorised_runs import (
    Program,
    check_init,
    guided_sites,
    latent_sites,
    nesting_of,
    quietly,
    refuse_minibatch,
)
from pyromodels.registry import GUIDES


@GUIDES.register("auto")
class AutoGuide(Guide):
    """Pyro's automatic guides over all continuous latents, enumerated ones left to the model.

    ========================  ==================================================================
    family                    q(x), x unconstrained
    ========================  ==================================================================
    ``normal``                independent normals
    ``multivariate_normal``   one normal of all sites and sequences: D (D + 1) / 2 parameters
    ``low_rank``              the same, of covariance diag + rank R
    ``flow``                  a masked autoregressive flow (zuko) of all sites and sequences
    ========================  ==================================================================

    It is set up with the batch, so that a fresh one loads the weights of another, and it can
    evaluate its density, which Pyro's own cannot. Its parameters train in
    `pyromodels.inference.engines.svi.SVI` and, under a name of their own for every instance, in
    `pyro.infer.SVI`.

    Args:
        model: the program.
        batch: the data.
        family: see above.
        init: site -> where its mean starts, in the model's shape; a draw from the prior otherwise.
        init_scale: standard deviation at the start, unconstrained; one number for all, so give data
            of order one.
        rank: R of `low_rank`; None is the square root of the dimension.
        hidden_features: layers of the flow's networks.

    Raises:
        ValueError: for another family, naming a discrete latent that cannot be enumerated, where
            `init` names no continuous latent, or, when run, for a minibatch.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(0.0, scale), obs=x)
        >>> sorted(AutoGuide(model, torch.tensor(1.0)).state_dict())
        ['auto.locs.scale_unconstrained', 'auto.scales.scale_unconstrained']
    """

    def __init__(
        self,
        model: Program,
        batch: Any,  # noqa: ANN401
        *,
        family: Literal["normal", "multivariate_normal", "low_rank", "flow"] = "normal",
        init: Mapping[str, Tensor] | None = None,
        init_scale: float = 0.1,
        rank: int | None = None,
        hidden_features: tuple[int, ...] = (32, 32),
    ) -> None:
        super().__init__()
        guided = guided_sites(model, batch, "an AutoGuide")
        check_init(init or {}, guided)
        latents = latent_sites(model, batch)
        self.max_plate_nesting = nesting_of(model, sites=latents.values())
        hidden = [name for name in latents if name not in guided]
        program = poutine.block(model, hide=hidden)
        start = init_to_value(values=dict(init or {}), fallback=init_to_sample)
        common = {"init_loc_fn": start, "init_scale": init_scale}
        # made in this mode, it works with and without Pyro's parameter store
        with pyro.settings.context(module_local_params=True):
            if family == "normal":
                auto = AutoNormal(program, **common)
            elif family == "multivariate_normal":
                auto = AutoMultivariateNormal(program, **common)
            elif family == "low_rank":
                auto = AutoLowRankMultivariateNormal(program, rank=rank, **common)
            elif family == "flow":
                auto = AutoFlow(program, hidden_features=hidden_features, **common)
            else:
                expected = "normal, multivariate_normal, low_rank or flow"
                raise ValueError(mismatch("family", given=repr(family), expected=expected))
            _rename(auto)
            with quietly(), torch.no_grad():
                auto(batch)
        self.auto, self.family, self.init_scale = auto, family, init_scale

    def forward(self, batch: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """Run the guide; returns the draws."""
        refuse_minibatch("an AutoGuide", batch)
        return self.auto(batch)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AutoGuide":
        """Copy the guide under another name; the model, which Pyro leaves out, is not copied."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        _rename(twin.auto)
        return twin

    def auxiliary(
        self,
        values: Mapping[str, Tensor],  # of every site, in the program's shapes (n, *batch, *event)
    ) -> dict[str, Tensor]:
        """Return the values of the guide's own sites that make it draw `values`."""
        unconstrained = {
            name: biject_to(site["fn"].support).inv(values[name])
            for name, site in self.auto.prototype_trace.iter_stochastic_nodes()
        }
        if self.family == "normal":
            return {f"{name}_unconstrained": value for name, value in unconstrained.items()}
        flat = torch.cat([value.flatten(1) for value in unconstrained.values()], -1)
        ones = [1] * self.max_plate_nesting
        return {f"_{self.auto._pyro_name}_latent": flat.reshape(len(flat), *ones, -1)}


def _rename(auto: PyroModule) -> None:
    """Give a guide a name that no other has: Pyro's store knows its parameters by it."""
    name = f"auto_{secrets.token_hex(8)}"
    for path, module in auto.named_modules():
        if isinstance(module, PyroModule):
            module._pyro_name = f"{name}.{path}" if path else name


class AutoFlow(AutoContinuous):
    """x = loc + scale f(e), e standard normal, f a masked autoregressive flow."""

    def __init__(
        self,
        model: Program,
        *,
        hidden_features: tuple[int, ...],
        init_scale: float,
        **keywords: Any,
    ) -> None:
        super().__init__(model, **keywords)
        self.hidden_features, self.init_scale = hidden_features, init_scale

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        from zuko.flows import MAF  # only here: importing it takes a second

        loc = self._init_loc()
        self.loc = nn.Parameter(loc)
        self.log_scale = nn.Parameter(torch.full_like(loc, self.init_scale).log())
        flow = MAF(self.latent_dim, transforms=2, hidden_features=self.hidden_features)
        self.flow = flow.transform.to(loc)

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """Return q of all latents, flat."""
        return FlowLaw(self.flow(), self.loc, self.log_scale.exp())


class FlowLaw(TorchDistribution):
    """x = loc + scale f(e), e standard normal; drawing is fast, inverting f takes D passes."""

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        transform: Transform,
        loc: Tensor,  # shape: (D,)
        scale: Tensor,  # shape: (D,)
        batch_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> None:
        self.transform, self.loc, self.scale = transform, loc, scale
        self._last: tuple[Tensor, Tensor] | None = None  # a draw and its density
        super().__init__(batch_shape, loc.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "FlowLaw":
        """Return the same law with another batch shape."""
        return FlowLaw(self.transform, self.loc, self.scale, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw, shape (*sample, *batch, D)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value, log_det = self.transform.call_and_ladj(noise)
        value = self.loc + self.scale * value
        self._last = value, self._log_prob(noise, log_det)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, shape (*sample, *batch)."""
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        noise = self.transform.inv((value - self.loc) / self.scale)
        return self._log_prob(noise, self.transform.call_and_ladj(noise)[1])

    def _log_prob(self, noise: Tensor, log_det: Tensor) -> Tensor:
        normal = torch.distributions.Normal(torch.zeros_like(noise), 1.0, validate_args=False)
        return normal.log_prob(noise).sum(-1) - log_det - self.scale.log().sum()
