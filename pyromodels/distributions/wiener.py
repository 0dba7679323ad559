"""Sources that add up, given their sum: the Wiener posterior, jointly over sources."""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.path import PathDistribution, diagonal_normal


class WienerPaths(PathDistribution):
    r"""p(s_1..N | o) of s_n ~ N(0, diag v_n) and o = \sum_n s_n + N(0, diag phi).

        E[s_n | o]         = v_n / (\sum_m v_m + phi) o
        Cov[s_n, s_m | o]  = v_n 1[n = m] - v_n v_m / (\sum_k v_k + phi)

    in every coordinate. The sources are the last batch dimension; they depend on each other, and
    log_prob of source n is that given the sources before it, so that the sum over sources is the
    joint density:

        s_n | s_<n, o  ~  N(g_n r_n, (1 - g_n) v_n),   r_n = o - \sum_{m<n} s_m,
                          g_n = v_n / (\sum_{m>=n} v_m + phi)

    Reference: Lin, 2024 (thesis), eq. 6.12-6.13, for the mean.

    Args:
        observed: o, shape (*batch, T, D).
        variance: v, shape (*batch, N, T, D).
        noise: phi, positive, shape broadcastable to (*batch, T, D).

    Example:
        >>> law = WienerPaths(torch.ones(1, 1), torch.tensor([[[3.0]], [[1.0]]]), torch.tensor(1.0))
        >>> law.mean.flatten()
        tensor([0.6000, 0.2000])
    """

    def __init__(self, observed: Tensor, variance: Tensor, noise: Tensor) -> None:
        self.observed, self.variances, self.noise_variance = observed, variance, noise
        super().__init__(variance.shape[:-2], *variance.shape[-2:], like=variance)

    @property
    def total(self) -> Tensor:
        """Variance of o, shape (*batch, T, D)."""
        return self.variances.sum(-3) + self.noise_variance

    @property
    def mean(self) -> Tensor:
        """E[s | o], shape (*batch, N, T, D)."""
        return self.variances * (self.observed / self.total).unsqueeze(-3)

    @property
    def variance(self) -> Tensor:
        """Var[s_n | o] of each source, shape (*batch, N, T, D)."""
        return self.variances * (1 - self.variances / self.total.unsqueeze(-3))

    def log_evidence(self) -> Tensor:
        """log p(o), nats, shape (*batch)."""
        law = diagonal_normal(torch.zeros_like(self.total), self.total.sqrt())
        return law.log_prob(self.observed).sum(-1)

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(s_n | s_<n, o) of every frame."""
        v = self.variances
        left = self._left()
        rest = self.observed.unsqueeze(-3) - value.cumsum(-3) + value
        return diagonal_normal(v / left * rest, (v * (1 - v / left)).sqrt())

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the sources that the noise drives, one after the other."""
        drawn: list[Tensor] = []
        v, rest = self.variances, self.observed.expand(*noise.shape[:-3], *noise.shape[-2:])
        gain = v / self._left()
        deviation = (v * (1 - gain)).sqrt()
        for n in range(v.shape[-3]):  # each depends on what those before have left
            s = gain[..., n, :, :] * rest + deviation[..., n, :, :] * noise[..., n, :, :]
            drawn.append(s)
            rest = rest - s
        return torch.stack(drawn, -3)

    def _left(self) -> Tensor:  # shape: (*batch, N, T, D)
        """Return the variance of what the sources before n leave of o."""
        later = self.variances.flip(-3).cumsum(-3).flip(-3)
        return later + self.noise_variance.unsqueeze(-3)
