"""The law of the start's errors: fitted to drawn mixtures, checked where the truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData
from pyromodels.experiments.datasets.mixtures.simulate import Simulation, simulated
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.separation.calibration import (
    ErrorLaw,
    Errors,
    coverage,
    errors_of_shares,
    fit_error_law,
    gaussian_law,
    measured_radii,
    measured_widths,
    waveform_coverage,
)
from pyromodels.experiments.separation.outcome import Regions
from pyromodels.networks.assigner import Assigner

if TYPE_CHECKING:
    from pyromodels.experiments.runs.spec import Spec


def regions_of(
    spec: Spec, data: MixtureData, stft: STFT, assigner: Assigner | None
) -> Regions | None:
    """Return the law of the start's errors, fitted on mixtures of validation recordings.

    None without a network whose errors they are, without recordings, or where none are asked for.
    """
    if assigner is None or data.unheard or not spec.metrics.checked:
        return None
    torch.manual_seed(spec.seed)
    options = Simulation(num_frames=50, level_db=(-5.0, 10.0), speed=1.0, equalisation_db=0.0)
    sources = simulated(data.recorded("valid"), spec.metrics.checked, stft, options)
    power = sources.sum(1).abs().square()
    with torch.no_grad():
        mask = assigner(power.to(spec.device)).softmax(-1).movedim(-1, 1).cpu()
    return regions_from(errors_of_shares(sources, mask), stft)


def regions_from(errors: Errors, stft: STFT) -> Regions:
    """Return the law of these errors, and discs and intervals that held what they say."""
    law = fit_error_law(errors)
    return Regions(law, measured_radii(law, errors), measured_widths(law, errors, stft))


def calibrations(outcome: Outcome) -> dict[str, Tensor]:
    """Return law -> how often its regions hold the truth of the test mixtures, (levels, N).

    The law is that of the start's errors: of the mask, before variational EM; "waveform" are its
    intervals of samples, recalibrated. Nothing is returned where there is none, or no truth.
    """
    if outcome.fitted.regions is None or not outcome.data.has_truth:
        return {}
    law, radii, widths = outcome.fitted.regions
    plain = gaussian_law(len(outcome.data.kinds), law.log_nu)
    laws = {"recalibrated": (law, radii), "student": (law, law.radii()),
            "gaussian": (plain, plain.radii())}
    stft, weights = outcome.model.model.stft, []
    held: dict[str, list[Tensor]] = {name: [] for name in (*laws, "waveform")}
    for mixtures, made in outcome.fitted.groups:
        sources = stft.analyse(torch.stack([m.sources for m in mixtures]))
        errors = errors_of_shares(sources, share_of(made.start.cpu()))
        weights.append(float(sources[:, 0].numel()))
        for name, each in laws.items():
            held[name].append(coverage(*each, errors))
        held["waveform"].append(waveform_coverage(law, widths, errors, stft))
    share = torch.tensor(weights) / sum(weights)
    return {name: (torch.stack(parts) * share[:, None, None]).sum(0)
            for name, parts in held.items()}


def law_of(outcome: Outcome) -> ErrorLaw:
    """Return the law of the start's errors, as it was fitted or as the start would say it."""
    if outcome.fitted.regions is not None:
        return outcome.fitted.regions.law
    return gaussian_law(len(outcome.data.kinds), torch.zeros(()))


def share_of(start: Tensor) -> Tensor:
    """Return what each source has of a mixture's magnitude, (B, N, T, F)."""
    magnitude = start.abs()
    return magnitude / magnitude.sum(1, keepdim=True).clamp_min(1e-20)
