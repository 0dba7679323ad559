"""Figures of separation: what was mixed, what came out, and how sure that is."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.harness.figures import DIM, INK, PALETTE, new_figure, tidy
from pyromodels.experiments.separation.calibration import LEVELS
from pyromodels.experiments.speech.figures import DYNAMIC_RANGE, decibels, spectrogram


def separation(
    name: str,
    kinds: Sequence[str],
    mixture: Tensor,  # spectrum, complex, shape: (T, F)
    sources: Tensor | None,  # shape: (N, T, F); None where nobody knows them
    estimate: Tensor,  # shape: (N, T, F)
    deviation: Tensor,  # of the estimate, shape: (N, T, F)
    stft: STFT,
) -> Figure:
    """Draw the mixture, and of every source the truth, the estimate and its uncertainty."""
    figure = new_figure(f"{name}: {', '.join(kinds)}")
    whole = decibels(mixture.abs().square())
    top = float(whole.max())
    grid = figure.subplots(len(kinds), 3 if sources is None else 4, squeeze=False)
    for n, kind in enumerate(kinds):
        panels = [("mixture", whole)] if n == 0 else []
        if sources is not None:
            panels.append((f"{kind}, truth", decibels(sources[n].abs().square())))
        panels += [(f"{kind}, estimate", decibels(estimate[n].abs().square())),
                   (f"{kind}, deviation", decibels(deviation[n].square()))]
        places = grid[n] if n == 0 else grid[n, 1:]
        for axes, (title, values) in zip(places, panels, strict=True):
            image = spectrogram(axes, values, stft, title, (top - DYNAMIC_RANGE, top))
        if n:
            grid[n, 0].set_visible(False)
    figure.colorbar(image, ax=grid, label="dB")
    return figure


def bounds(values: Tensor) -> Figure:  # nats a frame, shape: (sweeps, mixtures)
    """Draw the bound of every mixture over the sweeps, from its first value."""
    figure = new_figure("bound of variational EM, nats a frame above the first sweep")
    axes = figure.subplots()
    risen = (values - values[:1]).numpy()
    axes.plot(1 + np.arange(len(risen)), risen, color=PALETTE[0], alpha=0.4, linewidth=0.9)
    axes.set(xlabel="sweep")
    tidy(axes, grid=True)
    return figure


def scores(rows: Mapping[str, Mapping[str, Sequence[float]]], kinds: Sequence[str]) -> Figure:
    """Draw SI-SDR of every mixture by method and source; the line is the mean."""
    figure = new_figure("SI-SDR of every mixture, dB")
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)
    for n, (axes, kind) in enumerate(zip(grid[0], kinds, strict=True)):
        for place, found in enumerate(rows.values()):
            values = np.asarray(found[kind])
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0.0]
            axes.plot(values, place + np.asarray(spread), "o", color=PALETTE[n], alpha=0.5,
                      markersize=4)
            axes.plot([values.mean()] * 2, [place - 0.35, place + 0.35], color=INK)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(title=kind, xlabel="dB")
        tidy(axes, grid=True)
    grid[0, 0].invert_yaxis()
    return figure


def calibration(covered: Mapping[str, Tensor], kinds: Sequence[str]) -> Figure:
    """Draw stated against held probability, of each law (levels, N)."""
    figure = new_figure("how often a region holds the truth")
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)
    stated = torch.tensor(LEVELS)
    for n, (axes, kind) in enumerate(zip(grid[0], kinds, strict=True)):
        axes.plot([0.4, 1], [0.4, 1], color=DIM, linewidth=0.8)
        for colour, (name, held) in zip(PALETTE, covered.items(), strict=False):
            axes.plot(stated, held[:, n], "o-", color=colour, label=name)
        axes.set(title=kind, xlabel="stated")
        tidy(axes, grid=True)
    grid[0, 0].set_ylabel("held")
    grid[0, 0].legend(frameon=False)
    return figure
