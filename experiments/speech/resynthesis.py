"""Analysis-resynthesis: a signal through the encoder and back, by either history."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.speech.audio import peak_normalise
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.metrics.audio.speech import speech_metrics

Mode = Literal["teacher_forced", "generation"]
MODES: tuple[Mode, ...] = ("teacher_forced", "generation")
"""Fed with the true frames, or with its own expected powers."""


def modes_of(prior: DynamicalPrior) -> tuple[Mode, ...]:
    """Return the histories in which a model differs: one where nothing is fed back."""
    return MODES if prior.feeds_back else ("generation",)


class Resynthesis(NamedTuple):
    """Draws of a signal's power, and the signals they make with the phase of the original."""

    z: Tensor  # shape: (draws, T, L)
    power: Tensor  # decoder variance, shape: (draws, T, F)
    signal: Tensor  # shape: (draws, n)


@torch.no_grad()
def resynthesise(
    prior: DynamicalPrior,
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
    drawn = analyse(prior, observed)
    power = decode(drawn.networks, drawn.z, observed, mode=mode)
    rebuilt = torch.polar(power.sqrt(), spectrum.angle().expand_as(power))
    return Resynthesis(drawn.z, power, stft.synthesise(rebuilt, len(signal)))


class Analysed(NamedTuple):
    """A draw of what the encoder says of spectrograms, and the networks that decode it."""

    networks: DynamicalPrior
    z: Tensor  # shape: (*batch, T, L)
    w: Tensor | None  # shape: (*batch, L_w); of models with a latent of the whole sequence


def analyse(
    prior: DynamicalPrior,
    observed: Tensor,  # power, shape: (*batch, T, F)
) -> Analysed:
    """Draw the latents from the encoder."""
    noise = torch.randn(*observed.shape[:-1], prior.latent_dim).to(observed)
    if not prior.global_dim:
        return Analysed(prior, prior.infer(observed, noise=noise).z, None)
    w_noise = torch.randn(*observed.shape[:-2], prior.global_dim).to(observed)
    drawn = prior.infer(observed, noise=noise, w_noise=w_noise)
    return Analysed(prior.given(drawn.w), drawn.z, drawn.w)


def decode(
    networks: DynamicalPrior,
    z: Tensor,  # shape: (*batch, T, L)
    observed: Tensor,  # power; of generation the shape alone counts; (*batch, T, F)
    *,
    mode: Mode,
) -> Tensor:  # decoder variance, shape: (*batch, T, F)
    """Return the expected power of every frame."""
    fed = networks.own_history(observed, z) if mode == "generation" else observed
    outputs = networks.cell.all_outputs(z, networks.see(fed))
    return networks.emission.conditionals(outputs, fed, None).mean


def prepared(utterance: Utterance, stft: STFT, num_frames: int | None) -> Tensor:
    """Return an utterance's first frames, all of them for None, with a peak of one."""
    signal = utterance.signal
    return peak_normalise(signal if num_frames is None else signal[: stft.num_samples(num_frames)])


def judge(
    prior: DynamicalPrior,
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


def judge_mean_spectrum(
    utterances: Sequence[Utterance], stft: STFT, *, num_frames: int | None = 150
) -> Iterator[dict[str, float]]:
    """Yield the figures of every utterance rebuilt with its own mean spectrum in all frames.

    It is given the phase, as a model is, and knows nothing of time: the least a model is to beat.
    """
    for utterance in utterances:
        signal = prepared(utterance, stft, num_frames)
        spectrum = stft.analyse(signal)
        power = spectrum.abs().square().mean(0, keepdim=True).expand(spectrum.shape)
        rebuilt = stft.synthesise(torch.polar(power.sqrt(), spectrum.angle()), len(signal))
        yield speech_metrics(signal, rebuilt)


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every figure over utterances."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
