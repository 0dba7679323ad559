"""Whose is a bin of a mixture: a network that reads a spectrogram and says q(w)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyromodels.errors import ShapeError, mismatch
from pyromodels.registry import NETWORKS

SILENCE = 1e-20
"""The level that digital silence is taken to have."""


@NETWORKS.register("assigner")
class Assigner(nn.Module):
    r"""Logits of q(w_tf = n | o), amortised over mixtures: convolutions over bands, a memory.

        u_tf    = log(|o_tf|^2 + floor) - log(mean_tf |o_tf|^2 + floor)
        x_tf    = (its mean over a neighbourhood of bins, what is left of it, f, whether f < F)
        a_tb    = convolutions of x over frames and bands b, `band_width` bins each
        c_t     = LSTMs both ways of a_t of all bands
        logits  = transposed convolution of convolutions of (a_tb, c_tb);  0 for the last source

    The level of a mixture is taken out of it. Harmonics stand out in what is left of the local
    mean. Convolutions know what a partial looks like wherever it is; the LSTMs know which partials
    belong together and what was heard before and after.

    ======  =============  ==================  ===============
    symbol  name           shape               unit
    ======  =============  ==================  ===============
    |o|^2   power          (*, T, F)           of the spectrum
    a       -              (*, T, bands, C)    1
    logits  (the output)   (*, T, F, N)        nats
    ======  =============  ==================  ===============

    Args:
        num_bins: F.
        num_sources: N.
        num_channels: C.
        num_blocks: of two convolutions, after the LSTMs; one stands before.
        hidden_dim: of the LSTM of one direction.
        band_width: bins, an even number.
        neighbourhood: bins of the local mean, an odd number.
        floor: added to powers before the logarithm.

    Raises:
        ShapeError: of `forward`, for another number of bins.

    Example:
        >>> Assigner(33, 2, num_channels=4, hidden_dim=4)(torch.rand(5, 7, 33)).shape
        torch.Size([5, 7, 33, 2])
    """

    def __init__(
        self,
        num_bins: int,
        num_sources: int,
        *,
        num_channels: int = 32,
        num_blocks: int = 3,
        hidden_dim: int = 184,
        band_width: int = 8,
        neighbourhood: int = 33,
        floor: float = 1e-8,
    ) -> None:
        super().__init__()
        if num_sources < 2:
            raise ValueError(mismatch("num_sources", given=num_sources, expected="at least 2"))
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise ValueError(
                mismatch("neighbourhood", given=neighbourhood, expected="an odd number of bins")
            )
        if band_width < 2 or band_width % 2:
            raise ValueError(
                mismatch("band_width", given=band_width, expected="an even number of bins")
            )
        self.num_bins, self.num_sources = num_bins, num_sources
        self.band_width, self.neighbourhood, self.floor = band_width, neighbourhood, floor
        num_bands = math.ceil(num_bins / band_width)
        thin = max(num_channels // 3, 1)  # channels of a band that the memory reads
        bands = (3, 2 * band_width), (1, band_width), (1, band_width // 2)  # size, stride, padding
        self.input = nn.Conv2d(4, num_channels, *bands)
        self.before = Block(num_channels)
        self.thin = nn.Conv2d(num_channels, thin, 1)
        self.read = nn.Linear(thin * num_bands, hidden_dim)
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, bidirectional=True, batch_first=True)
        self.recall = nn.Linear(2 * hidden_dim, thin * num_bands)
        self.join = nn.Conv2d(num_channels + thin, num_channels, 1)
        self.after = nn.Sequential(*(Block(num_channels) for _ in range(num_blocks)))
        self.output = nn.ConvTranspose2d(num_channels, num_sources - 1, *bands)
        place = torch.arange(num_bands * band_width) / num_bins
        self.register_buffer("place", torch.stack((2 * place - 1, (place < 1).float())),
                             persistent=False)
        self.to(memory_format=torch.channels_last)  # which convolutions on a CPU are made for

    def forward(
        self,
        power: Tensor,  # |o|^2, shape: (*, T, F)
    ) -> Tensor:  # nats, shape: (*, T, F, N)
        """Return the logits, those of the last source zero."""
        if power.dim() < 2 or power.shape[-1] != self.num_bins:
            given, expected = f"shape {tuple(power.shape)}", f"(*, T, {self.num_bins})"
            raise ShapeError(mismatch("power", given=given, expected=expected))
        a = self.before(self.input(self.see(power.reshape(-1, *power.shape[-2:]))))
        thin = F.elu(self.thin(F.elu(a)))
        c, _ = self.lstm(torch.tanh(self.read(thin.movedim(1, 2).flatten(2))))
        c = self.recall(c).unflatten(-1, thin.shape[1::2]).movedim(2, 1)
        both = torch.cat((a, c), 1).contiguous(memory_format=torch.channels_last)
        logits = self.output(F.elu(self.after(self.join(both))))
        logits = logits.movedim(1, -1)[:, :, : self.num_bins]
        return F.pad(logits, (0, 1)).reshape(*power.shape, self.num_sources)

    def see(
        self,
        power: Tensor,  # shape: (B, T, F)
    ) -> Tensor:  # x, shape: (B, 4, T, bands * band_width)
        """Return what the network is told of a spectrogram, of order one."""
        level = power.mean((-2, -1), keepdim=True).clamp_min(SILENCE)
        log_power = (power + self.floor * level).log() - (level * (1 + self.floor)).log()
        smooth = F.avg_pool1d(
            log_power, self.neighbourhood, stride=1,
            padding=self.neighbourhood // 2, count_include_pad=False,
        )
        heard = torch.stack((smooth, log_power - smooth), 1) / 4
        heard = F.pad(heard, (0, self.place.shape[-1] - self.num_bins))
        place = self.place.unsqueeze(1).expand(len(heard), -1, heard.shape[2], -1)
        return torch.cat((heard, place), 1).contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """Two convolutions of three by three, added to what they read.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(num_channels, num_channels, 3, padding=1) for _ in range(2)
        )

    def forward(
        self,
        x: Tensor,  # shape: (B, C, T, bands)
    ) -> Tensor:  # shape: (B, C, T, bands)
        """Return x and what the convolutions make of it."""
        return x + self.second(F.elu(self.first(F.elu(x))))
