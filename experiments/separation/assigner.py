"""Training of the network that says whose a bin is, on mixtures drawn from recordings."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.mixtures.mixtures import AS_RECORDED, MixtureData
from pyromodels.experiments.datasets.mixtures.simulate import Simulation, simulated
from pyromodels.experiments.harness.drawn import fit_drawn
from pyromodels.experiments.harness.store import History, MadeBy, Trained, find_or_train
from pyromodels.experiments.harness.weights import PriorWeights, load_weights
from pyromodels.inference.training.options import FitOptions
from pyromodels.networks.assigner import Assigner

CEILING_DB = 30.0
"""A source that comes out with more than this counts as perfect, and one that lies so far below its
mixture as no quieter than that, lest silence govern training."""


@dataclass(frozen=True)
class AssignerOptions(Simulation):
    """How the network is trained: Adam on drawn mixtures, the rate falling by half a cosine.

    Args:
        weights: trained ones in place of all that: a name that ships with the package, or a path.
        num_channels: of its convolutions.
        hidden_dim: of its LSTMs.
        steps: of Adam.
        steps_per_epoch: between two looks at the validation recordings.
        batch_size: mixtures a step.
        learning_rate: the highest.

    What mixtures are drawn is said by the options of `Simulation`, which these are as well.
    """

    weights: str | None = None
    num_channels: int = 32
    hidden_dim: int = 184
    steps: int = 6000
    steps_per_epoch: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3

    def fit_options(self, seed: int) -> FitOptions:
        """Return how `fit` is told."""
        return FitOptions(
            epochs=math.ceil(self.steps / self.steps_per_epoch), batch_size=self.batch_size,
            learning_rate=self.learning_rate, final_learning_rate=1e-3 * self.learning_rate,
            warm_up=100, max_grad_norm=2.0, patience=10**6, seed=seed,
        )


def distortion_db(
    logits: Tensor,  # of q(w), shape: (B, T, F, N)
    sources: Tensor,  # their spectra, complex, shape: (B, N, T, F)
) -> Tensor:  # decibels, shape: (B,)
    """Return minus the signal-to-noise ratio of E_q[w] o, in the mean over sources."""
    mask, mixture = logits.softmax(-1).movedim(-1, 1), sources.sum(1, keepdim=True)
    least = 10 ** (-CEILING_DB / 10)
    error, power, whole = (
        part.abs().square().sum((-2, -1)) for part in (sources - mask * mixture, sources, mixture)
    )
    ratio = error / power.maximum(least * whole).clamp_min(torch.finfo(power.dtype).tiny)
    return 10 * (ratio + least).log10().mean(-1)


def load_assigner(weights: str, num_sources: int, where: str) -> PriorWeights:
    """Return a trained network and its record.

    Args:
        weights: a name that ships with the package, or a path.
        num_sources: that it must tell apart.
        where: the option that names it, for the error.

    Raises:
        SpecError: for another network.
    """
    found = load_weights(weights, "network")
    if not isinstance(found.prior, Assigner) or found.prior.num_sources != num_sources:
        given = f"{weights}, {type(found.prior).__name__}"
        expected = f"an assigner of {num_sources} sources"
        raise SpecError(mismatch(where, given=given, expected=expected))
    return found


def kinds_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds that a network was trained on, in the order that it says them."""
    return tuple(key for key in record.get("data", ()) if key != AS_RECORDED)


def made_by(data: MixtureData, options: AssignerOptions, seed: int, stft: STFT) -> MadeBy:
    """Return what determines a network, for the store."""
    said = {key: value for key, value in asdict(options).items() if key != "weights"}
    return {
        "network": {
            "name": "assigner", "num_bins": stft.num_bins, "num_sources": len(data.kinds),
            "num_channels": options.num_channels, "hidden_dim": options.hidden_dim,
        },
        "training": said | {"seed": seed, "window": stft.window, "hop": stft.hop},
        "data": data.fingerprint,
    }


def find_or_train_assigner(
    data: MixtureData,
    options: AssignerOptions,
    seed: int,
    stft: STFT,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
) -> Trained:
    """Return a network trained on the recordings of the data; its mixtures are not looked at.

    Args:
        data: kinds of sources.
        options: how.
        seed: of everything random.
        stft: of the spectra.
        device: of network and drawn mixtures.
        resume: go on with a training that was interrupted.
    """
    if options.weights is not None:
        network, record = load_assigner(options.weights, len(data.kinds), "guide.weights")
        return Trained(network.to(device), record, [], Path())

    def train(network: Assigner, checkpoints: Path) -> tuple[dict[str, Any], History]:
        recordings = {
            split: [part.to(device) for part in data.recorded(split)]
            for split in ("train", "valid")
        }

        def loss(split: str, number: int) -> Tensor:
            sources = simulated(recordings[split], number, stft, options)
            return distortion_db(network(sources.sum(1).abs().square()), sources)

        came_of_it, history = fit_drawn(
            network, loss, options.fit_options(seed), steps_per_epoch=options.steps_per_epoch,
            num_checked=8 * options.batch_size, device=device, folder=checkpoints, resume=resume,
            on_epoch=_say_epoch,
        )
        network.load_state_dict({k: v.half().to(v) for k, v in network.state_dict().items()})
        return came_of_it | {"validation_db": -came_of_it["best_loss"]}, history

    return find_or_train(made_by(data, options, seed, stft), train, seed=seed, device=device,
                         resume=resume)


def _say_epoch(record: dict[str, float]) -> None:
    tqdm.write(
        f"{record['step']:6d} steps  SNR, dB: train {-record['train_loss']:6.2f}  validation "
        f"{-record['valid_loss']:6.2f}  {record['seconds']:6.1f} s", file=sys.stderr,
    )
