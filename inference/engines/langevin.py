"""Langevin dynamics: steps along a score with noise, unadjusted, Metropolis-adjusted, annealed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyromodels.errors import check_positive, mismatch
from pyromodels.inference.engines.mixing import Mixing
from pyromodels.inference.training.progress import progress


class Target(Protocol):
    """What dynamics follow: a `SmoothedDensity`, or anything with its two methods.

    Metropolis-adjusted steps alone need the second one.
    """

    event_dim: int

    def score(self, x: Tensor, noise_std: float | Tensor) -> Tensor:
        """Return the gradient of log p_sigma at x, shape of x: (*batch, *event)."""

    def log_prob_and_score(
        self, x: Tensor, noise_std: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log p_sigma(x), nats, shape (*batch), and the score."""


class Evaluated(NamedTuple):
    """The target at a position."""

    log_prob: Tensor  # nats, shape: (*batch)
    gradient: Tensor  # shape: (*batch, *event)


class LangevinState(NamedTuple):
    """Chains, any number of batch dimensions of them, before a step."""

    position: Tensor  # x, shape: (*batch, *event)
    diverged: Tensor  # bool, shape: (*batch): chains that have left, and stand still since
    at: Evaluated | None = None  # of adjusted steps, which need it again


class LangevinInfo(NamedTuple):
    """What a step did."""

    acceptance: Tensor  # probability that the proposal was taken, shape: (*batch); else 1
    diverged: Tensor  # bool, shape: (*batch)


@dataclass(frozen=True)
class Langevin:
    r"""One level of Langevin dynamics, `init` and `step` without side effects.

    .. math:: x' = x + \eta\, P\, \nabla \big[\log p_\sigma(x) + \log p(m \mid x)\big]
                     + \sqrt{2 \eta \tau}\, P \epsilon, \qquad \epsilon \sim N(0, I)

    with P the projection of an exact mixture, else the identity. The stationary law is
    :math:`p^{1/\tau}` up to an error of order eta; adjusted steps take x' with the probability of
    Metropolis and Hastings and have no such error; tau = 0 is gradient ascent. A chain whose
    proposal is not finite, or farther out than `max_abs`, stands still from then on and is marked
    `diverged`; one that is adjusted rejects that proposal instead.

    Reference: Frank and Ilse, 2020, eq. 3; Jayaram and Thickstun, 2020, "Source separation with
    deep generative priors". Departure: of the signs and factors as printed, see `Mixing`.

    Args:
        target: what is sampled.
        step_size: eta, a float, or a tensor that broadcasts to the batch.
        noise_std: sigma of this level.
        temperature: tau.
        adjusted: Metropolis-adjusted (MALA).
        mixing: what a mixture says of sources; then the event is (N, *event of a source).
        max_abs: how far out a chain counts as diverged.

    Raises:
        ValueError: for a step or a limit that is not positive, a negative temperature, or adjusted
            steps at temperature zero.

    Example:
        >>> from pyromodels.densities.gaussian import GaussianDensity
        >>> kernel = Langevin(GaussianDensity(), step_size=0.1, adjusted=True)
        >>> state = kernel.init(torch.zeros(400, 1))
        >>> generator = torch.Generator().manual_seed(0)
        >>> for _ in range(100):
        ...     state, info = kernel.step(state, generator)
        >>> 0.85 < state.position.var().item() < 1.15, info.acceptance.mean().item() > 0.9
        (True, True)
    """

    target: Target
    step_size: float | Tensor
    noise_std: float | Tensor = 0.0
    temperature: float = 1.0
    adjusted: bool = False
    mixing: Mixing | None = None
    max_abs: float = 1e6

    def __post_init__(self) -> None:
        check_positive(self, "max_abs")
        if not isinstance(self.step_size, Tensor):
            check_positive(self, "step_size")
        if not self.temperature >= 0:
            given = self.temperature
            raise ValueError(mismatch("temperature", given=given, expected="zero or more"))
        if self.adjusted and self.temperature == 0:
            expected = "above zero: without noise there is nothing to accept"
            raise ValueError(mismatch("temperature", given=0, expected=expected))

    @torch.no_grad()
    def init(
        self,
        position: Tensor,  # shape: (*batch, *event)
    ) -> LangevinState:
        """Return chains at a position, moved onto what an exact mixture allows."""
        position = position.detach() if self.mixing is None else self.mixing.onto(position.detach())
        out = ~self._inside(position)
        return LangevinState(position, out, self._evaluate(position) if self.adjusted else None)

    @torch.no_grad()
    def step(
        self, state: LangevinState, generator: torch.Generator
    ) -> tuple[LangevinState, LangevinInfo]:
        """Take one step of every chain; the state that is given is left as it is.

        Args:
            state: of `init` or of a step before.
            generator: of the noise, on the device of the position.
        """
        x, rate = state.position, self._over_event(self.step_size)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        gradient = self._gradient(x) if state.at is None else state.at.gradient
        noise = noise if self.mixing is None else self.mixing.along(noise)
        scale = (2 * rate * self.temperature) ** 0.5
        proposed = x + rate * gradient + scale * noise
        if self.mixing is not None:
            proposed = self.mixing.onto(proposed)  # rounding would add up
        inside = self._inside(proposed)
        if state.at is None:
            taken = inside & ~state.diverged
            moved = LangevinState(torch.where(self._over_event(taken), proposed, x), ~taken)
            return moved, LangevinInfo(taken.to(x.dtype), moved.diverged)
        there = self._evaluate(torch.where(self._over_event(inside), proposed, x))
        back = (x - proposed - rate * there.gradient) / scale
        ratio = (there.log_prob - state.at.log_prob) / self.temperature
        ratio = ratio + 0.5 * self._squares(noise) - 0.5 * self._squares(back)
        acceptance = torch.where(inside, ratio.nan_to_num(nan=-math.inf).exp().clamp_max(1), 0.0)
        uniform = torch.rand(
            acceptance.shape, generator=generator, device=x.device, dtype=acceptance.dtype
        )
        taken = (uniform < acceptance) & ~state.diverged
        wide = self._over_event(taken)
        at = Evaluated(
            torch.where(taken, there.log_prob, state.at.log_prob),
            torch.where(wide, there.gradient, state.at.gradient),
        )
        position = torch.where(wide, proposed, x)
        return LangevinState(position, state.diverged, at), LangevinInfo(acceptance, state.diverged)

    def _gradient(self, x: Tensor) -> Tensor:
        return self._with_mixing(x, self.target.score(x, self.noise_std))

    def _evaluate(self, x: Tensor) -> Evaluated:
        log_prob, score = self.target.log_prob_and_score(x, self.noise_std)
        if self.mixing is not None:
            log_prob = log_prob + self.mixing.log_prob(x, self.noise_std)
        return Evaluated(log_prob, self._with_mixing(x, score))

    def _with_mixing(self, x: Tensor, score: Tensor) -> Tensor:
        if self.mixing is None:
            return score
        return self.mixing.along(score + self.mixing.score(x, self.noise_std))

    def _inside(self, x: Tensor) -> Tensor:  # bool, shape: (*batch); NaN is no less than any number
        return (x.abs() < self.max_abs).flatten(-self.target.event_dim).all(-1)

    def _squares(self, x: Tensor) -> Tensor:  # shape: (*batch)
        return x.square().flatten(-self.target.event_dim).sum(-1)

    def _over_event(self, value: float | Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.reshape(*value.shape, *[1] * self.target.event_dim)


@dataclass(frozen=True)
class Schedule:
    r"""Levels of noise that annealed dynamics go down, and the steps at each.

    .. math:: \sigma_1 > \dots > \sigma_L, \qquad \eta_i = c\, \sigma_i^2

    The residual of a mixture without noise of its own contracts by 1 - c a step: c is below 2, and
    the curvature of the prior, about 1 / sigma^2, wants it well below 1.

    Args:
        noise_std: sigma of every level, descending.
        steps: at each level; a sequence says them level by level.
        rate: c.

    Raises:
        ValueError: where levels are not positive and descending, or steps and rate not positive.

    Example:
        >>> schedule = Schedule.geometric(1.0, 0.01, 3, steps=10)
        >>> [(round(sigma, 3), round(eta, 6), steps) for sigma, eta, steps in schedule.levels()]
        [(1.0, 0.3, 10), (0.1, 0.003, 10), (0.01, 3e-05, 10)]
    """

    noise_std: tuple[float, ...]
    steps: int | tuple[int, ...] = 10
    rate: float = 0.3

    def __post_init__(self) -> None:
        falls = all(low < high for high, low in itertools.pairwise(self.noise_std))
        if not self.noise_std or not falls or not self.noise_std[-1] > 0:
            given, expected = self.noise_std, "levels above zero, descending"
            raise ValueError(mismatch("noise_std", given=given, expected=expected))
        steps = self._steps()
        if len(steps) != len(self.noise_std) or min(steps) < 1:
            expected = f"a positive number, or one for each of {len(self.noise_std)} levels"
            raise ValueError(mismatch("steps", given=self.steps, expected=expected))
        check_positive(self, "rate")

    @classmethod
    def geometric(
        cls, first: float, last: float, num_levels: int, *, steps: int | tuple[int, ...] = 10,
        rate: float = 0.3,
    ) -> Schedule:
        """Return levels in equal ratios, from the first to the last."""
        if num_levels < 1:
            raise ValueError(mismatch("num_levels", given=num_levels, expected="at least 1"))
        ratio = (last / first) ** (1 / max(1, num_levels - 1))
        return cls(tuple(first * ratio**i for i in range(num_levels)), steps, rate)

    def levels(self) -> list[tuple[float, float, int]]:
        """Return sigma, eta and the number of steps of every level."""
        return [(sigma, self.rate * sigma**2, steps)
                for sigma, steps in zip(self.noise_std, self._steps(), strict=True)]

    def _steps(self) -> tuple[int, ...]:
        if isinstance(self.steps, int):
            return (self.steps,) * len(self.noise_std)
        return tuple(self.steps)


class Drawn(NamedTuple):
    """What a kernel has drawn."""

    positions: Tensor  # shape: (n, *batch, *event)
    acceptance: Tensor  # in the mean over the steps of a draw, shape: (n, *batch)
    state: LangevinState  # after the last step


def anneal(
    kernel: Langevin,
    schedule: Schedule,
    position: Tensor,  # shape: (*batch, *event)
    generator: torch.Generator,
    *,
    show_progress: bool = False,
) -> LangevinState:
    """Take chains down a schedule, level after level.

    Chains that diverge stand still and are marked in the state that is returned.

    Args:
        kernel: its `noise_std` and `step_size` are those of each level.
        schedule: the levels.
        position: where chains start.
        generator: of the noise.
        show_progress: show a bar of the steps.
    """
    state, level = kernel.init(position), kernel
    every = [(sigma, eta, number == 0) for sigma, eta, steps in schedule.levels()
             for number in range(steps)]
    for sigma, eta, begins in progress(
        every, desc="langevin", unit="step", disable=not show_progress
    ):
        if begins:
            level, diverged = replace(kernel, noise_std=sigma, step_size=eta), state.diverged
            state = level.init(state.position)
            state = state._replace(diverged=state.diverged | diverged)
        state, _ = level.step(state, generator)
    return state


def draw(
    kernel: Langevin,
    state: LangevinState,
    num_draws: int,
    generator: torch.Generator,
    *,
    thinning: int = 1,
    show_progress: bool = False,
) -> Drawn:
    """Draw from the stationary law of a kernel, every `thinning` steps.

    Raises:
        ValueError: where a number is not positive.
    """
    for name, value in (("num_draws", num_draws), ("thinning", thinning)):
        if value < 1:
            raise ValueError(mismatch(name, given=value, expected="at least 1"))
    positions, acceptances = [], []
    for _ in progress(range(num_draws), desc="langevin", unit="draw", disable=not show_progress):
        accepted = []
        for _ in range(thinning):
            state, info = kernel.step(state, generator)
            accepted.append(info.acceptance)
        positions.append(state.position)
        acceptances.append(torch.stack(accepted).mean(0))
    return Drawn(torch.stack(positions), torch.stack(acceptances), state)
