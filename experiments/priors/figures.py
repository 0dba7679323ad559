"""Figures of separation by sampling: estimates beside the truth, the gain of every mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.experiments.harness.figures import PALETTE, TRUTH, new_figure, tidy

NUM_SHOWN, SAMPLES_SHOWN = 4, 300


def estimates(
    kinds: Sequence[str],
    sources: Tensor,  # shape: (B, N, T)
    estimate: Tensor,  # shape: (B, N, T)
    gain: Tensor,  # dB, shape: (B, N)
) -> Figure:
    """Draw the first samples of some mixtures, best to worst: truth and estimate."""
    order = gain.mean(1).argsort(descending=True)
    at = torch.linspace(0, len(order) - 1, min(NUM_SHOWN, len(order))).round().long()
    figure = new_figure("estimates, the best mixture on the left, the worst on the right")
    grid = figure.subplots(len(kinds), len(at), sharex=True, sharey=True, squeeze=False)
    for column, number in enumerate(order[at].tolist()):
        for n, kind in enumerate(kinds):
            axes = grid[n, column]
            axes.plot(sources[number, n, :SAMPLES_SHOWN], color=TRUTH, linewidth=2.0,
                      alpha=0.35, label="truth")
            axes.plot(estimate[number, n, :SAMPLES_SHOWN], color=PALETTE[n % len(PALETTE)],
                      linewidth=1.0, label="estimate")
            axes.set_title(f"{kind}, mixture {number}: {gain[number, n]:+.1f} dB", fontsize=10)
            axes.set_ylim(-1.6, 1.6)
            tidy(axes)
    grid[0, 0].legend(frameon=False, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("sample")
    return figure


def gain_by_mixture(
    rows: Mapping[str, Tensor],  # method -> dB, each (B, N)
    above: float,
) -> Figure:
    """Draw the gain of every mixture, in the mean over its sources, in the order of the first."""
    figure = new_figure("SI-SDR gained over the mixture, dB, a dot a mixture")
    axes, first = figure.subplots(), next(iter(rows.values()))
    order = first.mean(1).argsort()
    for number, (method, gain) in enumerate(rows.items()):
        axes.plot(gain.mean(1)[order], "o" if number == 0 else "x", label=method,
                  color=PALETTE[number % len(PALETTE)])
    axes.axhline(above, color=TRUTH, linewidth=0.8, linestyle="--")
    axes.set(xlabel="mixtures, worst to best", ylabel="dB")
    axes.legend(frameon=False)
    tidy(axes, grid=True)
    return figure
