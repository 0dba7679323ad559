"""One online pass, to start variational EM from: a filter that assigns frame by frame."""

import math

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain, block_inverse, matmul, matvec
from pyromodels.inference.mixture.belief_propagation import association_marginals
from pyromodels.models.mixdvae import MixDVAE

MOST_DETECTED = 0.999
"""Largest probability that a source is detected; at 1 a missed detection would be impossible."""


@torch.no_grad()
def online_assignment(
    model: MixDVAE, batch: MixtureBatch
) -> Tensor:  # responsibilities, shape: (B, T, K, N + 1)
    """Filter forward in time, assigning each frame's detections given the past (JPDA).

    The sources are named by the first frame: its assignment is one-to-one with the anchors, then
    every frame is predicted, associated and fused in turn.

    Raises:
        ValueError: where the model has no detector, or its prior no exact message.
    """
    detector = model.detector
    if detector is None:
        raise ValueError(
            "online_assignment: the model has no detector; give MixDVAE(detector=Detector())"
        )
    if not model.prior.message_is_exact:
        raise ValueError(
            f"online_assignment: {type(model.prior).__name__} has no exact message to filter with; "
            "start from a linear prior, or from the anchors"
        )
    steady = detector.reappear / (detector.reappear + detector.hide) if detector.hide else 1.0
    # a source fires once or not at all here, whatever its rate
    detected = min(steady * detector.visible_rate, MOST_DETECTED)
    clutter = model.log_clutter(batch) + math.log(detector.clutter_rate)
    log_odds = math.log(detected / (1 - detected)) - clutter
    shape = (batch.num_sequences, batch.num_sources, batch.num_frames, batch.anchor.loc.shape[-1])
    message = model.prior.gaussian_message(batch.anchor.loc.new_zeros(shape), anchor=batch.anchor)
    identity = torch.eye(model.prior.block_dim).to(message.offset)

    responsibilities, loc, covariance = [], None, None
    for t in range(batch.num_frames):
        frame = _frame(batch, t)
        transition, offset, noise = (part[:, :, t : t + 1] for part in message)
        if loc is None:
            loc, covariance = offset, noise
        else:
            loc = matvec(transition, loc) + offset
            covariance = matmul(matmul(transition, covariance), transition.mT) + noise
        predicted = GaussianChain(loc, covariance, validate_args=False)
        score = model.observation.predictive_log_prob(frame, predicted)
        score = score + log_odds[:, t, None, :, None]
        eta = association_marginals(score, frame.mask)
        responsibilities.append(eta)
        precision, information = model.observation.pseudo_observations(frame, eta[..., :-1])
        covariance = matmul(block_inverse(identity + matmul(covariance, precision)), covariance)
        loc = loc + matvec(covariance, information - matvec(precision, loc))
    return torch.cat(responsibilities, 1)


def _frame(batch: MixtureBatch, t: int) -> MixtureBatch:
    """One frame of the batch, keeping its time dimension."""
    parts = (batch.observations, batch.mask, batch.variance)
    data = (part[:, t : t + 1] for part in parts)
    return MixtureBatch(*data, batch.anchor)
