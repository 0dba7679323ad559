"""From likelihoods of classes to what is said of a sequence."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.errors import ShapeError, mismatch

NUM_QUANTILES = 100
"""Q."""


class ClassPosterior(nn.Module):
    r"""p(c | x) \propto pi_c p(x | c)^beta, and how strange x is; beta = 1 is Bayes' rule.

    A density that is a little wrong at every frame is very wrong after a hundred, and Bayes' rule
    then says 1 - 1e-20 of a wrong class; beta < 1 tempers that.
    `pyromodels.inference.classes.calibrate` fits all three buffers on sequences that were not
    learned from.

    =========  ==========  ============  =========================================================
    symbol     name        shape         what
    =========  ==========  ============  =========================================================
    pi         log_prior   (C,), nats    uniform to start with
    beta       sharpness   ()            1 to start with
    -          typical     (C, Q)        quantiles of log p(x | c) / T among sequences of class c;
                                         NaN where they are not known
    =========  ==========  ============  =========================================================

    Args:
        num_classes: C.

    Raises:
        ShapeError: for less than two classes.

    Example:
        >>> posterior = ClassPosterior(2)
        >>> posterior.of(torch.tensor([[0.0, 1.0]])).probs
        tensor([[0.2689, 0.7311]])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ShapeError(mismatch("num_classes", given=num_classes, expected="2 or more"))
        self.register_buffer("log_prior", torch.full((num_classes,), -math.log(num_classes)))
        self.register_buffer("sharpness", torch.ones(()))
        self.register_buffer("typical", torch.full((num_classes, NUM_QUANTILES), math.nan))

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.log_prior)

    @property
    def knows_what_is_typical(self) -> bool:
        """Whether strangeness can be said."""
        return not bool(self.typical.isnan().any())

    def of(
        self,
        scores: Tensor,  # log p(x | c), nats, shape: (*, C)
    ) -> dist.Categorical:  # batch (*)
        """Return p(c | x)."""
        return dist.Categorical(logits=self.sharpness * scores + self.log_prior)

    def strangeness(
        self,
        scores: Tensor,  # log p(x | c), nats, shape: (*, C)
        lengths: Tensor,  # T, shape: (*)
    ) -> Tensor:  # shape: (*)
        """Return how unlike every class a sequence is, 0 to 1.

        For each class: the share of its own sequences that are likelier by the frame. The least
        share counts: near 1, no class makes such sequences.

        Raises:
            ValueError: where nothing says what is typical.
        """
        if not self.knows_what_is_typical:
            raise ValueError("typical: not known; `pyromodels.inference.classes.calibrate` finds "
                             "it in sequences that were not learned from")
        by_frame = (scores / lengths.unsqueeze(-1)).movedim(-1, 0)
        rows = by_frame.reshape(self.num_classes, -1).to(self.typical).contiguous()
        below = torch.searchsorted(self.typical, rows).view_as(by_frame)
        return (1 - below / self.typical.shape[-1]).amin(0)
