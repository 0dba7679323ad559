"""Training of a dynamical VAE on power spectrograms."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.experiments.datasets.speech.recordings import (
    SpeechData,
    padded_segments,
    power_segments,
)
from pyromodels.experiments.harness.weights import save_prior
from pyromodels.experiments.speech.table_models import Recipe, prior_spec, variant
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training import distributed
from pyromodels.inference.training.fit import FitResult, fit
from pyromodels.inference.training.options import FitOptions, ScheduledSampling, Weights
from pyromodels.inference.training.seeding import seed_all
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS

POWER_FLOOR = 1e-10
"""Smallest power of a bin; digital silence has a logarithm then. Recordings hardly reach it."""


@dataclass(frozen=True)
class SpeechTraining:
    """What determines the weights, beside the data.

    Args:
        model: a name of `pyromodels.experiments.speech.table_models.VARIANTS`.
        size: one of its prior's `sizes`.
        sees: what the networks read, "power" (as published) or "log_power".
        num_frames: T of a training segment; 150 in the thesis for WSJ0, 100 for VoiceBank. None,
            here and below: the model's own, see
            `pyromodels.experiments.speech.table_models.Recipe`.
        window: of the short-time Fourier transform, samples.
        hop: samples.
        epochs: most epochs; more of them help recurrent models, whose cosine then falls later.
        batch_size: segments in a minibatch.
        learning_rate: of Adam; once warmed up it falls along a half cosine to a thirtieth.
        patience: epochs without a better validation bound.
        autocast: precision of the networks, see `FitOptions`.
        seed: of weights, order and noise.
    """

    model: str = "srnn_ss"
    size: str = "small"
    sees: Literal["power", "log_power"] = "log_power"
    num_frames: int | None = None
    window: int = 1024
    hop: int = 256
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    patience: int = 20
    autocast: Literal["none", "bf16", "fp16"] = "none"
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """The model's own, overridden by what is said here."""
        given = {name: getattr(self, name) for name in Recipe._fields if hasattr(self, name)}
        said = {name: value for name, value in given.items() if value is not None}
        chosen = variant(self.model)
        recipe = (self.size == "paper" and chosen.paper_recipe) or chosen.recipe
        return recipe._replace(**said)

    def resolved(self) -> "SpeechTraining":
        """Return the same training with all numbers said."""
        recipe = self.recipe._asdict()
        return dataclasses.replace(
            self, **{name: value for name, value in recipe.items() if hasattr(self, name)}
        )

    @property
    def stft(self) -> STFT:
        """The transform of the spectrograms."""
        return STFT(self.window, self.hop)

    def prior(self) -> dict[str, Any]:
        """Return the registry's spec of the prior."""
        bins = self.stft.num_bins
        return prior_spec(self.model, size=self.size, num_bins=bins, sees=self.sees)

    def options(self) -> FitOptions:
        """Return how it is trained.

        The KL term grows over a third of the epochs: at full weight from the start, half of the
        latents never come to life. A model's own predictions take over in the first fifth: the
        longer it is taught by true frames, the longer it takes to learn to do without them.
        """
        recipe, sampling = self.recipe, None
        if variant(self.model).scheduled_sampling:
            sampling = ScheduledSampling(0, recipe.epochs // 5, hops=recipe.hops)
        return FitOptions(
            epochs=recipe.epochs, batch_size=recipe.batch_size, learning_rate=recipe.learning_rate,
            final_learning_rate=recipe.learning_rate / 30, warm_up=recipe.warm_up,
            kl_warm_up=max(1, recipe.epochs // 3),
            sampling=sampling, patience=self.patience, autocast=self.autocast, seed=self.seed,
        )

    def segments(self, data: SpeechData, split: str) -> tuple[Tensor, ...]:
        """Return power (S, T, F) and, of padded segments, the mask (S, T)."""
        recipe = self.recipe
        if recipe.shortest is None:
            return (power_segments(data, split, recipe.num_frames, self.stft, floor=POWER_FLOOR),)
        return padded_segments(
            data, split, recipe.num_frames, self.stft,
            shortest=min(recipe.shortest, recipe.num_frames), floor=POWER_FLOOR,
        )


class SpeechLoss:
    """Negative ELBO, nats a frame, of every segment.

    It counts the frames that are there. In training the weights say how many frames are the model's
    own predictions; in validation a model that learns from its predictions is judged by them alone.

    Args:
        guide: the guide, which knows its model.
        judge_generating: whether validation feeds the model with its own predictions.
    """

    def __init__(self, guide: Amortised, *, judge_generating: bool) -> None:
        self.guide, self.elbo = guide, PathELBO()
        self.judged_with = 1.0 if judge_generating else 0.0

    def __call__(self, batch: tuple[Tensor, ...], weights: Weights) -> Tensor:
        """Return the loss of every segment; batch: power (B, T, F) and, if padded, mask (B, T)."""
        power, *masks = batch
        mask = masks[0] if masks else torch.ones_like(power[..., 0], dtype=torch.bool)
        model, training = self.guide.model, self.guide.training
        model.use_prediction = weights.use_prediction if training else self.judged_with
        model.prediction_hops = weights.prediction_hops
        self.elbo.kl_weight = weights.kl
        loss = self.elbo.per_sequence(model, self.guide, SequenceBatch.of_checked(power, mask))
        model.use_prediction = 0.0
        return loss / mask.sum(-1)


class TrainedSpeech(NamedTuple):
    """A model of speech and what its training came to."""

    prior: DynamicalPrior
    spec: SpeechTraining
    fit: FitResult


def train_speech(
    spec: SpeechTraining,
    data: SpeechData,
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    max_seconds: float = math.inf,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainedSpeech:
    """Train a model and write `weights.safetensors`, its JSON and the checkpoints to a folder."""
    seed_all(spec.seed)
    prior = DYNAMICS.build(spec.prior()).to(device)
    guide = Amortised(DynamicalVAE(prior))
    segments = [
        tuple(part.to(device) for part in spec.segments(data, split))
        for split in ("train", "valid")
    ]
    for power, *masks in segments:  # once, and not in every step
        mask = masks[0] if masks else torch.ones_like(power[..., 0], dtype=torch.bool)
        guide.model.trajectories(SequenceBatch(power, mask))
    loss = SpeechLoss(guide, judge_generating=variant(spec.model).scheduled_sampling)
    result = fit(
        guide, loss, *segments, options=spec.options(), folder=folder / "checkpoints",
        resume=resume, max_seconds=max_seconds, on_epoch=on_epoch,
    )
    record = {
        "training": dataclasses.asdict(spec.resolved()),
        "options": dataclasses.asdict(spec.options()),
        "data": {
            "name": data.name, "files": data.fingerprint,
            "segments": [len(power) for power, *_ in segments],
        },
        "parameters": num_parameters(prior),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "seconds": sum(r["seconds"] for r in result.history),
        "stopped": result.stopped,
        "loss_nats_per_frame": result.best_loss,
    }
    if distributed.is_first():
        save_prior(folder / "weights.safetensors", prior, spec.prior(), record)
    return TrainedSpeech(prior.eval(), spec, result)


def num_parameters(module: nn.Module) -> int:
    """Count the trained numbers of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
