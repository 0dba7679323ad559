"""From a spec to the objects it names: data, batch, model, guide at its start, engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.tracking.setup import DTYPES, box_batch, started_guide, trained_prior
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.inference.engines.engine import Engine
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS


class Built(NamedTuple):
    """A run before its first step."""

    data: TrackingData
    batch: MixtureBatch
    model: MixDVAE
    engine: Engine


def build(spec: Spec) -> Built:
    """Return data, batch, model and engine of a spec, the guide at its start.

    Raises:
        SpecError: where the parts of the spec do not fit each other.
        OSError: where data or weights are missing.
    """
    seed_all(spec.seed)
    dtype = DTYPES[spec.dtype]
    with _named("data"):
        data = DATASETS.build(spec.data_table())
    with _named("model.prior"):
        prior = build_prior(spec).to(dtype)
    with _named("model"):
        batch = box_batch(
            data,
            prior,
            num_sources=spec.model.num_sources,
            noise_ratio=spec.model.noise_ratio,
            start_std=spec.model.start_std,
            dtype=dtype,
        )
        model = MixDVAE(prior, detector=spec.model.detector, noise_scale=spec.model.noise_scale)
        model = model.to(dtype)
    with _named("guide"):
        guide = started_guide(spec.guide, model, batch, start_std=spec.model.start_std)
    with _named("inference"):
        engine = STEPPERS.build(spec.inference, model, guide, batch)
    return Built(data, batch, model, engine)


def build_prior(spec: Spec) -> SourcePrior:
    """Return the prior of one source, with its weights."""
    said = spec.model.prior
    if said.trained is not None:
        return trained_prior(said.trained, said.dynamics["name"], least_std=said.least_std)
    prior = DYNAMICS.build(said.complete_dynamics)
    if not isinstance(prior, SourcePrior):
        given, expected = type(prior).__name__, "a source prior, e.g. linear"
        raise SpecError(mismatch("model.prior.dynamics", given=given, expected=expected))
    return prior


@contextmanager
def _named(part: str) -> Iterator[None]:
    """Say which part of the spec an error is about, in one line."""
    try:
        yield
    except OSError:
        raise
    except SpecError as error:
        message = str(error)
        prefix = "" if message.startswith(part.partition(".")[0]) else f"{part}: "
        raise SpecError(f"{prefix}{message}") from error
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise SpecError(f"{part}: {' '.join(str(error).split())}") from error
