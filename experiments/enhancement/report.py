"""What a run says: its metrics, and the lines it prints."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.enhancement.enhance import Enhanced
from pyromodels.experiments.enhancement.regions import calibrations
from pyromodels.experiments.enhancement.scores import ESTIMATE, heard, of_starts
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.separation.calibration import LEVELS
from pyromodels.experiments.separation.measures import TITLES, mean


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """Return figures by method, in the mean and by group; what regions hold; the speed."""
    mixtures, found = outcome.data.mixtures, {}
    made, stft = outcome.fitted.made, outcome.fitted.stft
    groups = [mixture.group for mixture in mixtures]
    for method, row in outcome.fitted.scores.items():
        prefix = "" if method == ESTIMATE else f"{method}/"
        for figure, values in row.items():
            found[f"{prefix}{figure}"] = mean(values)
            if figure == "si_sdr":
                found[f"{prefix}{figure}_median"] = statistics.median(values)
            for group in sorted(set(groups) - {""}):
                some = [v for v, own in zip(values, groups, strict=True) if own == group]
                found[f"{prefix}{figure}/{group}"] = mean(some)
            if left_out := sum(map(math.isnan, values)):
                found[f"{prefix}{figure}_left_out"] = left_out
    if {"si_sdr", "noisy/si_sdr"} <= found.keys():
        found["improvement"] = found["si_sdr"] - found["noisy/si_sdr"]
    heard_seconds = sum(len(m.signal) for m in mixtures) / SAMPLE_RATE
    found["real_time_factor"] = outcome.fitted.seconds / heard_seconds
    if not outcome.data.has_truth:
        levels = [level_db(m, said, stft) for m, said in zip(mixtures, made, strict=True)]
        return found | {"level_db": sum(levels) / len(levels)}
    for law, held in calibrations(mixtures, made, stft, outcome.fitted.regions).items():
        for level, share in zip(LEVELS, held.tolist(), strict=True):
            found[f"{law}/held_{round(100 * level)}"] = share
    return found | misled(outcome)


def summary_of(outcome: Outcome) -> str:
    """Return tables of methods, and what the regions hold."""
    metrics, data = outcome.metrics, outcome.data
    speed = f"real-time factor {metrics['real_time_factor']:.2f}"
    if not data.has_truth:
        return (f"{data.name}: the speech lies {-metrics['level_db']:.1f} dB below what was "
                f"heard; {speed}")
    known = [key for key in TITLES if key in outcome.fitted.scores[ESTIMATE]]
    titles = [("SI-SDR, dB", 12), ("median", 9)] if "si_sdr" in known else []
    titles += [(TITLES[key], len(TITLES[key]) + 3) for key in known if key != "si_sdr"]
    lines = [f"{len(data.mixtures)} noisy signals of {data.name}, the speech in the mean",
             f"{'':22}" + "".join(f"{title:>{width}}" for title, width in titles)]
    keys = [name for key in known
            for name in ((key, f"{key}_median") if key == "si_sdr" else (key,))]
    for method in outcome.fitted.scores:
        prefix = "" if method == ESTIMATE else f"{method}/"
        lines.append(f"{method.replace('_', ' '):22}" + "".join(
            f"{metrics[prefix + key]:{width}.{3 if key == 'rmse' else 2}f}"
            for key, (_, width) in zip(keys, titles, strict=True)
        ))
    lines += [
        f"{name.removesuffix('_left_out')}: {count} of {len(data.mixtures)} left out, which it "
        "refuses to judge" for name, count in metrics.items() if name.endswith("_left_out")
    ]
    lines.append(speed)
    stated = " / ".join(f"{100 * level:g}" for level in LEVELS)
    for law in dict.fromkeys(key.partition("/held_")[0] for key in metrics if "/held_" in key):
        held = (100 * metrics[f"{law}/held_{round(100 * level)}"] for level in LEVELS)
        lines.append(f"{law}, regions of {stated} % hold: "
                     + " / ".join(f"{share:.1f}" for share in held))
    if "misled" in metrics:
        lines.append(
            f"starts: the one with the best bound was not the one with the best SI-SDR in "
            f"{100 * metrics['misled']:.0f} % of the signals; an oracle's choice has "
            f"{metrics['best_start/si_sdr']:.2f} dB"
        )
    return "\n".join(lines)


def misled(outcome: Outcome) -> dict[str, float]:
    """Return how often the better bound was the worse speech, where there were several starts."""
    made: Sequence[Enhanced] = outcome.fitted.made
    if len(made[0].bounds) < 2:
        return {}
    reached = of_starts(outcome.data.mixtures, made, outcome.fitted.stft)
    chosen = torch.stack([said.bounds.argmax() for said in made]).cpu()
    return {
        "misled": (reached.argmax(1) != chosen).double().mean().item(),
        "best_start/si_sdr": reached.amax(1).mean().item(),
    }


def level_db(mixture: Mixture, said: Enhanced, stft: STFT) -> float:
    """Return how loud the enhanced signal is beside the noisy one."""
    power = heard(said.estimate.cpu(), stft, mixture).square().mean()
    return (10 * (power / mixture.signal.square().mean()).log10()).item()
