"""Posteriors of classes that mean what they say, fitted on sequences held out."""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyromodels.errors import ShapeError, mismatch


class Calibrated(Protocol):
    """What is fitted: buffers of `pyromodels.models.class_posterior.ClassPosterior`."""

    num_classes: int
    """C."""
    sharpness: Tensor
    """beta, shape ()."""
    log_prior: Tensor
    """log pi, nats, shape (C,)."""
    typical: Tensor
    """Quantiles of log p(x given c) a frame in class c, nats, shape (C, Q)."""


def calibrate(
    posterior: Calibrated,
    scores: Tensor,  # log p(x | c) of sequences held out, nats, shape: (n, C)
    labels: Tensor,  # their classes, shape: (n,)
    lengths: Tensor,  # their frames, shape: (n,)
    *,
    offset_std: float = 0.0,
) -> None:
    r"""Fit sharpness and prior, and what is typical of each class, in place.

        beta, pi = argmax \sum_i log p(c_i | x_i) + log N(log pi; uniform, offset_std^2)

    Other priors than the uniform one make up for classes whose densities were learned from few
    sequences and lie too low everywhere.

    Args:
        posterior: it is changed.
        scores: of sequences that the densities did not learn from.
        labels: each class at least once.
        lengths: their frames.
        offset_std: how far log pi may lie from uniform, nats; 0: not at all.

    Raises:
        ShapeError: where the shapes do not fit each other.
        ValueError: where a class has no sequence, a label is none, a score not finite, or
            offset_std negative.
    """
    if scores.shape != (len(labels), posterior.num_classes) or lengths.shape != labels.shape:
        given = f"{tuple(scores.shape)}, {tuple(labels.shape)}, {tuple(lengths.shape)}"
        raise ShapeError(mismatch("scores, labels, lengths", given=given,
                                  expected=f"(n, {posterior.num_classes}), (n,), (n,)"))
    if not offset_std >= 0:
        raise ValueError(mismatch("offset_std", given=offset_std, expected="0 or more"))
    if not torch.isfinite(scores).all():
        raise ValueError("scores: NaN or infinite")
    if lengths.min() < 1:
        raise ValueError(mismatch("lengths", given=int(lengths.min()), expected="1 or more"))
    if labels.min() < 0 or labels.max() >= posterior.num_classes:
        given = f"{int(labels.min())} to {int(labels.max())}"
        expected = f"0 to {posterior.num_classes - 1}"
        raise ValueError(mismatch("labels", given=given, expected=expected))
    counts = labels.bincount(minlength=posterior.num_classes)
    if not counts.all():
        raise ValueError(f"labels: class {int(counts.argmin())} has no sequence")
    sharpness, log_prior = fit_posterior(scores, labels, offset_std=offset_std)
    posterior.sharpness.copy_(sharpness)
    posterior.log_prior.copy_(log_prior)
    by_frame = scores / lengths.unsqueeze(-1)
    count = posterior.typical.shape[-1]
    levels = torch.arange(1, count + 1).to(scores) / (count + 1)
    typical = [by_frame[labels == c, c].quantile(levels) for c in range(posterior.num_classes)]
    posterior.typical.copy_(torch.stack(typical))


@torch.enable_grad()
def fit_posterior(
    scores: Tensor,  # log p(x | c), nats, shape: (n, C)
    labels: Tensor,  # shape: (n,)
    *,
    offset_std: float = 0.0,
) -> tuple[Tensor, Tensor]:  # beta, shape: (); log pi, shape: (C,)
    """Return the sharpness and the prior that make the labels most probable.

    The narrowest decision counts once more, as a mistake: where all n sequences are told apart,
    that says no more than that a mistake is rarer than one in n, and the posterior stays finite.
    """
    scores = scores.detach().double()
    own = scores.gather(-1, labels.unsqueeze(-1))
    others = scores.scatter(-1, labels.unsqueeze(-1), -math.inf)
    narrowest = (own.squeeze(-1) - others.amax(-1)).abs().argmin()
    scores = torch.cat((scores, scores[narrowest : narrowest + 1]))
    labels = torch.cat((labels, others[narrowest].argmax().unsqueeze(0)))
    gaps = scores.amax(-1, keepdim=True) - scores
    log_sharpness = -gaps.mean().clamp_min(1e-6).log()  # logits of order one to start with
    log_sharpness.requires_grad_()
    offsets = scores.new_zeros(scores.shape[-1], requires_grad=True)
    free = [log_sharpness, offsets] if offset_std else [log_sharpness]
    newton = torch.optim.LBFGS(free, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        newton.zero_grad()
        logits = log_sharpness.exp() * scores + offset_std * offsets
        found = cross_entropy(logits, labels, reduction="sum") + 0.5 * offsets.square().sum()
        found.backward()
        return found

    newton.step(loss)
    return log_sharpness.detach().exp(), (offset_std * offsets.detach()).log_softmax(-1)
