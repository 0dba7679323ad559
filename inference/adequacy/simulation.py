"""Experiments with a fit: repeat it, fit what the model simulates, forecast what is held back.

A fit is a function (data, seed) -> posterior. Everything here calls it again and again, and so
tests the whole procedure - guide, optimiser, starts, stopping rule - and not one result of it.
"""

from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.errors import SpecError, mismatch, misshapen
from pyromodels.inference.adequacy.protocols import Draws, Fit, Simulate, Summaries
from pyromodels.inference.adequacy.statistics import align_sources, rhat, uniform_ranks
from pyromodels.inference.posterior.chains import renumbered
from pyromodels.pyro_support.vectorised_runs import Program, Uncondition, random_nodes

PER_SITE, NUM_PROJECTIONS = 8, 2
FIT, REPEAT, RANK = 1, 2, 3
"""Streams of random numbers beside that of `simulate`."""


def _seed(seed: int, call: int, stream: int) -> int:
    """A seed that `simulate` does not have: else a start from the prior would be the truth."""
    return int(np.random.SeedSequence((seed, call, stream)).generate_state(1)[0])


def scalar_summaries(draws: Draws) -> dict[str, Tensor]:
    """Return some scalars of every site, name -> (n, B).

    Trajectories (n, B, N, T, D): the first coordinate of every source, in the middle and at the
    end. Other continuous sites: up to eight of their numbers. Both: two projections of all their
    numbers on directions drawn once. Discrete ones: their mean.
    """
    table = {}
    for name, value in draws.items():
        if value.dim() == 5 and value.is_floating_point():
            for n in range(value.shape[2]):
                for t in sorted({value.shape[3] // 2, value.shape[3] - 1}):
                    table[f"{name}[{n}, {t}, 0]"] = value[:, :, n, t, 0]
        elif value.is_floating_point():
            flat = value.flatten(2) if value.dim() > 2 else value.unsqueeze(-1)
            for i in sorted({round(x) for x in np.linspace(0, flat.shape[-1] - 1, PER_SITE)}):
                table[f"{name}[{i}]"] = flat[..., i]
        else:
            table[f"{name}[mean]"] = value.double().flatten(2).mean(-1)
        if value.is_floating_point() and value[0, 0].numel() > 1:
            directions = _directions(value[0, 0].numel()).to(value)
            for i, column in enumerate((value.flatten(2) @ directions).unbind(-1)):
                table[f"{name}[projection {i}]"] = column
    return table


def _directions(size: int) -> Tensor:  # shape: (size, NUM_PROJECTIONS)
    """Directions that depend on nothing but the number of numbers."""
    return torch.as_tensor(np.random.default_rng(size).normal(size=(size, NUM_PROJECTIONS)))


def sequence_simulator(model: Program, batch: SequenceBatch, num_sequences: int) -> Simulate:
    """Return a simulator of one site "x" of data: anchors and length of a batch, new the rest.

    Raises:
        SpecError: where frames are masked, in which a latent that was drawn has left no trace.
    """
    if not batch.mask.all():
        raise SpecError("simulate: a batch with masked frames has no simulator; cut its sequences "
                        "to one length")
    rows = torch.arange(num_sequences, device=batch.mask.device) % batch.num_sequences
    anchor = batch.anchor and Anchor(*(part[rows] for part in batch.anchor))
    template = SequenceBatch(batch.x[rows], batch.mask[rows], anchor)

    def simulate(seed: int) -> tuple[SequenceBatch, dict[str, Tensor]]:
        drawn = simulated(model, template, seed)
        x = drawn.pop("x").reshape(template.x.shape)
        truth = {name: value.squeeze(1) for name, value in drawn.items()}
        return SequenceBatch(x, template.mask, anchor), truth

    return simulate


@torch.no_grad()
def simulated(model: Program, template: Any, seed: int) -> dict[str, Tensor]:
    """Draw every site of a program, data included, in the shapes of its plates."""
    torch.manual_seed(seed)
    trace = pyro.poutine.trace(Uncondition()(model)).get_trace(template)
    return {name: node["value"] for name, node in random_nodes(trace).items()}


def simulated_ranks(
    fit: Fit,
    simulate: Simulate,
    *,
    num_simulations: int,
    num_draws: int,
    summaries: Summaries = scalar_summaries,
    seed: int = 0,
) -> dict[str, np.ndarray]:  # summary -> ranks in (0, 1), shape: (R,)
    """VSBC: where the truth of simulated data ranks among draws of the guide fitted to them."""
    ranks: dict[str, list[np.ndarray]] = {}
    done, call = 0, 0
    while done < num_simulations:
        data, truth = simulate(seed + call)
        draws = fit(data, _seed(seed, call, FIT)).sample(num_draws)
        if missing := set(draws) - set(truth):
            given = f"the truth of {sorted(truth)}"
            hint = f"Return {sorted(missing)} too, without a dimension of draws."
            raise SpecError(mismatch("simulate", given=given, expected=sorted(draws), hint=hint))
        true = summaries({name: _as_a_draw(name, truth[name], draws[name]) for name in draws})
        for i, (name, value) in enumerate(summaries(draws).items()):
            spread = _seed(seed, 1000 * call + i, RANK)
            rank = uniform_ranks(true[name].squeeze(0), value, spread)
            ranks.setdefault(name, []).append(rank)
        done, call = done + len(rank), call + 1
    return {name: np.concatenate(parts)[:num_simulations] for name, parts in ranks.items()}


def _as_a_draw(name: str, truth: Tensor, draws: Tensor) -> Tensor:
    """The truth in the shape of one draw, whether or not it has a dimension of sequences."""
    if truth.numel() != draws[0].numel():
        raise misshapen(f"simulated truth of {name!r}", truth.shape, tuple(draws.shape[1:]))
    return truth.reshape(draws[:1].shape)


class Agreement(NamedTuple):
    """R-hat over repeated fits, summary -> (B,)."""

    as_labelled: dict[str, np.ndarray]
    aligned: dict[str, np.ndarray]
    """Sources in the order of the first fit; the same where no site has sources."""


def repeated_fits(
    fit: Fit,
    data: Any,
    *,
    num_fits: int,
    num_draws: int,
    summaries: Summaries = scalar_summaries,
    seed: int = 0,
) -> Agreement:
    """R-hat over fits from several starts, with their labels and with aligned ones."""
    runs = [dict(fit(data, _seed(seed, i, REPEAT)).sample(num_draws)) for i in range(num_fits)]

    def table(runs: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        values = [summaries(draws) for draws in runs]
        return {name: rhat(torch.stack([v[name] for v in values])) for name in values[0]}

    as_labelled = table(runs)
    if "s" not in runs[0] or runs[0]["s"].dim() != 5:
        return Agreement(as_labelled, as_labelled)
    mean = torch.stack([draws["s"].mean(0) for draws in runs])  # (fits, B, N, T, D)
    order = torch.stack(
        [torch.as_tensor(align_sources(mean[:, b])) for b in range(mean.shape[1])], 1
    ).to(mean.device)  # (fits, B, N)
    return Agreement(as_labelled, table([_ordered(d, o) for d, o in zip(runs, order, strict=True)]))


def _ordered(draws: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Relabel the sources of one fit, order (B, N)."""
    ordered = dict(draws)
    rows = torch.arange(len(order), device=order.device).unsqueeze(-1)
    for name, value in draws.items():
        if value.dim() >= 4 and name != "w":
            ordered[name] = value[:, rows, order]
        elif name == "w":
            ordered["w"] = renumbered(value, order.argsort(-1))
    return ordered


class Forecast(NamedTuple):
    """Predictions of observations so many frames ahead."""

    pit: np.ndarray  # of every coordinate of every observation, shape: (R,)
    independent_pit: np.ndarray  # of one coordinate for each sequence and start, shape: (R',)
    crps: np.ndarray  # in the unit of the data, shape: (R,)
