"""What all invertible maps of the package are: from data to noise and back, with a Jacobian."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints


class Invertible(nn.Module, ABC):
    """z = f(x; e), whose log-determinant is known: a step on the way from data to noise.

    Networks in it may be told e, a vector of every row, e.g. of the noise that was added to x.
    """

    event_dim: int
    """Dims of one x on the right: 1 of vectors, 2 of channels and time, 3 of images."""

    @abstractmethod
    def to_noise(
        self,
        x: Tensor,  # shape: (*batch, *event)
        e: Tensor | None = None,  # shape: broadcastable to (*batch, N)
    ) -> tuple[Tensor, Tensor]:  # z; log |det dz/dx|, nats, shape: (*batch)
        """Return z = f(x; e)."""

    @abstractmethod
    def from_noise(
        self,
        z: Tensor,  # shape: (*batch, *event of noise)
        e: Tensor | None = None,  # shape: broadcastable to (*batch, N)
    ) -> Tensor:  # x, shape: (*batch, *event)
        """Return the x with f(x; e) = z."""

    def noise_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of z from that of x."""
        return shape

    def data_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of x from that of z."""
        return shape

    def given(self, e: Tensor | None = None) -> FlowTransform:
        """Return f^{-1}(.; e), from noise to data, as a transform of torch."""
        return FlowTransform(self, e)


class FlowTransform(Transform):
    """x = f^{-1}(z; e) of an `Invertible`, exact log-determinant: torch's and Pyro's compose.

    Args:
        flow: f.
        e: what its networks are told, if they are.
        cache_size: 1 keeps the last pair (z, x) with its log-determinant.

    Example:
        >>> from pyromodels.transforms.actnorm import ActNorm
        >>> transform = ActNorm(2).eval().given()
        >>> transform.log_abs_det_jacobian(torch.zeros(5, 2, 8), torch.zeros(5, 2, 8)).shape
        torch.Size([5])
    """

    bijective = True

    def __init__(self, flow: Invertible, e: Tensor | None = None, *, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.flow, self.e = flow, e
        self._known: tuple[Tensor, Tensor] | None = None  # x, log |det dz/dx|

    @property
    def domain(self) -> constraints.Constraint:
        """All numbers."""
        return constraints.independent(constraints.real, self.flow.event_dim)

    codomain = domain

    def with_cache(self, cache_size: int = 1) -> FlowTransform:
        """Return the same transform with another cache."""
        if cache_size == self._cache_size:
            return self
        other = copy.copy(self)
        other._cache_size, other._cached_x_y, other._known, other._inv = (
            cache_size, (None, None), None, None,
        )  # fmt: skip
        return other

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of x from that of z."""
        return self.flow.data_shape(torch.Size(shape))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of z from that of x."""
        return self.flow.noise_shape(torch.Size(shape))

    def to_noise(
        self,
        x: Tensor,  # shape: (*batch, *event)
    ) -> tuple[Tensor, Tensor]:  # z; log |det dz/dx|, nats, shape: (*batch)
        """Return z with its log-determinant, by one pass."""
        return self.flow.to_noise(x, self.e)

    def from_noise(self, z: Tensor) -> Tensor:
        """Return x."""
        return self.flow.from_noise(z, self.e)

    def _call(self, x: Tensor) -> Tensor:  # the names that torch gives: from z to x
        return self.from_noise(x)

    def _inverse(self, y: Tensor) -> Tensor:
        z, log_det = self.to_noise(y)
        if self._cache_size:
            self._known = y, log_det
        return z

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (*batch); x is what torch calls the noise z, y is x."""
        known = self._known
        return -(known[1] if known is not None and known[0] is y else self.to_noise(y)[1])


class Composition(Invertible):
    """f = f_n o ... o f_1: one map after the other, the first that of data.

    Args:
        parts: f_1, ..., f_n; all are told the same e.

    Example:
        >>> from pyromodels.transforms.actnorm import ActNorm
        >>> flow = Composition([ActNorm(2), ActNorm(2)])
        >>> z, log_det = flow.to_noise(torch.randn(5, 2, 8))
        >>> z.shape, log_det.shape
        (torch.Size([5, 2, 8]), torch.Size([5]))
    """

    def __init__(self, parts: Iterable[Invertible]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.event_dim = self.parts[0].event_dim

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z = f(x; e)."""
        log_det = x.new_zeros(x.shape[: x.dim() - self.event_dim])
        for part in self.parts:
            x, change = part.to_noise(x, e)
            log_det = log_det + change
        return x, log_det

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return the x with f(x; e) = z."""
        for part in reversed(self.parts):
            z = part.from_noise(z, e)
        return z

    def noise_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of z from that of x."""
        for part in self.parts:
            shape = part.noise_shape(shape)
        return shape

    def data_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of x from that of z."""
        for part in reversed(self.parts):
            shape = part.data_shape(shape)
        return shape


def ask(
    network: nn.Module,  # (rows, *event), and (rows, N) where e is not None -> (rows, *said)
    x: Tensor,  # shape: (*batch, *event)
    e: Tensor | None,  # shape: broadcastable to (*batch, N)
    event_dim: int,
) -> Tensor:  # shape: (*batch, *said)
    """Ask a network that takes one batch dimension."""
    at = x.dim() - event_dim
    batch, rows = x.shape[:at], x.reshape(-1, *x.shape[at:])
    told = () if e is None else (e.expand(*batch, e.shape[-1]).reshape(len(rows), -1),)
    said = network(rows, *told)
    return said.reshape(*batch, *said.shape[1:])
