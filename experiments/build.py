"""From a spec to the objects it names: data, batch, model, guide at its start, engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from experiments.datasets import DATASETS, TrackingData
from experiments.mot.setup import DTYPES, box_batch, start_fit, trained_prior
from experiments.spec import Spec, supplied
from inference.engine import Engine
from inference.seeding import seed_all
from inference.steppers import STEPPERS
from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.guides.mean_field import MeanField
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import DYNAMICS, GUIDES


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
        given = {"model": model, "batch": batch}
        guide = GUIDES.build(spec.guide, *[given[key] for key in supplied(GUIDES, spec.guide)])
        if not isinstance(guide, FactorisedGuide):
            raise SpecError(
                f"guide {spec.guide['name']!r}: tracking reads q(s) and q(w) off the guide, which "
                f"a {type(guide).__name__} does not hold; use 'mean_field'"
            )
        if isinstance(guide, MeanField):
            start_fit(model, guide, batch, start_std=spec.model.start_std)
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
