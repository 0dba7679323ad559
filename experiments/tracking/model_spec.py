"""The `[model]` table of a spec: MixDVAE, its prior, its detector, and what a batch needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from pyromodels.errors import SpecError, mismatch, shown
from pyromodels.experiments.harness.plain_tables import Plain, component, nested
from pyromodels.observations.detector import Detector
from pyromodels.registry import DYNAMICS, MODELS, OBSERVATIONS, check_call

RUNS = "mixdvae"
"""The model that the experiment runs."""

SHIPPED = {"srnn": "srnn_mot", "deep_ar": "deep_ar_mot"}
"""Dynamics -> the weights that ship with the package."""


def noise_rows(position: float, velocity: float) -> list[list[float]]:
    """Return (position, velocity) of the process noise of centre x, centre y, width and height.

    Standard deviations a frame, in heights (of widths, in widths).

    Args:
        position: of the centre; widths, which sway with the gait, get ten times it, heights three
            times.
        velocity: of the velocity of the centre; sizes get half of it.
    """
    centre, size = [position, velocity], velocity / 2
    return [centre, centre, [10 * position, size], [10 / 3 * position, size]]


WALKERS: Plain = {
    "process_std": noise_rows(0.002, 0.002),
    "velocity_decay": [0.95, 0.95, 0.9, 0.9],
    "scale": "centre_box",
}
"""Linear dynamics of a walker's box, where a spec says nothing of them."""

RANDOM_WALK: Plain = {"process_std": [0.02], "scale": "centre_box"}
WALKING_BOX: Plain = {"name": "gaussian", "predicts": "increment", "scale": "centre_box"}
"""The same for `order = 1`."""


@dataclass(frozen=True)
class PriorSpec:
    """The prior of one source.

    Args:
        dynamics: registered dynamics, `{"name": ..., **options}`.
        weights: of deep dynamics: "shipped" (those of the package where there are any), "none"
            (untrained), a shipped name, or a path. Weights know their network's sizes.
        least_std: floor of the deviation that deep dynamics predict, in box sizes; 1e-4 is what
            they were trained with.

    Raises:
        SpecError: where weights and dynamics exclude each other.
    """

    dynamics: Plain = field(default_factory=lambda: {"name": "linear"})
    weights: str = "shipped"
    least_std: float = 0.005

    def __post_init__(self) -> None:
        _positive("model.prior.least_std", self.least_std)
        DYNAMICS.check(self.dynamics)
        name, options = self.dynamics["name"], [key for key in self.dynamics if key != "name"]
        if name == "linear" and self.weights not in ("shipped", "none"):
            raise SpecError(
                f"model.prior.weights: given {shown(self.weights)}, but linear dynamics have no "
                "networks; leave weights out, or choose srnn or deep_ar"
            )
        if self.trained is not None and options:
            raise SpecError(
                f"model.prior.dynamics: {', '.join(options)}: the weights {shown(self.trained)} "
                f'fix these; leave them out, or say weights = "none" for an untrained {name}'
            )

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> PriorSpec:
        """Return the prior that a table says."""
        keywords = dict(table)
        if "dynamics" in keywords:
            dynamics = component(keywords["dynamics"], "model.prior.dynamics", DYNAMICS)
            keywords["dynamics"] = dynamics
        check_call("model.prior", cls, (), keywords)
        return cls(**keywords)

    @property
    def trained(self) -> str | None:
        """Which weights to load, None where there are none."""
        if self.weights == "shipped":
            return SHIPPED.get(self.dynamics["name"])
        return None if self.weights == "none" or self.dynamics["name"] == "linear" else self.weights

    @property
    def complete_dynamics(self) -> Plain:
        """The dynamics with the defaults of a walker's box."""
        name = self.dynamics["name"]
        if name == "linear":
            plain_box = "num_coordinates" not in self.dynamics
            default = {2: WALKERS, 1: RANDOM_WALK}.get(self.dynamics.get("order", 2), {})
            return {"name": name, **(default if plain_box else {}), **self.dynamics}
        if name in SHIPPED and self.trained is None:
            return {"emission": WALKING_BOX, **self.dynamics}
        return dict(self.dynamics)


@dataclass(frozen=True)
class ModelSpec:
    """The program and the numbers that turn boxes into a batch.

    Args:
        name: the model; "mixdvae".
        num_sources: objects to track; None takes as many as the truth has, else as the first frame
            has detections.
        noise_ratio: observation noise of a width and of a height, as parts of the box's own.
        start_std: p(s_1): deviations of positions, in box sizes, and of velocities, in box sizes a
            frame.
        noise_scale: factor on the deviation of the observation noise.
        detector: visibility and clutter; None is the model of the thesis.
        observation: the law of an observation given its source, by its name; None is "gaussian".
        prior: of one source.

    Raises:
        SpecError: for a model that the experiment cannot run, or a number out of its range.
    """

    name: str = RUNS
    num_sources: int | None = None
    noise_ratio: tuple[float, float] = (0.12, 0.05)
    start_std: tuple[float, float] = (0.15, 0.02)
    noise_scale: float = 1.0
    detector: Detector | None = field(default_factory=Detector)
    observation: Mapping[str, Any] | None = None
    prior: PriorSpec = field(default_factory=PriorSpec)

    def __post_init__(self) -> None:
        _ = MODELS[self.name]
        if self.name != RUNS:
            expected = f"{RUNS!r}, what the experiment 'tracking' runs"
            raise SpecError(mismatch("model.name", given=repr(self.name), expected=expected))
        for key in ("noise_ratio", "start_std"):
            for number in getattr(self, key):
                _positive(f"model.{key}", number)
        _positive("model.noise_scale", self.noise_scale)
        if self.num_sources is not None and self.num_sources < 1:
            given = self.num_sources
            raise SpecError(mismatch("model.num_sources", given=given, expected="at least 1"))

    @property
    def law(self) -> Plain:
        """The table of the observation law."""
        return {"name": "gaussian", "noise_scale": self.noise_scale, **(self.observation or {})}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ModelSpec:
        """Return the model that a table says; `detector = false` is a model without one."""
        keywords = dict(table)
        if "prior" in keywords:
            prior = keywords["prior"]
            prior = {"dynamics": prior} if isinstance(prior, str) else nested(prior, "model.prior")
            keywords["prior"] = PriorSpec.from_table(prior)
        if "observation" in keywords:
            law = component(keywords["observation"], "model.observation", OBSERVATIONS)
            OBSERVATIONS.check(law, keywords.get("prior"))
            keywords["observation"] = law
        if "detector" in keywords:
            keywords["detector"] = _detector(keywords["detector"])
        for key in ("noise_ratio", "start_std"):
            if isinstance(keywords.get(key), list):
                keywords[key] = tuple(keywords[key])
        check_call("model", cls, (), keywords)
        return cls(**keywords)

    def to_table(self) -> Plain:
        """Return the table, every default written out; None stays out, as in TOML."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {key: value for key, value in plain.items() if value is not None}
        prior = self.prior
        dynamics = prior.complete_dynamics
        detector = self.detector
        plain["detector"] = False if detector is None else dataclasses.asdict(detector)
        plain["prior"] = {
            "weights": prior.trained or "none",
            "least_std": prior.least_std,
            "dynamics": dynamics,
        }
        return plain


class ModelTable:
    """The `[model]` table, as `harness.spec_tables.Table` has it."""

    def read(self, value: Any, where: str) -> ModelSpec:
        """Return the model that a table says."""
        if isinstance(value, ModelSpec):
            return value
        return ModelSpec.from_table(nested({} if value is None else value, where))

    def write(self, held: ModelSpec, seed: int) -> Plain:
        """Return its table."""
        return held.to_table()


def _detector(value: Any) -> Detector | None:
    if isinstance(value, bool):
        return Detector() if value else None
    if not isinstance(value, Mapping):
        expected = "a table, or true (its defaults), or false (no misses, no clutter)"
        raise SpecError(mismatch("model.detector", given=shown(value), expected=expected))
    check_call("model.detector", Detector, (), value)
    try:
        return Detector(**value)
    except ValueError as error:
        raise SpecError(f"model.detector: {error}") from None


def _positive(what: str, number: float) -> None:
    if not (isfinite(number) and number > 0):
        raise SpecError(mismatch(what, given=number, expected="a positive number"))
