"""Figures of a classifier: who is taken for whom, how honest it is, what its densities are."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.experiments.datasets.labelled.problem import LabelledData
from pyromodels.experiments.harness.figures import (
    DIM,
    HEAT,
    INK,
    PALETTE,
    TRUTH,
    line_style,
    new_figure,
    tidy,
)
from pyromodels.experiments.metrics.classification import Reliability
from pyromodels.labelled import LabelledSequences

NUM_ONE_STEP = 400
"""Draws of the next frame, for its quantiles."""
NUM_SCATTERED = 300
"""Sequences of a class in a scatter plot."""


def confusions(
    counts: Mapping[str, Tensor],  # by model, rows: true class; shape: (C, C)
    classes: Sequence[str],
) -> Figure:
    """Draw who is taken for whom, one panel a model."""
    figure = new_figure("true class (row), and what it was taken for (column), per cent")
    columns = min(3, len(counts))
    grid = figure.subplots(math.ceil(len(counts) / columns), columns, squeeze=False)
    for axes, (name, table) in zip(grid.flat, counts.items(), strict=False):
        share = 100 * table / table.sum(-1, keepdim=True).clamp_min(1)
        axes.imshow(share.numpy(), cmap=HEAT, vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(share.numpy()):
            if value >= 0.05:
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8,
                          color=INK if value > 60 else "white")
        axes.set_xticks(range(len(classes)), classes, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        right = table.diagonal().sum() / table.sum()
        axes.set_title(f"{name}: {100 * right:.1f} %", fontsize=10)
    for axes in grid.flat[len(counts) :]:
        axes.set_visible(False)
    return figure


def reliabilities(bins: Mapping[str, Reliability]) -> Figure:
    """Draw how often the likeliest class is right, against how probable it was said to be."""
    figure = new_figure("is a probability a frequency?")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color=TRUTH, linewidth=0.8)
    for number, (name, found) in enumerate(bins.items()):
        color, line = line_style(number)
        upper.plot(found.confidence, found.accuracy, marker="o", markersize=4, color=color,
                   linestyle=line, label=name)
        lower.step(found.confidence, found.count, where="mid", color=color, linestyle=line)
    upper.set_ylabel("right, per cent")
    upper.legend(frameon=False)
    lower.set(xlabel="probability of the likeliest class, per cent", ylabel="sequences",
              yscale="log")
    for axes in (upper, lower):
        tidy(axes, grid=True)
    return figure


@torch.no_grad()
def samples(bank: Autoregressive, data: LabelledData, *, seed: int) -> Figure:
    """Draw data of every class above draws from its density, of the same lengths."""
    torch.manual_seed(seed)
    figure = new_figure("data, and draws from the density of each class")
    grid = figure.subplots(2, len(data.classes), squeeze=False, sharex="col", sharey="col")
    for label, name in enumerate(data.classes):
        seen = data.test.of_class(label)
        if data.dim <= 2:
            seen = seen[torch.arange(min(len(seen), NUM_SCATTERED))]
        else:  # one sequence, of middling length
            seen = seen[seen.lengths.argsort()[len(seen) // 2].unsqueeze(0)]
        drawn = _drawn(bank, label, seen)
        for axes, sequences in zip(grid[:, label], (seen.x, drawn), strict=True):
            if data.dim <= 2:
                _scatter(axes, sequences, seen.mask, PALETTE[label % len(PALETTE)])
            else:
                axes.imshow(sequences[0].T.numpy(), origin="lower", aspect="auto", cmap=HEAT,
                            vmin=-3, vmax=3, interpolation="none")
        grid[0, label].set_title(name)
    for axes, what in zip(grid[:, 0], ("data", "draws"), strict=True):
        axes.set_ylabel(what if data.dim <= 2 else f"{what}\ncoordinate")
    for axes in grid[1]:
        axes.set_xlabel("first coordinate" if data.dim <= 2 else "frame", color=DIM)
    return figure


@torch.no_grad()
def one_step(bank: Autoregressive, data: LabelledData, *, seed: int) -> Figure:
    """Draw the law of the next frame over time, and how the evidence for the class grows.

    Above, for one test sequence of every class: its first coordinate, and 50 and 90 % intervals of
    p(x_t | x_<t) under its class. Below: log p(x_{1:t} | class) less that of the best other class.
    """
    torch.manual_seed(seed)
    figure = new_figure("one step ahead, and the evidence so far")
    grid = figure.subplots(2, len(data.classes), squeeze=False, sharex="col")
    for label, name in enumerate(data.classes):
        seen = data.test.of_class(label)
        seen = seen[seen.lengths.argsort()[3 * len(seen) // 4].unsqueeze(0)]
        law = bank.path(seen.x.shape[1]).conditionals(seen.x.unsqueeze(1).to(_device(bank)))
        ahead = law.rsample(torch.Size([NUM_ONE_STEP]))[:, 0, label, :, 0].cpu()
        _fan(grid[0, label], seen.x[0, :, 0], ahead, PALETTE[label % len(PALETTE)])
        so_far = law.log_prob(seen.x.unsqueeze(1).to(_device(bank)))[0].cumsum(-1).cpu()
        others = torch.cat((so_far[:label], so_far[label + 1 :])).amax(0)
        frames = np.arange(1, seen.x.shape[1] + 1)
        grid[1, label].axhline(0, color=TRUTH, linewidth=0.8)
        grid[1, label].plot(frames, so_far[label] - others, color=PALETTE[label % len(PALETTE)])
        grid[1, label].set_xlabel("frame", color=DIM)
        grid[0, label].set_title(name)
        for axes in grid[:, label]:
            tidy(axes, grid=True)
    grid[0, 0].set_ylabel("first coordinate")
    grid[1, 0].set_ylabel("evidence for the class, nats")
    return figure


def _drawn(bank: Autoregressive, label: int, like: LabelledSequences) -> Tensor:
    """Return as many draws of a class, shape (n, T, D)."""
    drawn = bank.path(like.x.shape[1]).sample(torch.Size([len(like)]))
    return drawn[:, label].cpu()


def _scatter(
    axes: Axes,
    x: Tensor,  # shape: (n, T, D), D of 1 or 2
    mask: Tensor,  # shape: (n, T)
    color: str,
) -> None:
    frames = x[mask]
    second = frames[:, 1] if frames.shape[-1] > 1 else torch.zeros(len(frames))
    axes.scatter(frames[:, 0], second, s=4, alpha=0.4, color=color, linewidths=0)
    tidy(axes, grid=True)


def _fan(
    axes: Axes,
    seen: Tensor,  # shape: (T,)
    ahead: Tensor,  # shape: (n, T)
    color: str,
) -> None:
    frames = np.arange(1, len(seen) + 1)
    for low, high, alpha in ((0.05, 0.95, 0.2), (0.25, 0.75, 0.35)):
        band = ahead.quantile(torch.tensor([low, high]), 0)
        axes.fill_between(frames, band[0], band[1], color=color, alpha=alpha, linewidth=0)
    axes.plot(frames, seen, color=TRUTH, linewidth=1.0, marker=".", markersize=4)


def _device(bank: Autoregressive) -> torch.device:
    return next(bank.parameters()).device
