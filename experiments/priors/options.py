"""What a spec of separation by sampling says: densities, dynamics, and how it is judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import SpecError, check_choice, check_positive, mismatch
from pyromodels.experiments.datasets.waveforms.waveforms import Waveforms
from pyromodels.experiments.harness.plain_tables import Plain, nested
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.inference.engines.langevin import Schedule
from pyromodels.inference.engines.mixing import ExactMixing, Mixing, PrintedMixing, SoftMixing
from pyromodels.registry import DENSITIES

CONSTRAINTS: dict[str, Callable[[Tensor, Tensor], Mixing]] = {
    "exact": ExactMixing, "soft": SoftMixing, "printed": PrintedMixing,
}
SCORE_NETWORK = "score_network"


@dataclass(frozen=True)
class DensitiesSpec:
    """Densities of sources, one for each kind.

    Args:
        prior: of every kind that `priors` leaves out: a registered density with keyword arguments.
            One that takes `kind`, or the data's `frequencies`, `amplitude` or `band_limited`, is
            told them where the table does not say; "score_network" is trained as `[guide]` says.
        priors: kind -> density; a table {weights = PATH} takes a trained one.
    """

    prior: Plain | str = "waveform"
    priors: Plain = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names now."""
        for what, said in {"prior": self.prior, **self.priors}.items():
            table = nested(said, f"model.{what}")
            if "weights" not in table:
                DENSITIES[table.get("name", "")]

    def of(self, kind: str) -> Plain:
        """Return the table of a kind."""
        return nested(self.priors.get(kind, self.prior), f"model.priors.{kind}")

    def learns(self, kind: str) -> bool:
        """Whether the density of a kind is a network that is trained."""
        return self.of(kind).get("name") == SCORE_NETWORK

    def is_evaluable(self, kind: str) -> bool:
        """Whether the density of a kind has a `log_prob`, as far as its name says."""
        table = self.of(kind)
        return "weights" in table or getattr(DENSITIES[table["name"]], "has_density", True)

    def build(self, kind: str, data: Waveforms) -> SmoothedDensity:
        """Return the density of a kind that nothing is trained for."""
        table = self.of(kind)
        if "weights" in table:
            density = load_weights(table["weights"], "density").prior
            return density.of(kind) if hasattr(density, "of") else density
        told = {"kind": kind, "frequencies": data.frequencies, "amplitude": data.amplitude,
                "band_limited": data.band_limited}
        takes = inspect.signature(DENSITIES[table["name"]]).parameters
        return DENSITIES.build({**{k: v for k, v in told.items() if k in takes}, **table})


@dataclass(frozen=True)
class LangevinInference:
    """Annealed Langevin dynamics on the sources of a mixture.

    Args:
        start: where chains begin: white "noise" of the first level, the "mixture" itself as every
            source, or the truth ("oracle"), these two with noise of the first level added.
        constraint: that sources add up: "exact", by conditioning; "soft", a likelihood; "printed",
            Algorithm 1 of the paper with its signs, factors and temperature.
        levels: of noise, in equal ratios.
        first: sigma of the first level.
        last: of the last.
        steps: at each level, or a list of one number a level.
        rate: c, steps are c sigma^2.
        temperature: tau; 1 is the posterior.
        adjusted: Metropolis-adjusted steps, for densities that can be evaluated.
        chains: of each mixture; the one most probable under the priors is kept. Of a score alone
            that is judged by a bound, how well it denoises what the chain has found.
        max_abs: a chain farther out than this, in units of 1 + `first`, has diverged; sources have
            a peak of 1.
        denoise: take the expected signal under the last level's noise, E[s | x], in place of x.

    Raises:
        ValueError: for what is none of these, or not positive.
    """

    start: Literal["noise", "mixture", "oracle"] = "noise"
    constraint: Literal["exact", "soft", "printed"] = "exact"
    levels: int = 10
    first: float = 1.0
    last: float = 0.01
    steps: int | tuple[int, ...] = 10
    rate: float = 0.3
    temperature: float = 1.0
    adjusted: bool = False
    chains: int = 1
    max_abs: float = 20.0
    denoise: bool = True

    def __post_init__(self) -> None:
        check_choice("start", self.start, "noise", "mixture", "oracle")
        check_choice("constraint", self.constraint, *CONSTRAINTS)
        check_positive(self, "first", "last", "chains", "max_abs")
        self.schedule  # noqa: B018 refuses what is no schedule
        if self.constraint == "printed" and self.adjusted:
            expected = "false: Algorithm 1 has no density to accept by"
            raise SpecError(mismatch("adjusted with constraint 'printed'", given=True,
                                     expected=expected))

    def check_density(self, has_density: bool) -> None:
        """Raise `SpecError` where steps cannot be accepted for want of a density."""
        if self.adjusted and not has_density:
            hint = "A prior that is a score alone cannot say which of two is more probable."
            raise SpecError(mismatch("inference.adjusted", given=True, expected=False, hint=hint))

    @property
    def schedule(self) -> Schedule:
        """The levels of noise."""
        steps = self.steps if isinstance(self.steps, int) else tuple(self.steps)
        return Schedule.geometric(self.first, self.last, self.levels, steps=steps, rate=self.rate)


@dataclass(frozen=True)
class GainMetrics:
    """How separation is judged.

    Args:
        cap: decibels that the SI-SDR of an estimate counts at most.
        above: decibels of gain over the mixture that count as taken apart.
    """

    cap: float = 60.0
    above: float = 6.0
