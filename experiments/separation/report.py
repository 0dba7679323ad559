"""What a run says: its metrics, and the lines it prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.separation.calibration import LEVELS
from pyromodels.experiments.separation.measures import TITLES, mean
from pyromodels.experiments.separation.regions import calibrations
from pyromodels.experiments.separation.scores import ESTIMATE


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """Return the figures by kind, of the estimate, its start and the baselines; or the levels."""
    kinds, found = outcome.data.kinds, {}
    for method, row in outcome.fitted.scores.items():
        prefix = "" if method == ESTIMATE else f"{method}/"
        for key in keys_of(outcome):
            for kind in kinds:
                values = row[f"{kind}/{key}"]
                found[f"{prefix}{kind}/{key}"] = mean(values)
                for group, some in by_group(outcome, values).items():
                    found[f"{prefix}{kind}/{key}/{group}"] = mean(some)
                if left_out := sum(map(math.isnan, values)):
                    found[f"{prefix}{kind}/{key}_left_out"] = left_out
                if key == "si_sdr":
                    found[f"{prefix}{kind}/si_sdr_median"] = statistics.median(values)
            each = [found[f"{prefix}{kind}/{key}"] for kind in kinds]
            found[f"{prefix}{key}"] = sum(each) / len(each)
    if not outcome.data.has_truth:
        for kind, values in zip(kinds, zip(*levels(outcome).values(), strict=True), strict=True):
            found[f"{kind}/level_db"] = sum(values) / len(values)
    found |= outcome.fitted.training
    found["sum/si_sdr"] = sum_fidelity(outcome)
    found["seconds_each"] = outcome.fitted.seconds / len(outcome.data.mixtures)
    found |= along_sweeps(outcome)
    for name, held in calibrations(outcome).items():
        for level, row in zip(LEVELS, held, strict=True):
            for kind, share in zip(kinds, row.tolist(), strict=True):
                found[f"{name}/{kind}/held_{round(100 * level)}"] = share
    return found


def along_sweeps(outcome: Outcome) -> dict[str, float]:
    """Return the SI-SDR of every kind after the sweeps that the spec names, in the mean."""
    stft, found = outcome.model.model.stft, {}
    if not outcome.data.has_truth:
        return {}
    for mixtures, made in outcome.fitted.groups:
        truth = torch.stack([m.sources for m in mixtures])
        for number, estimate in made.between.items():
            reached = si_sdr(truth, stft.synthesise(estimate, truth.shape[-1]))
            found.setdefault(number, []).append(reached)
    return {
        f"{kind}/si_sdr_after_{number}": value
        for number, parts in found.items()
        for kind, value in zip(outcome.data.kinds, torch.cat(parts).mean(0).tolist(), strict=True)
    }


def summary_of(outcome: Outcome) -> str:
    """Return what `run` prints."""
    lines = _scored(outcome) if outcome.data.has_truth else _unscored(outcome)
    lines.append(
        f"sum of the estimates against the mixture: {outcome.metrics['sum/si_sdr']:.1f} dB"
    )
    return "\n".join([*lines, *_held(outcome)])


def keys_of(outcome: Outcome) -> list[str]:
    """Return the figures that the scores hold."""
    kinds, row = outcome.data.kinds, outcome.fitted.scores.get(ESTIMATE, {})
    return [key.removeprefix(f"{kinds[0]}/") for key in row if key.startswith(f"{kinds[0]}/")]


def by_group(outcome: Outcome, values: Sequence[float]) -> dict[str, list[float]]:
    """Return group -> the values of its mixtures, given one for each; {} where all are of one."""
    names = [mixture.group for mixtures, _ in outcome.fitted.groups for mixture in mixtures]
    found: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name, []).append(value)
    return found if len(found) > 1 else {}


def _scored(outcome: Outcome) -> list[str]:
    kinds, metrics, known = outcome.data.kinds, outcome.metrics, keys_of(outcome)
    lines = [f"{len(outcome.data.mixtures)} mixtures of {outcome.data.name}"]
    for key, title in ((key, title) for key, title in TITLES.items() if key in known):
        said = f"{title}, mean (median)" if key == "si_sdr" else f"{title}, mean"
        lines += _table(outcome, key, said, "")
        if key == "si_sdr":
            groups = by_group(outcome, outcome.fitted.scores[ESTIMATE][f"{kinds[0]}/{key}"])
            for group, some in groups.items():
                said = f"{title}, mean of the {len(some)} of {group}"
                lines += _table(outcome, key, said, f"/{group}")
    lines += [
        f"{name.removesuffix('_left_out')}: {count} of {len(outcome.data.mixtures)} left out, "
        "which it refuses to judge" for name, count in metrics.items()
        if name.endswith("_left_out")
    ]
    return lines


def _table(outcome: Outcome, key: str, title: str, suffix: str) -> list[str]:
    """Return a line for each method, a column for each kind."""
    kinds, metrics = outcome.data.kinds, outcome.metrics
    lines = [title, f"{'':22}" + "".join(f"{kind:>18}" for kind in kinds)]
    for method in outcome.fitted.scores:
        prefix, cells = "" if method == ESTIMATE else f"{method}/", ""
        for name in (f"{prefix}{kind}/{key}" for kind in kinds):
            median = metrics.get(f"{name}_median") if not suffix else None
            after = "" if median is None else f"({median:5.1f})"
            cells += f"{metrics[name + suffix]:10.{3 if key == 'rmse' else 2}f} {after:7}"
        lines.append(f"{method.replace('_', ' '):22}{cells}".rstrip())
    return lines


def _unscored(outcome: Outcome) -> list[str]:
    kinds, found = outcome.data.kinds, levels(outcome)
    width = max(map(len, found)) + 2
    lines = [
        f"{outcome.data.name} taken apart into {', '.join(kinds)} in {outcome.fitted.seconds:.1f} "
        "s; nobody knows the truth, so nothing is scored",
        f"{'':{width}}{'seconds':>9}" + "".join(f"{f'{kind}, dB':>14}" for kind in kinds),
    ]
    for mixture in outcome.data.mixtures:
        cells = "".join(f"{level:14.1f}" for level in found[mixture.name])
        lines.append(f"{mixture.name:{width}}{len(mixture.signal) / SAMPLE_RATE:9.1f}{cells}")
    lines.append("dB: level of a source relative to the mixture")
    if all(made.variance is None for _, made in outcome.fitted.groups):
        lines.append(
            "uncertainty: a law of errors, fitted to mixtures of validation recordings"
            if outcome.fitted.regions is not None else
            "uncertainty: the network's own, which is too sure; recordings would calibrate it"
        )
    return lines


def _held(outcome: Outcome) -> list[str]:
    kinds, metrics, lines = outcome.data.kinds, outcome.metrics, []
    for name in calibrations(outcome):
        said = "   ".join(
            kind + " " + " / ".join(
                f"{100 * metrics[f'{name}/{kind}/held_{round(100 * level)}']:.1f}"
                for level in LEVELS
            ) for kind in kinds
        )
        stated = " / ".join(f"{100 * level:g}" for level in LEVELS)
        lines.append(f"{name.replace('_', ' ')}, regions of {stated} % hold: {said}")
    return lines


def levels(outcome: Outcome) -> dict[str, list[float]]:
    """Return mixture -> level of each source relative to it, dB."""
    stft, found = outcome.model.model.stft, {}
    for mixtures, made in outcome.fitted.groups:
        for mixture, estimate in zip(mixtures, made.estimate.cpu(), strict=True):
            heard = stft.synthesise(estimate, len(mixture.signal))
            ratio = heard.square().sum(-1) / mixture.signal.square().sum()
            found[mixture.name] = (10 * ratio.clamp_min(1e-30).log10()).tolist()
    return found


def sum_fidelity(outcome: Outcome) -> float:
    """Return the SI-SDR of the estimates' sum against the mixture, in the mean over mixtures."""
    stft, values = outcome.model.model.stft, []
    for mixtures, made in outcome.fitted.groups:
        signal = torch.stack([m.signal for m in mixtures])
        total = stft.synthesise(made.estimate.cpu().sum(1), signal.shape[-1])
        values += si_sdr(signal, total).tolist()
    return sum(values) / len(values)
