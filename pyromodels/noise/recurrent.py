"""Noise that networks foretell: from latents of the speech, from what was heard, from both."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pyromodels.emissions.spectral import Spectral
from pyromodels.networks.mlp import Heads, before, run_lstm, run_lstm_backward
from pyromodels.noise.base import FLOOR, NoiseModel, Sizes, quiet_level
from pyromodels.registry import NOISES


class RecurrentNoise(NoiseModel):
    r"""v_n,t = q exp(head(h_t)), h_t of LSTMs over what the noise model reads.

    q is the level of quiet frames of the sequence, bin by bin (`quiet_level`), which v_n begins
    with; networks see the logarithm of x relative to it. With `relative=False` q is 1.

    Departure: the thesis has q = 1. An encoder that was taught by clean speech hears noise as
    speech, and a noise model that knows nothing yet gives it no reason to learn otherwise.

    Reference: Lin, 2024 (thesis), sections 6.2.2 and 6.3.2.

    Args:
        sizes: F and L are read.
        hidden_dim: of an LSTM, and of the dense layer after them.
        sees: "log_power" or "power", see `Spectral`.
        relative: whether v_n is told relative to the level of quiet frames.
    """

    reads_past: ClassVar[bool] = True
    reads_latents: ClassVar[bool] = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        hidden_dim: int = 128,
        sees: Literal["power", "log_power"] = "log_power",
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.relative = relative
        self.emission = Spectral(sees)
        read: dict[str, int] = {}
        if self.reads_past:
            read["past"] = sizes.num_bins
        if self.reads_latents:
            read["latents"] = sizes.latent_dim
        if not self.reads_past:
            read["latents_ahead"] = sizes.latent_dim
        self.lstms = nn.ModuleDict(
            {name: nn.LSTM(dim, hidden_dim, batch_first=True) for name, dim in read.items()}
        )
        dims = (hidden_dim,) * len(read)
        self.head = Heads(dims, (hidden_dim,), sizes.num_bins, ("log_variance",))
        if relative:
            with torch.no_grad():  # v_n begins near q
                for output in self.head.heads():
                    output.weight.mul_(0.1)
                    output.bias.zero_()

    def forward(self, power: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """Return v_n; with latents, of every draw of them."""
        h, level = [], power.new_ones(())
        if self.relative:
            level = quiet_level(power, mask).unsqueeze(1).clamp_min(FLOOR)
            power = power / level
        for name, lstm in self.lstms.items():
            if name == "past":
                h.append(run_lstm(lstm, before(self.emission.see(power))))
            elif name == "latents":
                h.append(run_lstm(lstm, z))
            else:
                h.append(run_lstm_backward(lstm, z, mask))
        return level * self.emission.log_variance(self.head(*h)).exp()


@NOISES.register("lv")
class FromLatents(RecurrentNoise):
    """Noise by latents of the speech: h_t = [LSTM(z_{1:t}), LSTM(z_{T:t})], LV of the thesis.

    Example:
        >>> noise = FromLatents(Sizes(2, 5, 9, 3), hidden_dim=4)
        >>> noise(torch.ones(2, 5, 9), torch.zeros(2, 5, 3), torch.ones(2, 5).bool()).shape
        torch.Size([2, 5, 9])
    """

    reads_past = False


@NOISES.register("no")
class FromPast(RecurrentNoise):
    """Noise by what was heard before: h_t = LSTM(x_{1:t-1}), NO of the thesis."""

    reads_latents = False


@NOISES.register("nolv")
class FromPastAndLatents(RecurrentNoise):
    """Noise by both: h_t = [LSTM(x_{1:t-1}), LSTM(z_{1:t})], NOLV of the thesis."""


