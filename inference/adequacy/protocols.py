"""What the report asks of a fitted posterior, of the function that fits it, and of a simulator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyromodels.errors import ShapeError, mismatch

Draws = Mapping[str, Tensor]
"""Draws by site name, each (n, B, ...)."""


@runtime_checkable
class PosteriorLike(Protocol):
    """What the report asks of a fitted guide, ours or anybody's."""

    def sample(self, num_samples: int) -> Draws:
        """Draw from q; every site (n, B, ...)."""

    def log_prob(self, draws: Draws) -> Tensor:
        """Return log q(latents), nats, (n, B)."""

    def log_joint(self, draws: Draws) -> Tensor:
        """Return log p(o, latents), nats, (n, B)."""


@dataclass(frozen=True)
class OneSequence:
    """The posterior of a program without a plate of sequences, (n, ...) made (n, 1, ...)."""

    posterior: PosteriorLike

    def sample(self, num_samples: int) -> Draws:
        """Draw from q; every site (n, 1, ...)."""
        draws = self.posterior.sample(num_samples)
        return {name: value.unsqueeze(1) for name, value in draws.items()}

    def log_prob(self, draws: Draws) -> Tensor:
        """Return log q(latents), nats, (n, 1)."""
        return self.posterior.log_prob(self._inner(draws)).unsqueeze(1)

    def log_joint(self, draws: Draws) -> Tensor:
        """Return log p(o, latents), nats, (n, 1)."""
        return self.posterior.log_joint(self._inner(draws)).unsqueeze(1)

    def _inner(self, draws: Draws) -> Draws:
        return {name: value.squeeze(1) for name, value in draws.items()}


def with_sequences(posterior: PosteriorLike) -> PosteriorLike:
    """Return a posterior whose draws have a dimension of sequences, of size one if need be."""
    density = posterior.log_joint(posterior.sample(2))
    if density.dim() == 2:
        return posterior
    if density.dim() == 1:
        return OneSequence(posterior)
    given = f"shape {tuple(density.shape)} of 2 draws"
    raise ShapeError(mismatch("posterior.log_joint", given=given, expected="(2, B) or (2,)"))


Fit = Callable[[Any, int], PosteriorLike]
"""Fits the guide to data from the start that a seed gives."""
Simulate = Callable[[int], tuple[Any, Draws]]
"""Draws latents from the prior and data given them, by a seed: (data, latents (B, ...))."""
Summaries = Callable[[Draws], dict[str, Tensor]]
"""Scalars of draws: name -> (n, B). A name starts with that of its site and a bracket."""
