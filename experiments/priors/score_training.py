"""Training of a score network on waveforms that are drawn anew at every step."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyromodels.audio.waveforms import WaveformLaw
from pyromodels.densities.score_network import ScoreNetwork
from pyromodels.errors import SpecError, check_positive, mismatch
from pyromodels.experiments.harness.drawn import fit_drawn
from pyromodels.experiments.harness.store import History, MadeBy, Trained, find_or_train
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.inference.training.options import FitOptions


@dataclass(frozen=True)
class ScoreTraining:
    """How a score network is trained: denoising, Adam, the rate falling by half a cosine.

    Args:
        weights: trained ones in place of all that: a name that ships with the package, or a path.
        num_channels: of the network.
        num_rounds: of it.
        stride: samples to one of its frames.
        length: samples of a training signal.
        noise_std: least and greatest sigma; its logarithm is drawn uniformly between them.
        residue: share of training signals whose noise is in part other waveforms, of the same
            power: what is left of the other sources where a mixture is not yet taken apart. With it
            the network is no longer the score of p_sigma under white noise alone.
        steps: of Adam.
        steps_per_epoch: between two looks at the validation loss.
        batch_size: signals a step.
        learning_rate: the highest.
    """

    weights: str | None = None
    num_channels: int = 64
    num_rounds: int = 2
    stride: int = 8
    length: int = 1024
    noise_std: tuple[float, float] = (0.005, 2.0)
    residue: float = 0.0
    steps: int = 3000
    steps_per_epoch: int = 100
    batch_size: int = 32
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        """Refuse what is no range, or no share."""
        check_positive(self, "steps", "steps_per_epoch", "batch_size", "length")
        if not 0 < self.noise_std[0] < self.noise_std[1]:
            expected = "two positive numbers, ascending"
            raise SpecError(mismatch("noise_std", given=self.noise_std, expected=expected))
        if not 0 <= self.residue <= 1:
            raise SpecError(mismatch("residue", given=self.residue, expected="0 to 1"))

    def fit_options(self, seed: int) -> FitOptions:
        """Return how `fit` is told."""
        return FitOptions(
            epochs=math.ceil(self.steps / self.steps_per_epoch), batch_size=self.batch_size,
            learning_rate=self.learning_rate, final_learning_rate=1e-3 * self.learning_rate,
            warm_up=self.steps // 20, max_grad_norm=1.0, patience=10**6, seed=seed,
        )


def find_or_train_score(
    law: WaveformLaw,
    kinds: Sequence[str],
    options: ScoreTraining,
    seed: int,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
) -> Trained:
    """Return a network that is told the kind, trained on waveforms of all kinds.

    Args:
        law: of periods, phases and amplitudes.
        kinds: of waveforms.
        options: how.
        seed: of everything random.
        device: of network and drawn signals.
        resume: go on with a training that was interrupted.

    Raises:
        SpecError: for weights of a network that was not trained on all of these kinds.
    """
    if options.weights is not None:
        network, record, *_ = load_weights(options.weights, "density")
        if missing := set(kinds) - set(getattr(network, "kinds", ())):
            given, expected = options.weights, f"a score network of {', '.join(sorted(missing))}"
            raise SpecError(mismatch("guide.weights", given=given, expected=expected))
        return Trained(network.to(device), record, [], Path())

    def train(network: ScoreNetwork, checkpoints: Path) -> tuple[dict[str, Any], History]:
        def loss(split: str, number: int) -> Tensor:
            return network.loss(*drawn(law, kinds, number, options, device))

        return fit_drawn(
            network, loss, options.fit_options(seed), steps_per_epoch=options.steps_per_epoch,
            num_checked=8 * options.batch_size, device=device, folder=checkpoints, resume=resume,
            on_epoch=_say_epoch,
        )

    how = made_by(law, kinds, options, seed)
    return find_or_train(how, train, seed=seed, device=device, resume=resume)


def made_by(
    law: WaveformLaw, kinds: Sequence[str], options: ScoreTraining, seed: int
) -> MadeBy:
    """Return what determines a network, for the store."""
    said = {key: value for key, value in asdict(options).items() if key != "weights"}
    return {
        "density": {
            "name": "score_network", "kinds": list(kinds), "num_channels": options.num_channels,
            "num_rounds": options.num_rounds, "stride": options.stride,
        },
        "training": said | {"seed": seed},
        "data": asdict(law),
    }


def drawn(
    law: WaveformLaw,
    kinds: Sequence[str],
    number: int,
    options: ScoreTraining,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # as `ScoreNetwork.loss` takes them
    """Draw signals of all kinds, noise, its level, and the numbers of the kinds.

    Of torch's global generator a seed is drawn, which determines all of it.
    """
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    at: dict[str, Any] = {"generator": generator, "device": device}
    kind = torch.arange(number, device=device) % len(kinds)
    signals = _of_kinds(law, kinds, kind, options.length, generator)
    low, high = (math.log(bound) for bound in options.noise_std)
    noise_std = (low + (high - low) * torch.rand(number, **at)).exp()
    noise = torch.randn(signals.shape, **at)
    if options.residue:
        first, second = (
            _of_kinds(law, kinds, torch.randint(len(kinds), (number,), **at), options.length,
                      generator)
            for _ in range(2)
        )
        other = first - torch.rand(number, 1, **at).round() * second
        other = other / other.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-3)
        chosen = (torch.rand(number, 1, **at) < options.residue).to(noise)
        share = chosen * torch.rand(number, 1, **at)
        noise = (1 - share).sqrt() * noise + share.sqrt() * other
    return signals, noise, noise_std, kind


def _of_kinds(
    law: WaveformLaw,
    kinds: Sequence[str],
    kind: Tensor,  # int64, shape: (B,)
    length: int,
    generator: torch.Generator,
) -> Tensor:  # shape: (B, length)
    """Draw a waveform of each kind that is asked for."""
    every = torch.stack([law.draw(name, len(kind), length, generator) for name in kinds])
    return every[kind, torch.arange(len(kind), device=kind.device)]


def _say_epoch(record: dict[str, float]) -> None:
    tqdm.write(
        f"{record['step']:6d} steps  denoising: train {record['train_loss']:.4f}  validation "
        f"{record['valid_loss']:.4f}  {record['seconds']:6.1f} s", file=sys.stderr,
    )
