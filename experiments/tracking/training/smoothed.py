"""What a tracker would believe of known trajectories: the input that deep priors train with."""

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.kalman import smooth
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    SMALLEST_SIDE,
    box_size,
    centres_to_corners,
    corners_to_centres,
    own_size_variance,
)
from pyromodels.experiments.tracking.model_spec import noise_rows
from pyromodels.experiments.tracking.stages import (
    ERROR_STD,
    FED_CORRELATION,
    FED_DECAY,
    INDEPENDENT,
    NOISES,
    with_error,
)
from pyromodels.observations.detector import Detector
from pyromodels.observations.gaussian import GaussianObservations

START_STD = (0.15, 0.02)
"""Deviations of a start: of positions, in box sizes, and of velocities, in box sizes a frame."""
DETECTOR = Detector()
ERROR_SCALE = (0.5, 1.5)
"""Range of a trajectory's detector error, in the tracker's: some walkers are harder to box."""


@torch.no_grad()
def smoothed_detections(
    s: Tensor,  # (centre x, centre y, width, height) in image sizes, shape: (S, T, 4)
    *,
    detector: Detector = DETECTOR,
    noise_ratio: tuple[float, float] = (0.12, 0.05),
    error_std: tuple[float, ...] = ERROR_STD,
    seed: int = 0,
) -> Tensor:  # shape: (S, T, 4)
    """Detect every box as the tuned tracker's detector does, and smooth as its linear prior does.

    Errors are correlated in time, misses come in bursts, and the process noise is one of its
    starts. Whose a detection is, is known.

    Args:
        s: the trajectories.
        detector, noise_ratio: see `model_spec.ModelSpec`.
        error_std: see `stages.ERROR_STD`.
        seed: of the detections.
    """
    generator = torch.Generator().manual_seed(seed)
    num, num_frames, _ = s.shape
    scale = torch.empty(num, 1, 1).uniform_(*ERROR_SCALE, generator=generator).to(s)
    corners = centres_to_corners(s)
    independent = INDEPENDENT * own_size_variance(corners, noise_ratio).sqrt()
    correlated = _autoregression(s, FED_CORRELATION, generator)
    noise = correlated * s.new_tensor(error_std) * box_size(s)
    noise = noise + independent * torch.randn(s.shape, generator=generator).to(s)
    boxes = s + scale * noise
    boxes[..., 2:] = boxes[..., 2:].clamp_min(SMALLEST_SIDE)
    detections = centres_to_corners(boxes).unsqueeze(2)
    mask = _detected(num, num_frames, detector, generator).unsqueeze(-1)

    rows = s.new_tensor([noise_rows(*noise) for noise in NOISES])
    chosen = torch.randint(len(rows), (num,), generator=generator)
    linear = LinearGaussian(
        process_std=rows[chosen].unsqueeze(1),
        velocity_decay=FED_DECAY,
        scale="centre_box",
    ).to(s)
    first = boxes[:, :1]
    std = torch.stack([std * box_size(first) for std in START_STD], -1)
    start = Anchor(
        torch.stack((first, torch.zeros_like(first)), -1).flatten(-2), std.square().flatten(-2)
    )
    prior, anchor = with_error(linear, start, error_std)
    observations = corners_to_centres(detections)
    batch = MixtureBatch(
        observations, mask, own_size_variance(detections, noise_ratio), anchor
    )
    law = GaussianObservations(prior, noise_scale=INDEPENDENT).to(s)
    assigned = mask.unsqueeze(-1).to(s)
    message = prior.gaussian_message(
        anchor.loc.unsqueeze(-2).expand(-1, -1, num_frames, -1), anchor=anchor
    )
    chain = smooth(message, *law.pseudo_observations(batch, assigned))
    return chain.loc_blocks[:, 0, :, :, 0].contiguous()


def _autoregression(s: Tensor, correlation: float, generator: torch.Generator) -> Tensor:
    """Stationary, of variance one, shape of s."""
    shocks = torch.randn(s.shape, generator=generator).to(s).unbind(1)
    path = [shocks[0]]
    for shock in shocks[1:]:
        path.append(correlation * path[-1] + (1 - correlation**2) ** 0.5 * shock)
    return torch.stack(path, 1)


def _detected(
    num: int, num_frames: int, detector: Detector, generator: torch.Generator
) -> Tensor:  # bool, shape: (num, num_frames)
    """Draw where a detection is there: always in the first frame, then with what the source is."""
    visible = [torch.ones(num, dtype=torch.bool)]
    for change in torch.rand(num_frames - 1, num, generator=generator):
        visible.append(
            torch.where(visible[-1], change >= detector.hide, change < detector.reappear)
        )
    fires = torch.rand(num, num_frames, generator=generator) < detector.visible_rate
    fires[:, 0] = True
    return torch.stack(visible, 1) & fires
