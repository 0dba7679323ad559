"""A classifier that is a generative model: every class is a density of whole sequences."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.mixture import Chosen
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.errors import ShapeError, mismatch, misshapen
from pyromodels.models.class_posterior import ClassPosterior
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import MAX_PLATE_NESTING, batch_plate
from pyromodels.pyro_support.site_labels import Layout

NO_CLASS = -1
"""Where a decision is withheld."""


class Decision(NamedTuple):
    """What a classifier says of sequences."""

    label: Tensor  # int64, NO_CLASS where withheld, shape: (B,)
    probability: Tensor  # p(c | x), shape: (B, C)
    strangeness: Tensor | None  # how unlike all classes, 0 to 1, if that is known; shape: (B,)


class Classifier(nn.Module):
    r"""p(c, x) = p(c) p(x | c), one member of a bank for every class.

        c     ~ Categorical(pi)
        x | c ~ p_c(x_{1:T})
        p(c | x) \propto pi_c p_c(x)^beta,    beta = 1: Bayes' rule

    Why there is a beta, `ClassPosterior` says, which holds it and pi.

    ======  =============  ===========  =============
    symbol  name           shape        unit
    ======  =============  ===========  =============
    c       class          (B, 1, 1)    number
    x       x              (B, T, D)    as the data
    ======  =============  ===========  =============

    Args:
        bank: with one member for every class.

    Raises:
        ShapeError: for a bank of one member.

    Example:
        >>> from pyromodels.dynamics.tvnf import TVNF
        >>> classifier = Classifier(TVNF(source_dim=2, num_members=3))
        >>> batch = SequenceBatch(torch.randn(4, 6, 2), torch.ones(4, 6).bool())
        >>> classifier.posterior(batch).probs.shape
        torch.Size([4, 3])
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(self, bank: Autoregressive) -> None:
        super().__init__()
        if bank.num_members < 2:
            raise ShapeError(
                mismatch("bank", given="1 member", expected="num_members=C, one for every class")
            )
        self.bank, self.class_posterior = bank, ClassPosterior(bank.num_members)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.bank.num_members

    def forward(self, batch: SequenceBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns the class, (*, B, 1, 1). `generate` draws x as well."""
        register(self)
        x, mask = self._checked(batch)
        with batch_plate(batch.num_sequences):
            # p(c)
            label = pyro.sample(
                "class",
                dist.Categorical(logits=self.class_posterior.log_prior),
                infer={"enumerate": "parallel"},
            )
            # p(x | c)
            laws = self._laws(x, mask)
            sharpness = 1.0 if generate else self.class_posterior.sharpness
            pyro.sample("x", Chosen(laws, label, sharpness), obs=None if generate else x)
        return label

    def layout(self, batch: SequenceBatch) -> Layout:
        """Return names of dimensions, and which frames there are."""
        frames = batch.mask.unsqueeze(1)
        return Layout(
            sequences="batch",
            event_dims={"x": ("frame", "feature")},
            present={"x": frames},
            constants={"mask": (("batch", "frame"), batch.mask)},
        )

    def class_log_prob(
        self, batch: SequenceBatch
    ) -> Tensor:  # nats, shape: (B, C)
        """Return log p(x | c) under every class."""
        x, mask = self._checked(batch)
        return self._laws(x, mask).log_prob(x.unsqueeze(-3)).reshape(-1, self.num_classes)

    def posterior(self, batch: SequenceBatch) -> dist.Categorical:
        """Return p(c | x), batch (B,)."""
        return self.class_posterior.of(self.class_log_prob(batch))

    def decide(
        self,
        batch: SequenceBatch,
        *,
        min_probability: float = 0.0,
        max_strangeness: float = 1.0,
    ) -> Decision:
        """Return the class that is most probable, or none where that is not enough.

        Args:
            batch: the sequences.
            min_probability: withhold a decision that is less probable.
            max_strangeness: withhold it from sequences that are stranger.

        Raises:
            ShapeError: where x does not fit the bank.
            ValueError: for a gap, no frame, or a strangeness that is asked for and not known.
        """
        scores = self.class_log_prob(batch)
        best, label = (probability := self.class_posterior.of(scores).probs).max(-1)
        withheld, strangeness = best < min_probability, None
        if self.class_posterior.knows_what_is_typical or max_strangeness < 1:
            strangeness = self.class_posterior.strangeness(scores, batch.mask.sum(-1))
            withheld = withheld | (strangeness > max_strangeness)
        return Decision(label.masked_fill(withheld, NO_CLASS), probability, strangeness)

    def _laws(self, x: Tensor, mask: Tensor) -> dist.TorchDistribution:
        shape = (*x.shape[:-2], self.num_classes)
        return self.bank.path(x.shape[-2], batch_shape=torch.Size(shape), mask=mask.unsqueeze(-2))

    def _checked(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return x (B, 1, 1, T, D) and the mask (B, 1, 1, T)."""
        if batch.x.shape[-1] != self.bank.source_dim:
            raise misshapen("x", batch.x.shape, f"(B, T, {self.bank.source_dim})")
        if not batch.mask.any(-1).all():
            raise ValueError("mask: a sequence without a frame")
        if batch.has_gaps:
            raise ValueError("mask: a gap, and what fills it would be read; cut the sequence there")
        return batch.x[:, None, None], batch.mask[:, None, None]
