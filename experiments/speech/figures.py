"""Figures of speech: spectrograms side by side, latents over time, losses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.harness.figures import DIM, PALETTE, bulk, new_figure, tidy
from pyromodels.experiments.speech.resynthesis import Resynthesis

DYNAMIC_RANGE = 70.0
"""Decibels below the loudest bin that a spectrogram shows."""


def resynthesis(
    signal: Tensor,  # shape: (n,)
    draws: Mapping[str, Resynthesis],
    stft: STFT,
) -> Figure:
    """Draw the original, one draw of every mode, how far the draws differ, and the latents."""
    original = stft.analyse(signal).abs().square()
    figure = new_figure("analysis and resynthesis")
    panels = [("original", original)]
    panels += [(mode.replace("_", " "), made.power[0].cpu()) for mode, made in draws.items()]
    made = list(draws.values())[-1]
    grid = figure.subplots(2, max(len(panels), 2), squeeze=False)
    top = decibels(original).max()
    for axes, (title, power) in zip(grid[0], panels, strict=False):
        image = spectrogram(axes, decibels(power), stft, title, (top - DYNAMIC_RANGE, top))
    figure.colorbar(image, ax=list(grid[0, : len(panels)]), label="dB")
    for axes in grid[0, len(panels) :]:
        axes.set_visible(False)
    spread(grid[1, 0], made.power.cpu(), stft)
    latents(grid[1, 1], made.z.cpu(), stft)
    for axes in grid[1, 2:]:
        axes.set_visible(False)
    return figure


def decibels(power: Tensor) -> Tensor:
    """Return 10 log10 of a power."""
    return 10 * power.clamp_min(1e-10).log10()


def spectrogram(
    axes: Axes,
    values: Tensor,  # decibels, shape: (T, F)
    stft: STFT,
    title: str,
    limits: tuple[float, float],
) -> AxesImage:
    """Draw one spectrogram, time in seconds and frequency in kilohertz; return what has a scale."""
    seconds, kilohertz = extent(values, stft)
    low, high = (float(limit) for limit in limits)
    image = axes.imshow(values.T.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=low,
                        vmax=high, extent=(0, seconds, 0, kilohertz))
    axes.set(title=title, xlabel="seconds", ylabel="kHz")
    return image


def spread(
    axes: Axes,
    power: Tensor,  # shape: (draws, T, F)
    stft: STFT,
) -> None:
    """Draw the deviation of the draws in decibels: where the model hesitates."""
    if len(power) < 2:
        axes.set_visible(False)
        return
    values = decibels(power).std(0)
    seconds, kilohertz = extent(values, stft)
    image = axes.imshow(values.T.numpy(), origin="lower", aspect="auto", cmap="cividis", vmin=0.0,
                        extent=(0, seconds, 0, kilohertz))
    axes.figure.colorbar(image, ax=axes, label="dB")
    axes.set(title=f"deviation over {len(power)} draws", xlabel="seconds", ylabel="kHz")


def latents(
    axes: Axes,
    z: Tensor,  # shape: (draws, T, L)
    stft: STFT,
) -> None:
    """Draw the latents that move most, one thin line a draw."""
    busiest = z.mean(0).std(0).topk(min(4, z.shape[-1])).indices.tolist()
    seconds = np.arange(z.shape[1]) * stft.hop / SAMPLE_RATE
    for color, index in zip(PALETTE, busiest, strict=False):
        for number, draw in enumerate(z):
            label = f"z[{index}]" if number == 0 else None
            values = draw[:, index].numpy()
            axes.plot(seconds, values, color=color, alpha=0.6, linewidth=0.9, label=label)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.set(title="latents, draws of q(z | x)", xlabel="seconds")
    tidy(axes, grid=True)


def swap(
    rebuilt: Mapping[tuple[int, int], Tensor],  # (whose z, whose w) -> signal, shape: (n,)
    names: tuple[str, str],
    stft: STFT,
) -> Figure:
    """Draw two utterances rebuilt with either's w, the low kilohertz in which F0 is seen."""
    figure = new_figure("z of one utterance, w of either")
    grid = figure.subplots(2, 2)
    powers = {key: decibels(stft.analyse(s).abs().square()) for key, s in rebuilt.items()}
    top = max(values.max() for values in powers.values())
    for axes, ((i, j), values) in zip(grid.flat, powers.items(), strict=True):
        title = f"z: {names[i]}, w: {names[j]}"
        image = spectrogram(axes, values, stft, title, (top - DYNAMIC_RANGE, top))
        axes.set_ylim(0, 2)
    figure.colorbar(image, ax=grid, label="dB")
    return figure


def spectrograms(title: str, signals: Mapping[str, Tensor], stft: STFT) -> Figure:
    """Draw the spectrogram of every signal (n,), each under its name, the loudest bin at 0 dB."""
    figure = new_figure(title)
    grid = figure.subplots(1, len(signals), squeeze=False)
    for axes, (name, signal) in zip(grid[0], signals.items(), strict=True):
        values = decibels(stft.analyse(signal).abs().square())
        image = spectrogram(axes, values - values.max(), stft, name, (-DYNAMIC_RANGE, 0.0))
    figure.colorbar(image, ax=grid, label="dB below the loudest bin")
    return figure


def spectrogram_grid(
    title: str,
    rows: Sequence[Mapping[str, Tensor]],  # title -> power, shape: (T, F); rows of equal length
    stft: STFT,
) -> Figure:
    """Draw powers in rows and columns on one scale, whose top is the loudest bin of the first."""
    figure = new_figure(title)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharex=True, sharey=True)
    top = float(decibels(next(iter(rows[0].values()))).max())
    for places, panels in zip(grid, rows, strict=True):
        for axes, (name, power) in zip(places, panels.items(), strict=True):
            image = spectrogram(axes, decibels(power), stft, name, (top - DYNAMIC_RANGE, top))
            axes.title.set_fontsize(10)
            axes.label_outer()
    figure.colorbar(image, ax=grid, label="dB")
    return figure


def loss_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the losses of training, and what the schedules did."""
    epochs = [record["epoch"] for record in history]
    figure = new_figure("negative bound, nats a frame")
    loss, weights = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, color in (("train_loss", PALETTE[0]), ("valid_loss", PALETTE[1])):
        values = [record[name] for record in history]
        loss.plot(epochs, values, color=color, label=name.replace("_", " "))
    losses = np.array([[record["train_loss"], record["valid_loss"]] for record in history])
    low, high, outside = bulk(losses, high=0.95)
    loss.set_ylim(low, high)
    shown = f"the lower 95 %{outside}" if outside else "all epochs"
    loss.set_title(shown, loc="left", fontsize=10, color=DIM)
    loss.legend(frameon=False)
    for name, color in (("kl_weight", PALETTE[2]), ("use_prediction", PALETTE[3])):
        values = [record[name] for record in history]
        weights.plot(epochs, values, color=color, label=name.replace("_", " "))
    weights.legend(frameon=False)
    weights.set_xlabel("epoch", color=DIM)
    for axes in (loss, weights):
        tidy(axes, grid=True)
    return figure


def extent(values: Tensor, stft: STFT) -> tuple[float, float]:
    """Return the last second and the highest kilohertz of a spectrogram (T, F)."""
    return values.shape[0] * stft.hop / SAMPLE_RATE, SAMPLE_RATE / 2000
