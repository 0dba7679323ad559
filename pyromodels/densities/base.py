"""What a density of signals states: log p_sigma, and the score that Langevin dynamics follow."""

from abc import ABC

import torch
from torch import Tensor, nn

from pyromodels.errors import misshapen


class SmoothedDensity(nn.Module, ABC):
    r"""p(x) of a signal, and p after noise of every standard deviation sigma.

    .. math:: p_\sigma = p * N(0, \sigma^2 I), \qquad
              \mathrm{score}(x, \sigma) = \nabla_x \log p_\sigma(x)

    A subclass overrides `log_prob`, and `score` where it knows better than autograd; one that
    knows a score alone, e.g. a score network, sets `has_density = False` and overrides `score`.
    Both are in nats, sums over the event, never means.

    ====================  ===========  ===================================================
    symbol                name         shape
    ====================  ===========  ===================================================
    :math:`x`             `x`          (*batch, *event), with `event_dim` dimensions of event
    :math:`\sigma`        `noise_std`  a float, or a tensor that broadcasts to (*batch)
    ====================  ===========  ===================================================

    Attributes:
        event_dim: dimensions of one signal: 1, (T,), of a waveform; 3 of an image.
        has_density: whether there is a `log_prob`.
    """

    event_dim: int = 1
    has_density: bool = True

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, *event)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma(x).

        Raises:
            NotImplementedError: where there is a score alone.
        """
        raise NotImplementedError(
            f"log_prob: {type(self).__name__} has no density that can be evaluated; it has a score"
        )

    def score(
        self,
        x: Tensor,  # shape: (*batch, *event)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # shape: (*batch, *event)
        """Return the gradient of log p_sigma at x; nothing of its graph is kept."""
        return self._by_autograd(x, noise_std)[1]

    def log_prob_and_score(
        self,
        x: Tensor,  # shape: (*batch, *event)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> tuple[Tensor, Tensor]:  # shapes: (*batch) and (*batch, *event)
        """Return both, in one pass where the score is that of autograd."""
        if type(self).score is not SmoothedDensity.score:
            return self.log_prob(x, noise_std).detach(), self.score(x, noise_std)
        return self._by_autograd(x, noise_std)

    def _by_autograd(self, x: Tensor, noise_std: float | Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            log_prob = self.log_prob(at, noise_std)
            (gradient,) = torch.autograd.grad(log_prob.sum(), at)
        return log_prob.detach(), gradient

    def noise_of(
        self,
        x: Tensor,  # shape: (*batch, *event)
        noise_std: float | Tensor,
    ) -> Tensor:  # of the dtype of x, shape: (*batch)
        """Return sigma of every signal.

        Raises:
            ShapeError: where x has too few dimensions, or sigma does not broadcast to the batch.
        """
        batch = x.shape[: x.dim() - self.event_dim]
        if x.dim() < self.event_dim:
            raise misshapen("x", x.shape, f"(*batch, *event) with {self.event_dim} of event")
        # made on the device: a value that travels there would wait for it
        sigma = (noise_std.to(x) if isinstance(noise_std, Tensor)
                 else x.new_full((), noise_std))
        try:
            return sigma.expand(batch)
        except RuntimeError:
            expected = f"one that broadcasts to the batch {tuple(batch)}"
            raise misshapen("noise_std", sigma.shape, expected) from None

    def over_event(
        self,
        value: Tensor,  # of every signal, shape: (*batch)
    ) -> Tensor:  # shape: (*batch, 1, ..., 1)
        """Return values of signals with a dimension of size 1 for each of the event's."""
        return value.reshape(*value.shape, *[1] * self.event_dim)
