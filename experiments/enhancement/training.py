"""Training on noisy speech: an encoder that hears through noise, and a network that foretells it.

No clean twin of a noisy signal is looked at (thesis, section 6.2.4, the configuration ND).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyromodels.batch import SequenceBatch
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData
from pyromodels.experiments.datasets.mixtures.simulate import Simulation, simulated
from pyromodels.experiments.enhancement.enhance import hold_decoder
from pyromodels.experiments.harness.drawn import fit_drawn
from pyromodels.experiments.harness.store import History, MadeBy, find_or_train
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.speech.trained_models import SpeechModel, of_spectra
from pyromodels.guides.denoising import EncodedSpeech
from pyromodels.inference.enhancement.bound import EnhancementBound
from pyromodels.inference.training.options import FitOptions
from pyromodels.models.enhancement import Enhancement

if TYPE_CHECKING:
    from pathlib import Path

    from pyromodels.audio.stft import STFT


@dataclass(frozen=True)
class NoisyTraining(Simulation):
    """How encoder and noise learn from noisy speech; beside noise of low rank nothing does.

    Args:
        weights: trained ones in place of all that: a name that ships with the package, or a path.
        steps: of Adam; 0: no training, the configuration NA.
        steps_per_epoch: between two looks at the validation recordings.
        batch_size: noisy signals a step.
        learning_rate: the highest; it falls by half a cosine.

    What signals are drawn is said by the options of `Simulation`, which these are as well.
    """

    num_frames: int = 100
    level_db: tuple[float, float] = (-5.0, 5.0)
    speed: float = 1.1
    equalisation_db: float = 2.0
    weights: str | None = None
    steps: int = 0
    steps_per_epoch: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3

    def fit_options(self, seed: int) -> FitOptions:
        """Return how `fit` is told."""
        return FitOptions(
            epochs=math.ceil(self.steps / self.steps_per_epoch), batch_size=self.batch_size,
            learning_rate=self.learning_rate, final_learning_rate=1e-2 * self.learning_rate,
            max_grad_norm=20.0, patience=10**6, seed=seed,
        )


def noisy(
    recordings: Sequence[Tensor],  # of speech, of noise, each (n,)
    num_signals: int,
    stft: STFT,
    options: Simulation,
) -> Tensor:  # spectra of speech and of noise, complex, shape: (B, 2, T, F)
    """Draw noisy speech, of a peak of one, from torch's global generator."""
    spectra = simulated(recordings, num_signals, stft, options)
    peak = stft.synthesise(spectra.sum(1)).abs().amax(-1)
    return spectra / peak.clamp_min(1e-6)[:, None, None, None]


def made_by(
    data: MixtureData, speech: SpeechModel, noise: dict[str, Any], options: NoisyTraining, seed: int
) -> MadeBy:
    """Return what determines a program, for the store."""
    if "prior" not in speech.record:
        given, expected = "published weights", "one of `train dvae`, beside a network of noise"
        raise SpecError(mismatch("model.prior", given=given, expected=expected))
    said = {key: value for key, value in asdict(options).items() if key != "weights"}
    known = {key: speech.record[key] for key in ("training", "options", "data")
             if key in speech.record}
    prior = speech.record["prior"]
    emission = {**prior["emission"], "name": "complex"}
    return {
        "program": {
            "name": "enhancement", "prior": {**prior, "emission": emission}, "noise": noise
        },
        "training": said | {"seed": seed},
        "clean": known,
        "data": data.fingerprint,
    }


def find_or_train_program(
    data: MixtureData,
    speech: SpeechModel,
    noise: dict[str, Any],
    options: NoisyTraining,
    seed: int,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
) -> Enhancement:
    """Return a program whose encoder and noise have learnt from noisy speech, or are yet to.

    Args:
        data: recordings of speech and of noise; its mixtures are not looked at.
        speech: the prior, trained on clean speech; its decoder is held.
        noise: the table of the network.
        options: how.
        seed: of everything random.
        device: of the program and of drawn signals.
        resume: go on with a training that was interrupted.

    Raises:
        SpecError: for weights of another noise, or a prior whose making is not on record.
    """
    if options.weights is not None:
        program, record = load_weights(options.weights, "program")
        if record["program"].get("noise") != noise:
            given = f"{options.weights}, of noise {record['program'].get('noise')}"
            raise SpecError(mismatch("guide.weights", given=given, expected=f"noise {noise}"))
        return program.to(device)
    stft = speech.stft
    if not options.steps:
        torch.manual_seed(seed)
        return Enhancement(of_spectra(speech), noise).to(device).eval()

    def train(program: Enhancement, checkpoints: Path) -> tuple[dict[str, Any], History]:
        program.prior.load_state_dict(of_spectra(speech).state_dict())
        hold_decoder(program.prior)
        guide, bound = EncodedSpeech(program), EnhancementBound()
        recordings = {
            split: [part.to(device) for part in data.recorded(split)]
            for split in ("train", "valid")
        }

        def loss(split: str, number: int) -> Tensor:
            heard = noisy(recordings[split], number, stft, options).sum(1)
            x = torch.view_as_real(heard).flatten(-2)
            batch = SequenceBatch.of_checked(x, torch.ones_like(x[..., 0], dtype=torch.bool))
            return -bound(program, guide, batch) / options.num_frames

        return fit_drawn(
            program, loss, options.fit_options(seed), steps_per_epoch=options.steps_per_epoch,
            num_checked=4 * options.batch_size, device=device, folder=checkpoints, resume=resume,
            on_epoch=_say_epoch,
        )

    how = made_by(data, speech, noise, options, seed)
    return find_or_train(how, train, seed=seed, device=device, resume=resume).prior


def _say_epoch(record: dict[str, float]) -> None:
    tqdm.write(
        f"{record['step']:6d} steps  nats a frame: train {record['train_loss']:9.2f}  validation "
        f"{record['valid_loss']:9.2f}  {record['seconds']:6.1f} s", file=sys.stderr,
    )
