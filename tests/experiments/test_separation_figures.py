"""Which figures a separation is given: asked for by name, left out where nobody can judge."""

import importlib.util
import json
import math

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.speech.synthesis import synthesise
from pyromodels.experiments.metrics.audio.distortion import scaled_rmse, si_sdr
from pyromodels.experiments.metrics.audio.perceptual import estoi, pesq_figures
from pyromodels.experiments.separation.measures import FIGURES, check_packages, mean, measured
from pyromodels.experiments.separation.scores import SeparationMetrics

SMALL = {
    "guide.steps": 2, "guide.steps_per_epoch": 2, "guide.batch_size": 2, "guide.hidden_dim": 4,
    "guide.num_frames": 16, "inference.steps": 0, "data.num_mixtures": 2, "data.num_frames": 60,
    "metrics.checked": 0, "metrics.num_examples": 0,
}


@pytest.fixture
def pair():
    """Two mixtures of speech and noise, and estimates with some of the other source in them."""
    torch.manual_seed(0)
    speech = torch.stack([utterance.signal[:24000] for utterance in synthesise(2, 1.5, seed=0)])
    truth = torch.stack((speech, 0.2 * torch.randn(2, 24000)), 1)
    return truth, truth + 0.3 * truth.flip(1)


def test_every_figure_is_that_of_its_source(pair):
    truth, made = pair
    found = measured(truth, made, FIGURES)
    assert set(found) == {"si_sdr", "si_sdr_improvement", "rmse", "estoi", "pesq_wb", "pesq_nb",
                          "pesq_raw"}
    assert all(values.shape == (2, 2) for values in found.values())
    one = truth[1, 0], made[1, 0]
    assert found["si_sdr"][1, 0] == si_sdr(*one) and found["rmse"][1, 0] == scaled_rmse(*one)
    assert found["estoi"][1, 0].item() == pytest.approx(estoi(*one))
    for key, value in pesq_figures(*one).items():
        assert found[key][1, 0].item() == pytest.approx(value)


def test_improvement_is_none_for_the_mixture_itself(pair):
    truth, made = pair
    same = truth.sum(1, keepdim=True).expand_as(truth)
    assert measured(truth, same, ["si_sdr_improvement"])["si_sdr_improvement"].abs().max() < 1e-9
    assert measured(truth, made, ["si_sdr_improvement"])["si_sdr_improvement"].min() > 3


def test_what_cannot_be_judged_is_nan_and_no_part_of_the_mean(pair):
    truth, made = pair
    found = measured(truth[..., :3000], made[..., :3000], ["pesq", "estoi"])  # too short for both
    assert found["pesq_wb"].isnan().all() and found["estoi"].isnan().all()
    assert mean([1.0, math.nan, 3.0]) == 2 and math.isnan(mean([math.nan]))


@pytest.mark.parametrize("figure, package", [("pesq", "pesq"), ("estoi", "pystoi")])
def test_a_missing_package_is_named_before_anything_is_done(monkeypatch, capsys, figure, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name)
    )
    check_packages(["si_sdr", "rmse"])
    words = ["run", "separation", "--set", f'metrics.figures=["si_sdr","{figure}"]']
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pyromodels: error: package {package} is not installed")
    assert error.count("\n") == 1


def test_a_figure_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match="figure 'peqs'; did you mean 'pesq'"):
        SeparationMetrics(figures=("peqs",))


def test_a_run_says_the_figures_it_was_asked_for_and_what_was_left_out(
    tmp_path, capsys, monkeypatch
):
    from pyromodels.experiments.separation import measures

    calls = []

    def judge(truth, estimate):
        calls.append(len(truth))
        if len(calls) % 4 == 1:  # speech of the first mixture, of either method
            raise ValueError("no speech")
        return {"pesq_wb": 2.0, "pesq_nb": 2.5, "pesq_raw": 2.0}

    monkeypatch.setattr(measures, "pesq_figures", judge)
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    words += ["--set", 'metrics.figures=["si_sdr_improvement","pesq"]']
    words += ["--set", 'metrics.baselines=["mixture"]', "--out", str(tmp_path / "out")]
    assert main(["run", "separation", *words]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["speech/pesq_wb"] == 2 and metrics["speech/pesq_wb_left_out"] == 1
    assert "tones/pesq_wb_left_out" not in metrics and "speech/si_sdr" not in metrics
    assert metrics["mixture/si_sdr_improvement"] == pytest.approx(0, abs=0.1)
    assert "speech/pesq_wb: 1 of 2 left out" in said and "PESQ, wide band, mean" in said
    assert not (tmp_path / "out" / "scores.png").exists()
