"""What `--preset` names: how a scene is modelled and inferred."""

from dataclasses import dataclass, field

from pyromodels.models.mixdvae import Detector


@dataclass(frozen=True)
class ProcessNoise:
    """A start of the process noise: standard deviations a frame, in heights (of widths, in widths).

    Args:
        position: of the centre; widths, which sway with the gait, get ten times it, heights three
            times.
        velocity: of the velocity of the centre; sizes get half of it.
    """

    position: float
    velocity: float

    def rows(self) -> list[list[float]]:
        """Rows (position, velocity) of centre x, centre y, width, height."""
        centre, size = [self.position, self.velocity], self.velocity / 2
        return [centre, centre, [10 * self.position, size], [10 / 3 * self.position, size]]


@dataclass(frozen=True)
class DetectorError:
    """How a detector errs: mostly the same way for many frames. Deviations are in box sizes.

    Args:
        std: of centre x and y (in heights), of width (in widths) and of height (in heights).
        correlation: from one frame to the next.
        independent: what remains as independent noise, as a part of the preset's observation noise.
    """

    std: tuple[float, float, float, float] = (0.02, 0.03, 0.15, 0.06)
    correlation: float = 0.95
    independent: float = 0.3


@dataclass(frozen=True)
class TrackingPreset:
    """One way to track, as plain data.

    Args:
        name: what `--preset` says.
        summary: one line for people.
        dynamics: registry key of the source prior: linear, srnn or deep_ar.
        weights: shipped weights of a deep prior, or a path.
        noise_ratio: observation noise of a width and of a height, as parts of the box's own
            (r_Phi).
        detector: visibility and clutter.
        starts: process noises to start from; every sequence keeps the start with the best bound.
        velocity_decay: of centre x and y, width and height, a frame, while detections are assigned:
            a walker's motion is forgotten slowly, so that a hidden one is not extrapolated out of
            the scene and onto somebody else's detections.
        final_decay: the same in the last smoothing. Nobody can be mistaken any more, and who walks
            towards the camera grows as long as he walks: all sides of his box go on. A deep prior
            that smooths after it has its own idea of what goes on.
        noise_strength: what a start is worth, in frames, when the process noise is re-estimated.
        cavity_sweeps: sweeps whose E-W step leaves an observation's own pull out.
        sweeps: sweeps that ascend the bound, after those.
        tolerance: sweeps of a kind end as soon as none moves a responsibility by more than this,
            in any sequence of the batch; None makes all of them.
        num_histories: draws of the trajectory that a deep prior's variance is averaged over.
        error: the correlated error of the detector, with which the last smoothers take stock of
            their own uncertainty; None keeps the independent noise that the assignment is made
            with, and leaves `final_decay` out.
    """

    name: str
    summary: str
    dynamics: str = "linear"
    weights: str | None = None
    noise_ratio: tuple[float, float] = (0.12, 0.05)
    detector: Detector = field(default_factory=Detector)
    starts: tuple[ProcessNoise, ...] = (
        ProcessNoise(0.001, 0.0005),
        ProcessNoise(0.001, 0.002),
        ProcessNoise(0.002, 0.001),
        ProcessNoise(0.004, 0.002),
        ProcessNoise(0.002, 0.006),
        ProcessNoise(0.008, 0.003),
    )
    velocity_decay: tuple[float, float, float, float] = (0.95, 0.95, 0.9, 0.9)
    final_decay: tuple[float, float, float, float] = (0.97, 0.97, 0.97, 0.97)
    noise_strength: float = 20.0
    cavity_sweeps: int = 9
    sweeps: int = 3
    tolerance: float | None = None
    num_histories: int = 16
    error: DetectorError | None = field(default_factory=DetectorError)


BEFORE_A_DEEP_PRIOR: dict[str, object] = {
    "final_decay": (0.95, 0.95, 0.9, 0.9),
    "error": DetectorError(correlation=0.9),
}
"""The smoothing whose trajectories a deep prior is fed with, in training and in inference."""

PRESETS = {
    preset.name: preset
    for preset in (
        TrackingPreset("linear", "constant velocity with process noise, exact smoother"),
        TrackingPreset(
            "srnn",
            "SRNN that predicts increments, fed with the linear solution",
            dynamics="srnn",
            weights="srnn_mot",
            **BEFORE_A_DEEP_PRIOR,
        ),
        TrackingPreset(
            "deep_ar",
            "autoregressive LSTM that predicts increments, fed with the linear solution",
            dynamics="deep_ar",
            weights="deep_ar_mot",
            **BEFORE_A_DEEP_PRIOR,
        ),
    )
}
DEFAULT = "linear"
