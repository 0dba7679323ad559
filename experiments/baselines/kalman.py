"""Kalman filter and smoother with Hungarian association, all sequences at once."""

from typing import Literal

import torch
from torch import Tensor

from pyromodels.experiments.baselines.association import Rule, match_by_distance, match_by_iou
from pyromodels.experiments.baselines.motion import ConstantVelocity, MotionModel, Sort
from pyromodels.experiments.baselines.tracks import Tracks, starting_slots
from pyromodels.experiments.datasets.tracking.sequences import TrackingData

_DEFAULT_IMAGE_SIZE = (1920.0, 1080.0)


def kalman_tracker(
    data: TrackingData,
    *,
    num_sources: int | None = None,
    association: Rule = "iou",
    gate: float | None = None,
    motion: Literal["constant_velocity", "sort"] = "constant_velocity",
    process_noise_scale: float = 0.003,
    observation_noise_scale: float = 0.04,
    start_velocity_scale: float = 0.01,
    smooth: bool = False,
) -> Tracks:
    """Track with one Kalman filter per object; tracks start on frame 1 and are never ended.

    A frame is predicted, its detections are matched to the predictions one to one, and every
    matched track is updated. A track without a detection keeps its prediction.

    Args:
        data: the sequences; the order of a frame's slots has no influence after frame 1.
        num_sources: tracks N; by default the number of detections in frame 1.
        association: ``"iou"`` for the largest total overlap, ``"mahalanobis"`` for the smallest
            total squared distance under the predicted covariance.
        gate: the least IoU of a pair (0.0: any overlap), or its largest squared Mahalanobis
            distance (chi-square with four degrees of freedom; 20 lets through all but 0.05 %);
            None for no gate at all, so that a pair is made even without overlap.
        motion: ``"constant_velocity"`` per side of the box, or ``"sort"``, the seven-state model
            with SORT's own constants (in pixels; 1920 x 1080 is assumed where ``data`` has no
            image size).
        process_noise_scale: change of velocity a frame over the box size; constant velocity only.
        observation_noise_scale: detection error over the box size; constant velocity only.
        start_velocity_scale: velocity in frame 1 over the box size; constant velocity only.
        smooth: run the Rauch-Tung-Striebel smoother over the filtered tracks afterwards.

    Raises:
        ValueError: for an unknown rule or model, or if tracks cannot start (``starting_slots``).

    Example:
        >>> from pyromodels.experiments.datasets.tracking.scene import generate_scene
        >>> scene = generate_scene(num_sources=3, num_frames=10, seed=0)
        >>> kalman_tracker(scene).boxes.shape
        torch.Size([1, 10, 3, 4])
    """
    if association not in ("iou", "mahalanobis"):
        raise ValueError(f"association is {association!r}; expected 'iou' or 'mahalanobis'")
    slots = starting_slots(data, num_sources)
    model = _build(
        motion, data, process_noise_scale, observation_noise_scale, start_velocity_scale
    )
    det, mask = data.detections.double(), data.mask
    mean, cov = model.start(det[:, 0].gather(1, slots[..., None].expand(*slots.shape, 4)))
    assignment = torch.zeros(*mask.shape, slots.shape[1], dtype=torch.bool, device=mask.device)
    assignment[:, 0] = slots[:, None] == torch.arange(mask.shape[-1], device=mask.device)[:, None]
    means, covs = [mean], [cov]
    for t in range(1, data.num_frames):
        # p(x_t | z_{1:t-1}) = N(F m, F P F' + Q)
        mean, cov = _predict(model, mean, cov)
        z, noise = model.observe(det[:, t])                                # (S, K, Z), (S, K, Z, Z)
        if association == "iou":
            pairs = match_by_iou(model.to_box(mean, cov)[0], det[:, t], mask[:, t], gate)
        else:
            pairs = match_by_distance(_distance(model, mean, cov, z, noise), mask[:, t], gate)
        # p(x_t | z_{1:t}) for the matched tracks
        mean, cov = _update(model, mean, cov, pairs, z, noise)
        assignment[:, t] = pairs.mT
        means.append(mean)
        covs.append(cov)
    if smooth:
        means, covs = _smooth(model, means, covs)
    boxes, variance = model.to_box(torch.stack(means, 2), torch.stack(covs, 2))   # (S, N, T, 4)
    return Tracks(boxes.transpose(1, 2).float(), variance.transpose(1, 2).float(), assignment)


def _build(
    motion: str, data: TrackingData, process: float, observation: float, start_velocity: float
) -> MotionModel:
    if motion == "constant_velocity":
        return ConstantVelocity(process, observation, start_velocity)
    if motion == "sort":
        size = data.image_size
        if size is None:
            size = torch.tensor(_DEFAULT_IMAGE_SIZE).expand(data.num_sequences, 2)
        return Sort(size)
    raise ValueError(f"motion is {motion!r}; expected 'constant_velocity' or 'sort'")


def _predict(model: MotionModel, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    step = model.transition
    return mean @ step.mT, step @ cov @ step.mT + model.process_noise(mean)


def _distance(
    model: MotionModel,
    mean: Tensor,                     # shape: (S, N, X)
    cov: Tensor,                      # shape: (S, N, X, X)
    z: Tensor,                        # shape: (S, K, Z)
    noise: Tensor,                    # shape: (S, K, Z, Z)
) -> Tensor:                          # shape: (S, N, K), squared Mahalanobis
    emit = model.emission
    innovation = z[:, None] - (mean @ emit.mT)[:, :, None]
    spread = (emit @ cov @ emit.mT)[:, :, None] + noise[:, None]
    return (innovation * torch.linalg.solve(spread, innovation)).sum(-1)


def _update(
    model: MotionModel,
    mean: Tensor,                     # shape: (S, N, X)
    cov: Tensor,                      # shape: (S, N, X, X)
    pairs: Tensor,                    # shape: (S, N, K), bool, at most one True a row
    z: Tensor,                        # shape: (S, K, Z)
    noise: Tensor,                    # shape: (S, K, Z, Z)
) -> tuple[Tensor, Tensor]:
    if pairs.shape[-1] == 0:
        return mean, cov
    emit, matched = model.emission, pairs.any(-1)
    row = torch.arange(len(z), device=z.device)[:, None]
    slot = pairs.to(torch.uint8).argmax(-1)                                # (S, N)
    z, noise = z[row, slot], noise[row, slot]
    spread = emit @ cov @ emit.mT + noise
    gain = torch.linalg.solve(spread, emit @ cov).mT                       # (S, N, X, Z)
    new_mean = mean + (gain @ (z - mean @ emit.mT)[..., None])[..., 0]
    # Joseph's form stays symmetric and positive.
    keep = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device) - gain @ emit
    new_cov = keep @ cov @ keep.mT + gain @ noise @ gain.mT
    return (torch.where(matched[..., None], new_mean, mean),
            torch.where(matched[..., None, None], new_cov, cov))


def _smooth(
    model: MotionModel, means: list[Tensor], covs: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return p(x_t | z_{1:T}), backwards from the filtered moments (Rauch-Tung-Striebel)."""
    smooth_mean, smooth_cov = [means[-1]], [covs[-1]]
    for mean, cov in zip(reversed(means[:-1]), reversed(covs[:-1]), strict=True):
        ahead, ahead_cov = _predict(model, mean, cov)
        gain = torch.linalg.solve(ahead_cov, model.transition @ cov).mT    # (S, N, X, X)
        next_mean, next_cov = smooth_mean[-1], smooth_cov[-1]
        smooth_mean.append(mean + (gain @ (next_mean - ahead)[..., None])[..., 0])
        smooth_cov.append(cov + gain @ (next_cov - ahead_cov) @ gain.mT)
    return smooth_mean[::-1], smooth_cov[::-1]
