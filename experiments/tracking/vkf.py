"""The variational Kalman filter: the thesis' baseline, MixDVAE with a random walk (4.4.5)."""

import torch

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    box_size,
    corners_to_centres,
    own_size_variance,
    start_boxes,
)
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.tracking.tracker import Fitted
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.updates import AssignmentUpdate, ProcessNoiseUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE

NOISE_RATIO = (0.04, 0.04)
"""r_Phi of the thesis."""


@torch.no_grad()
def track_vkf(
    data: TrackingData,
    num_sources: int | None,
    *,
    device: str = "cpu",
    num_sweeps: int = 70,
    piece: int = 30,
    piece_sweeps: int = 20,
) -> Fitted:
    """Random walk, no clutter, uniform assignment, Lambda in the M step, cascade initialisation.

    Every piece of `piece` frames starts from where the one before ended (Algorithm 2).
    """
    detections, mask = data.detections.to(device), data.mask.to(device)
    start = start_boxes(detections, mask, num_sources)
    observations = corners_to_centres(detections)
    variance = own_size_variance(detections, NOISE_RATIO)

    def fit(frames: slice, loc: torch.Tensor, sweeps: int, initial: torch.Tensor | None) -> Fitted:
        anchor = Anchor(loc, (NOISE_RATIO[0] * box_size(loc)).square())
        batch = MixtureBatch(observations[:, frames], mask[:, frames], variance[:, frames], anchor)
        std = anchor.loc.new_full((len(loc), 1, 4, 1), 0.04)
        model = MixDVAE(LinearGaussian(order=1, process_std=std, scale="centre_box").to(device))
        guide = MeanField(model, batch)
        if initial is not None:
            guide.loc = initial
        updates = [AssignmentUpdate(), SourceUpdate(), ProcessNoiseUpdate(std, strength=1.0)]
        vem = VEM(model, guide, updates)
        for _ in range(sweeps):
            vem.sweep(batch)
        return Fitted(model, guide, batch, vem.elbo(batch))

    loc, pieces = start, []
    for first in range(0, data.num_frames, piece):
        fitted = fit(slice(first, first + piece), loc, piece_sweeps, None)
        pieces.append(loc[:, :, None, :, None].expand_as(fitted.guide.loc))
        loc = fitted.guide.sources.loc[..., -1, :]
    return fit(slice(None), start, num_sweeps, torch.cat(pieces, 2))
