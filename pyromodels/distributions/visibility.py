"""A binary Markov chain over time: is the source seen by the detector in this frame?"""

from collections.abc import Callable
from functools import cached_property

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.errors import ShapeError, mismatch


class BinaryChain(TorchDistribution):
    r"""p(v_{1:T}) = p(v_1) \prod_t p(v_t | v_{t-1}), v_t in {0, 1}; event (T,).

    Args:
        initial: p(v_1 = 1), shape (*batch,).
        transition: p(v_{t+1} = 1 | v_t = i) for t = 1..T-1 and i = 0, 1, shape (*batch, T - 1, 2).
        mean: the marginals p(v_t = 1), shape (*batch, T), where they are known already.

    Raises:
        ShapeError: if the last dimension of `transition` is not 2.

    Example:
        >>> chain = BinaryChain(torch.tensor(0.99), torch.tensor([0.1, 0.98]).expand(9, 2))
        >>> chain.log_prob(torch.ones(10)).exp() > 0.8
        tensor(True)
    """

    arg_constraints = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        *,
        mean: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if transition.shape[-1] != 2:
            raise ShapeError(
                mismatch(
                    "transition", given=f"shape {tuple(transition.shape)}", expected="(*, T - 1, 2)"
                )
            )
        batch_shape = torch.broadcast_shapes(initial.shape, transition.shape[:-2])
        self.initial = initial.expand(batch_shape)
        self.transition = transition.expand(*batch_shape, *transition.shape[-2:])
        if mean is not None:
            self.__dict__["mean"] = mean
        super().__init__(
            batch_shape, torch.Size((transition.shape[-2] + 1,)), validate_args=validate_args
        )

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "BinaryChain":
        """Return the same law with another batch shape."""
        lead = len(self.batch_shape)
        return self.map(lambda part: part.expand(*batch_shape, *part.shape[lead:]))

    def map(self, function: Callable[[Tensor], Tensor]) -> "BinaryChain":
        """Apply a function that acts on the leading batch dimensions, e.g. `lambda x: x[:2]`."""
        mean = self.__dict__.get("mean")
        return BinaryChain(
            function(self.initial),
            function(self.transition),
            mean=None if mean is None else function(mean),
            validate_args=False,
        )

    @cached_property
    def mean(self) -> Tensor:
        """p(v_t = 1), shape (*batch, T)."""
        marginals = [self.initial]
        for step in self.transition.unbind(-2):
            marginals.append(marginals[-1] * step[..., 1] + (1 - marginals[-1]) * step[..., 0])
        return torch.stack(marginals, -1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths, shape (*sample, *batch, T)."""
        with torch.no_grad():
            uniform = torch.rand(
                self._extended_shape(torch.Size(sample_shape)),
                dtype=self.initial.dtype,
                device=self.initial.device,
            )
            steps = [uniform[..., 0] < self.initial]
            for t, step in enumerate(self.transition.unbind(-2), start=1):
                steps.append(uniform[..., t] < torch.where(steps[-1], step[..., 1], step[..., 0]))
            return torch.stack(steps, -1).to(uniform.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability in nats, shape (*sample, *batch)."""
        before, after = value[..., :-1], value[..., 1:]
        visible = before * self.transition[..., 1] + (1 - before) * self.transition[..., 0]
        steps = torch.xlogy(after, visible) + torch.xlogy(1 - after, 1 - visible)
        first = torch.xlogy(value[..., 0], self.initial) + torch.xlogy(
            1 - value[..., 0], 1 - self.initial
        )
        return first + steps.sum(-1)


def posterior_chain(
    prior: BinaryChain,
    log_evidence: Tensor,  # log p(what frame t shows | v_t = 0, 1), shape: (*batch, T, 2)
) -> BinaryChain:
    """q(v) ∝ p(v) ∏_t exp(log_evidence[t, v_t]), by one backward and one forward recursion."""
    initial, step = log_potentials(prior)
    return normalised(
        initial + log_evidence[..., 0, :], step + log_evidence[..., 1:, :].unsqueeze(-2)
    )


def log_potentials(
    chain: BinaryChain,
) -> tuple[Tensor, Tensor]:  # log p(v_1), shape (*batch, 2); log p(v_{t+1} | v_t), (*, T - 1, 2, 2)
    """Return the natural parameters of a chain."""
    tiny = torch.finfo(chain.transition.dtype).tiny
    initial, step = (
        torch.stack((1 - part, part), -1).clamp_min(tiny).log()
        for part in (chain.initial, chain.transition)
    )
    return initial, step


def normalised(
    initial: Tensor,  # log potential of v_1, shape: (*batch, 2)
    step: Tensor,  # log potential of (v_t, v_{t+1}), shape: (*batch, T - 1, 2, 2)
) -> BinaryChain:
    """Return the chain of natural parameters that need not be normalised."""
    ahead, scores = torch.zeros_like(initial), []
    for t in range(step.shape[-3] - 1, -1, -1):
        score = step[..., t, :, :] + ahead.unsqueeze(-2)
        scores.append(score.softmax(-1)[..., 1])
        ahead = score.logsumexp(-1)
    first = (initial + ahead).softmax(-1)[..., 1]
    transition = torch.stack(scores[::-1], -2) if scores else initial.new_zeros(*first.shape, 0, 2)
    return BinaryChain(first, transition, validate_args=False)
