"""`run langevin`: sources found under exact scores, figures in closed form, what it refuses."""

import json
import math

import pytest
import torch

from pyromodels.densities.gaussian import GaussianDensity
from pyromodels.densities.independent import IndependentSources
from pyromodels.densities.score_network import ScoreNetwork
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.waveforms.waveforms import Waveforms
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.priors.experiment import LangevinExperiment
from pyromodels.experiments.priors.options import GainMetrics, LangevinInference
from pyromodels.experiments.priors.separate import (
    figures_of,
    gains,
    one_line_rule,
    sample_sources,
)
from pyromodels.experiments.runs.runner import build, run_spec
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.inference.engines.langevin import Langevin, anneal
from pyromodels.inference.engines.mixing import ExactMixing

SMALL = ["data.num_mixtures=3", "data.length=96", "inference.levels=4",
         "inference.steps=[5,3,2,2]"]


def ran(folder, *settings, draw=False):
    return run_spec(load_spec("langevin", settings=[*SMALL, *settings]), folder, draw=draw)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_run_prints_keeps_and_draws_its_figures(tmp_path, capsys):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    assert main(["run", "langevin", *settings, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "3 mixtures of sine + square" in printed and "one-line rule" in printed
    assert {f.name for f in tmp_path.joinpath("run").glob("*.png")} == {"estimates.png", "gain.png"}
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {*LangevinExperiment.columns} <= {*kept}
    _, again = ran(tmp_path / "again")
    assert again.metrics["gain"] == kept["gain"] and kept["diverged"] == 0


def test_with_the_exact_score_the_true_sources_are_found_again(tmp_path):
    """From the truth under the first level's noise, on mixtures of three and of a sum."""
    _, outcome = ran(tmp_path, 'data.kinds=["sine","square","triangle"]', "data.mix=sum",
                     "inference.start=oracle", "inference.first=0.1", "data.length=512",
                     "data.frequencies=released")
    assert outcome.metrics["gain_median"] > 40 and outcome.metrics["above"] == 1
    assert "rule/gain" not in outcome.metrics
    taken = outcome.fitted
    assert taken.sampled.estimate.shape == (3, 3, 512)
    expected = si_sdr(taken.mixtures.sources, taken.sampled.estimate).clamp_max(60)
    mixture = taken.mixtures.sources.sum(1, keepdim=True).expand(-1, 3, -1)
    expected = expected - si_sdr(taken.mixtures.sources, mixture)
    assert outcome.metrics["gain"] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert outcome.metrics["triangle/gain"] == pytest.approx(expected[:, 2].mean().item(), abs=1e-3)


def test_the_printed_algorithm_diverges_and_is_told(tmp_path):
    """White priors: it leaves at the first level, and the run says how many mixtures."""
    _, outcome = ran(tmp_path, "model.prior=gaussian", "inference.constraint=printed",
                     "inference.steps=150")
    assert outcome.metrics["diverged"] == 1
    assert "3 of 3 mixtures diverged" in LangevinExperiment().summary(outcome)
    assert outcome.fitted.sampled.estimate.isfinite().all() and outcome.metrics["gain"] < 0


@pytest.mark.parametrize("mix", ["mean", "sum"])
def test_the_one_line_rule(mix):
    data = Waveforms(num_mixtures=4, length=50, mix=mix).mixtures(torch.float64)
    found = one_line_rule(data.mixture, data.weights, ("sine", "square"))
    total = data.sources.sum(1)
    torch.testing.assert_close(found[:, 1], total.sign())
    torch.testing.assert_close(found[:, 0], total - 0.9 * total.sign())
    swapped = one_line_rule(data.mixture, data.weights, ("square", "sine"))
    torch.testing.assert_close(swapped, found.flip(1))
    assert one_line_rule(data.mixture, data.weights, ("sine", "saw")) is None


def test_gains_are_capped_and_counted():
    data = Waveforms(num_mixtures=2, length=200).mixtures(torch.float64)
    estimate = data.sources.clone()
    estimate[1] = data.mixture[1]
    gain = gains(data, estimate, 60.0)
    mixture = si_sdr(data.sources, data.mixture[:, None].expand_as(data.sources))
    torch.testing.assert_close(gain, torch.stack([60 - mixture[0], torch.zeros(2).double()]))
    found = figures_of(torch.tensor([[10.0, 4.0], [5.0, 3.0], [9.0, 0.0]]), GainMetrics(above=4.2))
    expected = {"gain": 31 / 6, "gain_median": 4.5, "above": 2 / 3}
    assert found == pytest.approx(expected)


def test_of_several_chains_the_most_probable_is_kept():
    data = Waveforms(num_mixtures=3, length=20).mixtures(torch.float64)
    density = IndependentSources([GaussianDensity(std=0.5), GaussianDensity(std=0.7)])
    options = LangevinInference(chains=5, levels=2, steps=2, denoise=False)
    found = sample_sources(data, density, options, seeded(), show_progress=False)
    generator = seeded()
    start = torch.randn(5, *data.sources.shape, generator=generator, dtype=torch.float64)
    kernel = Langevin(density, 1.0, mixing=ExactMixing(data.mixture, data.weights))
    chains = anneal(kernel, options.schedule, start, generator).position
    best = density.log_prob(chains, 0.01).argmax(0)
    assert len(set(best.tolist())) > 1
    torch.testing.assert_close(found.estimate, chains[best, torch.arange(3)])


class ScoreOfGaussian(GaussianDensity):
    has_density = False


def test_of_a_score_alone_chains_are_judged_by_how_well_it_denoises():
    data = Waveforms(num_mixtures=3, length=20).mixtures(torch.float64)
    found = []
    for kind in (GaussianDensity, ScoreOfGaussian):
        density = IndependentSources([kind(std=0.1), kind(std=0.7)])
        options = LangevinInference(chains=5, levels=2, steps=2, denoise=False)
        found.append(sample_sources(data, density, options, seeded(), show_progress=False).estimate)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("start", ["noise", "mixture", "oracle"])
def test_starts_are_where_they_say(start):
    data = Waveforms(num_mixtures=2, length=4000).mixtures(torch.float64)
    density = IndependentSources([GaussianDensity(), GaussianDensity()])
    options = LangevinInference(start=start, levels=1, first=0.1, steps=1, rate=1e-9,
                                constraint="soft", denoise=False)
    found = sample_sources(data, density, options, seeded(), show_progress=False).estimate
    truth = {"noise": torch.zeros_like(data.sources), "oracle": data.sources,
             "mixture": data.mixture[:, None].expand_as(data.sources)}[start]
    assert (found - truth).std().item() == pytest.approx(0.1, rel=5 / math.sqrt(2 * found.numel()))


def test_a_network_is_trained_where_the_spec_names_one(tmp_path):
    _, outcome = ran(tmp_path, "model.prior=score_network", 'model.priors={sine="waveform"}',
                     "guide.steps=2", "guide.steps_per_epoch=1", "guide.num_channels=8",
                     "guide.num_rounds=1", "guide.batch_size=2", "guide.length=64")
    assert outcome.fitted.sampled.estimate.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.prior=score_netwrk"], "score_network"),
        (['model.priors={bell="waveform"}'], "bell"),
        (["inference.start=truth"], "start"),
        (["inference.levels=0"], "num_levels"),
        (["inference.levels=3"], "one for each of 3 levels"),
        (["inference.constraint=printed", "inference.adjusted=true"], "Algorithm 1"),
        (["data.name=scene"], "waveforms"),
        (["inference.adjusted=true", 'model.priors={sine="score_network"}'],
         "inference.adjusted: given True; expected False"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(SpecError, match=words):
        build(load_spec("langevin", settings=[*SMALL, *settings]))


def test_a_score_alone_accepts_nothing():
    density = IndependentSources([ScoreNetwork(num_channels=8, num_rounds=1)] * 2)
    data = Waveforms(num_mixtures=1, length=64).mixtures()
    with pytest.raises(SpecError, match="inference.adjusted"):
        sample_sources(data, density, LangevinInference(adjusted=True), seeded())
