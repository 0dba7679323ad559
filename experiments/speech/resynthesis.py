"""Analysis-resynthesis: a signal through the encoder and back, by either history."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from experiments.datasets.audio import peak_normalise
from experiments.datasets.speech import Utterance
from experiments.metrics.speech import speech_metrics
from pyromodels.dynamics.latent import LatentPrior
from pyromodels.errors import mismatch
from pyromodels.stft import STFT

Mode = Literal["teacher_forced", "generation"]
MODES: tuple[Mode, ...] = ("teacher_forced", "generation")
"""Fed with the true frames, or with its own expected powers."""


class Resynthesis(NamedTuple):
    """Draws of a signal's power, and the signals they make with the phase of the original."""

    z: Tensor  # shape: (draws, T, L)
    power: Tensor  # decoder variance, shape: (draws, T, F)
    signal: Tensor  # shape: (draws, n)


@torch.no_grad()
def resynthesise(
    prior: LatentPrior,
    signal: Tensor,  # shape: (n,), peak 1
    stft: STFT,
    *,
    mode: Mode = "generation",
    num_draws: int = 1,
    floor: float = 1e-10,
) -> Resynthesis:
    """Draw z from the encoder and rebuild the signal: decoder variance and the phase of the input.

    Args:
        prior: a model of power spectrograms.
        signal: what is analysed.
        stft: the transform the model was trained on.
        mode: what the decoder is fed with; the encoder always sees the signal.
        num_draws: draws of z from q(z | x).
        floor: smallest power of a bin.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(mismatch("mode", given=repr(mode), expected=" or ".join(MODES)))
    parameter = next(prior.parameters())
    spectrum = stft.analyse(signal.to(parameter))
    observed = spectrum.abs().square().clamp_min(floor).expand(num_draws, *spectrum.shape)
    latents, power = reconstruct(prior, observed, mode=mode)
    rebuilt = torch.polar(power.sqrt(), spectrum.angle().expand_as(power))
    return Resynthesis(latents, power, stft.synthesise(rebuilt, len(signal)))


def reconstruct(
    prior: LatentPrior,
    observed: Tensor,  # power, shape: (*batch, T, F)
    *,
    mode: Mode,
) -> tuple[Tensor, Tensor]:  # z, shape: (*batch, T, L); decoder variance, shape: (*batch, T, F)
    """Draw z from the encoder, and decode it."""
    noise = torch.randn(*observed.shape[:-1], prior.latent_dim).to(observed)
    z = prior.infer(observed, noise=noise).z
    fed = prior.own_history(observed, z) if mode == "generation" else observed
    law = prior.emission.conditionals(prior.emission_parameters(z, prior.see(fed)), fed, None)
    return z, law.mean


def prepared(utterance: Utterance, stft: STFT, num_frames: int | None) -> Tensor:
    """Return an utterance's first frames, all of them for None, with a peak of one."""
    signal = utterance.signal
    return peak_normalise(signal if num_frames is None else signal[: stft.num_samples(num_frames)])


def judge(
    prior: LatentPrior,
    utterances: Sequence[Utterance],
    stft: STFT,
    *,
    mode: Mode,
    num_frames: int | None = 150,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Yield the figures of one draw of every utterance.

    Args:
        prior: the model.
        utterances: trimmed signals.
        stft: its transform.
        mode: what the decoder is fed with.
        num_frames: frames of an utterance that count, from its first; None takes all of them.
        seed: of the draws.
    """
    torch.manual_seed(seed)
    for utterance in utterances:
        signal = prepared(utterance, stft, num_frames)
        rebuilt = resynthesise(prior, signal, stft, mode=mode).signal[0].cpu()
        yield speech_metrics(signal, rebuilt)


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every figure over utterances."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
