"""Enhancement: baselines, what is drawn and refused, and small runs from end to end."""

import json
from dataclasses import replace

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.rvae import RVAE
from pyromodels.emissions.complex import power_of
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.datasets.mixtures.synthetic import noises, synthetic_mixtures
from pyromodels.experiments.datasets.speech.audio import read_audio, write_wav
from pyromodels.experiments.enhancement.baselines import decision_directed
from pyromodels.experiments.enhancement.enhance import (
    Enhanced,
    EnhancementInference,
    Recipe,
    averaged,
    enhance,
    padded,
)
from pyromodels.experiments.enhancement.regions import calibrations, errors_of, variance_of
from pyromodels.experiments.enhancement.scores import of_starts, scores_of
from pyromodels.experiments.enhancement.training import (
    NoisyTraining,
    find_or_train_program,
    noisy,
)
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.weights import save_prior
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.separation.calibration import LEVELS
from pyromodels.experiments.separation.regions import regions_from
from pyromodels.experiments.speech.trained_models import SpeechModel
from pyromodels.models.enhancement import Enhancement
from pyromodels.networks.assigner import Assigner
from pyromodels.noise.base import Sizes, subtracted
from pyromodels.registry import MODELS, NOISES

SMALL = STFT(window=64, hop=16)


def a_mixture(seed=0):
    torch.manual_seed(seed)
    sources = torch.randn(2, 2000)
    sources[0, :600] = 0
    return Mixture("one", sources / sources.sum(0).abs().max())


# ---- baselines and scores


def test_the_classical_filter_lowers_steady_noise_and_keeps_what_stands_out():
    torch.manual_seed(0)
    power = torch.empty(300, 9).exponential_()
    power[200:240, 4] += 1e3
    gains = decision_directed(power)
    assert gains.shape == power.shape and (0 <= gains).all() and (gains <= 1).all()
    assert gains[205:240, 4].min() > 0.98
    assert gains[20:180].mean() < 0.15


def test_scores_are_of_the_speech_and_the_noisy_row_is_the_mixture():
    mixture = a_mixture()
    truth, noise = SMALL.analyse(mixture.sources)
    said = Enhanced(truth, truth.real, truth[None], torch.zeros(2),
                    torch.stack((truth + noise, truth)))
    rows = scores_of([mixture], [said], SMALL, ("noisy", "oracle_wiener"))
    assert list(rows) == ["enhanced", "noisy", "oracle_wiener"]
    reached = {method: row["si_sdr"][0] for method, row in rows.items()}
    assert reached["enhanced"] > 100 > reached["oracle_wiener"] > reached["noisy"]
    beside = said._replace(alone=truth + noise, inferred=truth)
    both = scores_of([mixture], [beside], SMALL, (), ("si_sdr", "rmse"))
    assert list(both) == ["enhanced", "variational_em", "network"]
    assert both["network"]["si_sdr"][0] == pytest.approx(reached["noisy"], abs=1e-3)
    assert both["variational_em"] == both["enhanced"] and both["enhanced"]["rmse"][0] < 1e-3
    starts = of_starts([mixture], [said], SMALL)
    assert starts.shape == (1, 2) and starts[0, 0] == pytest.approx(reached["noisy"], abs=1e-3)


def test_the_mean_of_two_posteriors_has_the_moments_of_their_mixture():
    torch.manual_seed(0)
    heard = torch.randn(3, 4, dtype=torch.complex64)
    share, variance = torch.rand(3, 4), torch.rand(3, 4)
    own = Enhanced(0.3 * heard, variance, torch.zeros(40000, 3, 4, dtype=torch.complex64),
                   torch.zeros(1), heard[None], alone=share * heard)
    draws = own.estimate + variance.sqrt() * torch.randn_like(own.draws)
    both = averaged(own._replace(draws=draws), heard)
    torch.testing.assert_close(both.estimate, both.draws.mean(0), atol=0.03, rtol=0.0)
    spread = (both.draws - both.estimate).abs().square().mean(0)
    torch.testing.assert_close(both.variance, spread, atol=0.03, rtol=0.03)
    assert both.inferred is own.estimate


def test_regions_of_a_gaussian_hold_what_they_say():
    mixture = a_mixture()
    truth, _ = SMALL.analyse(mixture.sources)
    variance = torch.rand(truth.shape) + 0.5
    error = variance.sqrt() * torch.randn_like(truth)
    said = Enhanced(truth - error, variance, truth[None], torch.zeros(1), truth[None])
    held = calibrations([mixture], [said], SMALL, None)
    assert list(held) == ["posterior"]
    torch.testing.assert_close(
        held["posterior"], torch.tensor(LEVELS).double(), atol=0.02, rtol=0.0
    )


def test_a_posterior_that_is_too_sure_is_widened_to_what_it_holds():
    mixture = a_mixture()
    truth, noise = spectra = SMALL.analyse(mixture.sources)
    variance = (truth + noise).abs().square() + 0.1
    error = 3 * variance.sqrt() * torch.randn_like(truth)
    said = Enhanced(truth - error, variance, truth[None], torch.zeros(1), truth[None])
    regions = regions_from(errors_of(spectra, said), SMALL)
    held = calibrations([mixture], [said], SMALL, regions)
    stated = torch.tensor(LEVELS).double()
    torch.testing.assert_close(held["recalibrated"], stated, atol=2e-3, rtol=0.0)
    torch.testing.assert_close(held["student"], stated, atol=0.03, rtol=0.0)
    assert (held["posterior"] < stated - 0.3).all()
    wide = variance_of(said, truth + noise, regions)
    assert (wide / variance).median() == pytest.approx(9, rel=0.25)


def test_sequences_of_different_lengths_are_padded():
    short, long = torch.randn(3, 5, dtype=torch.complex64), torch.randn(7, 5, dtype=torch.complex64)
    batch = padded([short, long])
    assert batch.mask.sum(-1).tolist() == [3, 7]
    back = torch.view_as_complex(batch.x.unflatten(-1, (-1, 2)).contiguous())
    assert (back[0, :3] == short).all() and (back[1] == long).all() and not back[0, 3:].any()


def test_drawn_noisy_speech_has_a_peak_of_one():
    torch.manual_seed(0)
    options = NoisyTraining(num_frames=20)
    made = noisy([torch.randn(9000), torch.randn(8000)], 5, STFT(), options)
    peak = STFT().synthesise(made.sum(1)).abs().amax(-1)
    torch.testing.assert_close(peak, torch.ones(5), atol=1e-4, rtol=0.0)


def test_made_noises_differ_and_are_the_same_again():
    first, second = noises(2, 0)
    assert (first - second).abs().max() > 0.1 and first.abs().max() == pytest.approx(1)
    torch.testing.assert_close(noises(2, 0)[1], second)


def test_long_sequences_are_taken_in_blocks():
    torch.manual_seed(0)
    prior = RVAE(source_dim=9, latent_dim=2, emission="complex").eval()
    noise = NOISES.build({"name": "no", "hidden_dim": 4}, Sizes(0, 0, 9, 2))
    spectra = [torch.randn(50, 9, dtype=torch.complex64), torch.randn(7, 9, dtype=torch.complex64)]
    options = EnhancementInference(steps=0, block_frames=20, overlap_frames=5, num_draws=1)
    recipe = Recipe(prior, noise, options, gain=False, keep_draws=2)
    long, short = enhance(spectra, recipe)
    assert long.estimate.shape == (50, 9) and long.draws.shape == (2, 50, 9)
    assert long.bounds.shape == (1,) and long.estimates.shape == (1, 50, 9)
    assert short.estimate.shape == (7, 9) and (long.variance > 0).all()
    batch = padded(spectra[1:])
    _, expected = Enhancement(prior, noise).variances(batch, torch.zeros(1, 7, 2))
    torch.testing.assert_close(short.noise, expected[0].detach())  # "no" asks for no latents
    assert long.noise.shape == (50, 9) and (long.noise > 0).all()
    seen = []
    noise.register_forward_hook(lambda module, given, made: seen.append(given[0].shape[1]))
    enhance(spectra[:1], recipe)
    assert max(seen) == 20  # nothing sees more of it than a block


def test_a_network_says_its_own_beside_in_blocks_too():
    torch.manual_seed(0)
    prior = RVAE(source_dim=9, latent_dim=2, emission="complex").eval()
    network = Assigner(9, 2, num_channels=4, hidden_dim=4).eval()
    options = EnhancementInference(
        steps=1, starts=("network",), block_frames=20, overlap_frames=5,
        num_draws=1,
    )
    recipe = Recipe(prior, {"name": "nmf", "rank": 2}, options, True, 1, network)
    spectrum = torch.randn(20, 9, dtype=torch.complex64)
    (short,) = enhance([spectrum], recipe)
    with torch.no_grad():
        mask = network(spectrum.abs().square()).softmax(-1)[..., 0]
    torch.testing.assert_close(short.alone, mask * spectrum, atol=1e-5, rtol=1e-4)
    (long,) = enhance([torch.cat((spectrum, spectrum))], recipe)
    assert long.alone.shape == (40, 9) and long.draws.shape == (1, 40, 9)
    assert long.inferred is None
    (mean,) = enhance([torch.cat((spectrum, spectrum))],
                      recipe._replace(options=replace(options, average=True)))
    assert mean.inferred.shape == (40, 9)
    torch.testing.assert_close(mean.estimate, (mean.inferred + mean.alone) / 2)
    torch.testing.assert_close(long.alone[:15], short.alone[:15], atol=1e-5, rtol=1e-4)


def test_a_start_takes_off_the_level_of_quiet_frames_whatever_the_level():
    torch.manual_seed(0)
    spectra = [torch.randn(n, 33, dtype=torch.complex64) for n in (9, 14)]
    batch, loud = padded(spectra), padded([100 * spectra[0], spectra[1]])
    share = power_of(subtracted(batch).x) / power_of(batch.x)
    assert share[batch.mask].min() == pytest.approx(0.01, rel=1e-3) and share[batch.mask].max() <= 1
    other = power_of(subtracted(loud).x) / power_of(loud.x)
    torch.testing.assert_close(other[batch.mask], share[batch.mask], atol=1e-4, rtol=1e-3)


def test_recordings_as_loud_as_they_are_make_another_network():
    data = MixtureData("d", {}, ())
    assert data.fingerprint != replace(data, as_recorded=True).fingerprint


def test_digital_silence_is_made_clean():
    prior = RVAE(source_dim=9, latent_dim=2, emission="complex").eval()
    network = Assigner(9, 2, num_channels=4, hidden_dim=4).eval()
    options = EnhancementInference(
        steps=2, starts=("network", "subtracted", "encoder"), num_draws=1
    )
    recipe = Recipe(prior, {"name": "nmf", "rank": 2}, options, gain=True, network=network)
    (said,) = enhance([torch.zeros(12, 9, dtype=torch.complex64)], recipe)
    assert not said.estimate.any() and not said.alone.any()
    assert said.variance.isfinite().all() and said.bounds.isfinite().all()


# ---- runs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path / "runs"))
    return tmp_path


LITTLE = [
    "--set", "model.prior=vae", "--set", "model.epochs=1", "--set", "data.num_mixtures=2",
    "--set", "data.num_frames=20", "--set", "inference.num_draws=2", "--set", "metrics.checked=2",
]


def test_run_enhancement_writes_what_it_says(folder, capsys):
    out = folder / "out"
    code = main(["run", "enhancement", *LITTLE, "--set", "inference.steps=2", "--set",
                 'inference.starts=["encoder","subtracted"]', "--set", "inference.average=false",
                 "--out", str(out)])
    printed = capsys.readouterr().out
    assert code == 0 and "decision directed" in printed and "an oracle's choice" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    metrics = metrics.get("metrics", metrics)
    assert metrics["best_start/si_sdr"] >= metrics["si_sdr"]
    assert metrics["improvement"] == pytest.approx(
        metrics["si_sdr"] - metrics["noisy/si_sdr"]
    )
    names = {path.name for path in out.iterdir()}
    assert {"mixture0-noisy.wav", "mixture0-enhanced.wav", "mixture0-draw1.wav", "scores.png",
            "mixture0.png"} <= names


def test_monte_carlo_em_is_a_method_of_a_run(folder, capsys):
    said = [*LITTLE, "--set", "inference.method=mcem", "--set", "inference.steps=2",
            "--set", "inference.chain_steps=4", "--set", "inference.average=true",
            "--set", 'inference.starts=["encoder","subtracted"]']
    assert main(["run", "enhancement", *said, "--no-plots", "--out", str(folder / "mc")]) == 0
    assert "\nmonte carlo em" in capsys.readouterr().out
    assert main(["show", "enhancement", *said]) == 0
    assert "guide  SampledSpeech" in capsys.readouterr().out


def test_a_network_learns_from_noisy_speech_and_then_adapts(folder, capsys):
    train = ["--set", "model.noise=lv", "--set", "guide.steps=2", "--set", "guide.batch_size=2",
             "--set", "guide.num_frames=10", "--set", "guide.steps_per_epoch=1"]
    assert main(["run", "enhancement", *LITTLE, *train, "--set", "inference.steps=0",
                 "--out", str(folder / "nd"), "--no-plots"]) == 0
    store = [path.name for path in (folder / "runs" / "weights").iterdir()]
    assert any(name.startswith("enhancement-") for name in store)
    assert main(["run", "enhancement", *LITTLE, *train, "--set", "inference.steps=2",
                 "--out", str(folder / "nda"), "--no-plots"]) == 0
    assert store == [path.name for path in (folder / "runs" / "weights").iterdir()]
    assert "real-time factor" in capsys.readouterr().out


def test_a_network_learns_from_the_one_signal_alone(folder, capsys):
    said = [*LITTLE, "--set", "model.noise=no", "--no-plots"]
    assert main(["run", "enhancement", *said, "--set", "inference.steps=2", "--out",
                 str(folder / "na")]) == 0
    assert "real-time factor" in capsys.readouterr().out
    assert EnhancementInference().rate(alone=True) == 5e-4
    assert EnhancementInference().rate(alone=False) == 0.1


def test_a_program_is_of_a_prior_and_a_noise_that_are_known(tmp_path):
    data, options = MixtureData("d", {}, ()), NoisyTraining(steps=1)
    prior = RVAE(source_dim=9, latent_dim=2, emission="spectral")
    published = SpeechModel(prior, SMALL, {"published": "one.pt"})
    with pytest.raises(SpecError, match="train dvae"):
        find_or_train_program(data, published, {"name": "lv"}, options, 0)
    table = {
        "name": "enhancement", "noise": {"name": "no"},
        "prior": {"name": "rvae", "source_dim": 9, "emission": "complex"},
    }
    path = tmp_path / "one.safetensors"
    save_prior(path, MODELS.build(table), table, {"program": table})
    trained = replace(options, weights=str(path))
    with pytest.raises(SpecError, match="noise"):
        find_or_train_program(data, published, {"name": "lv"}, trained, 0)
    assert find_or_train_program(data, published, {"name": "no"}, trained, 0).noise.reads_past


def test_show_draws_both_programs(folder, capsys):
    assert main(["show", "enhancement", *LITTLE]) == 0
    alone = ["--set", 'inference.starts=["subtracted"]', "--set", "inference.average=false"]
    assert main(["show", "enhancement", *LITTLE, *alone]) == 0
    printed = capsys.readouterr().out
    assert "model  Enhancement" in printed and "guide  FreeSpeech" in printed
    assert "s_z" in printed


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"prior": "rvea"}}, "rvae"),
        ({"model": {"noise": "lv", "gain": True}}, "nmf"),
        ({"model": {"noise": "pink"}}, "nmf"),
        ({"model": {"prior": {"weights": "rvae_speech"}, "files": "a*"}}, "learnt already"),
        ({"inference": {"starts": ["zero"]}}, "starts"),
        ({"inference": {"steps": -1}}, "0 or more"),
        ({"inference": {"overlap_frames": 2000}}, "overlap_frames"),
        ({"inference": {"method": "em"}}, "mcem"),
        ({"inference": {"proposal": "gibbs"}}, "langevin"),
        ({"inference": {"method": "mcem", "num_chains": 3}}, "multiple of the chains"),
        ({"inference": {"method": "mcem", "learning_rate": 0.1}}, "learning_rate"),
        ({"metrics": {"figures": ["si_sdr_improvement"]}}, "estoi"),
        ({"metrics": {"baselines": ["wiener"]}}, "oracle_wiener"),
    ],
)
def test_what_no_run_can_be_is_refused(tables, message):
    with pytest.raises(SpecError, match=message):
        Spec("enhancement", **tables)


def test_low_rank_noise_is_not_trained_and_two_kinds_are_expected(folder):
    task, data = experiment("enhancement"), synthetic_mixtures(("speech", "noise"), 1, 20)
    with pytest.raises(SpecError, match="low rank"):
        task.model(Spec("enhancement", guide={"steps": 5}), data)
    beside = Spec("enhancement", model={"noise": "lv"}, inference={"method": "mcem"})
    with pytest.raises(SpecError, match="mcem beside noise = lv"):
        task.model(beside, data)
    three = Spec("enhancement", data={"name": "synthetic_mixtures",
                                      "kinds": ["speech", "noise", "tones"]})
    with pytest.raises(SpecError, match="speech and noise"):
        task.data(three)


def test_a_file_of_ones_own_is_made_clean(folder, capsys):
    noise = noises(1, 5)[0][:12000]
    write_wav(folder / "mine.wav", noise, sample_rate=22050)
    out = folder / "own"
    assert main(["run", "enhancement", "--noisy", str(folder / "mine.wav"), "--set",
                 "inference.steps=1", "--out", str(out), "--no-plots"]) == 0
    said = capsys.readouterr()
    assert "below what was heard" in said.out and "22050 Hz resampled" in said.err
    enhanced = read_audio(out / "mine-enhanced.wav")
    assert len(enhanced) == len(read_audio(folder / "mine.wav")) and enhanced.abs().max() > 0
    assert "si_sdr" not in json.loads((out / "metrics.json").read_text())
