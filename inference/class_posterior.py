"""Posteriors of a generative classifier that mean what they say, fitted on sequences held out."""

import torch
from torch import Tensor

from inference.bank import class_log_prob
from pyromodels.labelled import LabelledSequences
from pyromodels.models.classifier import Classifier

NUM_QUANTILES = 100


def calibrate(
    classifier: Classifier,
    held_out: LabelledSequences,
    *,
    offset_std: float = 0.0,
) -> Tensor:  # log p(x | c) of the sequences, nats, shape: (n, C)
    r"""Fit sharpness and prior of the classes, and what is typical of each, in place.

        beta, pi = argmax \sum_i log p(c_i | x_i) + log N(log pi; uniform, offset_std^2)

    Offsets make up for classes whose densities were learned from few sequences and lie too low
    everywhere.

    Args:
        classifier: whose bank is trained; it is changed.
        held_out: sequences of every class that it did not learn from.
        offset_std: how far log pi may lie from uniform, nats; 0: not at all.

    Raises:
        ValueError: where a class has no sequence, or offset_std is negative.
    """
    if offset_std < 0:
        raise ValueError(f"offset_std: given {offset_std}; expected 0 or more")
    counts = held_out.labels.bincount(minlength=classifier.num_classes)
    if not counts.all():
        raise ValueError(f"held_out: no sequence of class {int(counts.argmin())}")
    scores = class_log_prob(classifier.bank, held_out)
    sharpness, log_prior = fit_posterior(scores, held_out.labels, offset_std=offset_std)
    classifier.sharpness.copy_(sharpness)
    classifier.log_prior.copy_(log_prior)
    by_frame = scores / held_out.lengths.unsqueeze(-1)
    levels = torch.arange(1, NUM_QUANTILES + 1, device=scores.device) / (NUM_QUANTILES + 1)
    classifier.typical = torch.stack([
        by_frame[held_out.labels == c, c].quantile(levels.to(scores.dtype))
        for c in range(classifier.num_classes)
    ])
    return scores


def fit_posterior(
    scores: Tensor,  # log p(x | c), nats, shape: (n, C)
    labels: Tensor,  # shape: (n,)
    *,
    offset_std: float = 0.0,
) -> tuple[Tensor, Tensor]:  # beta, shape: (); log pi, shape: (C,)
    """Return the sharpness and the prior that make the labels most probable."""
    scores = scores.detach().double()
    gaps = scores.amax(-1, keepdim=True) - scores
    log_sharpness = -gaps.mean().clamp_min(1e-6).log()  # logits of order one to start with
    log_sharpness.requires_grad_()
    offsets = scores.new_zeros(scores.shape[-1], requires_grad=True)
    free = [log_sharpness, offsets] if offset_std else [log_sharpness]
    newton = torch.optim.LBFGS(free, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        newton.zero_grad()
        logits = log_sharpness.exp() * scores + offset_std * offsets
        found = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        found = found + 0.5 * offsets.square().sum()
        found.backward()
        return found

    newton.step(loss)
    return log_sharpness.detach().exp(), (offset_std * offsets.detach()).log_softmax(-1)
