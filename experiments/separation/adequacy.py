"""What `pyromodels report separation` judges: the posterior of the sources of loud short pieces.

The programs take the variance of an observation as it is given, a part of the power of its bin.
Simulated mixtures are drawn, and fitted, at the variances of the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.by_source import BySource
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.harness.experiment import Judged
from pyromodels.experiments.separation.separate import (
    SeparationInference,
    ascent,
    begin,
    observed,
)
from pyromodels.experiments.separation.vkf import Walks
from pyromodels.inference.mixture.adequacy import mixture_simulator
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.networks.assigner import Assigner

PIECES, FRAMES, AT_ONCE = 2, 4, 4
"""Mixtures that are judged, frames of each, and simulated mixtures that are fitted at once."""


class Networks(NamedTuple):
    """What is trained, or loaded, before a mixture is taken apart."""

    prior: BySource | Walks | None  # None where no sweep is made
    encoders: BySource | None
    assigner: Assigner | None
    training: dict[str, float]  # "kind/figure" of the training of its prior


def check_judged(options: SeparationInference) -> None:
    """Refuse runs that end without a posterior, or with one that cannot be made again.

    Raises:
        SpecError: naming the option.
    """
    if not options.steps:
        expected = "1 or more: without a sweep no program is fitted"
        raise SpecError(mismatch("inference.steps", given=0, expected=expected))
    if options.start == "oracle":
        expected = "assigner or encoders: the truth is no part of what a guide is fitted to"
        raise SpecError(mismatch("inference.start", given="oracle", expected=expected))
    if options.engine != "vem":
        expected = "vem: the network of a run is moved by all its mixtures, whole, together"
        raise SpecError(mismatch("inference.engine", given=options.engine, expected=expected))
    if options.fine_tune:
        expected = "0: priors that move with every mixture are no model to judge a guide by"
        raise SpecError(mismatch("inference.fine_tune", given=options.fine_tune, expected=expected))


def judged(
    spectra: Sequence[Tensor],  # of mixtures, complex, each (T_i, F)
    num_sources: int,
    networks: Networks,
    options: SeparationInference,
) -> Judged:
    """Return how a posterior is fitted, and the loudest pieces of some mixtures.

    All is in double precision; the networks become so.
    """
    for network in networks[:3]:
        if isinstance(network, torch.nn.Module):
            network.double()
    pieces = loudest(spectra[:PIECES], FRAMES).to(torch.complex128)
    batch = observed(pieces, num_sources, networks.prior, options)
    fit = fit_of(networks, options)
    left_out = {
        "R-hat": "every fit starts where the run does, which no seed changes",
        "forecast": "the variance of a bin is a part of its own power, which a frame that is held "
                    "back must not tell",
    }
    simulate = None
    if isinstance(networks.prior, Walks):
        left_out["simulation"] = "walks learn their noise from every mixture, and have no law of it"
    else:
        program: Any = fit(batch, 0).model
        simulate = mixture_simulator(program, batch, AT_ONCE)
    about = f"({len(pieces)} mixtures, the loudest {pieces.shape[1]} frames of each)"
    return Judged(fit, batch, simulate, left_out, about)


def fit_of(
    networks: Networks, options: SeparationInference
) -> Callable[[MixtureBatch, int], Posterior]:
    """Return what makes the posterior of a run, of any batch; nothing in it hangs on the seed."""

    @torch.no_grad()
    def fit(batch: MixtureBatch, seed: int) -> Posterior:
        mixture = torch.view_as_complex(batch.observations.contiguous())
        start, share = begin(
            mixture, networks.prior, options, networks.assigner, networks.encoders
        )
        engine: Any = ascent(networks.prior, batch, start, share, options)
        for _ in range(options.steps):
            engine.sweep(batch)
        return Posterior(engine.model, engine.guide, batch)

    return fit


def loudest(
    spectra: Sequence[Tensor],  # complex, each (T_i, F)
    num_frames: int,
) -> Tensor:  # complex, shape: (B, T, F)
    """Return the loudest piece of every spectrum, all of the shortest where that has fewer frames.
    """
    length = min(num_frames, *map(len, spectra))
    pieces = []
    for spectrum in spectra:
        level = spectrum.abs().square().sum(-1).unfold(0, length, 1).sum(-1)
        first = int(level.argmax())
        pieces.append(spectrum[first : first + length])
    return torch.stack(pieces)
