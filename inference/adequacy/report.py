"""How good is my posterior? One function, one report, a verdict on every block."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.errors import check_choice
from pyromodels.inference.adequacy import diagnose as gather
from pyromodels.inference.adequacy.diagnose import Findings
from pyromodels.inference.adequacy.page import markdown
from pyromodels.inference.adequacy.protocols import (
    Fit,
    PosteriorLike,
    Simulate,
    Summaries,
    with_sequences,
)
from pyromodels.inference.adequacy.simulation import scalar_summaries
from pyromodels.inference.adequacy.verdict import (
    JOINT,
    PREDICTION,
    SEVERITY,
    Check,
    Verdict,
    Word,
    judge,
)
from pyromodels.pyro_support.random_state import restored_random_state

PROTOCOLS = ("R-hat", "simulation", "forecast")
"""What a function that fits is asked for: fits from other starts, of drawn data, of earlier frames.
"""
ONE_GUIDE = (
    "one fitted guide was given, not a function that fits: no R-hat, no calibration by "
    "simulation, no forecasts"
)


@dataclass
class Report(Findings):
    """What `guide_report` found.

    Args:
        title: of the page.
        verdicts: by block: the sites, "joint", and "prediction" where forecasts were made.
    """

    title: str = "How good is my posterior?"
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def overall(self) -> Word:
        """The worst verdict on a site or on predictions; `verdicts["joint"]` may be worse."""
        words = {v.word for name, v in self.verdicts.items() if name != JOINT}
        return next(w for w in SEVERITY if w in words)

    def write(self, folder: str | Path) -> Path:
        """Write `report.md`, `metrics.json` and the figures; return the path of the page."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            _write(folder / f"{name}.png", lambda part, figure=figure: figure.savefig(part))
        numbers = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        text = json.dumps(numbers, indent=2) + "\n"
        _write(folder / "metrics.json", lambda part: part.write_text(text, encoding="utf-8"))
        page = markdown(self.title, self.overall, self.verdicts, self.checks, self.figures,
                        self.notes)
        return _write(folder / "report.md", lambda p: p.write_text(page, encoding="utf-8"))


def guide_report(
    fit: Fit | PosteriorLike,
    data: Any = None,
    *,
    simulate: Simulate | None = None,
    reference: tuple[Any, Mapping[str, Tensor]] | None = None,
    summaries: Summaries = scalar_summaries,
    num_draws: int = 1000,
    num_fits: int = 4,
    num_simulations: int = 200,
    horizons: tuple[int, ...] = (1, 3),
    left_out: Mapping[str, str] | None = None,
    seed: int = 0,
    title: str = "How good is my posterior?",
) -> Report:
    """Examine a guide, and say which blocks of its posterior to trust.

    Give the function that fits, and everything is done; one fitted posterior alone is only weighed
    (k-hat, importance gap), which cannot see what the guide has missed altogether.

    Args:
        fit: `fit(data, seed) -> posterior`, or a fitted posterior: anything with `sample(n)`,
            `log_prob(draws)` and `log_joint(draws)`, the latter two (n, B), or (n,) of a program
            without a plate of sequences.
        data: what `fit` is called with.
        simulate: `simulate(seed) -> (data, truth)`, data drawn from the model and the latents they
            came from, sites (B, ...). A MixDVAE without a detector and a dynamical VAE have one of
            their own.
        reference: draws of a reference sampler (NUTS, enumeration) by site, each (n', B, ...),
            and the data, maybe a reduced problem, that they are of: (data, draws).
        summaries: the scalars whose ranks and R-hat are taken.
        num_draws: draws of a posterior; of them R-hat takes up to 500, ranks up to 400.
        num_fits: starts for R-hat; 1 leaves it out.
        num_simulations: simulated sequences; 0 leaves calibration out.
        horizons: frames ahead of the forecasts that a MixDVAE without a detector makes; () leaves
            them out.
        left_out: which of `PROTOCOLS` do not hold for these data, and why; the page says so.
        seed: of all random numbers; the state of torch's generator is restored in the end.
        title: of the page.

    Example:
        >>> class Exact:  # s ~ N(0, 1), o | s ~ N(s, 1), o = 1
        ...     def sample(self, n): return {"s": 0.5 + 0.5**0.5 * torch.randn(n, 1)}
        ...     def log_prob(self, d):
        ...         return torch.distributions.Normal(0.5, 0.5**0.5).log_prob(d["s"])
        ...     def log_joint(self, d):
        ...         normal = torch.distributions.Normal(0.0, 1.0)
        ...         return normal.log_prob(d["s"]) + normal.log_prob(1 - d["s"])
        >>> guide_report(Exact()).overall  # nothing here could see a second mode
        'cannot say'
    """
    found, left_out = Report(title=title), left_out or {}
    for name in left_out:
        check_choice("left_out", name, *PROTOCOLS)
    with restored_random_state():
        torch.manual_seed(seed)
        refit = None if isinstance(fit, PosteriorLike) else lambda d, i: with_sequences(fit(d, i))
        posterior = with_sequences(fit) if refit is None else refit(data, seed)
        draws = posterior.sample(num_draws)
        gather.weigh(found, posterior, draws)
        if refit is None:
            found.notes.append(ONE_GUIDE)
        else:
            found.notes += [f"no {name}: {reason}" for name, reason in left_out.items()]
            if "R-hat" not in left_out:
                gather.refit(found, refit, data, num_fits, num_draws, summaries, seed)
            if "simulation" not in left_out:
                simulate = simulate or gather.own_simulator(found, posterior, num_simulations)
                if simulate is not None and num_simulations:
                    sizes = {site: value[0, 0].numel() for site, value in draws.items()}
                    options = (num_simulations, num_draws, summaries, seed, sizes)
                    gather.calibrate(found, refit, simulate, *options)
            if "forecast" not in left_out:
                gather.forecast(found, refit, posterior, horizons, seed)
        if reference is not None:
            reduced, exact = reference
            other = posterior if refit is None else refit(reduced, seed)
            gather.compare(found, other.sample(num_draws), exact)
    gather.advise(found, posterior)
    found.verdicts = _verdicts(tuple(draws), found.checks)
    return found


def _verdicts(sites: tuple[str, ...], checks: list[Check]) -> dict[str, Verdict]:
    """Judge every site, all of them together, and predictions where they were made."""
    verdicts = {site: judge(site, checks) for site in sites}
    if len(sites) > 1:
        joint = judge(JOINT, checks)
        if joint.word == "cannot say":  # no check of it could see all; those of its sites might
            doubtful = [v for v in verdicts.values() if v.word != "trust"]
            advice = tuple(dict.fromkeys(part for v in doubtful for part in v.advice))
            word, reasons = "trust", joint.reasons[:-1]
            if doubtful:
                word = joint.word
                reasons = (*reasons, f"no better than {', '.join(v.block for v in doubtful)}")
            joint = Verdict(JOINT, word, reasons, advice)
        verdicts[JOINT] = joint
    if any(PREDICTION in check.blocks for check in checks):
        verdicts[PREDICTION] = judge(PREDICTION, checks)
    return verdicts


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        part = Path(place) / path.name
        write(part)
        os.replace(part, path)
    return path
