"""How well the classes are told apart, and how far what is said of them can be trusted."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.experiments.baselines.hmm import fit_hidden_markov
from pyromodels.experiments.datasets.labelled.problems import Problem
from pyromodels.experiments.metrics.classification import (
    accuracy,
    classification_metrics,
    separation,
)
from pyromodels.inference.classes.calibrate import calibrate
from pyromodels.inference.classes.scores import class_log_prob
from pyromodels.labelled import LabelledSequences
from pyromodels.models.class_posterior import ClassPosterior

Scores = Callable[[LabelledSequences], Tensor]
"""log p(x | c) of sequences, nats, shape (n, C)."""


class Judged(NamedTuple):
    """One trained model on the test data."""

    scores: Tensor  # log p(x | c), nats, shape: (n, C)
    logits: Tensor  # log p(c | x), calibrated, nats, shape: (n, C)
    figures: dict[str, float]


def scores_of(bank: Autoregressive) -> Scores:
    """Return the likelihoods of a bank."""
    device = next(bank.parameters()).device
    return lambda data: class_log_prob(bank, data.to(device)).cpu()


def hidden_markov_scores(problem: Problem, num_states: int) -> Scores:
    """Return the likelihoods of hidden Markov models, fitted to each class by EM.

    With more than two coordinates, as in speech, states follow each other from left to right.
    """
    train = problem.data.train
    left_right = train.x.shape[-1] > 2 and num_states > 1
    sources = fit_hidden_markov(
        train, num_states, left_right=left_right, restarts=3, iterations=30
    )
    return lambda data: sources.log_prob(data.x, data.mask).float()


def judge(scores: Scores, problem: Problem, *, offset_std: float = 0.0) -> Judged:
    """Calibrate on the validation data and count on the test data.

    Figures: accuracy (per cent, also of the validation data), nats a frame as the models see it and
    in the units of the recordings, cross-entropy and Brier score of the calibrated posterior,
    calibration error (per cent), sharpness, and how well strangeness separates strangers.
    """
    data = problem.data
    posterior = ClassPosterior(len(data.classes))
    valid = scores(data.valid)
    calibrate(posterior, valid, data.valid.labels, data.valid.lengths, offset_std=offset_std)
    test = scores(data.test)
    own = test.gather(-1, data.test.labels.unsqueeze(-1)).double().sum()
    by_frame = (own / data.test.lengths.sum()).item()
    logits = posterior.of(test).logits
    figures = {
        **classification_metrics(logits, data.test.labels),
        "valid_accuracy": accuracy(posterior.of(valid).probs.argmax(-1), data.valid.labels),
        "nats_per_frame": by_frame,
        "nats_per_frame_recorded": by_frame + data.log_scale,
        "sharpness": posterior.sharpness.item(),
    }
    if problem.strangers is not None:
        figures["strangers"] = separation(
            posterior.strangeness(test, data.test.lengths),
            posterior.strangeness(scores(problem.strangers), problem.strangers.lengths),
        )
    return Judged(test, logits, figures)
