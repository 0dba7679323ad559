"""Clutter: detections that come from no source."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

BOX = ("centre x", "centre y", "width", "height")
"""What the four numbers of a box are."""


class BoxClutter(TorchDistribution):
    """p(o | clutter) of a box (centre x, centre y, width, height): anywhere, of any plausible size.

    Centres are uniform over the unit image, log widths and log heights uniform over `log_spread`
    nats around `size`. The density is used without its bounds: a detection that lies partly outside
    the image, or is unusually large, is scored as one inside, because a false detection must never
    be impossible.

    Args:
        size: typical (width, height), shape (2,), in image sizes; read by `sample` alone.
        log_spread: nats.

    Example:
        >>> clutter = BoxClutter(torch.tensor([0.05, 0.2]))
        >>> round(clutter.log_prob(torch.tensor([0.5, 0.5, 0.1, 0.2])).exp().item(), 3)
        50.0
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self, size: Tensor, log_spread: float = 1.0, *, validate_args: bool | None = None
    ) -> None:
        self.size, self.log_spread = size, log_spread
        super().__init__(size.shape[:-1], torch.Size((4,)), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "BoxClutter":
        """Return the same law with another batch shape."""
        size = self.size.expand(*batch_shape, 2)
        return BoxClutter(size, self.log_spread, validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw boxes, shape (*sample, *batch, 4)."""
        shape = torch.Size(sample_shape) + self.size.shape
        centre = torch.rand(shape, dtype=self.size.dtype, device=self.size.device)
        spread = self.log_spread * (torch.rand_like(centre) - 0.5)
        return torch.cat((centre, self.size * spread.exp()), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, shape (*sample, *batch)."""
        tiny = torch.finfo(value.dtype).tiny
        log_area = value[..., 2:].clamp_min(tiny).log().sum(-1)
        return -log_area - 2 * math.log(self.log_spread)
