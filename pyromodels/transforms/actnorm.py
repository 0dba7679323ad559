"""Activation normalisation: channels of mean 0 and deviation 1, as the first batch says."""

import torch
from torch import Tensor, nn

from pyromodels.errors import misshapen
from pyromodels.transforms.base import Invertible


class ActNorm(Invertible):
    r"""z_c = (x_c + b_c) exp(a_c), a shift and a scale of every channel c.

        b_c = -mean(x_c),   a_c = -log std(x_c)         of the first batch

    The first call of `to_noise` in training mode starts it: b and a become those of that batch, and
    are parameters like any other from then on. That it has started is a buffer, so that loaded
    weights are not started anew. Before, b and a are zero: in evaluation mode, and from noise to
    data, it is then the identity and stays to be started.

    Departure: published code starts at the first call in evaluation mode too, with b = a = 0, or
    forgets on loading that it had started; and multiplies a channel that is constant in the first
    batch, e.g. one that a ReLU has closed, by a million, where ours leaves its scale alone.

    Reference: Kingma and Dhariwal, 2018, Glow: generative flow with invertible 1x1 convolutions,
    section 3.1.

    Args:
        num_channels: C.
        space_dim: dims of a channel, 1 of sounds, 2 of images.
        least_std: a channel of less than this deviation in the first batch counts as constant.

    Example:
        >>> norm = ActNorm(2)
        >>> z, _ = norm.to_noise(3.0 + 2.0 * torch.randn(5, 2, 100))
        >>> bool((z.mean((0, 2)).abs() < 1e-5).all()), bool(norm.started)
        (True, True)
    """

    def __init__(
        self, num_channels: int, *, space_dim: int = 1, least_std: float = 1e-6
    ) -> None:
        super().__init__()
        self.event_dim, self.least_std = 1 + space_dim, least_std
        shape = (num_channels, *[1] * space_dim)
        self.shift, self.log_scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(
            torch.zeros(shape)
        )
        self.register_buffer("started", torch.tensor(False))
        self._has_started = False  # what the buffer says, known without asking its device

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z; start with x where it is the first batch of a training."""
        self._check(x)
        if self.training and not self._has_started:
            self.start(x)
        places = x.shape[1 - self.event_dim :].numel()
        log_det = self.log_scale.sum() * places
        z = (x + self.shift) * self.log_scale.exp()
        return z, log_det.expand(x.shape[: x.dim() - self.event_dim])

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return x."""
        self._check(z)
        return z * torch.exp(-self.log_scale) - self.shift

    @torch.no_grad()
    def start(
        self,
        x: Tensor,  # shape: (*batch, C, *space)
    ) -> None:
        """Take over mean and deviation of a batch."""
        channels = x.movedim(-self.event_dim, 0).flatten(1)
        mean, std = channels.mean(1), channels.std(1, correction=0)
        self.shift.copy_(-mean.view_as(self.shift))
        std = torch.where(std > self.least_std, std, 1.0)
        self.log_scale.copy_(-std.log().view_as(self.log_scale))
        self.started.fill_(True)
        self._has_started = True

    def _check(self, x: Tensor) -> None:
        if x.dim() < self.event_dim or x.shape[-self.event_dim] != len(self.shift):
            space = ", H, W" if self.event_dim == 3 else ", T"
            raise misshapen("x of ActNorm", x.shape, f"(*, {len(self.shift)}{space})")

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._has_started = bool(self.started)
