"""Gaussian chains over time: the form of q(s), and the Kalman filter and smoother that fill it."""

from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.distributions.message import GaussianMessage
from pyromodels.errors import ShapeError


def block_inverse(matrix: Tensor) -> Tensor:
    """Inverse of small matrices, shape (*, d, d); closed form up to d = 2, where LAPACK is all overhead."""
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
            return (matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]).log()
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
    r"""q(s) = N(s_T; m_T, C_T) \prod_t N(s_t; m_t + J_t (s_{t+1} - m_{t+1}), C_t), backward in time.

    The form a smoother returns. J = 0 is the distribution that factorises over frames (thesis eq. 3.15).

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
                f"gain has shape {tuple(gain.shape)}; expected that of covariance, {tuple(covariance.shape)}"
            )
        self.loc_blocks, self.covariance, self.gain = loc, covariance, gain
        num_steps, num_blocks, block_dim = loc.shape[-3:]
        super().__init__(
            loc.shape[:-3], torch.Size((num_steps, num_blocks * block_dim)), validate_args=validate_args
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
        return torch.cat((self.covariance[..., :-1, :, :, :] - explained, self.covariance[..., -1:, :, :, :]), -4)

    @property
    def cross_covariance(self) -> Tensor:
        """Cov(s_t, s_{t+1}) = J_t V_{t+1}, shape (*batch, T - 1, G, d, d)."""
        following = self.covariance[..., 1:, :, :, :]
        if self.gain is None:
            return torch.zeros_like(following)
        return matmul(self.gain[..., :-1, :, :, :], following)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "GaussianChain":
        batch_shape = torch.Size(batch_shape)
        return GaussianChain(
            self.loc_blocks.expand(batch_shape + self.loc_blocks.shape[-3:]),
            self.covariance.expand(batch_shape + self.covariance.shape[-4:]),
            None if self.gain is None else self.gain.expand(batch_shape + self.gain.shape[-4:]),
            validate_args=False,
        )

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
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
        deviation = value.unflatten(-1, self.loc_blocks.shape[-2:]) - self.loc_blocks
        if self.gain is not None:
            explained = matvec(self.gain[..., :-1, :, :, :], deviation[..., 1:, :, :])
            deviation = torch.cat((deviation[..., :-1, :, :] - explained, deviation[..., -1:, :, :]), -3)
        innovation = self.innovation
        square = (deviation * matvec(block_inverse(innovation), deviation)).sum(-1)
        log_normaliser = block_logdet(2 * torch.pi * innovation)
        return -0.5 * (square + log_normaliser).sum((-1, -2))

    def entropy(self) -> Tensor:
        """H[q] in nats, shape (*batch,)."""
        return 0.5 * block_logdet(2 * torch.pi * torch.e * self.innovation).sum((-1, -2))


class _Filtered(NamedTuple):
    """Kalman filter output, time stacked on dimension -4 of the covariances and -3 of the means."""

    predicted_loc: Tensor
    predicted_covariance: Tensor
    loc: Tensor
    covariance: Tensor


def kalman_filter(
    message: GaussianMessage,
    precision: Tensor,  # shape: (*batch, T, G, d, d), pseudo-observation precision, zero where nothing is seen
    information: Tensor,  # shape: (*batch, T, G, d), precision times pseudo-observation
) -> _Filtered:
    """p(s_t | y_1..t) for a linear-Gaussian chain whose observations are given in information form."""
    transition, offset, noise = message
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    one_plus = identity if precision.shape[-1] > 1 else 1.0
    time_first = zip(
        transition.unbind(-4), offset.unbind(-3), noise.unbind(-4),
        precision.unbind(-4), information.unbind(-3), strict=True,
    )
    steps = []
    loc = covariance = None
    for a, b, q, lam, xi in time_first:
        if loc is None:
            predicted_loc, predicted = b, q
        else:
            predicted_loc = matvec(a, loc) + b
            predicted = matmul(matmul(a, covariance), a.mT) + q
        # (P⁻¹ + Λ)⁻¹ without inverting P, so that Λ = 0 leaves P as it is
        covariance = matmul(block_inverse(one_plus + matmul(predicted, lam)), predicted)
        loc = predicted_loc + matvec(covariance, xi - matvec(lam, predicted_loc))
        steps.append((predicted_loc, predicted, loc, covariance))
    predicted_loc, predicted, loc, covariance = zip(*steps, strict=True)
    return _Filtered(
        torch.stack(predicted_loc, -3), torch.stack(predicted, -4),
        torch.stack(loc, -3), torch.stack(covariance, -4),
    )


def smooth(
    message: GaussianMessage,
    precision: Tensor,  # shape: (*batch, T, G, d, d)
    information: Tensor,  # shape: (*batch, T, G, d)
) -> GaussianChain:
    """q(s) ∝ p(s) ∏_t exp(-½ s_t' Λ_t s_t + s_t' ξ_t): the Rauch-Tung-Striebel smoother as a chain.

    A message without transitions needs no recursion: every frame is updated alone (thesis eq. 3.18-3.19).
    """
    filtered = kalman_filter(message, precision, information)
    gain = torch.zeros_like(filtered.covariance)
    gain[..., :-1, :, :, :] = matmul(
        matmul(filtered.covariance[..., :-1, :, :, :], message.transition[..., 1:, :, :, :].mT),
        block_inverse(filtered.predicted_covariance[..., 1:, :, :, :]),
    )
    residual_covariance = filtered.covariance.clone()
    residual_covariance[..., :-1, :, :, :] -= matmul(
        matmul(gain[..., :-1, :, :, :], filtered.predicted_covariance[..., 1:, :, :, :]),
        gain[..., :-1, :, :, :].mT,
    )
    residual_loc = filtered.loc.clone()
    residual_loc[..., :-1, :, :] -= matvec(gain[..., :-1, :, :, :], filtered.predicted_loc[..., 1:, :, :])

    locs = list(residual_loc.unbind(-3))
    covariances = list(residual_covariance.unbind(-4))
    gains = gain.unbind(-4)
    for t in range(len(locs) - 2, -1, -1):
        locs[t] = locs[t] + matvec(gains[t], locs[t + 1])
        covariances[t] = covariances[t] + matmul(matmul(gains[t], covariances[t + 1]), gains[t].mT)
    return GaussianChain(torch.stack(locs, -3), torch.stack(covariances, -4), gain, validate_args=False)
