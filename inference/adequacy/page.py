"""The page of the guide-adequacy report: Markdown, the figures beside it."""

from collections.abc import Iterable, Mapping, Sequence

from pyromodels.inference.adequacy.verdict import JOINT, SEVERITY, Check, Verdict, Word

CAPTIONS = {
    "k_hat": "Dots right of the dashed line: sequences whose weights have too heavy a tail.",
    "rhat": "Fits from different starts as chains, a dot a sequence: above the dashed line they "
    "disagree. The bars, below which nine sequences of ten lie, are what is judged.",
    "ranks": "Data simulated from the model, the guide fitted to them, and the rank of the truth "
    "among its draws. Bars outside the grey band are orange.",
    "coverage": "Below the diagonal: intervals hold the truth less often than they say.",
    "pit": "Where observations fall in forecasts made from earlier frames alone.",
}

GLOSSARY = (
    ("k-hat", "how heavy the tail of posterior / guide is; small is good, above 0.7 is not"),
    ("support", "whether the model rules out draws of the guide"),
    ("importance gap", "a lower bound of the distance KL(guide || posterior), in nats"),
    ("R-hat", "1 where fits from different starts give the same draws"),
    ("simulation", "calibration by simulation: is the truth an ordinary draw of the guide?"),
    ("forecast", "the same question of observations that the fit has not seen"),
    ("reference", "means and standard deviations beside those of a sampler that is exact"),
)


def headline(overall: Word, verdicts: Mapping[str, Verdict]) -> str:
    """Return the verdict on the parts, and that on the joint where it is worse."""
    joint = verdicts[JOINT].word if JOINT in verdicts else overall
    worse = SEVERITY.index(joint) < SEVERITY.index(overall)
    return f"{overall}; {JOINT}: {joint}" if worse else overall


def markdown(
    title: str,
    overall: Word,
    verdicts: Mapping[str, Verdict],
    checks: Sequence[Check],
    figures: Iterable[str],
    notes: Sequence[str],
) -> str:
    """Return the page."""
    lines = [f"# {title}", "", f"**Verdict: {headline(overall, verdicts)}.**", ""]
    lines += _table(("block", "verdict"), [(v.block, v.word) for v in verdicts.values()])
    for verdict in verdicts.values():
        lines += ["", f"## {verdict.block}: {verdict.word}", ""]
        lines += [f"- {reason}" for reason in verdict.reasons]
        if verdict.advice:
            lines += ["", "What to try:", ""] + [f"- {advice}" for advice in verdict.advice]
    lines += ["", "## All checks", ""]
    rows = [
        (", ".join(c.blocks), c.name, f"{c.value:.3g}", f"{c.limit:.3g}",
         "pass" if c.passed else "FAIL", c.finding)
        for c in checks
    ]
    lines += _table(("block", "check", "value", "limit", "", "finding"), rows)
    for name in figures:
        lines += ["", f"![{name}]({name}.png)", "", CAPTIONS.get(name, "")]
    if notes:
        lines += ["", "## Not done", ""] + [f"- {note}" for note in notes]
    lines += ["", "## What the words mean", ""] + [f"- **{w}**: {m}" for w, m in GLOSSARY]
    return "\n".join(lines) + "\n"


def plain(overall: Word, verdicts: Mapping[str, Verdict]) -> str:
    """Return the verdicts for a terminal."""
    lines = [f"verdict: {headline(overall, verdicts)}"]
    for verdict in verdicts.values():
        lines += ["", f"{verdict.block}: {verdict.word}"]
        lines += [f"  {reason}" for reason in verdict.reasons]
        lines += [f"  try: {advice}" for advice in verdict.advice]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
