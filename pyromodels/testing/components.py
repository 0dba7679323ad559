"""The door to the contract suite: whatever a component is, the checks it must pass."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributions import Transform

from pyromodels.batch import MixtureBatch, SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.vae import VAE
from pyromodels.emissions.base import Emission
from pyromodels.errors import SpecError
from pyromodels.guides.point import Point
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.models.enhancement import Enhancement
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.noise.base import Sizes
from pyromodels.noise.nmf import LowRankNoise
from pyromodels.observations.base import ObservationLaw
from pyromodels.observations.spectra import ComplexSpectra, spectra_batch
from pyromodels.registry import GUIDES
from pyromodels.testing.emission import EMISSION_CHECKS
from pyromodels.testing.guide import guide_checks
from pyromodels.testing.observation import OBSERVATION_CHECKS
from pyromodels.testing.paths import path_checks
from pyromodels.testing.runs import amplified
from pyromodels.testing.source_prior import SOURCE_PRIOR_CHECKS
from pyromodels.testing.transform import check_transform

Check = Callable[[], None]
"""Raises `AssertionError` where the contract is broken."""

KINDS = (
    "a source prior, an emission, the class of an observation law, a path distribution, a "
    "transform with a tensor to try it on, or a guide with its model and batch"
)


def check(component: Any, *problem: Any) -> None:
    """Run every check of the contract that a component is under.

    Args:
        component: a source prior or its class, which is then built by its `contract_specs`; a path
            distribution; an emission or its class; the class of an observation law; a transform; a
            guide, or the class of a registered one, which is built for a small model.
        *problem: of a guide: its model and their batch; of a transform: vectors to try it on.

    Raises:
        AssertionError: naming the check that failed.
        SpecError: where there is no contract for it.

    Example:
        >>> check(LinearGaussian(num_coordinates=2))
    """
    for name, test in contract(component, *problem):
        try:
            test()
        except AssertionError as error:
            raise AssertionError(f"{_name(component)}: {name}: {error}") from error


def contract(component: Any, *problem: Any) -> list[tuple[str, Check]]:
    """Return the checks that a component must pass, by name; see `check`."""
    for kind, tests, run in (
        (SourcePrior, SOURCE_PRIOR_CHECKS, _of_prior),
        (Emission, EMISSION_CHECKS, _of_emission),
        (ObservationLaw, OBSERVATION_CHECKS, _of_law),
    ):
        if inspect.isclass(component) and issubclass(component, kind):
            makers = {_words(spec): partial(component, **spec) for spec in component.contract_specs}
            return _of_each(tests, makers, run)
    if isinstance(component, SourcePrior):
        return _of_each(SOURCE_PRIOR_CHECKS, {"": partial(copy.deepcopy, component)}, _of_prior)
    if isinstance(component, Emission):
        return _of_each(EMISSION_CHECKS, {"": lambda: component}, _of_emission)
    if isinstance(component, Transform) and len(problem) == 1:
        return [("transform", partial(check_transform, component, *problem))]
    if isinstance(component, PathDistribution):
        return [(_label("", test), partial(test, component)) for test in path_checks(component)]
    if isinstance(component, nn.Module) and len(problem) == 2:
        return list(_of_guide(lambda: component, *problem, fresh=False))
    if any(component is GUIDES[name] for name in GUIDES):
        return list(_of_guide_class(component))
    raise SpecError(f"{_name(component)}: there is no contract for it; there is one for {KINDS}")


def _of_each(
    tests: Sequence[Callable[[Any], None]],
    makers: Mapping[str, Callable[..., Any]],  # by what tells apart what they make
    run: Callable[[Callable[[Any], None], Callable[..., Any]], None],
) -> list[tuple[str, Check]]:
    return [
        (_label(words, test), partial(run, test, make))
        for words, make in makers.items()
        for test in tests
    ]


def _of_prior(test: Callable[[SourcePrior], None], make: Callable[[], SourcePrior]) -> None:
    with _numbers():
        test(amplified(make()))


def _of_emission(test: Callable[[Emission], None], make: Callable[[], Emission]) -> None:
    test(make())


def _of_law(
    test: Callable[[ObservationLaw], None], make: Callable[[SourcePrior], ObservationLaw]
) -> None:
    """Of two blocks of two coordinates."""
    with _numbers():
        test(make(LinearGaussian(num_coordinates=2, process_std=(0.4, 0.2))).double())


def _of_guide(
    make: Callable[[], nn.Module], model: nn.Module, batch: Any, *, fresh: bool
) -> Iterator[tuple[str, Check]]:
    def run(name: str) -> None:
        with _numbers():
            guide = make()
            if fresh:  # away from symmetric starts, where gradients vanish
                for parameter in guide.parameters():
                    parameter.data += 0.1 * torch.randn_like(parameter)
            checks = guide_checks(make, not isinstance(guide, Point))
            checks[name](guide, model, batch)

    for name in guide_checks(make if fresh else None):
        yield name, partial(run, name)


def _of_guide_class(component: Callable[..., nn.Module]) -> Iterator[tuple[str, Check]]:
    """On the first small problem that it takes, of one of four kinds of model."""
    refusals = []
    for problem in (small_mixture, small_spectra, small_dvae, small_noisy):
        with _numbers():
            model, batch = problem()
            try:
                takes_batch = "batch" in inspect.signature(component).parameters
                make = partial(component, model, *[batch] * takes_batch)
                make()
            except (TypeError, ValueError) as error:
                refusals.append(str(error))
                continue
        yield from _of_guide(make, model, batch, fresh=True)
        return
    raise SpecError(
        f"{_name(component)}: no small problem is for it ({'; '.join(refusals)}). Make one, and "
        "call pyromodels.testing.check(guide, model, batch)"
    )


def small_mixture() -> tuple[MixDVAE, MixtureBatch]:
    """Two sequences of three frames, two sources and two observations, some missing."""
    model = MixDVAE(LinearGaussian(num_coordinates=2, process_std=(0.4, 0.2))).double()
    observations = torch.rand(2, 3, 2, 2) + 0.2
    mask = torch.rand(2, 3, 2) > 0.2
    loc = torch.rand(2, 2, model.prior.source_dim) + 0.5
    anchor = Anchor(loc, torch.full_like(loc, 0.1))
    return model, MixtureBatch(observations, mask, torch.full_like(observations, 0.1), anchor)


def small_spectra() -> tuple[MixDVAE, MixtureBatch]:
    """Two mixtures of two sources, of three frames of three bins."""
    prior = VAE(source_dim=3, latent_dim=2, decoder_dims=(4,), emission="complex")
    model = MixDVAE(prior, ComplexSpectra(prior)).double()
    return model, spectra_batch(torch.randn(2, 3, 3, dtype=torch.complex128), 2, ratio=0.3)


def small_dvae() -> tuple[DynamicalVAE, SequenceBatch]:
    """Three sequences of four frames of two coordinates."""
    model = DynamicalVAE(VAE(source_dim=2, latent_dim=2, decoder_dims=(4,))).double()
    return model, SequenceBatch(torch.rand(3, 4, 2), torch.ones(3, 4, dtype=torch.bool))


def small_noisy() -> tuple[Enhancement, SequenceBatch]:
    """Two noisy signals of three frames of three bins."""
    prior = VAE(source_dim=3, latent_dim=2, decoder_dims=(4,), emission="complex")
    model = Enhancement(prior, LowRankNoise(Sizes(2, 3, 3, 2), rank=2)).double()
    return model, SequenceBatch(torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))


@contextmanager
def _numbers() -> Iterator[None]:
    """Double precision and a seed, for the time of a check alone."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _label(words: str, test: Callable[..., None]) -> str:
    name = test.__name__.removeprefix("check_").removeprefix("path_")
    return f"{name} ({words})" if words else name


def _words(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in spec.items())


def _name(component: Any) -> str:
    return getattr(component, "__name__", type(component).__name__)
