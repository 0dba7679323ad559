"""Training of a dynamical VAE on power spectrograms, or finding it trained."""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.base import EmittingPrior
from pyromodels.experiments.datasets.speech.recordings import (
    SpeechData,
    padded_segments,
    power_segments,
)
from pyromodels.experiments.harness.store import History, MadeBy, Trained, find_or_train
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import Autocast, FitOptions, ScheduledSampling, Weights
from pyromodels.models.dvae import DynamicalVAE

POWER_FLOOR = 1e-10
"""Smallest power of a bin; digital silence has a logarithm then. Recordings hardly reach it."""


class Recipe(NamedTuple):
    """How models of one kind are trained."""

    learning_rate: float  # in the first epoch
    num_frames: int  # T of a segment
    batch_size: int
    epochs: int
    warm_up: int = 0  # steps over which the learning rate grows
    shortest: int | None = None  # frames of the last piece of a file; None: whole segments only
    hops: int | None = 0  # through how many predictions gradients pass; None: all


RECURRENT = Recipe(learning_rate=2e-3, num_frames=50, batch_size=16, epochs=90, hops=None)
"""The segments of the published LSTM models; a gradient through predictions is cheap in these."""
TRANSFORMER = Recipe(
    learning_rate=1e-3, num_frames=50, batch_size=16, epochs=60, warm_up=200, hops=1
)
"""The small models attend by distance: they are trained on short pieces and judged on longer.

Each hop of the gradient is one more pass over all frames; all of them would be a pass a frame.
"""
TRANSFORMER_PAPER = Recipe(
    learning_rate=5e-4, num_frames=150, batch_size=6, epochs=50, warm_up=200, shortest=50, hops=1
)
"""Those of the paper's size count frames, and know those they were trained on."""

AUTOREGRESSIVE = RECURRENT._replace(hops=0)
"""Predictions that a model without latents is fed with are detached."""

TRANSFORMERS = ("hit", "light")


def recipe_of(prior: str, size: str) -> Recipe:
    """Return the recipe of a model, by its registry key."""
    if prior == "deep_ar":
        return AUTOREGRESSIVE
    if prior not in TRANSFORMERS:
        return RECURRENT
    return TRANSFORMER_PAPER if size == "paper" else TRANSFORMER


@dataclass(frozen=True)
class SpeechInference:
    """What the `[inference]` of a speech spec says: `FitOptions`, where they are of use to speech.

    Args:
        scheduled_sampling: whether a model learns from its own predictions; else it is told of true
            frames. A model that is not fed with its past does not ask.
        num_frames: T of a training segment; 150 in the thesis for WSJ0, 100 for VoiceBank. None,
            here and below: the model's own, see `recipe_of`.
        epochs: most epochs; more of them help recurrent models, whose cosine then falls later.
        batch_size: segments in a minibatch.
        learning_rate: of Adam; once warmed up it falls along a half cosine to a thirtieth.
        patience: epochs without a better validation bound.
        autocast: precision of the networks.
        max_seconds: of training, which ends before the epoch that would end later.
    """

    scheduled_sampling: bool = False
    num_frames: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    patience: int = 20
    autocast: Autocast = "none"
    max_seconds: float = math.inf


class SpeechTraining(NamedTuple):
    """A training with all numbers said."""

    model: SpeechModelSpec
    inference: SpeechInference
    seed: int

    @property
    def recipe(self) -> Recipe:
        """The model's own, overridden by what the spec says."""
        given = {name: getattr(self.inference, name, None) for name in Recipe._fields}
        said = {name: value for name, value in given.items() if value is not None}
        return recipe_of(self.model.prior["name"], self.model.size)._replace(**said)

    @property
    def own_history(self) -> bool:
        """Whether the model learns from its own predictions, and is judged by them."""
        return self.inference.scheduled_sampling and self.model.feeds_back()

    def options(self) -> FitOptions:
        """Return how it is trained.

        The KL term grows over a third of the epochs: at full weight from the start, half of the
        latents never come to life. A model's own predictions take over in the first fifth: the
        longer it is taught by true frames, the longer it takes to learn to do without them.
        """
        recipe, sampling = self.recipe, None
        if self.own_history:
            sampling = ScheduledSampling(0, recipe.epochs // 5, hops=recipe.hops)
        return FitOptions(
            epochs=recipe.epochs, batch_size=recipe.batch_size, learning_rate=recipe.learning_rate,
            final_learning_rate=recipe.learning_rate / 30, warm_up=recipe.warm_up,
            kl_warm_up=max(1, recipe.epochs // 3), sampling=sampling,
            patience=self.inference.patience, autocast=self.inference.autocast, seed=self.seed,
        )

    def made_by(self, data: SpeechData) -> MadeBy:
        """Return what determines the weights, for the store."""
        recipe, model = self.recipe, self.model
        return {
            "prior": model.prior_table(),
            "training": {"window": model.window, "hop": model.hop,
                         "num_frames": recipe.num_frames, "shortest": recipe.shortest},
            "options": dataclasses.asdict(self.options()),
            "data": {"name": data.name, "files": data.fingerprint},
        }

    def segments(self, data: SpeechData, split: str) -> tuple[Tensor, ...]:
        """Return power spectrograms of a split (S, T, F) and, of pieces, where frames are."""
        recipe, stft = self.recipe, self.model.stft
        if recipe.shortest is None:
            return (power_segments(data, split, recipe.num_frames, stft, floor=POWER_FLOOR),)
        return padded_segments(
            data, split, recipe.num_frames, stft,
            shortest=min(recipe.shortest, recipe.num_frames), floor=POWER_FLOOR,
        )

    def find_or_train(
        self,
        data: SpeechData,
        *,
        device: str | torch.device = "cpu",
        resume: bool = False,
        folder: Path | None = None,
    ) -> Trained:
        """Return the trained model, from the store or, where one is given, a folder.

        A training says a line an epoch.
        """

        def train(prior: EmittingPrior, checkpoints: Path) -> tuple[dict[str, Any], History]:
            program = DynamicalVAE(prior)
            networks = Amortised(program) if prior.latent_dim else program
            segments = [
                tuple(part.to(device) for part in self.segments(data, split))
                for split in ("train", "valid")
            ]
            for power, *masks in segments:  # checked once, and not in every step
                mask = masks[0] if masks else torch.ones_like(power[..., 0], dtype=torch.bool)
                program.trajectories(SequenceBatch(power, mask))
            result = fit(
                networks, SpeechLoss(networks, judge_generating=self.own_history), *segments,
                options=self.options(), folder=checkpoints, resume=resume,
                max_seconds=self.inference.max_seconds, on_epoch=say_epoch,
            )
            return {
                "segments": [len(power) for power, *_ in segments],
                "best_epoch": result.best_epoch,
                "epochs": len(result.history),
                "seconds": sum(r["seconds"] for r in result.history),
                "stopped": result.stopped,
                "loss_nats_per_frame": result.best_loss,
            }, result.history

        return find_or_train(self.made_by(data), train, seed=self.seed, device=device,
                             resume=resume, folder=folder)


class SpeechLoss:
    """Negative ELBO, nats a frame, of every segment; without latents it is -log p(x) itself.

    It counts the frames that are there. In training the weights say how many frames are the model's
    own predictions; in validation a model that learns from its predictions is judged by them alone.

    Args:
        guide: the guide, which knows its model; or the model, where its prior has no latents.
        judge_generating: whether validation feeds the model with its own predictions.
    """

    def __init__(self, guide: Amortised | DynamicalVAE, *, judge_generating: bool) -> None:
        self.guide, self.elbo = guide, PathELBO()
        self.judged_with = 1.0 if judge_generating else 0.0

    def __call__(self, batch: tuple[Tensor, ...], weights: Weights) -> Tensor:
        """Return the loss of every segment; batch: power (B, T, F) and, if padded, mask (B, T)."""
        power, *masks = batch
        mask = masks[0] if masks else torch.ones_like(power[..., 0], dtype=torch.bool)
        own = weights.use_prediction if self.guide.training else self.judged_with
        if isinstance(self.guide, DynamicalVAE):
            prior: Any = self.guide.prior
            return -prior.elbo(power, mask=mask, use_prediction=own) / mask.sum(-1)
        model = self.guide.model
        model.use_prediction = own
        model.prediction_hops = weights.prediction_hops
        self.elbo.kl_weight = weights.kl
        loss = self.elbo.per_sequence(model, self.guide, SequenceBatch.of_checked(power, mask))
        model.use_prediction = 0.0
        return loss / mask.sum(-1)


def say_epoch(record: dict[str, float]) -> None:
    """Say how far a training is, beside a progress bar where there is one."""
    line = (f"epoch {record['epoch']:3d}  nats a frame: train {record['train_loss']:9.2f}  "
            f"validation {record['valid_loss']:9.2f}  own history "
            f"{100 * record['use_prediction']:3.0f} %  {record['seconds']:6.1f} s")
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
