"""What `pyromodels report enhancement` judges: the posterior of the speech in loud short pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.emissions.complex import spectra_of
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.enhancement.enhance import (
    EnhancementInference,
    Recipe,
    by_network,
    fitted,
    padded,
)
from pyromodels.experiments.harness.experiment import Judged
from pyromodels.experiments.separation.adequacy import loudest
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.noise.base import NoiseModel

PIECES, FRAMES = 2, 8
"""Signals that are judged, and frames of each."""


def check_judged(options: EnhancementInference) -> None:
    """Refuse a guide without a density, and starts of which each signal keeps another one.

    Raises:
        SpecError: naming the option.
    """
    if options.method != "vem":
        expected = "vem: draws of chains have no density to be weighed by"
        raise SpecError(mismatch("inference.method", given=options.method, expected=expected))
    if len(options.starts) > 1:
        expected = "one: of several, every signal keeps its best, and no one guide is judged"
        given = list(options.starts)
        raise SpecError(mismatch("inference.starts", given=given, expected=expected))


def judged(
    spectra: Sequence[Tensor],  # of noisy signals, complex, each (T_i, F)
    recipe: Recipe,
) -> Judged:
    """Return how a posterior is fitted, and the loudest pieces of some signals.

    All is in double precision; the networks become so.
    """
    for network in (recipe.prior, recipe.noise, recipe.network):
        if isinstance(network, torch.nn.Module):
            network.double()
    trained = isinstance(recipe.noise, NoiseModel)
    adapted = trained and recipe.options.steps > 0
    pieces = loudest(spectra[: 1 if adapted else PIECES], FRAMES).to(torch.complex128)
    about = f"({len(pieces)} signals, the loudest {pieces.shape[1]} frames of each"
    if recipe.options.average:
        about += "; of the mean with the network, the part of inference"
    return Judged(fit_of(recipe), padded(list(pieces)), left_out=left_out(recipe),
                  about=f"{about})")


def left_out(recipe: Recipe) -> dict[str, str]:
    """Return the protocols that do not hold, and why."""
    noise, found = recipe.noise, {}
    if not isinstance(noise, NoiseModel):
        found["simulation"] = (
            "spectra and loudness of the noise are estimates, of every signal its own, and have no "
            "law to be drawn from"
        )
    elif recipe.options.steps:
        found["simulation"] = "encoder and noise move with the signal, and are no one program"
    elif noise.relative or noise.reads_past:
        found["simulation"] = "the network of the noise reads what was heard before any is drawn"
    if isinstance(noise, NoiseModel) and not recipe.options.steps:
        found["R-hat"] = "the encoder was trained once, and has no starts"
    return found


def fit_of(recipe: Recipe) -> Callable[[SequenceBatch, int], Posterior]:
    """Return what makes the posterior of a run, of any batch."""

    def fit(batch: SequenceBatch, seed: int) -> Posterior:
        torch.manual_seed(seed)
        spectra: list[Tensor] = list(spectra_of(batch.x))
        alone: list[Tensor | None] = [None] * len(spectra)
        if recipe.network is not None:
            alone = [by_network(spectrum, recipe.network) for spectrum in spectra]
        made = next(fitted(spectra, alone, recipe))
        return Posterior(made.model, made.guide, made.batch)

    return fit
