"""What is fitted, and what comes of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyromodels.experiments.separation.assigner import AssignerOptions
from pyromodels.experiments.separation.calibration import ErrorLaw
from pyromodels.experiments.separation.model_spec import SeparationModelSpec
from pyromodels.experiments.separation.scores import Group, Scores
from pyromodels.experiments.separation.separate import SeparationInference


class Parts(NamedTuple):
    """What is fitted: the priors' spec, and how the network of the start is trained."""

    model: SeparationModelSpec
    inference: SeparationInference
    assigner: AssignerOptions


class Regions(NamedTuple):
    """A law of errors, and what was measured to hold what it says: discs, and intervals."""

    law: ErrorLaw
    radii: Tensor  # of coefficients, shape: (levels, N)
    widths: Tensor  # of samples of the waveform, shape: (levels, N)


class Fitted(NamedTuple):
    """Mixtures of every length, taken apart."""

    groups: list[Group]
    regions: Regions | None  # of the errors of the start, where a network says it
    scores: Scores  # empty where nobody knows the truth
    seconds: float  # that taking them apart took, training left out
    training: dict[str, float]  # "kind/figure" of the training of its prior
