"""Figures of enhancement: what was heard, what was said, how sure that is; scores by signal."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.harness.figures import INK, PALETTE, new_figure, tidy
from pyromodels.experiments.separation.sounds import SHOWN_FRAMES
from pyromodels.experiments.speech.figures import DYNAMIC_RANGE, decibels, spectrogram


def enhancement(
    name: str,
    noisy: Tensor,  # spectrum, complex, shape: (T, F)
    estimate: Tensor,  # complex, shape: (T, F)
    variance: Tensor,  # shape: (T, F)
    clean: Tensor | None,  # complex, shape: (T, F)
    stft: STFT,
) -> Figure:
    """Draw the noisy spectrogram, the estimate and its deviation, and the truth if known: 20 s."""
    figure = new_figure(name)
    panels = {"noisy": noisy.abs().square(), "enhanced": estimate.abs().square(),
              "its deviation": variance}
    if clean is not None:
        panels["clean"] = clean.abs().square()
    top = float(decibels(panels["noisy"]).max())
    panels = {title: power[:SHOWN_FRAMES] for title, power in panels.items()}
    grid = figure.subplots(2, 2)
    for axes in grid.flat[len(panels):]:
        axes.set_visible(False)
    for axes, (title, power) in zip(grid.flat, panels.items(), strict=False):
        image = spectrogram(axes, decibels(power), stft, title, (top - DYNAMIC_RANGE, top))
    figure.colorbar(image, ax=grid, label="dB")
    return figure


def scores(rows: Mapping[str, Sequence[float]], noisy: Sequence[float]) -> Figure:
    """Draw what every method makes of a signal against how noisy it was; dB."""
    figure = new_figure("SI-SDR of the speech, dB")
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.8)
    for colour, (name, values) in zip(PALETTE, rows.items(), strict=False):
        axes.plot(np.asarray(noisy), np.asarray(values), "o", color=colour, alpha=0.7,
                  markersize=4, label=name.replace("_", " "))
    axes.set(xlabel="noisy", ylabel="by method")
    axes.legend(frameon=False)
    tidy(axes, grid=True)
    return figure
