"""Samples that are one of a few levels: a law of classes that reads and draws signals."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyromodels.audio.mu_law import decode, encode


class Quantised(dist.TorchDistribution):
    r"""P(class of s_d) = softmax(logits_d), of every coordinate; batch (*), event (D,).

    A sample stands for its mu-law class: `log_prob` is that of the class, a probability, whose sum
    over the levels is one. What is beyond [-1, 1] has probability zero. A draw is the middle of a
    class and has no gradient.

    Args:
        logits: shape (*, D, K).

    Example:
        >>> law = Quantised(torch.zeros(5, 1, 256))
        >>> law.log_prob(law.sample()).exp()[0] * 256
        tensor(1.)
    """

    arg_constraints = {}
    has_rsample = False
    has_enumerate_support = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Signals within [-1, 1]."""
        return constraints.independent(constraints.interval(-1.0, 1.0), 1)

    @property
    def levels(self) -> Tensor:  # shape: (K,)
        """What is drawn, from -1 to 1."""
        classes = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return decode(classes, len(classes), dtype=self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Of the levels, shape (*, D)."""
        return self.logits.softmax(-1) @ self.levels

    @property
    def variance(self) -> Tensor:
        """Of the levels, shape (*, D)."""
        return self.logits.softmax(-1) @ self.levels.square() - self.mean.square()

    def log_prob(
        self,
        value: Tensor,  # s, shape: (*, D)
    ) -> Tensor:  # log of a probability, shape: (*)
        """Return log P(class of s)."""
        classes = encode(value, self.logits.shape[-1]).unsqueeze(-1)
        logits = self.logits.log_softmax(-1)
        logits = logits.expand(*torch.broadcast_shapes(classes.shape[:-1], logits.shape[:-1]), -1)
        classes = classes.expand(*logits.shape[:-1], 1)
        found = logits.gather(-1, classes).squeeze(-1)
        return found.masked_fill(value.abs() > 1.0, -torch.inf).sum(-1)

    def driven(
        self,
        noise: Tensor,  # standard normal, shape: (*, D)
    ) -> Tensor:  # s, shape: (*, D)
        """Return the levels at the same quantiles as the noise."""
        up_to = self.logits.softmax(-1).cumsum(-1)[..., :-1]
        classes = (torch.special.ndtr(noise).unsqueeze(-1) > up_to).sum(-1)
        return decode(classes, self.logits.shape[-1], dtype=self.logits.dtype)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw levels."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.driven(
                torch.randn(shape, dtype=self.logits.dtype, device=self.logits.device)
            )

    def enumerate_support(self, expand: bool = True) -> Tensor:  # shape: (K, *, 1)
        """Return every level, of one coordinate.

        Raises:
            NotImplementedError: for several coordinates, whose levels multiply.
        """
        if self.event_shape != (1,):
            raise NotImplementedError("levels of several coordinates are not enumerated")
        levels = self.levels.view(-1, *[1] * len(self.batch_shape), 1)
        return levels.expand(-1, *self.batch_shape, 1) if expand else levels

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> Quantised:
        """Return this law for a larger batch."""
        return Quantised(self.logits.expand(*batch_shape, *self.logits.shape[-2:]))
