r"""Sequences from hidden Markov models: a classification problem whose likelihoods are known.

Every class is one source. With :math:`z_t` the state and :math:`x_t` the frame,

.. math:: p(x_{1:T}, z_{1:T} \mid c) = \pi_{c z_1} \prod_{t=2}^{T} A_{c z_{t-1} z_t}
          \prod_{t=1}^{T} \mathcal{N}(x_t; \mu_{c z_t}, \mathrm{diag}\,\sigma^2_{c z_t}),

so that no model can beat, but by chance, the accuracy of :math:`\arg\max_c p(x \mid c)` or the
nats a frame of the source itself.

Reference:
    L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech
    recognition", Proc. IEEE 77(2), 1989, equations 19-21 for the likelihood.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch
from pyromodels.experiments.datasets.labelled.problem import LabelledData
from pyromodels.labelled import LabelledSequences


class BayesFigures(NamedTuple):
    """What the sources themselves reach on some sequences."""

    accuracy: float                   # per cent of argmax_c p(x given c) that are the true class
    nats_per_frame: float             # log p(x given the true class) over all frames


@dataclass(frozen=True)
class HiddenMarkovSources:
    """C hidden Markov models with diagonal Gaussian frames, p(x given c).

    ======================  ==========  ==================  ====================
    symbol                  name        shape               unit
    ======================  ==========  ==================  ====================
    :math:`\\pi`             initial     (C, K)              probability
    :math:`A`               transition  (C, K, K), from-to  probability
    :math:`\\mu`             mean        (C, K, D)           that of x
    :math:`\\sigma`          deviation   (C, K, D)           that of x
    ======================  ==========  ==================  ====================

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: for rows that are no distribution, an infinite mean or a deviation of 0.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> gaussian = HiddenMarkovSources(one[0], one, mean=0 * one, deviation=one)
        >>> gaussian.log_prob(torch.zeros(1, 2, 1), torch.tensor([[True, False]]))
        tensor([[-0.9189]], dtype=torch.float64)
    """

    initial: Tensor
    transition: Tensor
    mean: Tensor
    deviation: Tensor

    def __post_init__(self) -> None:
        """Check what no later step checks again."""
        if self.mean.dim() != 3:
            raise ShapeError(mismatch("mean", given=f"shape {tuple(self.mean.shape)}",
                                      expected="(C, K, D)"))
        c, k, d = self.mean.shape
        expected = {"initial": (c, k), "transition": (c, k, k), "deviation": (c, k, d)}
        for name, shape in expected.items():
            given = tuple(getattr(self, name).shape)
            if given != shape:
                raise ShapeError(mismatch(name, given=f"shape {given}", expected=shape))
        for name in ("initial", "transition"):
            rows = getattr(self, name)
            if not ((rows >= 0).all() and torch.allclose(rows.sum(-1), rows.new_ones(()))):
                raise ValueError(f"{name}: expected rows of probabilities that sum to one")
        if not torch.isfinite(self.mean).all():
            raise ValueError("mean: NaN or infinite")
        if not (torch.isfinite(self.deviation) & (self.deviation > 0)).all():
            raise ValueError("deviation: expected finite numbers above 0")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.mean)

    def __getitem__(self, rows: Tensor) -> "HiddenMarkovSources":
        """Return some of the models."""
        return HiddenMarkovSources(*(getattr(self, field.name)[rows] for field in fields(self)))

    def log_prob(
        self,
        x: Tensor,                    # shape: (n, T, D)
        mask: Tensor,                 # shape: (n, T), True for the first frames of each sequence
    ) -> Tensor:                      # shape: (n, C)
        """Return log p(x given c) in nats and float64, of every sequence under every class.

        A frame that is masked is not observed. States that nothing observes any more sum to one,
        so the likelihood of a padded sequence is that of the sequence. No more than one frame of
        every sequence is held at once beyond the arguments.

        Raises:
            ShapeError: where x or the mask does not fit.
        """
        d = self.mean.shape[-1]
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[-1] != d:
            raise ShapeError(mismatch("x", given=f"shape {tuple(x.shape)}",
                                      expected=f"(n, T, {d}) with T of at least 1"))
        if mask.shape != x.shape[:2]:
            raise ShapeError(mismatch("mask", given=f"shape {tuple(mask.shape)}",
                                      expected=tuple(x.shape[:2])))
        every = torch.arange(self.num_classes).unsqueeze(0)
        frames = (
            self.frame_log_prob(*frame, every).squeeze(2)                  # (n, C, K)
            for frame in zip(x.split(1, 1), mask.split(1, 1), strict=True)
        )
        (last,) = deque(self.forward(frames, every), maxlen=1)
        return last.logsumexp(-1)

    def frame_log_prob(
        self,
        x: Tensor,                    # shape: (n, T, D)
        mask: Tensor,                 # shape: (n, T)
        rows: Tensor,                 # R of the models for each sequence, shape: (n, R) or (1, R)
    ) -> Tensor:                      # float64, shape: (n, R, T, K)
        """Return log p(x_t given z_t), and 0 where a frame is masked."""
        mean, deviation = self.mean.double(), self.deviation.double()
        centre = mean.mean((0, 1))              # near zero the expanded square loses no digits
        x, mean = x.double() - centre, mean - centre
        precision = deviation.square().reciprocal()
        constant = (deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        constant = constant + 0.5 * (precision * mean.square()).sum(-1)    # (C, K)
        factors = torch.cat([(precision * mean)[rows], -0.5 * precision[rows]], -1)
        powers = torch.cat([x, x.square()], -1)                            # (n, T, 2 D)
        log_prob = torch.einsum("nte,nrke->nrtk", powers, factors) - constant[rows].unsqueeze(-2)
        return log_prob.masked_fill(~mask[:, None, :, None], 0.0)

    def forward(
        self,
        frames: Iterable[Tensor],     # log p(x_t given z_t) of every t, shape: (n, R, K) each
        rows: Tensor,                 # shape: (n, R) or (1, R)
    ) -> Iterator[Tensor]:            # shape: (n, R, K) each
        """Return log p(x_{1:t}, z_t) of every t, in float64."""
        initial, transition = (p.double().log()[rows] for p in (self.initial, self.transition))
        frames = iter(frames)
        return accumulate(
            frames,
            lambda alpha, frame: (alpha.unsqueeze(-1) + transition).logsumexp(-2) + frame,
            initial=initial + next(frames),
        )

    def sample(
        self,
        num_sequences: int,
        *,
        seed: int | Sequence[int],
        lengths: tuple[int, int] = (3, 14),
    ) -> LabelledSequences:
        """Return as many sequences of every class, class after class, in float32.

        Args:
            num_sequences: of each class.
            seed: of states, frames and lengths.
            lengths: shortest and longest, all in between equally likely.

        Raises:
            ValueError: for no sequence, or lengths that are no range.
        """
        if num_sequences < 1:
            raise ValueError(mismatch("num_sequences", given=num_sequences, expected="at least 1"))
        shortest, longest = lengths
        if not 1 <= shortest <= longest:
            raise ValueError(mismatch("lengths", given=lengths,
                                      expected="1 <= shortest <= longest"))
        rng = np.random.default_rng(seed)
        c, _, d = self.mean.shape
        labels = torch.arange(c).repeat_interleave(num_sequences)
        total = len(labels)
        frames_of = torch.from_numpy(rng.integers(shortest, longest + 1, total))
        uniform = torch.from_numpy(rng.random((longest, total)))
        states = []
        for u in uniform:
            # z_1 ~ Categorical(initial), z_t ~ Categorical(transition[z_{t-1}])
            rows = self.transition[labels, states[-1]] if states else self.initial[labels]
            states.append(_draw(rows, u))
        state = torch.stack(states, 1)                                     # (n, T)
        # x_t ~ Normal(mean[z_t], deviation[z_t])
        noise = torch.from_numpy(rng.standard_normal((total, longest, d)))
        pick = labels.unsqueeze(-1), state
        x = self.mean[pick] + self.deviation[pick] * noise
        return LabelledSequences(x.float(), frames_of, labels)


def bayes_accuracy(sources: HiddenMarkovSources, data: LabelledSequences) -> BayesFigures:
    """Classify by the exact posterior, all classes equally likely beforehand, and score.

    No classifier does better on average; a finite sample may let one.
    """
    log_prob = sources.log_prob(data.x, data.mask)
    accuracy = (log_prob.argmax(-1) == data.labels).double().mean()
    own = log_prob.gather(-1, data.labels.unsqueeze(-1)).sum()
    return BayesFigures(100 * accuracy.item(), (own / data.lengths.sum()).item())


def hidden_markov_problem(
    *,
    num_train: int = 600,
    num_valid: int = 200,
    num_test: int = 400,
    # Neither trivial nor hopeless: the sources of seed 0 tell 98.9 % of their test sequences.
    seed: int = 0,
) -> tuple[LabelledData, HiddenMarkovSources]:
    """Return five classes of sequences in the plane and the sources they come from.

    Every source has three states. A state's mean is an offset, uniform on -5..5 and the same in
    both coordinates, plus standard normal noise; each variance is inverse-gamma of scale 1 with a
    shape uniform on 1..2; start and every row of the transitions are Dirichlet with concentrations
    uniform on 0..1. Lengths are uniform on 3..14. Nothing is standardised.

    Args:
        num_train, num_valid, num_test: sequences of every class. A split does not change with the
            numbers of the others.
        seed: of sources and sequences.

    Example:
        >>> data, sources = hidden_markov_problem(num_train=10, num_valid=5, num_test=5)
        >>> data.train.x.shape, tuple(sources.transition.shape)
        (torch.Size([50, 14, 2]), (5, 3, 3))
    """
    sources = _draw_sources(np.random.default_rng([seed, 0]))
    sizes = {"train": num_train, "valid": num_valid, "test": num_test}
    splits = {
        split: sources.sample(size, seed=[seed, number])
        for number, (split, size) in enumerate(sizes.items(), start=1)
    }
    classes = tuple(f"source {number + 1}" for number in range(sources.num_classes))
    return LabelledData("hidden Markov sources", classes, **splits), sources


def _draw_sources(
    rng: np.random.Generator, c: int = 5, k: int = 3, d: int = 2
) -> HiddenMarkovSources:
    mean = rng.uniform(-5, 5, (c, k, 1)) + rng.standard_normal((c, k, d))
    variance = 1 / rng.gamma(rng.uniform(1, 2, (c, k, d)))
    # Row by row: numpy's Dirichlet stays a distribution where gammas of tiny shape underflow.
    rows = [rng.dirichlet(rng.uniform(0, 1, k)) for _ in range(c * (k + 1))]
    initial, transition = np.split(np.array(rows).reshape(c, k + 1, k), [1], axis=1)
    parts = (initial[:, 0], transition, mean, np.sqrt(variance))
    return HiddenMarkovSources(*(torch.from_numpy(part) for part in parts))


def _draw(
    probabilities: Tensor,            # shape: (n, K)
    uniform: Tensor,                  # shape: (n,), in [0, 1)
) -> Tensor:                          # int64, shape: (n,)
    """Invert the cumulative distribution; rounding never leaves the states that can be."""
    cumulative = probabilities.cumsum(-1)
    return (uniform.unsqueeze(-1) * cumulative[:, -1:] >= cumulative).sum(-1)
