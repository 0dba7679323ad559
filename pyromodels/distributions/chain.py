"""Gaussian chains over time: the form of q(s), and the Kalman filter and smoother that fill it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.distributions.message import GaussianMessage
from pyromodels.errors import ShapeError


def block_inverse(matrix: Tensor) -> Tensor:
    """Inverse of small matrices, shape (*, d, d); closed form up to d = 2: LAPACK is overhead."""
    match matrix.shape[-1]:
        case 1:
            return matrix.reciprocal()
        case 2:
            a, b, c, d = matrix.flatten(-2).unbind(-1)
            adjugate = torch.stack((d, -b, -c, a), -1).unflatten(-1, (2, 2))
            return adjugate / (a * d - b * c)[..., None, None]
        case _:
            return torch.linalg.inv(matrix)


def block_logdet(matrix: Tensor) -> Tensor:
    """log |matrix| of small positive-definite matrices, shape (*, d, d) -> (*)."""
    match matrix.shape[-1]:
        case 1:
            return matrix[..., 0, 0].log()
        case 2:
            return (
                matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
            ).log()
        case _:
            return torch.linalg.slogdet(matrix).logabsdet


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """left @ right for small blocks; scalars multiply without a batched matrix product."""
    return left * right if left.shape[-1] == 1 else left @ right


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector for small blocks, shapes (*, d, d) and (*, d)."""
    if matrix.shape[-1] == 1:
        return matrix[..., 0] * vector
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


class GaussianChain(TorchDistribution):
    r"""q(s) = N(s_T; m_T, C_T) \prod_t N(s_t; m_t + J_t (s_{t+1} - m_{t+1}), C_t), backwards.

    The form a smoother returns. J = 0 is the distribution that factorises over frames (thesis eq.
    3.15).

    ====================  ==========  =====================  =====
    symbol                name        shape                  unit
    ====================  ==========  =====================  =====
    m_t                   loc         (*batch, T, G, d)      as s
    V_t                   covariance  (*batch, T, G, d, d)   as s²
    J_t                   gain        (*batch, T, G, d, d)   1
    C_t = V_t - J V' J^T  innovation  (*batch, T, G, d, d)   as s²
    ====================  ==========  =====================  =====

    Event shape (T, D) with D = G d: G independent blocks of d coordinates, block-major.

    Args:
        loc: posterior means.
        covariance: marginal posterior covariances.
        gain: backward gains; ``gain[..., -1, :, :, :]`` is not read. None for a factorised chain.

    Raises:
        ShapeError: if the shapes do not fit each other.

    Example:
        >>> q = GaussianChain(torch.zeros(5, 2, 1), torch.ones(5, 2, 1, 1))
        >>> q.event_shape, q.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([]))
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance: Tensor,
        gain: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if covariance.shape != (*loc.shape, loc.shape[-1]):
            raise ShapeError(
                f"covariance has shape {tuple(covariance.shape)}; "
                f"a loc of shape {tuple(loc.shape)} expects {(*loc.shape, loc.shape[-1])}"
            )
        if gain is not None and gain.shape != covariance.shape:
            raise ShapeError(
                f"gain has shape {tuple(gain.shape)}; "
                f"expected that of covariance, {tuple(covariance.shape)}"
            )
        self.loc_blocks, self.covariance, self.gain = loc, covariance, gain
        num_steps, num_blocks, block_dim = loc.shape[-3:]
        super().__init__(
            loc.shape[:-3],
            torch.Size((num_steps, num_blocks * block_dim)),
            validate_args=validate_args,
        )

    @property
    def loc(self) -> Tensor:
        """m, shape (*batch, T, D)."""
        return self.loc_blocks.flatten(-2)

    @property
    def mean(self) -> Tensor:
        """m, shape (*batch, T, D)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Marginal variances diag(V), shape (*batch, T, D)."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).flatten(-2)

    @property
    def innovation(self) -> Tensor:
        """C_t, the covariance of s_t given s_{t+1}, shape (*batch, T, G, d, d)."""
        if self.gain is None:
            return self.covariance
        explained = matmul(matmul(self.gain[..., :-1, :, :, :], self.covariance[..., 1:, :, :, :]),
                           self.gain[..., :-1, :, :, :].mT)
        return torch.cat(
            (self.covariance[..., :-1, :, :, :] - explained, self.covariance[..., -1:, :, :, :]), -4
        )

    @property
    def cross_covariance(self) -> Tensor:
        """Cov(s_t, s_{t+1}) = J_t V_{t+1}, shape (*batch, T - 1, G, d, d)."""
        following = self.covariance[..., 1:, :, :, :]
        if self.gain is None:
            return torch.zeros_like(following)
        return matmul(self.gain[..., :-1, :, :, :], following)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "GaussianChain":
        """Return the same law with another batch shape."""
        batch_shape = torch.Size(batch_shape)
        return GaussianChain(
            self.loc_blocks.expand(batch_shape + self.loc_blocks.shape[-3:]),
            self.covariance.expand(batch_shape + self.covariance.shape[-4:]),
            None if self.gain is None else self.gain.expand(batch_shape + self.gain.shape[-4:]),
            validate_args=False,
        )

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw trajectories, shape (*sample, *batch, T, D)."""
        shape = torch.Size(sample_shape) + self.loc_blocks.shape
        root = torch.linalg.cholesky(self.innovation)
        deviation = matvec(root, torch.randn(shape, dtype=root.dtype, device=root.device))
        if self.gain is not None:
            steps = list(deviation.unbind(-3))
            for t in range(len(steps) - 2, -1, -1):
                steps[t] = steps[t] + matvec(self.gain[..., t, :, :, :], steps[t + 1])
            deviation = torch.stack(steps, -3)
        return (self.loc_blocks + deviation).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density in nats, shape (*sample, *batch)."""
        deviation = value.unflatten(-1, self.loc_blocks.shape[-2:]) - self.loc_blocks
        if self.gain is not None:
            explained = matvec(self.gain[..., :-1, :, :, :], deviation[..., 1:, :, :])
            deviation = torch.cat(
                (deviation[..., :-1, :, :] - explained, deviation[..., -1:, :, :]), -3
            )
        innovation = self.innovation
        square = (deviation * matvec(block_inverse(innovation), deviation)).sum(-1)
        log_normaliser = block_logdet(2 * torch.pi * innovation)
        return -0.5 * (square + log_normaliser).sum((-1, -2))

    def entropy(self) -> Tensor:
        """H[q] in nats, shape (*batch,)."""
        return 0.5 * block_logdet(2 * torch.pi * torch.e * self.innovation).sum((-1, -2))


class Filtered(NamedTuple):
    """What a Kalman filter knows of s_t before and after it has seen frame t."""

    predicted_loc: Tensor  # shape: (*batch, T, G, d)
    predicted_covariance: Tensor  # shape: (*batch, T, G, d, d)
    loc: Tensor  # shape: (*batch, T, G, d)
    covariance: Tensor  # shape: (*batch, T, G, d, d)


def kalman_filter(
    message: GaussianMessage,
    precision: Tensor,  # Λ, 0 where nothing is seen; shape: (*batch, T, G, d, d)
    information: Tensor,  # ξ, precision times pseudo-observation; shape: (*batch, T, G, d)
) -> Filtered:
    """p(s_t | y_1..t) of a linear-Gaussian chain whose observations come in information form."""
    shape = torch.broadcast_shapes(message.offset.shape[:-1], information.shape[:-1])
    return Filtered(*(_blocks(part, shape) for part in _filter(message, precision, information)))


def smooth(
    message: GaussianMessage,
    precision: Tensor,  # Λ, shape: (*batch, T, G, d, d)
    information: Tensor,  # ξ, shape: (*batch, T, G, d)
) -> GaussianChain:
    """q(s) ∝ p(s) ∏_t exp(-½ s_t' Λ_t s_t + s_t' ξ_t): the Rauch-Tung-Striebel smoother as a chain.

    A message without transitions makes every frame a product of two Gaussians on its own (thesis
    eq. 3.18-3.19).
    """
    shape = torch.broadcast_shapes(message.offset.shape[:-1], information.shape[:-1])
    transition, noise = _lanes(message.transition, shape, 2), _lanes(message.covariance, shape, 2)
    predicted_loc, predicted, loc, covariance = _filter(message, precision, information)
    gain = _product(covariance[:-1], transition[1:].transpose(-3, -2))
    gain = _product(gain, _inverse(predicted[1:]))
    # P - J P' J' as a sum of squares (Joseph), so that rounding leaves it positive
    rest = _identity(gain) - _product(gain, transition[1:])
    innovation = _quadratic(rest, covariance[:-1]) + _quadratic(gain, noise[1:])
    surprise = (loc - predicted_loc).unbind(0)

    correction, smoothed = [torch.zeros_like(loc[0])], [covariance[-1]]
    gains, innovations = gain.unbind(0), innovation.unbind(0)
    for t in range(len(gains) - 1, -1, -1):
        correction.append(_apply(gains[t], correction[-1] + surprise[t + 1]))
        smoothed.append(_quadratic(gains[t], smoothed[-1]) + innovations[t])
    gain = torch.cat((gain, torch.zeros_like(covariance[:1])))
    return GaussianChain(
        _blocks(loc + torch.stack(correction[::-1]), shape),
        _blocks(torch.stack(smoothed[::-1]), shape),
        _blocks(gain, shape),
        validate_args=False,
    )


# The recursions run on "lanes", (T, d, n) and (T, d, d, n) with n = batch times blocks: products of
# d x d matrices are then sums of d elementwise products of contiguous vectors, which for d = 1, 2,
# 3 is several times faster than batched matrix products.

FEW_ENTRIES = 4096
"""Matrices of fewer entries than this are multiplied in as few calls as possible."""


def _filter(
    message: GaussianMessage, precision: Tensor, information: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # the fields of Filtered as lanes
    shape = torch.broadcast_shapes(message.offset.shape[:-1], information.shape[:-1])
    transition, noise = _lanes(message.transition, shape, 2), _lanes(message.covariance, shape, 2)
    offset, information = _lanes(message.offset, shape, 1), _lanes(information, shape, 1)
    precision = _lanes(precision, shape, 2)
    update = _covariance_update(precision)
    predicted, covariance = [noise[0]], [update(0, noise[0])]
    for t, (a, q) in enumerate(zip(transition.unbind(0), noise.unbind(0), strict=True)):
        if t:
            predicted.append(_quadratic(a, covariance[-1]) + q)
            covariance.append(update(t, predicted[-1]))
    predicted, covariance = torch.stack(predicted), torch.stack(covariance)
    # m_t = (I - P_t Λ_t) (A_t m_{t-1} + b_t) + P_t ξ_t, all but the recursion itself ahead of it
    rest = _identity(covariance) - _product(covariance, precision)
    carried = _product(rest, transition).unbind(0)
    fresh = (_apply(rest, offset) + _apply(covariance, information)).unbind(0)
    loc = [fresh[0]]
    for move, new in zip(carried[1:], fresh[1:], strict=True):
        loc.append(_apply(move, loc[-1]) + new)
    loc = torch.stack(loc)
    predicted_loc = torch.cat((offset[:1], _apply(transition[1:], loc[:-1]) + offset[1:]))
    return predicted_loc, predicted, loc, covariance


def _covariance_update(precision: Tensor) -> Callable[[int, Tensor], Tensor]:
    """Return (t, P) -> (P⁻¹ + Λ_t)⁻¹ without inverting P, so that Λ = 0 leaves P as it is."""
    d = precision.shape[1]
    seen = precision.unbind(0)
    if d == 1:
        return lambda t, p: p / (1 + p * seen[t])
    if d == 2:
        # (I + P Λ)⁻¹ P = (P + |P| adj Λ) / (1 + tr P Λ + |P| |Λ|)
        adjugate, det = _adjugate(precision).unbind(0), _det(precision).unbind(0)

        def update(t: int, p: Tensor) -> Tensor:
            volume = _det(p)
            scale = torch.addcmul(1 + (p * seen[t]).sum((0, 1)), volume, det[t])
            return torch.addcmul(p, volume, adjugate[t]) / scale

        return update
    identity = _identity(precision)
    return lambda t, p: _product(_inverse(identity + _product(p, seen[t])), p)


def _lanes(blocks: Tensor, shape: torch.Size, entries: int) -> Tensor:
    """(*batch, T, G, d) -> (T, d, n) or, with entries = 2, (*batch, T, G, d, d) -> (T, d, d, n)."""
    blocks = blocks.expand(*shape, *blocks.shape[-entries:])
    blocks = blocks.reshape(math.prod(shape[:-2]), *blocks.shape[len(shape) - 2 :])
    return blocks.movedim((0, 2), (-2, -1)).flatten(-2)


def _blocks(lanes: Tensor, shape: torch.Size) -> Tensor:
    """Invert `_lanes`; shape: (*batch, T, G)."""
    blocks = lanes.unflatten(-1, (math.prod(shape[:-2]), shape[-1])).movedim((-2, -1), (0, 2))
    return blocks.reshape(*shape, *blocks.shape[3:])


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-2], dtype=like.dtype, device=like.device).unsqueeze(-1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in every lane, each (*, d, d, n)."""
    if left.numel() < FEW_ENTRIES:  # two kernels: calling them is what takes time
        return (left.unsqueeze(-2) * right.unsqueeze(-4)).sum(-3)
    left, right = left.split(1, -2), right.split(1, -3)  # no large temporary
    product = left[0] * right[0]
    for column, row in zip(left[1:], right[1:], strict=True):
        product = torch.addcmul(product, column, row)
    return product


def _quadratic(left: Tensor, middle: Tensor) -> Tensor:
    """left @ middle @ left' in every lane, each (*, d, d, n)."""
    return _product(_product(left, middle), left.transpose(-3, -2))


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector in every lane, (*, d, d, n) and (*, d, n)."""
    if matrix.numel() < FEW_ENTRIES:
        return (matrix * vector.unsqueeze(-3)).sum(-2)
    columns, entries = matrix.unbind(-2), vector.split(1, -2)
    product = columns[0] * entries[0]
    for column, entry in zip(columns[1:], entries[1:], strict=True):
        product = torch.addcmul(product, column, entry)
    return product


def _det(matrix: Tensor) -> Tensor:
    """Determinant of 2 x 2 matrices, (*, 2, 2, n) -> (*, n)."""
    (a, b), (c, d) = (row.unbind(-2) for row in matrix.unbind(-3))
    return a * d - b * c


def _adjugate(matrix: Tensor) -> Tensor:
    """Adjugate of 2 x 2 matrices, shape (*, 2, 2, n)."""
    (a, b), (c, d) = (row.unbind(-2) for row in matrix.unbind(-3))
    return torch.stack((torch.stack((d, -b), -2), torch.stack((-c, a), -2)), -3)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse in every lane, shape (*, d, d, n)."""
    if matrix.shape[-2] == 2:
        return _adjugate(matrix) / _det(matrix).unsqueeze(-2).unsqueeze(-2)
    return block_inverse(matrix.movedim(-1, -3)).movedim(-3, -1)
