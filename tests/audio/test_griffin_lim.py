"""Phase retrieval: monotone without momentum, better with it, exact where nothing is unknown."""

import pytest
import torch

from pyromodels.audio.griffin_lim import griffin_lim
from pyromodels.audio.stft import STFT
from pyromodels.errors import ShapeError
from pyromodels.experiments.datasets.speech.synthesis import synthesise


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def magnitude() -> torch.Tensor:
    signals = torch.stack([u.signal for u in synthesise(2, 1.0)]).double()
    return STFT().analyse(signals).abs()


def inconsistency(signal: torch.Tensor, magnitude: torch.Tensor) -> float:
    """Distance of the magnitudes, relative; bins that stand for two count twice."""
    weight = torch.full((magnitude.shape[-1],), 2.0, dtype=torch.float64)
    weight[[0, -1]] = 1
    wrong = (STFT().analyse(signal).abs() - magnitude).square() * weight
    return (wrong.sum() / (magnitude.square() * weight).sum()).sqrt().item()


def test_without_momentum_no_step_moves_away(magnitude):
    errors = [
        inconsistency(
            griffin_lim(magnitude, STFT(), iterations=n, momentum=0, generator=seeded()), magnitude
        )
        for n in range(12)
    ]
    assert all(after <= before + 1e-12 for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0] / 2


def test_momentum_ends_nearer(magnitude):
    plain, fast = (
        inconsistency(
            griffin_lim(magnitude, STFT(), iterations=60, momentum=m, generator=seeded()), magnitude
        )
        for m in (0.0, 0.99)
    )
    assert fast < 0.8 * plain
    assert fast < 0.15


def test_shape_batch_and_seed(magnitude):
    signal = griffin_lim(magnitude, STFT(), iterations=2, generator=seeded())
    assert signal.shape == (2, STFT().num_samples(magnitude.shape[-2]))
    assert torch.equal(signal, griffin_lim(magnitude, STFT(), iterations=2, generator=seeded()))
    assert griffin_lim(torch.zeros(3, 513), STFT()).abs().max() == 0


@pytest.mark.parametrize(
    ("magnitude", "options", "words"),
    [
        (torch.ones(5, 257), {}, "513"),
        (torch.ones(1, 513), {}, "T >= 2"),
        (-torch.ones(5, 513), {}, "negative"),
        (torch.ones(5, 513), {"iterations": -1}, "iterations.*-1"),
        (torch.ones(5, 513), {"momentum": 1.0}, "momentum.*1.0"),
    ],
)
def test_errors_name_what_was_expected(magnitude, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        griffin_lim(magnitude, STFT(), **options)
    assert isinstance(caught.value, ShapeError) == ("513" in words or "T >" in words)
