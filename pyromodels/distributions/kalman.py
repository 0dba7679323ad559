"""The Kalman filter and smoother that fill a Gaussian chain, all batched."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.distributions.chain import GaussianChain, block_inverse, block_logdet, matvec
from pyromodels.distributions.message import FrameMessage, GaussianMessage


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
    lanes, shape = _to_lanes(message, precision, information)
    return Filtered(*(_blocks(part, shape) for part in _filter(lanes)))


class Smoothed(NamedTuple):
    """A smoother's answer, and how far it is from the prior it started from."""

    chain: GaussianChain  # q(s), batch (*batch), event (T, D)
    divergence: Tensor  # KL(q(s) || p(s)), nats, shape: (*batch)


def smooth(
    message: GaussianMessage,
    precision: Tensor,  # Λ, shape: (*batch, T, G, d, d)
    information: Tensor,  # ξ, shape: (*batch, T, G, d)
) -> GaussianChain:
    """q(s) ∝ p(s) ∏_t exp(-½ s_t' Λ_t s_t + s_t' ξ_t): the Rauch-Tung-Striebel smoother as a chain.

    A message without transitions makes every frame a product of two Gaussians on its own (thesis
    eq. 3.18-3.19).
    """
    return smooth_and_compare(message, precision, information, compare=False).chain


def smooth_and_compare(
    message: GaussianMessage,
    precision: Tensor,  # Λ, shape: (*batch, T, G, d, d)
    information: Tensor,  # ξ, shape: (*batch, T, G, d)
    *,
    compare: bool = True,
) -> Smoothed:
    """`smooth`, with KL(q(s) || p(s)) from what the filter has computed anyway."""
    if isinstance(message, FrameMessage) and not compare:
        return Smoothed(_frame_by_frame(message, precision, information), None)
    lanes, shape = _to_lanes(message, precision, information)
    transition, _, noise, *_ = lanes
    filtered = _filter(lanes)
    predicted_loc, predicted, loc, covariance = filtered
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
    correction, smoothed = torch.stack(correction[::-1]), torch.stack(smoothed[::-1])
    chain = GaussianChain(
        _blocks(loc + correction, shape),
        _blocks(torch.cat((innovation, covariance[-1:])), shape),
        _blocks(gain, shape),
        covariance=_blocks(smoothed, shape),
        validate_args=False,
    )
    divergence = None
    if compare:
        divergence = _divergence(lanes, filtered, correction, smoothed)
        divergence = divergence.unflatten(-1, (*shape[:-2], shape[-1])).sum(-1)
    return Smoothed(chain, divergence)


def _frame_by_frame(
    message: GaussianMessage, precision: Tensor, information: Tensor
) -> GaussianChain:
    """Return q(s) where nothing goes from a frame to the next (thesis eq. 3.18-3.19)."""
    own = block_inverse(message.covariance)
    covariance = block_inverse(own + precision)
    loc = matvec(covariance, matvec(own, message.offset) + information)
    return GaussianChain(loc, covariance, None, covariance=covariance, validate_args=False)


def _divergence(
    lanes: "Lanes",
    filtered: Filtered,  # as lanes
    correction: Tensor,  # m_t|T - m_t|t, shape: (T, d, n)
    smoothed: Tensor,  # V_t|T, shape: (T, d, d, n)
) -> Tensor:  # nats, shape: (n,)
    """KL(q || p) = E_q[log exp(...)] - log Z, with s measured from its smoothed mean.

    From there the two do not cancel: their terms are of the order of the residuals.
    """
    precision = lanes.precision
    loc, before = -correction, filtered.predicted_loc - filtered.loc - correction
    information = lanes.information - _apply(precision, filtered.loc + correction)
    evidence = (loc * information + before * (information - _apply(precision, loc))).sum((0, 1))
    volume = _identity(precision) + _product(filtered.predicted_covariance, precision)
    trace = (precision * smoothed).sum((0, 1, 2))
    return 0.5 * (block_logdet(volume.movedim(-1, -3)).sum(0) - evidence - trace)


# The recursions run on "lanes", (T, d, n) and (T, d, d, n) with n = batch times blocks: products of
# d x d matrices are then sums of d elementwise products of contiguous vectors, which for d = 1, 2,
# 3 is several times faster than batched matrix products.

FEW_ENTRIES = 4096
"""Matrices of fewer entries than this are multiplied in as few calls as possible."""


class Lanes(NamedTuple):
    """A message and pseudo-observations as lanes."""

    transition: Tensor
    offset: Tensor
    noise: Tensor
    precision: Tensor
    information: Tensor


def _to_lanes(
    message: GaussianMessage, precision: Tensor, information: Tensor
) -> tuple[Lanes, torch.Size]:  # and the shape (*batch, T, G)
    shape = torch.broadcast_shapes(message.offset.shape[:-1], information.shape[:-1])
    entries = {"transition": 2, "offset": 1, "noise": 2, "precision": 2, "information": 1}
    parts = zip((*message, precision, information), entries.values(), strict=True)
    return Lanes(*(_lanes(part, shape, count) for part, count in parts)), shape


def _filter(lanes: Lanes) -> Filtered:
    """`Filtered`, as lanes."""
    transition, offset, noise, precision, information = lanes
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
    return Filtered(predicted_loc, predicted, loc, covariance)


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
