"""From numbers to a plain verdict: may this block of the posterior be trusted, and if not, why not?

=====================  ============================================================================
threshold              why this value
=====================  ============================================================================
`MAX_BAD_SHARE`        k-hat is itself estimated from one set of draws: among sequences of a good
                       guide some exceed the limit of Vehtari et al. (2024), at most 0.7
`MAX_GAP`              nats; two laws that far apart (KL) may differ by half in the probability of
                       an event (Pinsker)
`MAX_RHAT`             R-hat^2 - 1 is the variance between fits over that within: fits that differ
                       by a third of a standard deviation. Draws here are independent, and more
                       than the 1.01 for Markov chains is needed before a user would notice
`ALPHA`                probability that a calibrated guide fails any test of ranks, Bonferroni over
                       all summaries; the same once more for predictions
`MIN_SIMULATIONS`      fewer ranks pass almost any guide. Probability that a standard deviation of
                       half the right one is found: 0.98 in 50, 1 in 100; of 0.7 of it: 0.48 in 50,
                       0.86 in 100, 1 in 200; of 0.8 of it: 0.77 in 200 (300 repetitions each)
`MAX_SHIFT`            standard deviations between the means of guide and reference; a 95 % interval
                       then still holds 94 %
`STD_RATIO`            of guide and reference: 95 % intervals then hold 88 to 99 %. A ratio, or a
                       shift, must also be more than chance makes of so many draws of both
=====================  ============================================================================
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from pyromodels.inference.adequacy.statistics import (
    Estimate,
    Moments,
    Uniformity,
    pareto_k_threshold,
)

MAX_BAD_SHARE, MAX_GAP, MAX_RHAT = 0.1, 0.5, 1.05
ALPHA, MIN_SIMULATIONS = 0.01, 50
MAX_SHIFT, STD_RATIO = 0.3, (0.8, 1.25)

JOINT = "joint"
"""The block of all latents at once: whether draws may be reweighted."""

PREDICTION = "prediction"
"""The block of forecasts: it judges the model as well as the guide."""

Word = Literal["trust", "do not trust", "cannot say"]

SEVERITY: tuple[Word, ...] = ("do not trust", "cannot say", "trust")
"""Verdicts, the worst first."""


class Advice:
    """What to try, sentences."""

    TAILS = (
        "Use a guide with correlations (a Gaussian chain over time, a full covariance, a flow), or "
        "a sampler such as NUTS; do not reweight these draws."
    )
    NARROW = (
        "Let q keep the correlations that it lacks, or compare with NUTS; until then take its "
        "intervals for too short."
    )
    NARROW_PATHS = NARROW.replace("lacks", 'lacks (over time: SourceUpdate(history="smoothed"))')
    SUPPORT = "Give q the support of the model: constrain the site, or transform it."
    BIAS = (
        "Run the fit for longer and from several starts; if it stays, the guide's family cannot "
        "reach the posterior's mean."
    )
    STARTS = "Fit from several starts, keep the best bound, and say that there were others."
    LABELS = (
        "Do not read off who is who: align the labels (align_sources), or report what does not "
        "depend on them; or give the sources starts that tell them apart."
    )
    SHAPE = "Look at the rank histogram: where is it not flat?"
    WIDE = "Conservative: intervals are longer than need be. Run the fit for longer."
    PREDICTION = (
        "Later frames are missing here, so look at the model too: process noise, errors of the "
        "detector that last over frames, a noise scale to be estimated."
    )
    RUN_MORE = (
        "Give guide_report a function that fits (not one fitted guide) and `simulate`, or draws of "
        "a reference sampler."
    )
    MORE_SIMULATIONS = f"Make more simulations: num_simulations, {MIN_SIMULATIONS} or more."
    MORE_DRAWS = "Take more draws, of the reference and of the guide (num_draws)."


@dataclass(frozen=True)
class Check:
    """One diagnostic of some blocks, judged.

    Args:
        name: of the diagnostic.
        blocks: what it speaks of.
        value: the number that was compared.
        limit: what it was compared with.
        passed: whether it is on the right side.
        finding: that in words.
        advice: what to try where it is not.
        sees_all: whether it could have seen a mode that the guide has missed, in the numbers that
            it looked at.
        more: what would let it see that, where it cannot.
    """

    name: str
    blocks: tuple[str, ...]
    value: float
    limit: float
    passed: bool
    finding: str
    advice: str = ""
    sees_all: bool = False
    more: str = ""


class Verdict(NamedTuple):
    """On one block."""

    block: str
    word: Word
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


def check_pareto_k(blocks: tuple[str, ...], k: np.ndarray, num_draws: int) -> Check:
    """Judge k-hat of every sequence, shape (B,)."""
    limit = pareto_k_threshold(num_draws)
    share, worst = float(np.mean(k > limit)), float(np.max(k))
    finding = f"{worst:.2f} at worst, above {limit:.2f} in {share:.0%} of {k.size} sequences"
    if k.size == 1:
        finding = f"{worst:.2f} (limit {limit:.2f})"
    return Check("k-hat", blocks, share, MAX_BAD_SHARE, share <= MAX_BAD_SHARE, finding,
                 Advice.TAILS)


def check_support(blocks: tuple[str, ...], log_weights: np.ndarray) -> Check:
    """Judge how many draws, (n, B), the model rules out: weights of zero."""
    share = float(np.isneginf(log_weights).mean())
    finding = f"{100 * share:.2g}% of the guide's draws lie where the model has no mass"
    return Check("support", blocks, share, 0.0, share == 0, finding, Advice.SUPPORT)


def check_gap(blocks: tuple[str, ...], gap: Estimate) -> Check:
    """Judge the importance gap of every sequence, each (B,)."""
    value = float(gap.value.mean())
    error = float(np.sqrt(np.square(gap.error).sum()) / gap.error.size)
    unit = "nats a sequence" if gap.value.size > 1 else "nats"
    finding = f"at least {value:.2f} ± {error:.2f} {unit} between guide and posterior"
    return Check("importance gap", blocks, value, MAX_GAP, value - 3 * error <= MAX_GAP, finding,
                 Advice.TAILS)


def judged_rhat(
    values: np.ndarray,  # of one summary, shape: (B,)
) -> float:
    """The R-hat that all but `MAX_BAD_SHARE` of the sequences stay within; NaN where all are."""
    if np.isnan(values).all():
        return np.nan
    # "higher": between infinite values, of constants that differ, nothing is interpolated
    return float(np.nanquantile(values, 1 - MAX_BAD_SHARE, method="higher"))


def check_rhat(
    block: str,
    as_labelled: Mapping[str, np.ndarray],  # summary -> (B,)
    aligned: Mapping[str, np.ndarray],
) -> Check:
    """Judge R-hat over fits; labels that were exchanged are told from answers that differ."""
    raw, after = (max((judged_rhat(v) for v in t.values()), default=np.nan)
                  for t in (as_labelled, aligned))
    raw, after = (1.0 if np.isnan(v) else float(v) for v in (raw, after))
    sizes = {v.size for v in as_labelled.values()}
    most = f" in {1 - MAX_BAD_SHARE:.0%} of {max(sizes)} sequences" if max(sizes) > 1 else ""
    top = max(float(np.nanmax(v, initial=1.0)) for v in as_labelled.values())
    at_worst = f", {top:.2f} at worst" if most else ""
    if raw <= MAX_RHAT:
        finding, advice = f"up to {raw:.2f}{most}{at_worst}: fits from different starts agree", ""
    elif after <= MAX_RHAT:
        finding = (
            f"up to {raw:.2f} as labelled, {after:.2f} once aligned{most}: fits agree on the "
            "trajectories but not on who is who"
        )
        advice = Advice.LABELS
    else:
        finding = (f"up to {raw:.2f} ({after:.2f} aligned){most}: fits from other starts end "
                   "elsewhere")
        advice = Advice.STARTS
    return Check("R-hat", (block,), raw, MAX_RHAT, raw <= MAX_RHAT, finding, advice)


def check_ranks(
    block: str, tests: Mapping[str, Uniformity], num_tests: int, count: int, size: int
) -> Check:
    """Judge rank statistics of the summaries of a block.

    Args:
        block: the site.
        tests: by summary.
        num_tests: summaries of all blocks.
        count: simulations.
        size: numbers of the site.
    """
    name, worst = min(tests.items(), key=lambda item: item[1].p_value)
    p = min(1.0, worst.p_value * num_tests)
    if p >= ALPHA:
        where = f"{examined(block, tests, size)} (p = {p:.2g})"
        finding = f"the truth of {count} simulations ranks as it should in {where}"
        if count >= MIN_SIMULATIONS:
            return Check("simulation", (block,), p, ALPHA, True, finding, sees_all=True)
        finding = f"only {count} simulations were made; at least {MIN_SIMULATIONS} can tell"
        return Check("simulation", (block,), p, ALPHA, True, finding, more=Advice.MORE_SIMULATIONS)
    finding, advice = shape_in_words(name, worst)
    return Check("simulation", (block,), p, ALPHA, False, finding, advice)


def examined(block: str, names: Collection[str], size: int) -> str:
    """Say how much of a site its summaries look at: `a[3]` at one number, `a[mean]` at more."""
    single = sum(bool(re.fullmatch(r".*\[[\d, ]+\]", name)) for name in names)
    others, of = len(names) - single, f"number{'s' * (size > 1)} of {block}"
    summaries = f"{others} summar{'y' if others == 1 else 'ies'}"
    if not single:
        return f"{summaries} of {size} {of}"
    return f"{single} of {size} {of}" + (f" and {summaries} of them" if others else "")


def shape_in_words(name: str, test: Uniformity) -> tuple[str, str]:
    """Say what is wrong with ranks that are not uniform, and what to try."""
    z = f"(z = {test.dispersion:+.1f} for spread, {test.bias:+.1f} for asymmetry)"
    if max(abs(test.bias), abs(test.dispersion)) < 3:
        return f"ranks of {name} are neither flat, sloped nor a U {z}", Advice.SHAPE
    if abs(test.bias) > abs(test.dispersion):
        side = "low" if test.bias > 0 else "high"
        return f"biased: {name} comes out too {side} {z}", Advice.BIAS
    if test.dispersion > 0:
        return f"under-dispersed: {name} is too narrow, its ranks form a U {z}", Advice.NARROW
    return f"over-dispersed: {name} is too wide, its ranks form a hump {z}", Advice.WIDE


def check_forecast(test: Uniformity, coverage: Mapping[float, Estimate], horizon: int) -> Check:
    """Judge predictions so many frames ahead."""
    share = ", ".join(f"{e.value:.0%} in the {level:.0%}" for level, e in coverage.items())
    p, passed = test.p_value, test.p_value >= ALPHA
    finding = f"{horizon} frame ahead: {share} interval (p = {p:.2g})"
    if not passed:
        finding = f"{finding}; {shape_in_words('the prediction', test)[0]}"
    return Check("forecast", (PREDICTION,), p, ALPHA, passed, finding, Advice.PREDICTION, passed)


def check_reference(site: str, moments: Moments, num_draws: int, num_reference: int) -> Check:
    """Judge means and standard deviations against those of a reference sampler.

    Draws of one law differ too: by less than `noise` in all numbers but with probability `ALPHA`.
    Both sets count as independent.
    """
    quantile = stats.t.ppf(1 - ALPHA / (4 * moments.shift.size), num_reference - 1)
    noise = float(quantile * math.sqrt(1 / num_draws + 1 / num_reference))
    shift = float(np.abs(moments.shift).max())
    low, high = (float(edge(moments.ratio)) for edge in (np.min, np.max))
    limit = max(MAX_SHIFT, noise)
    narrow = low < min(STD_RATIO[0], math.exp(-noise))
    passed = shift <= limit and not narrow and high <= max(STD_RATIO[1], math.exp(noise))
    finding = (
        f"means differ by up to {shift:.2f} standard deviations, whose "
        f"ratio is {low:.2f} to {high:.2f}"
    )
    advice = Advice.NARROW if narrow and shift <= limit else Advice.BIAS
    if not passed or noise <= min(MAX_SHIFT, math.log(STD_RATIO[1])):
        return Check("reference", (site,), shift, limit, passed, finding, advice, passed)
    finding = f"{finding}; so few draws differ by up to {noise:.2f} where nothing is wrong"
    return Check("reference", (site,), shift, limit, True, finding, more=Advice.MORE_DRAWS)


def judge(block: str, checks: Sequence[Check]) -> Verdict:
    """Trust what passed every check, one of which could have seen a mode that was missed."""
    about = [check for check in checks if block in check.blocks]
    failed = [check for check in about if not check.passed]
    if failed:
        advice = tuple(dict.fromkeys(check.advice for check in failed))
        return Verdict(block, "do not trust", tuple(_reason(c) for c in failed), advice)
    reasons = tuple(_reason(check) for check in about)
    if any(check.sees_all for check in about):
        return Verdict(block, "trust", reasons, ())
    if more := tuple(dict.fromkeys(check.more for check in about if check.more)):
        return Verdict(block, "cannot say", reasons, more)
    missing = "nothing was run that could see a mode which the guide has missed"
    return Verdict(block, "cannot say", (*reasons, missing), (Advice.RUN_MORE,))


def _reason(check: Check) -> str:
    return f"{check.name}: {check.finding}"
