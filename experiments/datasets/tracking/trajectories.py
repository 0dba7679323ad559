r"""Synthetic trajectories of walkers' boxes, to pre-train the priors of tracking.

Each coordinate is a piecewise elementary function (thesis, eq. A.33 and Algorithm 3),

    a(t) = a_0,  a_1 t + a_0,  (a_2 / 2) t^2 + a_1 t + a_0  or  a sin(omega t + phi_0) + c,

pieces joined continuously; on it lie what real tracks show and the thesis' generator lacks: the
irregularity of a walk and of its annotation, and the motion of the camera. Without them a network
learns a variance that is far too small.

Departures:
    * Speeds are in heights of the box a frame, not in images: near and far walkers move alike.
    * The sinusoid has an offset c for continuity, and a_1 is its peak speed. The published
      amplitude, start / sin(phi_0), grows without bound as phi_0 nears 0.
    * Height, not width, is the coordinate generated, as exp(a(t)), so that boxes stay valid; width
      is height over ratio, with a gait on it.
    * The velocity is averaged over `join_frames` frames: walkers do not jump to another speed.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    centres_to_corners,
    corners_to_centres,
)

__all__ = ["TrajectoryStatistics", "centres_to_corners", "corners_to_centres",
           "generate_trajectories"]


@dataclass(frozen=True)
class TrajectoryStatistics:
    """The distributions that trajectories are drawn from.

    Pairs are mean and standard deviation; those whose name starts with `log_` of the natural
    logarithm. Lengths are in heights of the box, which is in heights of the image; the horizontal
    ones after x has been divided by the width of the image. Time is in frames, 30 a second.

    The defaults are round numbers near what `pyromodels estimate trajectories` prints for matched
    detections of walkers (sizes, speeds) and for their true tracks (`--of truth`: frequency and
    irregularity; detections would tell of the detector). Mean speeds are zero, so that no video's
    camera decides a direction, and accelerations are less than measured, where the camera's are
    included. Irregularity differs by a factor of five and more from one video to the next.

    Args:
        log_width: width of the first box, in widths of the image.
        log_ratio: height over width, each in its own dimension of the image.
        speed_x, speed_y: a_1 of the centre, heights a frame.
        acceleration_x, acceleration_y: a_2 of the centre, heights a frame squared.
        growth: a_1 of the logarithm of the height, a frame.
        growth_rate: a_2 of the same, a frame squared.
        omega: angular frequency of the sinusoid, radians a frame; its magnitude is used.
        phase: phi_0, radians.
        piece_probability: static, constant velocity, constant acceleration, sinusoid.
        max_pieces: most pieces of a trajectory.
        join_frames: frames over which the velocity is averaged; 1 leaves eq. A.33 as it is.
        log_irregularity: for each of centre x, centre y, width and height, the logarithm of the
            second difference's standard deviation in a trajectory, in heights (width: widths).
        shared_irregularity: correlation of the four among the trajectories.
        jitter_correlation: lowest and highest lag-1 correlation of the jitter.
        volatility: lowest and highest standard deviation of the log of the jitter's scale in time:
            bursts, hence heavy tails.
        log_gait: amplitude of the periodic change of the width, in widths.
        moving_camera: probability that a scene's camera moves.
        log_pan: standard deviation of a moving camera's speed, images a frame.
        log_shake: standard deviation of its jitter, images.
        pixel: standard deviation of rounding, images; half of the trajectories have none, the
            others up to this.
    """

    log_width: tuple[float, float] = (-3.1, 0.65)
    log_ratio: tuple[float, float] = (1.6, 0.16)
    speed_x: tuple[float, float] = (0.0, 0.008)
    speed_y: tuple[float, float] = (0.0, 0.0066)
    acceleration_x: tuple[float, float] = (0.0, 0.0003)
    acceleration_y: tuple[float, float] = (0.0, 0.0003)
    growth: tuple[float, float] = (0.0, 0.005)
    growth_rate: tuple[float, float] = (0.0, 0.0002)
    omega: tuple[float, float] = (0.26, 0.23)
    phase: tuple[float, float] = (0.0, 1.8)
    piece_probability: tuple[float, float, float, float] = (0.2, 0.5, 0.15, 0.15)
    max_pieces: int = 3
    join_frames: int = 9
    log_irregularity: tuple[tuple[float, float], ...] = (
        (-6.1, 0.95), (-5.7, 1.0), (-4.5, 1.0), (-5.8, 1.1),
    )
    shared_irregularity: float = 0.7
    jitter_correlation: tuple[float, float] = (0.0, 0.95)
    volatility: tuple[float, float] = (0.6, 1.7)
    log_gait: tuple[float, float] = (-4.5, 1.2)
    moving_camera: float = 0.5
    log_pan: tuple[float, float] = (-7.0, 0.8)
    log_shake: tuple[float, float] = (-8.5, 1.0)
    pixel: float = 0.0003

    def __post_init__(self) -> None:
        """Check shapes and ranges; lists, as JSON has them, become tuples."""
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, tuple):
                value = _as_tuple(value)
                object.__setattr__(self, field.name, value)
            if _shape(value) != _shape(default):
                raise SpecError(
                    mismatch(f"TrajectoryStatistics: {field.name}", given=repr(value),
                             expected=f"finite numbers in the form of {default!r}")
                )
            if field.name.startswith("log_") or field.name in _PAIRS:
                pairs = value if isinstance(value[0], tuple) else (value,)
                if any(std < 0 for _, std in pairs):
                    raise SpecError(f"TrajectoryStatistics: {field.name} = {value!r} has a "
                                    "negative standard deviation")
        for name, low, high in (("jitter_correlation", 0.0, 0.99), ("volatility", 0.0, 2.0),
                                ("piece_probability", 0.0, 1.0), ("shared_irregularity", 0.0, 1.0),
                                ("moving_camera", 0.0, 1.0), ("pixel", 0.0, 0.1),
                                ("max_pieces", 1, math.inf), ("join_frames", 1, math.inf)):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(low <= v <= high for v in values):
                raise SpecError(mismatch(f"TrajectoryStatistics: {name}", given=repr(value),
                                         expected=f"within [{low}, {high}]"))
        if abs(sum(self.piece_probability) - 1) > 1e-6:
            raise SpecError(mismatch("TrajectoryStatistics: piece_probability",
                                     given=repr(self.piece_probability), expected="a sum of 1"))

    @property
    def as_published(self) -> "TrajectoryStatistics":
        """The same trajectories smooth: no irregularity, no gait, no camera, joins as in A.33."""
        off = (-50.0, 0.0)
        return dataclasses.replace(
            self, join_frames=1, log_irregularity=(off,) * 4, log_gait=off, moving_camera=0.0,
            pixel=0.0,
        )

    def to_json(self, path: str | Path) -> Path:
        """Write one JSON table."""
        path = Path(path)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> "TrajectoryStatistics":
        """Read what `to_json` wrote; a key that is absent keeps its default."""
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SpecError(f"{path} is not JSON ({error})") from None
        if not isinstance(table, dict):
            raise SpecError(mismatch(str(path), given=type(table).__name__, expected="a table"))
        known = [field.name for field in dataclasses.fields(cls)]
        for key in table:
            if key not in known:
                raise SpecError(f"{path}: {unknown('statistic', given=key, known=known)}")
        return cls(**table)


_PAIRS = ("speed_x", "speed_y", "acceleration_x", "acceleration_y", "growth", "growth_rate",
          "omega", "phase")


def generate_trajectories(
    num_trajectories: int,
    num_frames: int = 60,
    *,
    statistics: TrajectoryStatistics | None = None,
    seed: int = 0,
    per_scene: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:                          # [left, top, right, bottom], shape: (S, T, 4)
    """Draw boxes' trajectories, in images, y down; every box is finite and has an area.

    Args:
        num_trajectories: S.
        num_frames: T.
        statistics: what to draw from.
        seed: seed of all draws.
        per_scene: that many trajectories in a row share one camera.
        dtype: of the result; the draws are made in float64.

    Example:
        >>> generate_trajectories(5, 60, seed=1).shape
        torch.Size([5, 60, 4])
    """
    for name, value in (("num_trajectories", num_trajectories), ("num_frames", num_frames),
                        ("per_scene", per_scene)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    stats = statistics if statistics is not None else TrajectoryStatistics()
    draw = _Draws(torch.Generator().manual_seed(seed), num_trajectories, num_frames)
    steps = num_frames - 1

    width = draw.normal(stats.log_width).exp().clamp(0.005, 0.5)
    ratio = draw.normal(stats.log_ratio).exp()
    first = (width * ratio).clamp(0.02, 1.2)
    bounds = _split(draw, stats.max_pieces)
    curves = [
        _piecewise(draw, stats, bounds, speed, acceleration)
        for speed, acceleration in ((stats.speed_x, stats.acceleration_x),
                                    (stats.speed_y, stats.acceleration_y),
                                    (stats.growth, stats.growth_rate))
    ]
    height = _soft_clamp(first.log() + _accumulate(curves[2]), math.log(0.015), math.log(1.6)).exp()
    x0, y0 = draw.uniform(0, 1), draw.uniform(0, 1)
    irregular = _irregularity(draw, stats)                                  # (S, T, 4), sizes
    # Steps are in heights of the frame they start from; jitter in heights of its own frame.
    centre = torch.stack([x0, y0], -1) + torch.stack(
        [_accumulate(height[:, :steps] * c) for c in curves[:2]], -1
    )
    centre = centre + height[..., None] * irregular[..., :2] + _camera(draw, stats, per_scene)
    swing = draw.normal(stats.log_gait).exp().clamp_max(0.3)
    rhythm = draw.normal(stats.omega).abs() * torch.arange(num_frames)
    rhythm = rhythm + draw.uniform(0, 2 * math.pi)
    log_size = torch.stack([
        (height / ratio).log() + swing * rhythm.sin() + irregular[..., 2],
        height.log() + irregular[..., 3],
    ], -1)
    pixel = stats.pixel * draw.uniform(-1, 1).clamp_min(0)[..., None]
    size = (log_size.exp() + pixel * draw.noise(2)).clamp_min(2e-3)
    centre = centre + pixel * draw.noise(2)
    return centres_to_corners(torch.cat([centre, size], -1)).to(dtype)


class _Draws:
    """Random draws of one generation: `normal` and `uniform` (S, 1), `noise` (S, T, n)."""

    def __init__(self, generator: torch.Generator, num: int, num_frames: int) -> None:
        self.generator, self.num, self.num_frames = generator, num, num_frames
        self._keywords: dict[str, Any] = {"generator": generator, "dtype": torch.float64}

    def standard(self, *shape: int) -> Tensor:
        return torch.randn(*shape, **self._keywords)

    def normal(self, pair: tuple[float, float], columns: int = 1) -> Tensor:
        return pair[0] + pair[1] * self.standard(self.num, columns)

    def uniform(self, low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(self.num, columns, **self._keywords)

    def noise(self, columns: int) -> Tensor:
        return self.standard(self.num, self.num_frames, columns)


def _split(draw: _Draws, max_pieces: int) -> Tensor:      # first step of a piece, (S, max_pieces)
    """Draw 1 to `max_pieces` pieces of random lengths; those not used start after the end."""
    steps = draw.num_frames - 1
    count = torch.randint(1, max_pieces + 1, (draw.num, 1), generator=draw.generator)
    starts = (draw.uniform(0, 1, max_pieces) * steps).floor()
    starts[torch.arange(max_pieces).expand_as(starts) >= count] = steps + 1
    starts[:, 0] = 0
    return starts.sort(-1).values


def _piecewise(
    draw: _Draws,
    stats: TrajectoryStatistics,
    bounds: Tensor,                   # shape: (S, P)
    speed: tuple[float, float],
    acceleration: tuple[float, float],
) -> Tensor:                          # a(t + 1) - a(t), shape: (S, T - 1)
    """Draw a(t) of eq. A.33 as increments: continuity is then a matter of summing them."""
    pieces, steps = bounds.shape[1], draw.num_frames - 1
    probability = torch.tensor(stats.piece_probability, dtype=torch.float64)
    kind = torch.multinomial(
        probability, draw.num * pieces, replacement=True, generator=draw.generator
    ).reshape(draw.num, pieces)
    a1, a2 = draw.normal(speed, pieces), draw.normal(acceleration, pieces)
    omega = draw.normal(stats.omega, pieces).abs().clamp_min(1e-2)
    phase = draw.normal(stats.phase, pieces)

    time = torch.arange(steps, dtype=torch.float64)
    piece = (bounds[:, None, :] <= time[:, None]).sum(-1) - 1                # (S, T - 1)
    kind, start, a1, a2, omega, phase = (
        v.gather(1, piece) for v in (kind, bounds, a1, a2, omega, phase)
    )
    t = time - start                                                         # within the piece
    wave = (a1 / omega) * ((omega * (t + 1) + phase).sin() - (omega * t + phase).sin())
    choices = torch.stack([torch.zeros_like(a1), a1, a1 + a2 * (t + 0.5), wave], -1)
    increments = choices.gather(-1, kind[..., None])[..., 0]
    if stats.join_frames > 1 and steps > 0:
        before = (stats.join_frames - 1) // 2
        padded = torch.cat([increments[:, :1].expand(-1, before), increments,
                            increments[:, -1:].expand(-1, stats.join_frames - 1 - before)], 1)
        increments = padded.unfold(1, stats.join_frames, 1).mean(-1)
    return increments


def _irregularity(draw: _Draws, stats: TrajectoryStatistics) -> Tensor:      # (S, T, 4)
    """Draw what a box does beside its smooth path, in units of its own size.

    Jitter about the path is an autoregression of order one, and so is the velocity with which the
    box wanders; its size is drawn back to the path. Each takes a random share of the second
    difference's variance, and the scale of both has bursts in common.
    """
    means, stds = torch.tensor(stats.log_irregularity, dtype=torch.float64).unbind(-1)
    shared = stats.shared_irregularity
    spread = math.sqrt(shared) * draw.standard(draw.num, 1) + math.sqrt(1 - shared) * draw.standard(
        draw.num, 4
    )
    scale = (means + stds * spread).exp().clamp_max(0.08)                    # (S, 4)
    volatility = draw.uniform(*stats.volatility)[..., None]
    bursts = (_autoregression(draw.noise(1), torch.tensor(0.8)) + draw.noise(4)) / math.sqrt(2)
    bursts = (volatility * bursts - volatility**2).exp()                     # mean square 1
    share = (draw.uniform(0, math.pi / 2, 4)).sin() ** 2    # of the jitter; often nearly 0 or 1

    rho = draw.uniform(*stats.jitter_correlation, 4)
    jitter = _autoregression(bursts * draw.noise(4), rho)
    jitter = jitter / (2 * (1 - rho) * (3 - rho)).sqrt()[:, None]            # 2nd difference: 1
    phi = draw.uniform(0.7, 0.97, 4)
    velocity = _autoregression(bursts * draw.noise(4), phi) / (2 * (1 - phi)).sqrt()[:, None]
    keep = draw.uniform(0.9, 0.98, 4)                                        # sizes come back
    keep[:, :2] = 1.0
    wander = _leaky_sum(velocity, keep)
    return scale[:, None] * (share.sqrt()[:, None] * jitter + (1 - share).sqrt()[:, None] * wander)


def _camera(draw: _Draws, stats: TrajectoryStatistics, per_scene: int) -> Tensor:    # (S, T, 2)
    """Draw the motion of the image: a smooth pan and a shake, one for `per_scene` trajectories."""
    moving = (draw.uniform(0, 1) < stats.moving_camera).double()[..., None]
    pan, shake = (draw.normal(pair).exp().clamp_max(0.01)[..., None]
                  for pair in (stats.log_pan, stats.log_shake))
    speed = _autoregression(draw.noise(2), torch.tensor(0.97)) * pan
    jitter = _autoregression(draw.noise(2), torch.tensor(0.5)) * shake
    motion = moving * (speed.cumsum(1) - speed[:, :1] + jitter)
    scene = torch.arange(draw.num) // per_scene * per_scene
    return motion[scene]


def _autoregression(
    noise: Tensor,                    # shape: (S, T, n)
    correlation: Tensor,              # shape: broadcastable to (S, n)
) -> Tensor:                          # of the noise's variance, shape: (S, T, n)
    """Return the stationary autoregression of order one that the noise drives."""
    state, path = noise[:, 0], [noise[:, 0]]
    new = (1 - correlation**2).sqrt()
    for t in range(1, noise.shape[1]):
        state = correlation * state + new * noise[:, t]
        path.append(state)
    return torch.stack(path, 1)


def _leaky_sum(
    velocity: Tensor,                 # shape: (S, T, n)
    keep: Tensor,                     # shape: (S, n)
) -> Tensor:                          # shape: (S, T, n), from zero
    place = torch.zeros_like(velocity[:, 0])
    path = [place]
    for t in range(1, velocity.shape[1]):
        place = keep * place + velocity[:, t]
        path.append(place)
    return torch.stack(path, 1)


def _accumulate(increments: Tensor) -> Tensor:            # (S, T - 1) -> (S, T), from zero
    return torch.nn.functional.pad(increments.cumsum(-1), (1, 0))


def _soft_clamp(value: Tensor, low: float, high: float) -> Tensor:
    """Bound smoothly near the ends only."""
    soft = torch.nn.functional.softplus
    return low + soft((high - soft((high - value) * 10) / 10 - low) * 10) / 10


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, (list, tuple)) else value


def _shape(value: Any) -> Any:
    """The form of nested numbers; NaN marks what is no finite number."""
    if isinstance(value, tuple):
        return tuple(_shape(v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return 0
