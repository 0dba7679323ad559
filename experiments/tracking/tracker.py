"""The tuned tracker: one stage after the other, over every sequence of a batch at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.errors import SpecError
from pyromodels.experiments.harness.experiment import STAGES
from pyromodels.experiments.tracking.marginals import Marginals, marginals
from pyromodels.experiments.tracking.setup import box_anchor, walker_prior
from pyromodels.experiments.tracking.stages import TUNED, Fit, Progress
from pyromodels.guides.mean_field import MeanField
from pyromodels.models.mixdvae import MixDVAE


class Fitted(NamedTuple):
    """A fitted guide with the program and the data it belongs to."""

    model: MixDVAE
    guide: MeanField
    batch: MixtureBatch
    elbo: Tensor  # nats, shape: (B,)

    @property
    def marginals(self) -> Marginals:
        """Where each source is, whose each detection is."""
        return marginals(self.model, self.guide, self.batch)


def track(
    model: MixDVAE,
    batch: MixtureBatch,
    stages: Sequence[Mapping[str, Any]] = TUNED,
    *,
    start_std: tuple[float, float] = (0.15, 0.02),
    progress: Progress | None = None,
) -> Fitted:
    """Track every sequence by one stage after the other.

    What comes out has the program and the batch of its last stage: a detector whose errors are
    correlated is part of them.

    Args:
        model: the program; its prior is that of the last stage, where it is deep.
        batch: the data, as `setup.box_batch` returned it.
        stages: `{"name": ..., **options}`, see `stages`.
        start_std: see `setup.box_batch`; of a walker's first frame.
        progress: called after each sweep.

    Raises:
        SpecError: a model without a detector, a prior that sends no message, or stages that cannot
            follow each other.
    """
    if model.detector is None:
        raise SpecError(
            "inference 'tuned': its online pass needs a detector; leave model.detector = false "
            "out, or choose inference = vem"
        )
    if not model.prior.has_gaussian_message:
        raise SpecError(
            f"inference 'tuned' smooths, but the frames of a {type(model.prior).__name__} prior "
            "are not Gaussian; choose inference = svi"
        )
    start = batch.anchor.loc[..., :: model.prior.block_dim]
    anchor = box_anchor(start, walker_prior(), start_std)
    single = MixtureBatch(batch.observations, batch.mask, batch.variance, anchor)
    scale = model.observation.log_noise_scale.exp().item()
    guide = MeanField(model, batch)
    fit = Fit(model.prior, model, guide, single, single, noise_scale=scale, progress=progress)
    for stage in stages:
        STAGES.build(stage, fit)
    if fit.elbo is None:
        raise SpecError("inference.stages: none of them keeps a start; keep_best is missing")
    return Fitted(fit.model, fit.guide, fit.batch, fit.elbo)


def parts(batch: MixtureBatch, size: int) -> Iterator[MixtureBatch]:
    """Yield the sequences of a batch, `size` at a time, each part whole in itself."""
    for first in range(0, batch.num_sequences, size):
        rows = slice(first, first + size)
        anchor = Anchor(*(part[rows] for part in batch.anchor))
        yield MixtureBatch(
            batch.observations[rows], batch.mask[rows], batch.variance[rows], anchor
        )


def joined(found: Sequence[Marginals]) -> Marginals:
    """Return the marginals of all parts."""
    return Marginals(*(None if part[0] is None else torch.cat(part)
                       for part in zip(*found, strict=True)))
