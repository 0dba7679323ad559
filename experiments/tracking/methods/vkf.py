"""The variational Kalman filter: the thesis' baseline, MixDVAE with a random walk (4.4.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
from pyromodels.experiments.harness.experiment import METHODS
from pyromodels.experiments.tracking.marginals import corners_of, joined
from pyromodels.experiments.tracking.methods.base import Options, Tracked, chunks
from pyromodels.experiments.tracking.tracker import Fitted
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.updates import AssignmentUpdate, ProcessNoiseUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE

NOISE_RATIO = (0.04, 0.04)
"""r_Phi of the thesis."""


@METHODS.register("vkf")
@dataclass(frozen=True)
class VariationalKalman:
    """The thesis' baseline: a random walk, no clutter, Lambda in the M step.

    Every piece starts from where the one before ended (Algorithm 2), then all frames are swept.

    Args:
        num_sweeps: over all frames.
        piece: frames of a piece of the cascade initialisation.
        piece_sweeps: over each piece.
    """

    num_sweeps: int = 70
    piece: int = 30
    piece_sweeps: int = 20

    def __call__(self, data: TrackingData, options: Options) -> Tracked:
        """Track."""
        num_sources = options.number_of_sources(data)
        fitted = [
            self.fit(part, num_sources, options.device) for part in chunks(data, options.chunk)
        ]
        found = joined([each.marginals for each in fitted])
        return Tracked(*corners_of(found, data), fitted[0])

    @torch.no_grad()
    def fit(self, data: TrackingData, num_sources: int | None, device: str) -> Fitted:
        """Fit piece by piece, then everything."""
        detections, mask = data.detections.to(device), data.mask.to(device)
        start = start_boxes(detections, mask, num_sources)
        observations = corners_to_centres(detections)
        variance = own_size_variance(detections, NOISE_RATIO)

        def fit(
            frames: slice, loc: Tensor, sweeps: int, initial: Tensor | None = None
        ) -> Fitted:
            anchor = Anchor(loc, (NOISE_RATIO[0] * box_size(loc)).square())
            batch = MixtureBatch(
                observations[:, frames], mask[:, frames], variance[:, frames], anchor
            )
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
        for first in range(0, data.num_frames, self.piece):
            fitted = fit(slice(first, first + self.piece), loc, self.piece_sweeps)
            pieces.append(loc[:, :, None, :, None].expand_as(fitted.guide.loc))
            loc = fitted.guide.sources.loc[..., -1, :]
        return fit(slice(None), start, self.num_sweeps, torch.cat(pieces, 2))
