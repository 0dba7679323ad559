"""Mixtures drawn from recordings: levels, speeds, and stems that belong together."""

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError
from pyromodels.experiments.datasets.mixtures.simulate import Simulation, simulated

SMALL = STFT(window=64, hop=16)


def test_drawn_mixtures_have_the_levels_and_unit_power():
    torch.manual_seed(0)
    recordings = [torch.randn(4000), 0.01 * torch.randn(5000)]
    options = Simulation(num_frames=20, level_db=(-3.0, 6.0), speed=1.3)
    made = simulated(recordings, 200, SMALL, options)
    assert made.shape == (200, 2, 20, 33)
    power = made.abs().square().mean((-2, -1))
    levels = 10 * (power[:, 1] / power[:, 0]).log10()
    assert levels.min() >= -3.001 and levels.max() <= 6.001 and levels.std() > 2
    torch.testing.assert_close(
        made.sum(1).abs().square().mean((-2, -1)), torch.ones(200), atol=1e-4, rtol=1e-4
    )


def test_recordings_are_played_slower_and_faster_within_the_factor():
    stft, options = STFT(), Simulation(num_frames=10, speed=1.25, equalisation_db=0.0)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    peaks = set()
    for seed in range(24):
        torch.manual_seed(seed)
        made = simulated([tone, torch.randn(16000)], 1, stft, options)
        peaks.add(made[0, 0, 5].abs().argmax().item())
    assert min(peaks) < 62 < 66 < max(peaks)  # 1000 Hz is bin 64
    assert 51 <= min(peaks) and max(peaks) <= 81


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_sources_that_go_together_are_cut_at_one_place_and_keep_their_levels(share):
    torch.manual_seed(0)
    song = torch.randn(4000)
    options = Simulation(num_frames=20, speed=1.3, equalisation_db=0.0, together=share)
    made = simulated([song, 0.5 * song], 200, SMALL, options)
    power = made.abs().square().sum((-2, -1)).sqrt()
    alike = (made[:, 0] * made[:, 1].conj()).sum((-2, -1)).abs() / power.prod(-1) > 0.999
    assert abs(alike.float().mean() - share) < 5 * (share * (1 - share) / 200) ** 0.5 + 1e-6
    torch.testing.assert_close(made[alike][:, 1], 0.5 * made[alike][:, 0])
    with pytest.raises(ValueError, match=r"together: given lengths \[4000, 3999\]"):
        simulated([song, song[1:]], 2, SMALL, options)
    with pytest.raises(SpecError, match="together: given 1.5"):
        Simulation(together=1.5)
