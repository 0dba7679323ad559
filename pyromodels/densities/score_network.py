"""The score as a network says it, learnt by denoising."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.networks.denoiser import Denoiser
from pyromodels.registry import DENSITIES


@DENSITIES.register("score_network")
class ScoreNetwork(SmoothedDensity):
    r"""The score of log p_sigma by what a network takes for the signal under the noise.

    .. math:: \nabla \log p_\sigma(x) = \frac{D(x; \sigma) - x}{\sigma^2}, \qquad
              D \approx E[s \mid x], \quad x = s + \sigma n

    One network serves several kinds of signals, told which; `of` gives the density of one.

    Args:
        kinds: names of the kinds.
        kind: which one this is the density of; None: the first.
        num_channels, num_rounds, stride, scale: of the `Denoiser`.

    Raises:
        SpecError: for a kind that is none of them, or repeated ones.
        ValueError: of `score`, without noise: there is a score at positive sigma alone.

    Reference: Vincent, 2011, "A connection between score matching and denoising autoencoders".

    Example:
        >>> density = ScoreNetwork(("sine", "saw"), num_channels=8, num_rounds=1)
        >>> density.of("saw").score(torch.zeros(5, 2, 64), noise_std=0.1).shape
        torch.Size([5, 2, 64])
    """

    has_density = False

    def __init__(
        self,
        kinds: Sequence[str] = ("signal",),
        kind: str | None = None,
        *,
        num_channels: int = 64,
        num_rounds: int = 2,
        stride: int = 8,
        scale: float = 0.6,
    ) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise SpecError(mismatch("kinds", given=self.kinds, expected="one or more, each once"))
        self.network = Denoiser(len(self.kinds), num_channels=num_channels, num_rounds=num_rounds,
                                stride=stride, scale=scale)
        self.number = self._number_of(self.kinds[0] if kind is None else kind)

    def of(self, kind: str) -> ScoreNetwork:
        """Return the density of a kind, by the same network.

        Raises:
            SpecError: for a kind that it was not made for.
        """
        other = copy.copy(self)
        other.number = self._number_of(kind)
        return other

    def denoised(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor,  # sigma, positive, broadcastable to (*batch)
    ) -> Tensor:  # shape: (*batch, T)
        """Return D(x; sigma)."""
        sigma, rows = self.noise_of(x, noise_std), x.reshape(-1, x.shape[-1])
        kind = torch.full((len(rows),), self.number, device=x.device)
        return self.network(rows, sigma.reshape(-1), kind).reshape(x.shape)

    def score(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,  # sigma, positive, broadcastable to (*batch)
    ) -> Tensor:  # shape: (*batch, T)
        """Return the score; nothing of its graph is kept."""
        if isinstance(noise_std, float | int) and not noise_std > 0:
            raise ValueError(mismatch("noise_std", given=noise_std, expected="a positive number"))
        sigma = self.over_event(self.noise_of(x, noise_std))
        with torch.no_grad():
            return (self.denoised(x, noise_std) - x) / sigma.square()

    def loss(
        self,
        s: Tensor,  # signals, shape: (B, T)
        noise: Tensor,  # n, shape: (B, T)
        noise_std: Tensor,  # sigma, shape: (B,)
        kind: Tensor,  # int64, shape: (B,)
    ) -> Tensor:  # shape: (B,)
        """Return the squared error of F, in the mean over samples: of order one at every sigma."""
        scale = self.network.scale
        found = self.network(s + noise_std.unsqueeze(-1) * noise, noise_std, kind)
        weight = (noise_std.square() + scale**2) / (noise_std * scale).square()
        return weight * (found - s).square().mean(-1)

    def _number_of(self, kind: str) -> int:
        if kind not in self.kinds:
            raise SpecError(unknown("kind", given=kind, known=self.kinds))
        return self.kinds.index(kind)
