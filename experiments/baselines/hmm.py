r"""Hidden Markov models of every class, fitted by expectation-maximisation.

.. math:: \text{E:}\quad \gamma_t(k) = p(z_t = k \mid x_{1:T}), \qquad
          \xi_t(j, k) = p(z_t = j, z_{t+1} = k \mid x_{1:T})

.. math:: \text{M:}\quad \pi_k \propto \gamma_1(k), \quad A_{jk} \propto \sum_t \xi_t(j, k), \quad
          \mu_k, \sigma^2_k = \text{mean and variance of the frames, weighted by } \gamma(k)

Sums run over the sequences of a class as well. Classes, restarts and sequences go through one
batch in float64; loops run over time and iterations.

Reference:
    L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech
    recognition", Proc. IEEE 77(2), 1989, equations 24-27, 37, 40 and section IV-A (left-right).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.labelled.hidden_markov import HiddenMarkovSources
from pyromodels.labelled import LabelledSequences

_EMPTY = 1e-8                         # frames, of expected counts: below it nothing is learned


class Counts(NamedTuple):
    """Expected counts and sums of M models, over their sequences."""

    first: Tensor                     # shape: (M, K), sequences that start in a state
    moves: Tensor                     # shape: (M, K, K), transitions from-to
    frames: Tensor                    # shape: (M, K), frames spent in a state
    total: Tensor                     # shape: (M, K, D), of x over those frames
    squares: Tensor                   # shape: (M, K, D), of x^2 over those frames


def fit_hidden_markov(
    data: LabelledSequences,
    num_states: int,
    *,
    left_right: bool = False,
    restarts: int = 4,
    iterations: int = 60,
    variance_floor: float = 1e-3,
    seed: int = 0,
) -> HiddenMarkovSources:
    """Return the likeliest of several fits for every class, of numbers 0 to the largest label.

    Args:
        data: the sequences to learn from.
        num_states: of every class; 1 for one Gaussian a class.
        left_right: start in the first state, then stay or go to the next; without it every state
            may follow every other.
        restarts: starts from other places, of which the best counts.
        iterations: of EM, each start.
        variance_floor: least variance of a state, as a fraction of the coordinate's variance over
            all frames.
        seed: of the starting places.

    Raises:
        ValueError: for a number below 1, a floor not above 0, a class without sequences, or a
            coordinate that never varies.

    Example:
        >>> from pyromodels.experiments.datasets.labelled.hidden_markov import hidden_markov_problem
        >>> data, _ = hidden_markov_problem(num_train=20)
        >>> fit_hidden_markov(data.train, 1, iterations=1).mean.shape
        torch.Size([5, 1, 2])
    """
    numbers = {"num_states": num_states, "restarts": restarts, "iterations": iterations}
    for argument, value in numbers.items():
        if value < 1:
            raise ValueError(mismatch(argument, given=value, expected="at least 1"))
    if not 0 < variance_floor < 1:
        raise ValueError(mismatch("variance_floor", given=variance_floor, expected="above 0, "
                                  "below 1"))
    sizes = data.labels.bincount()
    if not len(sizes) or not sizes.all():
        empty = int((sizes == 0).nonzero()[0]) if len(sizes) else 0
        raise ValueError(f"data: class {empty} has no sequence to learn from")
    variance = data.x[data.mask].double().var(0, correction=0)
    if not (variance > 0).all():
        constant = (variance <= 0).nonzero()[0].item()
        raise ValueError(f"data: coordinate {constant} never varies; leave it out")
    floor = variance_floor * variance
    rows = data.labels.unsqueeze(-1) * restarts + torch.arange(restarts)   # (n, R)
    generator = torch.Generator().manual_seed(seed)
    sources = start(data, rows, num_states, left_right=left_right, floor=floor, generator=generator)
    for _ in range(iterations):
        sources, _ = em_step(sources, data, rows, floor)
    likelihood = model_log_prob(sources, data, rows).view(-1, restarts)
    return sources[likelihood.argmax(-1) + restarts * torch.arange(len(sizes))]


def em_step(
    sources: HiddenMarkovSources,
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R), the models that each sequence trains
    floor: Tensor,                    # least variance, shape: (D,)
) -> tuple[HiddenMarkovSources, Tensor]:
    """Return the M models after one iteration, and their log-likelihood before it, shape (M,)."""
    counts, log_prob = expectation(sources, data, rows)
    return maximisation(sources, counts, floor), log_prob


def model_log_prob(
    sources: HiddenMarkovSources,
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R)
) -> Tensor:                          # shape: (M,)
    """Return the log-likelihood of each model's sequences."""
    _, alpha = _forward(sources, data, rows)
    return _sum_by_model(alpha[:, :, -1].logsumexp(-1), rows, sources.num_classes)


def expectation(
    sources: HiddenMarkovSources,
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R)
) -> tuple[Counts, Tensor]:           # counts; log-likelihood of each model's sequences, (M,)
    """Run the forward and the backward recursion."""
    frames, alpha = _forward(sources, data, rows)
    log_prob = alpha[:, :, -1].logsumexp(-1)                               # (n, R)
    transition = sources.transition.log()[rows]                            # (n, R, K, K)
    # log p(x_{t+1:T} given z_t): zero at the end, and so wherever nothing is observed any more
    beta = torch.zeros_like(alpha[:, :, -1])
    moves = torch.zeros_like(transition)
    log_gamma = [alpha[:, :, -1]]
    for t in range(frames.shape[2] - 2, -1, -1):
        onward = transition + (frames[:, :, t + 1] + beta).unsqueeze(-2)
        here = alpha[:, :, t] - log_prob.unsqueeze(-1)
        there = data.mask[:, t + 1, None, None, None]
        moves += (here.unsqueeze(-1) + onward).exp() * there
        beta = onward.logsumexp(-1)
        log_gamma.append(alpha[:, :, t] + beta)
    gamma = (torch.stack(log_gamma[::-1], 2) - log_prob[..., None, None]).exp()
    gamma = gamma * data.mask[:, None, :, None]
    counts = _count(gamma, moves, data.x, rows, sources.num_classes)
    return counts, _sum_by_model(log_prob, rows, sources.num_classes)


def maximisation(
    sources: HiddenMarkovSources,     # where a state without frames stays
    counts: Counts,
    floor: Tensor,                    # shape: (D,)
) -> HiddenMarkovSources:
    """Return the likeliest parameters given the counts.

    A variance held at the floor is the likeliest one above it, so the likelihood still never
    falls. A state that no frame belongs to keeps its Gaussian, one that is never left its row.
    """
    lived, left = counts.frames > _EMPTY, counts.moves.sum(-1) > _EMPTY
    frames = counts.frames.clamp_min(_EMPTY).unsqueeze(-1)
    mean = torch.where(lived.unsqueeze(-1), counts.total / frames, sources.mean)
    variance = (counts.squares / frames - mean.square()).maximum(floor)
    deviation = torch.where(lived.unsqueeze(-1), variance.sqrt(), sources.deviation)
    rows = counts.moves / counts.moves.sum(-1, keepdim=True).clamp_min(_EMPTY)
    transition = torch.where(left.unsqueeze(-1), rows, sources.transition)
    return HiddenMarkovSources(
        counts.first / counts.first.sum(-1, keepdim=True), transition, mean, deviation
    )


def start(
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R)
    num_states: int,
    *,
    left_right: bool,
    floor: Tensor,                    # shape: (D,)
    generator: torch.Generator,
) -> HiddenMarkovSources:
    """Return models to start from, each from the sequences it is to learn.

    Left-right: cut all sequences of a model at the same fractions of their length, equal parts in
    the first restart and random ones in the others. Otherwise: means on frames far from each other
    (k-means++), deviations of the whole class, all transitions equal.
    """
    models, restarts = int(rows.max()) + 1, rows.shape[1]
    x = data.x.double()
    one = data.mask.double()[:, None, :, None].expand(-1, restarts, -1, 1)
    still = torch.zeros(*rows.shape, 1, 1, dtype=x.dtype)
    whole = _count(one, still, x, rows, models)
    mean = whole.total / whole.frames.unsqueeze(-1)                        # (M, 1, D)
    variance = (whole.squares / whole.frames.unsqueeze(-1) - mean.square()).maximum(floor)
    deviation = variance.sqrt().expand(-1, num_states, -1)
    if not left_right:
        mean = _spread(data, rows, num_states, variance.squeeze(1), generator)
        initial = mean.new_full((models, num_states), 1 / num_states)
        return HiddenMarkovSources(
            initial, initial.unsqueeze(1).expand(-1, num_states, -1), mean, deviation
        )
    eye = torch.eye(num_states, dtype=x.dtype)
    transition = 0.5 * (eye + eye.roll(1, -1))
    transition[-1] = eye[-1]
    sources = HiddenMarkovSources(
        eye[0].expand(models, -1), transition.expand(models, -1, -1),
        mean.expand(-1, num_states, -1), deviation,
    )
    parts = torch.ones(models, num_states, dtype=x.dtype)
    jitter = torch.empty_like(parts).exponential_(generator=generator)
    later = torch.arange(models) % restarts > 0
    parts = torch.where(later.unsqueeze(-1), 0.5 + jitter, parts)
    ends = (parts.cumsum(-1) / parts.sum(-1, keepdim=True))[:, :-1]        # (M, K - 1)
    place = (torch.arange(x.shape[1]) + 0.5) / data.lengths.unsqueeze(-1)  # (n, T)
    state = (place[:, None, :, None] > ends[rows].unsqueeze(-2)).sum(-1)   # (n, R, T)
    gamma = eye[state] * data.mask[:, None, :, None]
    moves = torch.zeros(*rows.shape, num_states, num_states, dtype=x.dtype)
    counts = _count(gamma, moves, x, rows, models)
    return maximisation(sources, counts._replace(first=sources.initial), floor)


def _forward(
    sources: HiddenMarkovSources,
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R)
) -> tuple[Tensor, Tensor]:           # each (n, R, T, K)
    """Return log p(x_t given z_t) and log p(x_{1:t}, z_t)."""
    frames = sources.frame_log_prob(data.x, data.mask, rows)
    return frames, torch.stack(tuple(sources.forward(frames.unbind(2), rows)), 2)


def _spread(
    data: LabelledSequences,
    rows: Tensor,                     # shape: (n, R)
    num_states: int,
    variance: Tensor,                 # of each model's frames, shape: (M, D)
    generator: torch.Generator,
) -> Tensor:                          # shape: (M, K, D)
    """Draw frames of each model, every next one in proportion to its squared distance."""
    x = data.x[data.mask].double()                                         # (F, D)
    label = data.labels.repeat_interleave(data.lengths)                    # (F,)
    models = torch.arange(len(variance)) // rows.shape[1]
    own = (label == models.unsqueeze(-1)).double()                         # (M, F)
    precision, weights, chosen = variance.reciprocal(), own, []
    for _ in range(num_states):
        # where all frames are alike, any will do
        weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, own)
        here = x[torch.multinomial(weights, 1, generator=generator).squeeze(-1)]    # (M, D)
        distance = precision @ x.square().mT - 2 * (precision * here) @ x.mT
        distance = distance + (precision * here.square()).sum(-1, keepdim=True)
        distance = distance.clamp_min(0.0) * own
        weights = weights.minimum(distance) if chosen else distance
        chosen.append(here)
    return torch.stack(chosen, 1)


def _count(
    gamma: Tensor,                    # shape: (n, R, T, K), 0 where a sequence has ended
    moves: Tensor,                    # shape: (n, R, K, K)
    x: Tensor,                        # shape: (n, T, D)
    rows: Tensor,                     # shape: (n, R)
    models: int,
) -> Counts:
    x = x.to(gamma.dtype).unsqueeze(1)
    per_sequence = (gamma[:, :, 0], moves, gamma.sum(-2), gamma.mT @ x, gamma.mT @ x.square())
    return Counts(*(_sum_by_model(part, rows, models) for part in per_sequence))


def _sum_by_model(
    part: Tensor,                     # shape: (n, R, *)
    rows: Tensor,                     # shape: (n, R)
    models: int,
) -> Tensor:                          # shape: (M, *)
    total = part.new_zeros(models, *part.shape[2:])
    return total.index_add(0, rows.flatten(), part.flatten(0, 1))
