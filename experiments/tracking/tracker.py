"""The tuned tracker: one stage after the other, over every sequence of a batch at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.errors import SpecError
from pyromodels.experiments.harness.experiment import STAGES
from pyromodels.experiments.tracking.marginals import Marginals, joined, marginals
from pyromodels.experiments.tracking.setup import box_anchor, walker_prior
from pyromodels.experiments.tracking.stages import TUNED, Fit, Progress
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.training.progress import progress as progress_bar
from pyromodels.models.mixdvae import MixDVAE


class Fitted(NamedTuple):
    """A fitted guide with the program and the data it belongs to."""

    model: MixDVAE
    guide: MeanField
    batch: MixtureBatch
    elbo: Tensor  # nats, shape: (B,)
    trace: dict[str, list[Tensor]] = {}  # phase -> bounds after each sweep, where they were told

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
    return Fitted(fit.model, fit.guide, fit.batch, fit.elbo, fit.trace)


def track_in_chunks(
    model: MixDVAE,
    batch: MixtureBatch,
    stages: Sequence[Mapping[str, Any]],
    *,
    chunk: int,
    **how: Any,
) -> tuple[Fitted, Marginals, Tensor]:
    """Track `chunk` sequences at a time; the fit of the first ones, marginals and bounds of all.

    Args:
        model, batch, stages: as `track` has them.
        chunk: how many at once.
        **how: further arguments of `track`.
    """
    first, found, elbo = None, [], []
    for rows in torch.arange(batch.num_sequences).split(chunk):
        fitted = track(model, batch.take(rows), stages, **how)
        found.append(fitted.marginals)
        elbo.append(fitted.elbo)
        first = first or fitted
    return first, joined(found), torch.cat(elbo)


@contextmanager
def sweeps_bar(what: str) -> Iterator[Progress]:
    """Show sweeps and the bound as they come; yields what is to be told of them."""
    with progress_bar(desc=what, unit="sweep") as bar:

        def tell(phase: str, sweep: int, bound: Tensor) -> None:
            bar.set_postfix_str(f"{phase}, bound {bound.mean():.1f} nats", refresh=False)
            bar.update()

        yield tell
