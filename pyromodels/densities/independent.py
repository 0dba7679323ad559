"""Sources that are independent of each other, as one density of them all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import ShapeError, mismatch, misshapen


class IndependentSources(SmoothedDensity):
    r"""Sources, each with a density of its own; the noise of every one is independent too.

    .. math:: p_\sigma(s_1, \dots, s_N) = \prod_k p_{k,\sigma}(s_k)

    Reference: Frank and Ilse, 2020, eq. 4.

    Args:
        densities: of the sources, in their order.

    Raises:
        ShapeError: where there is none, or their events differ in dimensions.

    Example:
        >>> from pyromodels.densities.gaussian import GaussianDensity
        >>> both = IndependentSources([GaussianDensity(), GaussianDensity(std=2.0)])
        >>> both.score(torch.ones(1, 2, 3))[0, :, 0]
        tensor([-1.0000, -0.2500])
    """

    def __init__(self, densities: Sequence[SmoothedDensity]) -> None:
        super().__init__()
        dims = {density.event_dim for density in densities}
        if len(dims) != 1:
            given, expected = f"events of {sorted(dims)} dimensions", "one or more, all alike"
            raise ShapeError(mismatch("densities", given=given, expected=expected))
        self.densities = nn.ModuleList(densities)
        self.event_dim = 1 + dims.pop()
        self.has_density = all(density.has_density for density in densities)

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, N, *event)
        noise_std: float | Tensor = 0.0,  # broadcastable to (*batch)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma of all sources together."""
        parts = [density.log_prob(source, noise_std) for density, source in self._each(x)]
        return torch.stack(parts).sum(0)

    def score(
        self,
        x: Tensor,  # shape: (*batch, N, *event)
        noise_std: float | Tensor = 0.0,  # broadcastable to (*batch)
    ) -> Tensor:  # shape: (*batch, N, *event)
        """Return the score of every source under its own density."""
        parts = [density.score(source, noise_std) for density, source in self._each(x)]
        return torch.stack(parts, -self.event_dim)

    def _each(self, x: Tensor) -> list[tuple[SmoothedDensity, Tensor]]:
        if x.dim() < self.event_dim or x.shape[-self.event_dim] != len(self.densities):
            raise misshapen("x", x.shape, f"(*batch, {len(self.densities)}, *event)")
        return list(zip(self.densities, x.unbind(-self.event_dim), strict=True))
