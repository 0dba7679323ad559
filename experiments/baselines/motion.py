"""Linear-Gaussian motion models for a box: state x, observation z, one step a frame."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_overlap import box_size


class MotionModel(Protocol):
    """x_t = F x_{t-1} + noise Q, z_t = H x_t + noise R; boxes are normalised [l, t, r, b]."""

    transition: Tensor                # F, shape: (X, X)
    emission: Tensor                  # H, shape: (Z, X)

    def start(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (*, X) and covariance (*, X, X) of p(x_1 given the first detection)."""

    def process_noise(self, mean: Tensor) -> Tensor:
        """Return Q of shape (*, X, X) for the step that starts at ``mean`` (*, X)."""

    def observe(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the observation z (*, Z) of a detection and its noise R (*, Z, Z)."""

    def to_box(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Return box (*, 4) and its variance (*, 4) from the moments of a state."""


@dataclass
class ConstantVelocity:
    """Each side of the box moves with its own velocity, disturbed by white acceleration.

    State [l, t, r, b, and their velocities a frame]; everything scales with the size of the box,
    width for l and r, height for t and b.

    Args:
        process_noise_scale: standard deviation of the velocity's change a frame over the size.
        observation_noise_scale: standard deviation of a detection's side over its size.
        start_velocity_scale: standard deviation of the velocity in frame 1 over the size.
    """

    process_noise_scale: float = 0.003
    observation_noise_scale: float = 0.04
    start_velocity_scale: float = 0.01

    def __post_init__(self) -> None:
        """Build the constant matrices."""
        eye = torch.eye(4, dtype=torch.float64)
        zero = torch.zeros_like(eye)
        self.transition = torch.cat([torch.cat([eye, eye], 1), torch.cat([zero, eye], 1)])
        self.emission = torch.cat([eye, zero], 1)

    def start(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Start on the detection, with no idea of the velocity but its scale."""
        size = box_size(boxes)
        mean = torch.cat([boxes, torch.zeros_like(boxes)], -1)
        std = torch.cat([size * self.observation_noise_scale, size * self.start_velocity_scale], -1)
        return mean, torch.diag_embed(std**2)

    def process_noise(self, mean: Tensor) -> Tensor:
        """Integrate white acceleration over one frame: [[1/3, 1/2], [1/2, 1]] times its power."""
        power = (box_size(mean[..., :4]) * self.process_noise_scale) ** 2
        place, cross, speed = (torch.diag_embed(power * c) for c in (1 / 3, 1 / 2, 1.0))
        return torch.cat([torch.cat([place, cross], -1), torch.cat([cross, speed], -1)], -2)

    def observe(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Observe the four sides with an error in proportion to the detection's own size."""
        return boxes, torch.diag_embed((box_size(boxes) * self.observation_noise_scale) ** 2)

    def to_box(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Read the first half of the state."""
        return mean[..., :4], covariance.diagonal(dim1=-2, dim2=-1)[..., :4]


class Sort:
    """The seven-state model of SORT, with its published constants, which are in pixels.

    State [centre x, centre y, area, aspect, velocities of the first three].

    Reference:
        A. Bewley, Z. Ge, L. Ott, F. Ramos, B. Upcroft, "Simple online and realtime tracking",
        ICIP 2016, section 3.2.
    """

    def __init__(self, image_size: Tensor) -> None:               # shape: (S, 2), pixels
        """Keep the image size, which turns normalised boxes (S, *, 4) into pixels."""
        f64 = torch.float64
        self._scale = torch.cat([image_size, image_size], -1).to(f64)
        self.transition = torch.eye(7, dtype=f64) + torch.diag(torch.ones(3, dtype=f64), 4)
        self.emission = torch.eye(4, 7, dtype=f64)
        self._start = torch.diag(torch.tensor([10.0] * 4 + [1e4] * 3, dtype=f64))
        self._process = torch.diag(torch.tensor([1.0] * 4 + [1e-2, 1e-2, 1e-4], dtype=f64))
        self._noise = torch.diag(torch.tensor([1.0, 1.0, 10.0, 10.0], dtype=f64))

    def start(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Start on the detection with a nearly unknown velocity."""
        z, _ = self.observe(boxes)
        mean = torch.cat([z, torch.zeros_like(z[..., :3])], -1)
        return mean, self._start.expand(*mean.shape, 7)

    def process_noise(self, mean: Tensor) -> Tensor:
        """Return the published constants."""
        return self._process.expand(*mean.shape, 7)

    def observe(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Turn corners into centre, area and aspect, all in pixels."""
        boxes = boxes * self._pixels(boxes)
        width, height = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-6).unbind(-1)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        z = torch.stack([centre[..., 0], centre[..., 1], width * height, width / height], -1)
        return z, self._noise.expand(*z.shape, 4)

    def to_box(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Turn centre, area and aspect into corners; variance to first order (delta method)."""
        area, aspect = mean[..., 2].clamp_min(1.0), mean[..., 3].clamp_min(1e-3)
        width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
        half = torch.stack([width, height], -1) / 2
        boxes = torch.cat([mean[..., :2] - half, mean[..., :2] + half], -1)
        # d(half)/d(area, aspect): width = sqrt(area aspect), height = sqrt(area / aspect).
        by_area = half / (2 * area[..., None])
        by_aspect = half / (2 * aspect[..., None]) * half.new_tensor([1.0, -1.0])
        slope = torch.stack([by_area, by_aspect], -1)                     # (*, 2, 2)
        eye = torch.eye(2, dtype=mean.dtype).expand(slope.shape)
        jacobian = torch.cat([torch.cat([eye, -slope], -1), torch.cat([eye, slope], -1)], -2)
        spread = jacobian @ covariance[..., :4, :4] @ jacobian.mT
        scale = self._pixels(boxes)
        return boxes / scale, spread.diagonal(dim1=-2, dim2=-1) / scale**2

    def _pixels(self, boxes: Tensor) -> Tensor:
        return self._scale.reshape(len(self._scale), *[1] * (boxes.ndim - 2), 4)
