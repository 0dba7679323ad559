"""The diagnostics of the guide-adequacy report: run, judged, counted, drawn; one function each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyromodels.inference.adequacy import figures
from pyromodels.inference.adequacy.family import family_of
from pyromodels.inference.adequacy.importance import log_weights
from pyromodels.inference.adequacy.protocols import Fit, PosteriorLike, Simulate, Summaries
from pyromodels.inference.adequacy.simulation import repeated_fits, simulated_ranks
from pyromodels.inference.adequacy.statistics import (
    compare_moments,
    importance_gap,
    interval_coverage,
    pareto_k,
    pareto_k_threshold,
    uniformity,
)
from pyromodels.inference.adequacy.verdict import (
    JOINT,
    MAX_RHAT,
    Advice,
    Check,
    check_forecast,
    check_gap,
    check_pareto_k,
    check_ranks,
    check_reference,
    check_rhat,
    check_support,
)

FEWEST_PIT = 20
"""Forecasts, independent of each other, below which they are shown but not judged."""


@dataclass
class Findings:
    """What the diagnostics found; each function below adds its part.

    Args:
        checks: every diagnostic, judged.
        metrics: every number, flat: "k_hat/s", "simulation/s[0, 5, 0]/dispersion", ...
        figures: by name: "k_hat", "ranks", "coverage", "pit", "rhat".
        notes: what was not done, and why.
    """

    checks: list[Check] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def weigh(findings: Findings, posterior: PosteriorLike, draws: Mapping[str, Tensor]) -> None:
    """k-hat and importance gap of every block, from draws of one fitted posterior."""
    limit, table = pareto_k_threshold(len(next(iter(draws.values())))), {}
    try:
        ratios = log_weights(posterior, draws)
    except NotImplementedError as error:  # a posterior made of draws: NUTS, an empirical guide
        findings.notes.append(f"no k-hat, no importance gap: {error}")
        return
    for sites, weights in ratios.items():
        # the joint speaks of a site only where there is no other
        blocks = (JOINT,) if sites == tuple(draws) and len(sites) > 1 else sites
        name = ", ".join(blocks)
        k = pareto_k(weights)
        if not family_of(posterior).blocks_are_exact:
            # the joint's ratio averaged over draws of q has no heavier tail than it. Where w is
            # summed out exactly it may have one: the sum knows the owners that q(w) has ruled out
            k = np.minimum(k, table.get(JOINT, np.inf))
        table[name] = k
        gap = importance_gap(weights)
        findings.checks += [check_pareto_k(blocks, k, len(weights)), check_gap(blocks, gap)]
        if not (support := check_support(blocks, weights.cpu().numpy())).passed:
            findings.checks.append(support)
        findings.metrics |= {
            f"k_hat/{name}": float(k.max()),
            f"k_hat_share_above_limit/{name}": float((k > limit).mean()),
            f"importance_gap/{name}": float(gap.value.mean()),
            f"importance_gap_se/{name}": float((gap.error**2).sum() ** 0.5 / gap.error.size),
        }
    findings.figures["k_hat"] = figures.pareto_k_figure(table, limit)


def refit(
    findings: Findings, fit: Fit, data: Any, num_fits: int, num_draws: int, summaries: Summaries,
    seed: int,
) -> None:
    """R-hat over fits from several starts."""
    if num_fits < 2:
        findings.notes.append("one fit only: no R-hat")
        return
    num_draws = min(num_draws, 500)
    found = repeated_fits(fit, data, num_fits=num_fits, num_draws=num_draws, summaries=summaries,
                          seed=seed)
    for site, raw in _by_site(found.as_labelled).items():
        findings.checks.append(check_rhat(site, raw, {name: found.aligned[name] for name in raw}))
    for suffix, values in (("", found.as_labelled), ("_aligned", found.aligned)):
        for name, value in values.items():
            if not np.isnan(value).all():  # a number that is constant has no R-hat
                findings.metrics[f"r_hat{suffix}/{name}"] = float(np.nanmax(value))
    findings.figures["rhat"] = figures.rhat_figure(found.as_labelled, found.aligned, MAX_RHAT)


def own_simulator(findings: Findings, posterior: PosteriorLike, number: int) -> Simulate | None:
    """The simulator that the family of the model has; None, with a note, where there is none."""
    simulate = family_of(posterior).simulator(number) if number else None
    if simulate is None:
        findings.notes.append("no `simulate`: no calibration by simulation")
    return simulate


def calibrate(
    findings: Findings, fit: Fit, simulate: Simulate, number: int, num_draws: int,
    summaries: Summaries, seed: int, sizes: Mapping[str, int],
) -> None:
    """Ranks of the truth of simulated data among draws of the guide fitted to them.

    `sizes`: how many numbers a site has, in one sequence.
    """
    ranks = simulated_ranks(fit, simulate, num_simulations=number, num_draws=min(num_draws, 400),
                            summaries=summaries, seed=seed)
    tests = {name: uniformity(values) for name, values in ranks.items()}
    for site, table in _by_site(tests).items():
        findings.checks.append(check_ranks(site, table, len(tests), number, sizes.get(site, 1)))
    for name, test in tests.items():
        findings.metrics |= {f"simulation/{name}/{k}": v for k, v in test._asdict().items()}
        _cover(findings, f"simulation/{name}", ranks[name])
    findings.figures["ranks"] = figures.rank_figure(ranks)
    findings.figures["coverage"] = figures.coverage_figure(ranks)


def forecast(
    findings: Findings, fit: Fit, posterior: PosteriorLike, horizons: tuple[int, ...], seed: int
) -> None:
    """PIT, coverage and CRPS of observations that were held back."""
    found = family_of(posterior).forecasts(fit, horizons, seed) if horizons else None
    if found is None:
        findings.notes.append("no forecasts: they are made for a MixDVAE without a detector, to "
                            "which an empty frame says nothing")
        return
    for horizon, ahead in found.items():
        _cover(findings, f"forecast/{horizon}", ahead.pit)
        findings.metrics[f"crps/{horizon}"] = float(ahead.crps.mean())
        if horizon == min(found) and len(ahead.independent_pit) >= FEWEST_PIT:
            test = uniformity(ahead.independent_pit)
            coverage = interval_coverage(ahead.pit)
            findings.checks.append(check_forecast(test, coverage, horizon))
            findings.metrics |= {f"forecast/{horizon}/{k}": v for k, v in test._asdict().items()}
    pits = {f"{horizon} ahead": f.pit for horizon, f in found.items() if len(f.pit) >= FEWEST_PIT}
    if pits:
        title = "PIT: where the observation falls in its forecast"
        findings.figures["pit"] = figures.rank_figure(pits, title)


def compare(findings: Findings, draws: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
    """Moments beside those of a reference sampler, continuous sites only."""
    for site in draws:
        if site in exact and draws[site].is_floating_point() and site != "v":
            values = exact[site].reshape(len(exact[site]), *_event(draws[site], exact[site]))
            moments = compare_moments(draws[site], values)
            findings.checks.append(check_reference(site, moments, len(draws[site]), len(values)))
            findings.metrics |= {
                f"reference/{site}/shift": float(abs(moments.shift).max()),
                f"reference/{site}/std_ratio_min": float(moments.ratio.min()),
                f"reference/{site}/std_ratio_max": float(moments.ratio.max()),
            }


def advise(findings: Findings, posterior: PosteriorLike) -> None:
    """Say what the family of the model has against a guide that is too narrow."""
    narrow = family_of(posterior).narrow
    findings.checks = [
        replace(check, advice=narrow) if check.advice == Advice.NARROW else check
        for check in findings.checks
    ]


def _event(draws: Tensor, exact: Tensor) -> tuple[int, ...]:
    """The shape of one draw: the reference may lack the dimension of a single sequence."""
    return draws.shape[1:] if draws[0].numel() == exact[0].numel() else exact.shape[1:]


def _cover(findings: Findings, name: str, ranks: Any) -> None:
    for level, share in interval_coverage(ranks).items():
        findings.metrics[f"{name}/coverage{100 * level:.0f}"] = float(share.value)
        findings.metrics[f"{name}/coverage{100 * level:.0f}_se"] = float(share.error)


def _by_site(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group summaries by the site that their names start with."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, value in table.items():
        grouped.setdefault(name.partition("[")[0], {})[name] = value
    return grouped
