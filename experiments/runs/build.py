"""From a spec to the objects it names, before the first step."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment, naming
from pyromodels.experiments.runs.spec import Spec
from pyromodels.inference.training.seeding import seed_all


class Built(NamedTuple):
    """A run before its first step."""

    spec: Spec
    data: Any  # what the experiment's `data` returned
    model: Any  # what its `model` returned


def build(spec: Spec) -> Built:
    """Return the data of a spec, and what is fitted to them.

    Raises:
        SpecError: where the parts of the spec do not fit each other, or the device is missing.
        OSError: where data or weights are missing.
    """
    use_device(spec.device)
    seed_all(spec.seed)
    task = experiment(spec.experiment)
    with naming("data"):
        data = task.data(spec)
    with naming("model"):
        return Built(spec, data, task.model(spec, data))
