"""Gaussian chains over time, the form of q(s), and their natural parameters."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

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


def block_cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor of small matrices, shape (*, d, d); of a number its root."""
    return matrix.sqrt() if matrix.shape[-1] == 1 else torch.linalg.cholesky(matrix)


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

    The form a smoother returns, and the block factorisation of any banded precision matrix (see
    `natural`). J = 0 is the distribution that factorises over frames (thesis eq. 3.15).

    ====================  ==========  =====================  =====
    symbol                name        shape                  unit
    ====================  ==========  =====================  =====
    m_t                   loc         (*batch, T, G, d)      as s
    C_t                   innovation  (*batch, T, G, d, d)   as s²
    J_t                   gain        (*batch, T, G, d, d)   1
    V_t = C_t + J V' J^T  covariance  (*batch, T, G, d, d)   as s²
    ====================  ==========  =====================  =====

    Event shape (T, D) with D = G d: G independent blocks of d coordinates, block-major.

    Args:
        loc: means.
        innovation: covariances of s_t given s_{t+1}; ``innovation[..., -1, :, :, :]`` that of s_T.
        gain: backward gains; ``gain[..., -1, :, :, :]`` is not read. None for a factorised chain.
        covariance: the marginal covariances, where they are known already; else computed at need.

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
        innovation: Tensor,
        gain: Tensor | None = None,
        *,
        covariance: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if innovation.shape != (*loc.shape, loc.shape[-1]):
            raise ShapeError(
                f"innovation has shape {tuple(innovation.shape)}; "
                f"a loc of shape {tuple(loc.shape)} expects {(*loc.shape, loc.shape[-1])}"
            )
        for name, part in (("gain", gain), ("covariance", covariance)):
            if part is not None and part.shape != innovation.shape:
                raise ShapeError(
                    f"{name} has shape {tuple(part.shape)}; "
                    f"expected that of innovation, {tuple(innovation.shape)}"
                )
        self.loc_blocks, self.innovation, self.gain = loc, innovation, gain
        if covariance is not None:
            self.__dict__["covariance"] = covariance
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

    @cached_property
    def covariance(self) -> Tensor:
        """Marginal covariances V_t, shape (*batch, T, G, d, d)."""
        if self.gain is None:
            return self.innovation
        innovations, gains = self.innovation.unbind(-4), self.gain.unbind(-4)
        marginals = [innovations[-1]]
        for new, gain in zip(innovations[-2::-1], gains[-2::-1], strict=True):
            marginals.append(new + matmul(matmul(gain, marginals[-1]), gain.mT))
        return torch.stack(marginals[::-1], -4)

    @property
    def cross_covariance(self) -> Tensor:
        """Cov(s_t, s_{t+1}) = J_t V_{t+1}, shape (*batch, T - 1, G, d, d)."""
        following = self.covariance[..., 1:, :, :, :]
        if self.gain is None:
            return torch.zeros_like(following)
        return matmul(self.gain[..., :-1, :, :, :], following)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "GaussianChain":
        """Return the same law with another batch shape."""
        lead = len(self.batch_shape)
        return self.map(lambda part: part.expand(*batch_shape, *part.shape[lead:]))

    def map(self, function: Callable[[Tensor], Tensor]) -> "GaussianChain":
        """Apply a function that acts on the leading batch dimensions, e.g. `lambda x: x[:2]`."""
        gain, covariance = (
            None if part is None else function(part)
            for part in (self.gain, self.__dict__.get("covariance"))
        )
        return GaussianChain(
            function(self.loc_blocks),
            function(self.innovation),
            gain,
            covariance=covariance,
            validate_args=False,
        )

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw trajectories, shape (*sample, *batch, T, D)."""
        shape = torch.Size(sample_shape) + self.loc_blocks.shape
        loc = self.loc_blocks
        return self.roll_out(torch.randn(shape, dtype=loc.dtype, device=loc.device))

    def roll_out(
        self,
        noise: Tensor,  # standard normal, shape: (*sample, *batch, T, G, d)
    ) -> Tensor:  # s, shape: (*sample, *batch, T, D)
        """Return the trajectories that the noise drives, from the last frame backwards."""
        deviation = matvec(block_cholesky(self.innovation), noise)
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
        square = (deviation * matvec(block_inverse(self.innovation), deviation)).sum(-1)
        log_normaliser = block_logdet(2 * torch.pi * self.innovation)
        return -0.5 * (square + log_normaliser).sum((-1, -2))

    def entropy(self) -> Tensor:
        """H[q] in nats, shape (*batch,)."""
        return 0.5 * block_logdet(2 * torch.pi * torch.e * self.innovation).sum((-1, -2))


class Natural(NamedTuple):
    """A Gaussian chain by its natural parameters: -½ s'Λs + s'ξ with a block-tridiagonal Λ.

    Sums of these are products of densities; a convex combination is a damped update.
    """

    information: Tensor  # ξ, shape: (*batch, T, G, d)
    diagonal: Tensor  # Λ_tt, shape: (*batch, T, G, d, d)
    off_diagonal: Tensor  # Λ_{t,t+1}, shape: (*batch, T - 1, G, d, d)


def natural(chain: GaussianChain) -> Natural:
    """Return the natural parameters of a chain."""
    precision = block_inverse(chain.innovation)
    gain = torch.zeros_like(precision) if chain.gain is None else chain.gain
    gain, loc = gain[..., :-1, :, :, :], chain.loc_blocks
    off_diagonal = -matmul(precision[..., :-1, :, :, :], gain)
    carried = -matmul(gain.mT, off_diagonal)
    diagonal = torch.cat(
        (precision[..., :1, :, :, :], precision[..., 1:, :, :, :] + carried), -4
    )
    diagonal = _symmetric(diagonal)
    information = matvec(diagonal, loc)
    before = matvec(off_diagonal, loc[..., 1:, :, :])
    after = matvec(off_diagonal.mT, loc[..., :-1, :, :])
    edge = torch.zeros_like(loc[..., :1, :, :])
    information = information + torch.cat((before, edge), -3) + torch.cat((edge, after), -3)
    return Natural(information, diagonal, off_diagonal)


def chain_of(parameters: Natural) -> GaussianChain:
    """Return the chain of natural parameters: block elimination forwards, means backwards.

    Raises:
        torch.linalg.LinAlgError: where the precision is not positive definite.
    """
    # rounding makes blocks asymmetric, and the elimination makes that grow tenfold a round trip
    parameters = parameters._replace(diagonal=_symmetric(parameters.diagonal))
    information, diagonal, off_diagonal = (part.unbind(dim) for part, dim in
                                           zip(parameters, (-3, -4, -4), strict=True))
    innovations, gains, carried = [block_inverse(diagonal[0])], [], [information[0]]
    for t, coupling in enumerate(off_diagonal):
        gains.append(-matmul(innovations[-1], coupling))
        carried.append(information[t + 1] + matvec(gains[-1].mT, carried[-1]))
        innovations.append(block_inverse(diagonal[t + 1] + matmul(coupling.mT, gains[-1])))
    loc = [matvec(innovations[-1], carried[-1])]
    for t in range(len(gains) - 1, -1, -1):
        loc.append(matvec(innovations[t], carried[t]) + matvec(gains[t], loc[-1]))
    innovation = torch.stack(innovations, -4)
    if torch.linalg.cholesky_ex(innovation).info.any():
        raise torch.linalg.LinAlgError("chain_of: the precision is not positive definite")
    gains.append(torch.zeros_like(innovations[-1]))
    return GaussianChain(
        torch.stack(loc[::-1], -3), innovation, torch.stack(gains, -4), validate_args=False
    )


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
