"""Whose is a bin of a mixture: a network that reads a spectrogram and says q(w)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyromodels.errors import ShapeError, mismatch
from pyromodels.registry import NETWORKS


@NETWORKS.register("assigner")
class Assigner(nn.Module):
    r"""Logits of q(w_tf = n | o), amortised over mixtures: dense, two LSTMs both ways, dense.

        u_tf = log(|o_tf|^2 + floor) - log(mean_tf |o_tf|^2 + floor)
        x_t  = (its mean over a neighbourhood of bins, thinned;  what is left of it)
        logits_tf = (output of the LSTMs at frame t, 0 for the last source)

    The level of a mixture is taken out of it. Harmonics stand out in what is left of the local
    mean, which is why the two are told apart.

    ======  =============  ==================  ===============
    symbol  name           shape               unit
    ======  =============  ==================  ===============
    |o|^2   power          (*, T, F)           of the spectrum
    logits  (the output)   (*, T, F, N)        nats
    ======  =============  ==================  ===============

    Args:
        num_bins: F.
        num_sources: N.
        hidden_dim: of an LSTM in one direction.
        neighbourhood: bins of the local mean, an odd number.
        floor: added to powers before the logarithm.

    Raises:
        ShapeError: of `forward`, for another number of bins.

    Example:
        >>> Assigner(33, 2, hidden_dim=4)(torch.rand(5, 7, 33)).shape
        torch.Size([5, 7, 33, 2])
    """

    def __init__(
        self,
        num_bins: int,
        num_sources: int,
        *,
        hidden_dim: int = 120,
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
        self.num_bins, self.num_sources = num_bins, num_sources
        self.neighbourhood, self.floor = neighbourhood, floor
        self.thinning = max(neighbourhood // 2, 1)
        seen = num_bins + len(range(0, num_bins, self.thinning))
        self.input = nn.Linear(seen, 2 * hidden_dim)
        self.lstm = nn.LSTM(
            2 * hidden_dim, hidden_dim, num_layers=2, bidirectional=True, batch_first=True
        )
        self.output = nn.Linear(2 * hidden_dim, num_bins * (num_sources - 1))

    def forward(
        self,
        power: Tensor,  # |o|^2, shape: (*, T, F)
    ) -> Tensor:  # nats, shape: (*, T, F, N)
        """Return the logits, those of the last source zero."""
        if power.dim() < 2 or power.shape[-1] != self.num_bins:
            given, expected = f"shape {tuple(power.shape)}", f"(*, T, {self.num_bins})"
            raise ShapeError(mismatch("power", given=given, expected=expected))
        hidden, _ = self.lstm(torch.tanh(self.input(self.see(power).flatten(0, -3))))
        logits = self.output(hidden).unflatten(-1, (self.num_bins, -1))
        return F.pad(logits, (0, 1)).reshape(*power.shape, self.num_sources)

    def see(
        self,
        power: Tensor,  # shape: (*, T, F)
    ) -> Tensor:  # x, shape: (*, T, F + F / thinning)
        """Return what the network is told of a spectrogram, of order one."""
        level = power.mean((-2, -1), keepdim=True)
        log_power = (power + self.floor * level).log() - (level * (1 + self.floor)).log()
        smooth = F.avg_pool1d(
            log_power.reshape(-1, 1, self.num_bins), self.neighbourhood, stride=1,
            padding=self.neighbourhood // 2, count_include_pad=False,
        ).reshape(log_power.shape)
        return torch.cat((smooth[..., :: self.thinning] / 4, (log_power - smooth) / 4), -1)
