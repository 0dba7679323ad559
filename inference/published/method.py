"""MixDVAE inference as published: frame by frame, in one direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.errors import ShapeError, check_choice, mismatch, misshapen
from pyromodels.inference.published.cells import Evidence, Posterior
from pyromodels.inference.published.options import PublishedOptions
from pyromodels.inference.published.schedule import SCHEDULES, Run

CELLS_AT_ONCE = 11520
"""Columns of a chunk of the batch (64 sequences of 60 frames and 3 sources): some 15 MB of buffers.

Fewer pay for more calls, more gain nothing. (Measured on one core with 1 MB of L2.)"""


class PublishedResult(NamedTuple):
    """q(w) and q(s) after the last iteration."""

    responsibilities: Tensor  # eta, zero where nothing is observed, shape: (B, T, K, N)
    loc: Tensor  # m, shape: (B, N, T, D)
    variance: Tensor  # diagonal of V, shape: (B, N, T, D)
    kept: dict[int, PublishedResult]  # iteration, from 1 -> the same after it, for those asked for


def box_variance(
    boxes: Tensor,  # corners [x, y, x, y], shape: (B, T, K, 4)
    *,
    ratio: float = 0.04,
    covariance_from: Literal["slot", "observation"] = "slot",
) -> Tensor:  # diagonal of Phi, shape: (B, T, K, 4)
    """Return the published observation covariance: (ratio * size of the box)^2 (thesis, 4.4.3).

    Args:
        boxes: the detections.
        ratio: r_Phi.
        covariance_from: "slot": as published, every frame takes the size of the box in the same
            slot of the first frame, which presumes that slots stay with tracks. "observation":
            every box has its own size, whatever the order.
    """
    check_choice("covariance_from", covariance_from, "slot", "observation")
    sides = boxes[..., 2:] - boxes[..., :2]
    variance = (ratio * torch.cat((sides, sides), -1)).square()
    return variance if covariance_from == "observation" else variance[:, :1].expand_as(variance)


def published_vem(
    prior: SourcePrior,
    observations: Tensor,  # shape: (B, T, K, X)
    *,
    mask: Tensor,  # True where something is observed, shape: (B, T, K)
    observation_variance: Tensor,  # diagonal of Phi, shape: (B, T, K, X)
    anchor_loc: Tensor,  # where the sources are in the first frame, shape: (B, N, D)
    options: PublishedOptions = PublishedOptions.REFERENCE,
    initial_loc: Tensor | None = None,  # m of iteration 0, shape: (B, N, T, D)
    initial_variance: Tensor | None = None,  # V of iteration 0, shape: (B, N, D) or (B, N, T, D)
    generator: torch.Generator | None = None,
    schedule: Literal["wavefront", "sweeps"] = "wavefront",
    history: Sequence[int] = (),
    cells_at_once: int | None = None,
) -> PublishedResult:
    """Run the published variational EM, all sequences, sources and observations at once.

    Without noise both schedules give the same numbers, up to rounding; see `Cells`. With noise they
    draw in another order. No gradient passes through.

    Args:
        prior: an SRNN or a DeepAR that predicts positions.
        observations: in the coordinates of the sources (D = X); anything where masked.
        mask: an observation that is not there has no part in any update.
        observation_variance: anything positive where masked; see `box_variance`.
        anchor_loc: pins the first frame.
        options: the choices of the method.
        initial_loc: in place of the cascade.
        initial_variance: None: Phi of slot n of the first frame for source n, as published, and
            the pinned variance for a source whose slot is empty there.
        generator: of the noise; None: torch's default.
        schedule: "wavefront": the cells (iteration, frame) of a diagonal at once. "sweeps": one
            after the other.
        history: iterations, from 1, whose q is wanted besides the last one's.
        cells_at_once: sequences go in chunks of at most so many columns (frame, source, sequence);
            None: as fits a CPU's caches, or the whole batch on another device.

    Raises:
        ShapeError: where shapes do not fit each other or the prior.
        ValueError: where the prior is none of those above or of another dtype than the data, an
            observation is not finite, or a variance not positive.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> boxes = torch.rand(2, 60, 3, 2).repeat(1, 1, 1, 2) + torch.tensor([0.0, 0.0, 0.1, 0.3])
        >>> result = published_vem(
        ...     SRNN(),
        ...     boxes,
        ...     mask=torch.ones(2, 60, 3, dtype=torch.bool),
        ...     observation_variance=box_variance(boxes),
        ...     anchor_loc=boxes[:, 0],
        ... )
        >>> result.responsibilities.shape, result.loc.shape
        (torch.Size([2, 60, 3, 3]), torch.Size([2, 3, 60, 4]))
    """
    given = {
        "observations": observations,
        "observation_variance": observation_variance,
        "anchor_loc": anchor_loc,
        "initial_loc": initial_loc,
        "initial_variance": initial_variance,
    }
    _check_prior(prior)
    _check_tensors(prior, mask, {name: v for name, v in given.items() if v is not None})
    _check_choices(schedule, history, options)

    if initial_variance is None:
        initial_variance = _first_variance(observation_variance, mask, anchor_loc, options)
    if initial_variance.dim() == 3:
        num_frames = observations.shape[1]
        initial_variance = initial_variance.unsqueeze(2).expand(-1, -1, num_frames, -1)
    visible = mask.unsqueeze(-1)
    phi = torch.where(visible, observation_variance, 1.0)
    observations = torch.where(visible, observations, 0.0)
    evidence = (observations, visible / phi, phi.prod(-1).sqrt())
    if cells_at_once is None:
        cells_at_once = CELLS_AT_ONCE if observations.device.type == "cpu" else 10**9
    size = max(1, cells_at_once // initial_variance[0, ..., 0].numel())
    run = Run(prior, options, generator, SCHEDULES[schedule], tuple(history))
    results = []
    with torch.inference_mode():
        for begin in range(0, len(observations), size):
            part = slice(begin, begin + size)
            seen = Evidence(*(v[part] for v in evidence))
            loc = None if initial_loc is None else initial_loc[part]
            results.append(run(seen, anchor_loc[part], initial_variance[part], loc))
    *kept, final = (_joined(chunks, mask) for chunks in zip(*results, strict=True))
    return final._replace(kept=dict(zip(history, kept, strict=True)))


def _joined(posteriors: Sequence[Posterior], mask: Tensor) -> PublishedResult:
    """The chunks as one, in tensors that autograd may read."""
    eta, loc, variance = (torch.cat(v).clone() for v in zip(*posteriors, strict=True))
    eta = torch.where(mask.unsqueeze(-1), eta.permute(0, 2, 3, 1), 0.0)
    return PublishedResult(eta, loc, variance, {})


def _first_variance(
    observation_variance: Tensor, mask: Tensor, anchor_loc: Tensor, options: PublishedOptions
) -> Tensor:  # shape: (B, N, D)
    """Phi of slot n of the first frame for source n, where that slot is filled."""
    variance = torch.full_like(anchor_loc, options.pinned_variance)
    common = min(anchor_loc.shape[1], mask.shape[2])
    variance[:, :common] = torch.where(
        mask[:, 0, :common, None], observation_variance[:, 0, :common], variance[:, :common]
    )
    return variance


def _check_prior(prior: SourcePrior) -> None:
    known = isinstance(prior, SRNN | DeepAR)
    if not known or not _as_published(prior):
        given = repr(prior.emission) if known else type(prior).__name__
        expected = "an SRNN that filters, or a DeepAR, that predicts positions"
        hint = "`pyromodels.inference.mixture.vem.VEM` takes any source prior."
        raise ValueError(mismatch("prior", given=given, expected=expected, hint=hint))


def _as_published(prior: SRNN | DeepAR) -> bool:
    if not isinstance(prior.emission, Gaussian) or prior.emission.moves:
        return False
    return isinstance(prior, DeepAR) or prior.filters


def _check_tensors(prior: SRNN | DeepAR, mask: Tensor, given: dict[str, Tensor]) -> None:
    num_sequences, num_frames = mask.shape[:2]
    num_sources, dim = given["anchor_loc"].shape[1], prior.source_dim
    if 0 in (num_sequences, num_frames, num_sources):
        sizes = f"{num_sequences} sequences, {num_frames} frames, {num_sources} sources"
        raise ShapeError(mismatch("sizes", given=sizes, expected="one of each at least"))
    sources = (num_sequences, num_sources, dim)
    paths = (num_sequences, num_sources, num_frames, dim)
    expected = {
        "observations": (*mask.shape, dim),
        "observation_variance": (*mask.shape, dim),
        "anchor_loc": sources,
        "initial_loc": paths,
        "initial_variance": sources if given.get("initial_variance", mask).dim() == 3 else paths,
    }
    dtype = next(prior.parameters()).dtype
    for name, value in given.items():
        if value.shape != expected[name]:
            hint = "See the shapes of mask and anchor_loc."
            raise misshapen(name, value.shape, expected[name], hint)
        if value.dtype != dtype:
            hint = "Convert the data or the prior."
            raise ValueError(mismatch(name, given=value.dtype, expected=dtype, hint=hint))
    if not given["observations"][mask].isfinite().all():
        hint = "What is missing is False in mask."
        raise ValueError(
            mismatch("observations", given="NaN or inf", expected="numbers", hint=hint)
        )
    phi = given["observation_variance"][mask]
    if not (phi.isfinite() & (phi > 0)).all():
        hint = "The slot rule needs slots that are filled in the first frame."
        found = "NaN, inf, zero or less"
        expected = "positive numbers where mask is True"
        raise ValueError(
            mismatch("observation_variance", given=found, expected=expected, hint=hint)
        )


def _check_choices(schedule: str, history: Sequence[int], options: PublishedOptions) -> None:
    check_choice("schedule", schedule, *SCHEDULES)
    if history and options.tolerance is not None:
        hint = "An early stop leaves iterations out."
        expected = "no history, or options.tolerance = None"
        raise ValueError(mismatch("history", given=list(history), expected=expected, hint=hint))
    outside = [i for i in history if not 1 <= i <= options.num_iterations]
    if outside:
        expected = f"iterations from 1 to {options.num_iterations}"
        raise ValueError(mismatch("history", given=outside, expected=expected))
