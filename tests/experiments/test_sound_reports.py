"""Reports on sound: the posterior is the run's, exact guides are trusted, the rest is said."""

import json

import pytest
import torch

from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.rvae import RVAE
from pyromodels.dynamics.vae import VAE
from pyromodels.emissions.complex import spectra_of
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.enhancement import adequacy as enhancement
from pyromodels.experiments.enhancement.enhance import EnhancementInference, Recipe, enhance
from pyromodels.experiments.separation import adequacy as separation
from pyromodels.experiments.separation.adequacy import Networks, loudest
from pyromodels.experiments.separation.separate import SeparationInference, separate
from pyromodels.experiments.separation.vkf import Walks
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.noise.base import Sizes
from pyromodels.registry import NOISES

BINS = 3


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(separation, "AT_ONCE", 60)
    monkeypatch.setattr(enhancement, "FRAMES", 3)


def spectra(count=2, num_frames=9):
    torch.manual_seed(0)
    return list(2**0.5 * torch.randn(count, num_frames, BINS, dtype=torch.complex64))


def priors(*, known=False):
    """Return priors of two sources; known: of unit variance whatever z is, and encoders say so."""
    torch.manual_seed(1)
    made = [VAE(source_dim=BINS, latent_dim=2, emission="complex") for _ in range(2)]
    return BySource(map(silent, made) if known else made).eval()


def silent(module):
    """Return a module whose networks say zero."""
    for parameter in module.parameters():
        parameter.data.zero_()
    return module


def of_program(program, prior=None, **more):
    options = SeparationInference(program=program, start="encoders", steps=3, **more)
    prior = priors() if prior is None else prior
    networks = Networks(prior, priors() if isinstance(prior, Walks) else prior, None, {})
    return separation.judged(spectra(), 2, networks, options), networks, options


# ---- separation


@pytest.mark.parametrize("program", ["mixture", "additive"])
def test_what_is_judged_is_what_a_run_reports(program):
    judged, networks, options = of_program(program)
    posterior = judged.fit(judged.batch, 0)
    pieces = loudest(spectra(), separation.FRAMES).to(torch.complex128)
    reported = separate(pieces, networks.prior, options)
    law = posterior.guide.sources
    mean = (law(judged.batch) if program == "additive" else law).mean
    torch.testing.assert_close(spectra_of(mean), reported.estimate)
    drawn = spectra_of(posterior.sample(4000)["s"])
    error = (reported.variance / 4000).sqrt()
    assert ((drawn.mean(0) - reported.estimate).abs() < 5 * error).all()


def test_weights_of_an_exact_guide_are_the_evidence_and_it_is_trusted():
    judged, _, _ = of_program("additive", priors(known=True))
    posterior = judged.fit(judged.batch, 0)
    draws = posterior.sample(20)
    weights = posterior.log_joint(draws) - posterior.log_prob(draws)
    evidence = posterior.guide.sources(judged.batch).log_evidence()
    torch.testing.assert_close(weights, evidence.expand(20, -1))
    report = report_of(judged)
    assert {report.verdicts[name].word for name in ("s", "s_z", "joint")} == {"trust"}
    assert report.metrics["simulation/s_z[projection 0]/coverage95"] > 0.85
    assert [note[:6] for note in report.notes] == ["no R-h", "no for"]


def test_a_guide_that_is_too_narrow_is_not_trusted():
    judged, _, _ = of_program("additive", priors(known=True))

    def narrow(batch, seed):
        posterior = judged.fit(batch, seed)
        posterior.guide.variances = posterior.guide.variances / 4
        return posterior

    assert report_of(judged._replace(fit=narrow)).verdicts["s"].word == "do not trust"


def report_of(judged):
    return guide_report(judged.fit, judged.batch, simulate=judged.simulate,
                        left_out=judged.left_out, num_draws=100, num_simulations=60)


def test_owners_are_judged_and_walks_are_not_simulated():
    report = report_of(of_program("mixture")[0])
    assert {"s", "s_z", "w", "joint"} <= set(report.verdicts)
    assert any(name.startswith("simulation/w[") for name in report.metrics)
    judged, _, _ = of_program("mixture", Walks(), ratio=0.1)
    report = report_of(judged)
    assert "k_hat/joint" in report.metrics and "w" in report.verdicts
    assert any("walks learn their noise" in note for note in report.notes)
    assert not any(name.startswith("simulation") for name in report.metrics)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"steps": 0}, "inference.steps"), ({"start": "oracle"}, "inference.start"),
     ({"fine_tune": 1e-3}, "inference.fine_tune"), ({"engine": "svi"}, "inference.engine")],
)
def test_runs_without_a_posterior_of_their_own_are_refused(options, words):
    with pytest.raises(SpecError, match=words):
        separation.check_judged(SeparationInference(**options))


def test_the_loudest_piece_is_found():
    one = torch.ones(9, BINS, dtype=torch.complex64)
    one[5:7] = 3
    assert (loudest([one], 2) == 3).all() and loudest([one, one[:4]], 6).shape == (2, 4, BINS)


# ---- enhancement


def recipe(noise="nmf", *, known=False, **more):
    torch.manual_seed(2)
    prior = RVAE(source_dim=BINS, latent_dim=2, emission="complex").eval()
    if isinstance(noise, dict):
        noise = NOISES.build(noise, Sizes(0, 0, BINS, 2))
        silent(noise) if known else None
    else:
        noise = {"name": noise, "rank": 1}
    return Recipe(silent(prior) if known else prior, noise, EnhancementInference(**more), False)


def test_the_posterior_of_the_speech_is_that_of_a_run():
    how = recipe(steps=5, num_draws=2000)
    judged = enhancement.judged(spectra(), how)
    drawn = spectra_of(judged.fit(judged.batch, 3).sample(4000)["s"])[:, :, 0]
    torch.manual_seed(3)
    pieces = list(loudest(spectra(), enhancement.FRAMES).to(torch.complex128))
    for row, said in enumerate(enhance(pieces, how)):
        error = (said.variance * (1 / 4000 + 1 / 2000)).sqrt()
        assert ((drawn[:, row].mean(0) - said.estimate).abs() < 5 * error).all()


def test_a_network_of_noise_that_is_exact_is_simulated_and_trusted():
    judged = enhancement.judged(
        spectra(), recipe({"name": "lv", "relative": False, "hidden_dim": 8}, known=True, steps=0)
    )
    assert list(judged.left_out) == ["R-hat"]
    report = report_of(judged)
    assert {report.verdicts[name].word for name in ("s", "s_z", "joint")} == {"trust"}


@pytest.mark.parametrize(
    ("noise", "steps", "words"),
    [("nmf", 2, "have no law"), ({"name": "lv"}, 0, "reads what was heard"),
     ({"name": "no", "relative": False}, 0, "reads what was heard"),
     ({"name": "lv", "relative": False}, 1, "move with the signal")],
)
def test_what_cannot_be_simulated_is_left_out_with_its_reason(noise, steps, words):
    judged = enhancement.judged(spectra(), recipe(noise, steps=steps))
    assert words in judged.left_out["simulation"]
    report = report_of(judged)
    assert "k_hat/joint" in report.metrics and any(words in note for note in report.notes)
    assert not any(name.startswith("simulation") for name in report.metrics)


@pytest.mark.parametrize(("options", "words"), [
    ({"starts": ("encoder", "subtracted")}, "starts"), ({"method": "mcem"}, "density"),
])
def test_a_guide_that_is_none_is_refused(options, words):
    with pytest.raises(SpecError, match=words):
        enhancement.check_judged(EnhancementInference(**options))


# ---- the command


@pytest.mark.parametrize("task", ["separation", "enhancement"])
def test_report_judges_the_shipped_spec(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(f"pyromodels.experiments.{task}.adequacy.FRAMES", 2)
    few = {"model.epochs": 1, "data.num_mixtures": 2, "data.num_frames": 20, "inference.steps": 1}
    if task == "separation":
        few |= {"inference.start": "encoders"}
    words = [word for key, value in few.items() for word in ("--set", f"{key}={value}")]
    assert main(["report", task, *words, "--num-draws", "100", "--num-simulations", "0",
                 "--out", str(tmp_path / "page"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "s_z: " in said and "the loudest 2 frames of each" in said and "not done: " in said
    assert "k_hat/joint" in json.loads((tmp_path / "page" / "metrics.json").read_text())
