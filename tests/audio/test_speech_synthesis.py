"""The synthesiser keeps its promises: range of F0, seeds, and no digital silence."""

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.speech.synthesis import F0_RANGES, synthesise
from pyromodels.experiments.metrics.audio.pitch import track_pitch


@pytest.fixture(scope="module")
def utterances():
    return synthesise(8, 2.4, seed=3)


def test_speakers_alternate_and_keep_to_their_range_of_f0(utterances):
    assert [u.speaker for u in utterances] == [0, 1, 2, 3, 0, 1, 2, 3]
    for utterance in utterances:
        assert utterance.f0_range == F0_RANGES[utterance.speaker % 2]
        pitch = track_pitch(utterance.signal)
        low, high = utterance.f0_range
        f0 = pitch.f0[pitch.voiced]
        inside = (f0 > 0.97 * low) & (f0 < 1.03 * high)     # jitter is 0.8 % a cycle
        assert inside.double().mean() > 0.9
        assert 0.2 < pitch.voiced.double().mean() < 0.95    # there are pauses and fricatives


def test_f0_moves_within_an_utterance(utterances):
    for utterance in utterances:
        pitch = track_pitch(utterance.signal)
        low, high = pitch.f0[pitch.voiced].quantile(torch.tensor([0.1, 0.9]).double()).tolist()
        assert high / low > 1.05


def test_signals_are_of_peak_one_without_digital_silence(utterances):
    for utterance in utterances:
        assert utterance.signal.shape == (38400,) and utterance.signal.dtype == torch.float32
        assert utterance.signal.abs().max() == 1
        assert STFT().analyse(utterance.signal).abs().min() > 0


def test_the_seed_decides_and_the_number_of_utterances_does_not(utterances):
    again, other = synthesise(2, 2.4, seed=3), synthesise(2, 2.4, seed=4)
    for number in range(2):
        assert torch.equal(again[number].signal, utterances[number].signal)
        assert not torch.equal(other[number].signal, utterances[number].signal)


def test_low_and_high_speakers_differ_in_formants_too(utterances):
    def centroid(signal: torch.Tensor) -> torch.Tensor:
        power = STFT().analyse(signal).abs().square().mean(0)
        return (power * torch.arange(513)).sum() / power.sum()

    low, high = (torch.stack([centroid(u.signal) for u in utterances[k::2]]).mean() for k in (0, 1))
    assert high > 1.1 * low


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0, 1.0), "num_utterances.*0"), ((1, 0.1), "seconds.*0.1"), ((1, float("inf")), "seconds")],
)
def test_errors_name_what_was_expected(arguments, words):
    with pytest.raises(ValueError, match=words):
        synthesise(*arguments)
    with pytest.raises(ValueError, match="num_speakers.*0"):
        synthesise(1, 1.0, num_speakers=0)
