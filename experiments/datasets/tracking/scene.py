"""A synthetic street scene, so that tracking runs on a machine without data."""

import numpy as np
import torch

from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.tracking.box_overlap import is_valid_box
from pyromodels.experiments.datasets.tracking.sequences import TrackingData

_PIXELS = (1920, 1080)
_WIDTH_PER_HEIGHT = 0.41 * _PIXELS[1] / _PIXELS[0]       # a standing person, normalised units
_NOISE_STD = np.array([0.05, 0.02, 0.05, 0.025])         # l, t, r, b over width or height
_MAX_HIDDEN, _MAX_DRAWS = 0.25, 100                      # share of a person's frames; redraws
_HORIZON = 0.30                                          # the eye level; feet lie below it


@DATASETS.register("scene")
def generate_scene(
    *,
    num_sources: int = 5,
    num_frames: int = 120,
    num_sequences: int = 1,
    miss_start: float = 0.0195,
    miss_end: float = 0.0886,
    noise_scale: float = 1.0,
    noise_correlation: float = 0.87,
    clutter_rate: float = 0.3,
    occlusion: float = 0.5,
    frame_rate: float = 30.0,
    seed: int = 0,
) -> TrackingData:
    """Generate people who walk and cross in front of a static camera, and their detections.

    Person n walks from one place to another with a smooth wobble. The first two walk towards each
    other and pass half-way, the farther one hidden behind the nearer for a while. Others cross as
    it happens, but paths are redrawn while somebody is hidden for more than a quarter of the time.
    Frame 1 is complete and in order (slot n is person n); later frames are shuffled over all
    slots.

    Args:
        num_sources: people N.
        num_frames: frames T.
        num_sequences: independent scenes S.
        miss_start: probability a frame that a detected person goes undetected (Markov).
        miss_end: probability a frame that an undetected person is detected again.
        noise_scale: factor on the error of a detection, whose standard deviation is
            (.05, .02, .05, .025) of the box size for left, top, right, bottom.
        noise_correlation: lag-one autocorrelation of that error.
        clutter_rate: expected number of false detections a frame, from frame 2 on (Poisson).
        occlusion: fraction of a person's box that, when covered by nearer people, hides him.
        frame_rate: frames a second, a label only: speeds are per frame.
        seed: seed of everything.

    Raises:
        ValueError: for a count below one or a probability outside its range.

    Example:
        >>> data = generate_scene(num_sources=3, num_frames=20, seed=1)
        >>> data.truth.shape, data.mask[0, 0].sum().item()
        (torch.Size([1, 20, 3, 4]), 3)
    """
    for argument, count in (("num_sources", num_sources), ("num_frames", num_frames),
                            ("num_sequences", num_sequences)):
        if count < 1:
            raise ValueError(f"{argument} is {count}; expected at least 1")
    for argument, value, high in (
        ("miss_start", miss_start, 1.0), ("miss_end", miss_end, 1.0), ("occlusion", occlusion, 1.0),
        ("noise_correlation", noise_correlation, 1.0), ("noise_scale", noise_scale, np.inf),
        ("clutter_rate", clutter_rate, np.inf),
    ):
        if not 0 <= value <= high:
            raise ValueError(f"{argument} is {value}; expected a number in [0, {high}]")
    scenes = []
    for s in range(num_sequences):
        rng = np.random.default_rng([seed, s])
        truth, hidden = _visible_walk(rng, num_sources, num_frames, occlusion)
        seen = _markov_seen(rng, miss_start, miss_end, truth.shape[:2])
        seen &= ~hidden
        seen[0] = True
        noise = _ar1(rng, noise_correlation, truth.shape) * noise_scale * _NOISE_STD
        size = np.tile(truth[..., 2:] - truth[..., :2], 2)
        det = np.where(seen[..., None], truth + noise * size, np.nan)
        # An error larger than the box is no detection; in frame 1 the truth stands in for it.
        broken = seen & ~is_valid_box(torch.from_numpy(det)).numpy()
        det[broken] = np.nan
        det[0] = np.where(broken[0][:, None], truth[0], det[0])
        clutter = rng.poisson(clutter_rate, num_frames) * (np.arange(num_frames) > 0)
        scenes.append((truth, det, [_clutter(rng, int(count)) for count in clutter]))
    most = max(len(boxes) for *_, clutter in scenes for boxes in clutter)
    padded = np.full((num_sequences, num_frames, num_sources + most, 4), np.nan)
    for s, (_, det, clutter) in enumerate(scenes):
        padded[s, :, :num_sources] = det
        for t, boxes in enumerate(clutter):
            padded[s, t, num_sources:num_sources + len(boxes)] = boxes
    return TrackingData.from_arrays(
        "scene", padded, truth=np.stack([truth for truth, *_ in scenes]),
        frame_rate=np.full(num_sequences, frame_rate),
        image_size=np.tile(_PIXELS, (num_sequences, 1)),
    ).shuffled(torch.Generator().manual_seed(seed))


def _visible_walk(
    rng: np.random.Generator, num_sources: int, num_frames: int, occlusion: float
) -> tuple[np.ndarray, np.ndarray]:   # boxes (T, N, 4); hidden (T, N), bool
    """Redraw until all can be seen at the start and most of the time; or keep the best draw."""
    best, least = None, np.inf
    for _ in range(_MAX_DRAWS):
        truth, depth = _walk(rng, num_sources, num_frames)
        hidden = _hidden(truth, depth, occlusion)
        worst = hidden.mean(0).max() + hidden[:5].any()
        if worst < least:
            best, least = (truth, hidden), worst
        if worst <= _MAX_HIDDEN:
            break
    return best


def _walk(
    rng: np.random.Generator, num_sources: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:   # boxes (T, N, 4); feet (T, N), a nearer person's are lower
    """Draw smooth paths; persons 0 and 1 pass each other half-way."""
    time = np.linspace(0.0, 1.0, num_frames)[:, None] if num_frames > 1 else np.zeros((1, 1))
    height = rng.uniform(0.22, 0.42, num_sources)
    start, end = _places(rng, height)
    if num_sources > 1:
        # The nearer one is the taller one, so the other disappears behind him for a while.
        height[:2] = rng.uniform(0.36, 0.42), rng.uniform(0.28, 0.33)
        middle, reach = rng.uniform(0.4, 0.6), rng.uniform(0.12, 0.2, 2)
        side = rng.choice([-1.0, 1.0])
        start[:2] = middle - side * reach[0], middle + side * reach[1]
        end[:2] = middle + side * reach[0], middle - side * reach[1]
    growth = rng.uniform(-0.12, 0.12, num_sources)
    tall = height * (1 + growth * (time - 0.5))
    # Two slow sinusoids that vanish at start, middle and end: the meeting in the middle stays.
    wobble = rng.normal(0, [[0.012], [0.006]], (2, num_sources))
    centre = start + (end - start) * time
    centre = centre + wobble[0] * np.sin(2 * np.pi * time) + wobble[1] * np.sin(4 * np.pi * time)
    gait = 0.004 * np.sin(2 * np.pi * (time * num_frames / 16 + rng.uniform(size=num_sources)))
    feet = _HORIZON + 1.25 * tall + gait * tall
    half = tall * _WIDTH_PER_HEIGHT / 2
    return np.stack([centre - half, feet - tall, centre + half, feet], -1), feet


def _places(rng: np.random.Generator, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw where people start, apart from each other if there is room, and where they end."""
    gap = 1.5 * _WIDTH_PER_HEIGHT * height.max()
    for _ in range(200):
        start = rng.uniform(0.08, 0.92, len(height))
        apart = np.abs(start[:, None] - start) + np.eye(len(height))
        if apart.min() > gap:
            break
    return start, np.clip(start + rng.uniform(-0.4, 0.4, len(height)), 0.08, 0.92)


def _hidden(truth: np.ndarray, depth: np.ndarray, occlusion: float) -> np.ndarray:
    """Tell who is covered by a nearer person in more than ``occlusion`` of his box; (T, N)."""
    a, b = truth[:, :, None], truth[:, None]
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    covered = overlap.clip(0).prod(-1) / (a[..., 2:] - a[..., :2]).prod(-1)   # (T, N, by N)
    return ((covered > occlusion) & (depth[:, None] > depth[:, :, None])).any(-1)


def _markov_seen(
    rng: np.random.Generator, miss_start: float, miss_end: float, shape: tuple[int, ...]
) -> np.ndarray:                      # bool, shape: (T, N); all seen in frame 1
    seen = np.ones(shape, dtype=bool)
    uniform = rng.uniform(size=shape)
    for t in range(1, shape[0]):
        seen[t] = np.where(seen[t - 1], uniform[t] >= miss_start, uniform[t] < miss_end)
    return seen


def _ar1(rng: np.random.Generator, correlation: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw stationary first-order autoregressive noise of unit variance along axis 0."""
    noise = rng.normal(size=shape)
    for t in range(1, shape[0]):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * noise[t]
    return noise


def _clutter(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw boxes of a person's shape anywhere; shape: (count, 4)."""
    tall = rng.uniform(0.15, 0.45, count)
    wide = tall * _WIDTH_PER_HEIGHT * rng.uniform(0.8, 1.25, count)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0.1, 1 - tall)
    return np.stack([left, top, left + wide, top + tall], -1)
