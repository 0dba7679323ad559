"""The speech commands end to end on a few synthetic utterances, and the parts they are made of."""

import dataclasses
import json
import math

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.speech.audio import read_audio
from pyromodels.experiments.datasets.speech.corpora import synthetic_speech, with_tests
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.generation.generate import pieces
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.store import find
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.experiments.speech import swap as swap_command
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.resynthesis import (
    analyse,
    decode,
    judge_mean_spectrum,
    modes_of,
    resynthesise,
)
from pyromodels.experiments.speech.swap import Swapped
from pyromodels.experiments.speech.table_models import VARIANTS
from pyromodels.experiments.speech.trained_models import (
    load_model,
    load_or_train,
    of_spectra,
    trained_model,
)
from pyromodels.experiments.speech.training import SpeechInference, SpeechLoss, SpeechTraining
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.training.options import Weights
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS

SIZES = {"num_train": 4, "num_valid": 2, "num_test": 2, "seconds": 1.2}
FEW = [word for key, value in SIZES.items() for word in ("--set", f"data.{key}={value}")]
TRAINING = ["--window", "128", "--hop", "64", "--num-frames", "20", "--epochs", "1",
            "--batch-size", "16", *FEW]
SMALL = [*TRAINING, "--judged-frames", "150"]
AUTOREGRESSIVE = SpeechModelSpec({"name": "deep_ar", "hidden_dim": 16}, window=128, hop=64)


@pytest.fixture
def data():
    return synthetic_speech(**SIZES)


def spec_of(name, size="small", window=128, sees="log_power", hop=64):
    found = VARIANTS[name]
    prior = {"name": found.dynamics, **found.arguments}
    emission = {"name": "spectral", "sees": sees}
    return SpeechModelSpec(prior, size, emission, window, hop)


def training(name="vae", seed=0, window=128, **inference):
    said = {"scheduled_sampling": VARIANTS[name].scheduled_sampling, **inference}
    size = said.pop("size", "small")
    model = spec_of(name, size, window, hop=window // 2)
    return SpeechTraining(model, SpeechInference(**said), seed)


def build(name, seed=0):
    torch.manual_seed(seed)
    return DYNAMICS.build(spec_of(name).prior_table())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_two_sizes_and_its_loss_is_finite(name):
    model = DynamicalVAE(build(name))
    guide = Amortised(model)
    power = torch.rand(3, 8, 65) + 1e-3
    mask = torch.arange(8) < torch.tensor([[8], [5], [1]])
    for generating in (False, True):
        loss = SpeechLoss(guide.eval(), judge_generating=generating)((power, mask), Weights())
        assert loss.shape == (3,) and loss.isfinite().all()
    assert model.use_prediction == 0.0
    assert len(modes_of(model.prior)) == (1 if name in ("vae", "dkf") or "rvae" in name else 2)
    assert spec_of(name, "paper", 1024, "power").prior_table()["source_dim"] == 513


def test_loss_in_training_follows_the_schedule_and_in_validation_does_not():
    guide = Amortised(DynamicalVAE(build("srnn_ss")))
    power = torch.rand(2, 8, 65) + 1e-3
    loss = SpeechLoss(guide, judge_generating=True)

    def value(weights):
        torch.manual_seed(0)
        return loss((power,), weights)

    guide.train()
    taught, own = value(Weights()), value(Weights(use_prediction=1.0))
    assert not torch.allclose(taught, own)
    guide.eval()
    torch.testing.assert_close(value(Weights()), own)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_without_latents_the_loss_is_that_of_the_density(own):
    torch.manual_seed(0)
    prior = DYNAMICS.build({**AUTOREGRESSIVE.prior_table(), "decoder_dims": (8,)})
    program = DynamicalVAE(prior).train()
    power = torch.rand(3, 8, 65) + 1e-3
    mask = torch.arange(8) < torch.tensor([[8], [5], [1]])
    loss = SpeechLoss(program, judge_generating=True)
    made = loss((power, mask), Weights(use_prediction=own))
    history = prior.own_history(power) if own else power
    per_frame = prior.laws(history, history, None).log_prob(power)
    torch.testing.assert_close(made, -(per_frame * mask).sum(-1) / mask.sum(-1))
    program.eval()
    judged = loss((power, mask), Weights())
    torch.testing.assert_close(judged, loss((power, mask), Weights(use_prediction=1.0)))


def test_an_autoregressive_model_is_trained_and_found_but_analyses_nothing(data):
    inference = SpeechInference(num_frames=20, epochs=2, scheduled_sampling=True)
    asked = SpeechTraining(AUTOREGRESSIVE, inference, 0)
    assert asked.own_history and asked.options().sampling.hops == 0
    trained = load_or_train(AUTOREGRESSIVE, data, inference, 0, "cpu", resume=False)
    assert trained.history[1]["valid_loss"] < trained.history[0]["valid_loss"]
    spec = SpeechModelSpec(weights=str(find(asked.made_by(data)).folder))
    loaded = load_or_train(spec, None, inference, 0, "cpu", resume=False)
    s = torch.randn(2, 5, 130)
    torch.testing.assert_close(of_spectra(loaded).elbo(s), of_spectra(trained).elbo(s))
    with pytest.raises(SpecError, match="given DeepAR.*with latents"):
        load_model(loaded.folder)
    spec = load_spec("resynthesis", settings=["model.prior=deep_ar"])
    with pytest.raises(SpecError, match="model.prior: given deep_ar.*no encoder"):
        experiment("resynthesis").model(spec, data)


@pytest.mark.parametrize("name", ["vae", "srnn_tf", "light"])
def test_resynthesis_differs_by_mode_only_where_something_is_fed_back(name):
    prior = build(name).eval()
    observed = torch.rand(2, 12, 65) + 1e-3
    drawn = analyse(prior, observed)
    taught, own = (
        decode(drawn.networks, drawn.z, observed, mode=mode)
        for mode in ("teacher_forced", "generation")
    )
    assert torch.allclose(taught, own) == (name == "vae")
    again = decode(drawn.networks, drawn.z, torch.ones_like(observed), mode="generation")
    torch.testing.assert_close(again, own)  # of the data nothing is left


def test_resynthesis_keeps_length_and_phase():
    prior, stft = build("vae").eval(), STFT(128, 64)
    signal = torch.sin(torch.arange(1000) * 0.3)
    made = resynthesise(prior, signal, stft, num_draws=3)
    assert made.signal.shape == (3, 1000) and made.power.shape == (3, 16, 65)
    assert not torch.equal(made.signal[0], made.signal[1])
    expected = torch.polar(made.power[0].sqrt(), stft.analyse(signal).angle())
    torch.testing.assert_close(made.signal[0], stft.synthesise(expected, 1000))
    with pytest.raises(ValueError, match="mode: given 'sampling'"):
        resynthesise(prior, signal, stft, mode="sampling")


def test_trained_weights_are_found_again_by_their_training(data):
    asked = training(num_frames=20, epochs=1)
    trained = trained_model(asked, data, device="cpu")
    fewer = dataclasses.replace(data, train=data.train[1:])
    for other in (dataclasses.replace(data, name="other-speech"), fewer):
        assert find(asked.made_by(other)) is None
    for changed in (training(epochs=1), training(num_frames=20, epochs=1, seed=1),
                    training(num_frames=20, epochs=1, window=64),
                    training("dkf", num_frames=20, epochs=1)):
        assert find(changed.made_by(data)) is None
    again = training(num_frames=20, epochs=1, max_seconds=9.0)  # a limit that was not reached
    model = load_model(find(again.made_by(data)).folder)
    assert model.stft == STFT(128, 64) and model.record["parameters"] > 0
    assert len(trained.history) == 1 and not model.own_history
    x = torch.rand(1, 5, 65)
    torch.testing.assert_close(
        model.prior.infer(x, noise=None).z, trained.prior.infer(x, noise=None).z
    )


def test_scheduled_sampling_is_of_models_that_are_fed_with_their_past():
    assert not training("vae", scheduled_sampling=True).own_history
    assert training("vae", scheduled_sampling=True).options().sampling is None
    taught = training("srnn_tf", scheduled_sampling=True)
    assert taught.own_history and taught.options() == training("srnn_ss").options()
    assert not training("srnn_tf").own_history


def test_transformers_warm_up_and_those_of_the_papers_size_have_a_recipe_of_their_own():
    small, paper = (training("hit", size=size) for size in ("small", "paper"))
    assert small.options().warm_up == paper.options().warm_up == 200
    assert (small.recipe.num_frames, paper.recipe.num_frames) == (50, 150)
    assert training("srnn_ss", size="paper").recipe == training("srnn_ss").recipe
    assert training("srnn_ss").options().warm_up == 0
    assert training("hit", size="paper", num_frames=70).recipe.num_frames == 70


def test_a_list_names_the_test_files_that_count(data, tmp_path):
    names = [file.name for file in data.test]
    (tmp_path / "chosen.json").write_text(json.dumps(names[1:]))
    chosen = with_tests(data, tmp_path / "chosen.json")
    assert chosen.test == data.test[1:] and chosen.train == data.train
    assert with_tests(data, None) is data
    for content, words in ((["none.wav"], "none is no test file"), ({}, "a list of names")):
        (tmp_path / "chosen.json").write_text(json.dumps(content))
        with pytest.raises(SpecError, match=words):
            with_tests(data, tmp_path / "chosen.json")


def test_the_mean_spectrum_is_a_floor_and_a_model_that_keeps_all_is_far_above(data):
    utterances, stft = list(data.utterances("test")), STFT(512, 128)
    floor = [row["si_sdr"] for row in judge_mean_spectrum(utterances, stft)]
    assert len(floor) == 2 and all(-10 < value < 10 for value in floor)
    steady = Utterance("steady", torch.sin(torch.arange(16000) * 2 * torch.pi * 8 / 128))
    (kept,) = judge_mean_spectrum([steady], stft)  # nothing of it moves
    assert kept["si_sdr"] > 15


def test_pieces_are_spread_over_all_of_the_corpus():
    utterances = [Utterance(str(i), torch.tensor([0.5, i, 0.0])) for i in range(1, 201)]
    utterances.insert(0, Utterance("short", torch.ones(1)))
    chosen = pieces(utterances, STFT(4, 1), 3, 128)
    ranks = [round(0.5 / signal[0].item()) for signal in chosen]
    assert len(set(ranks)) == len(ranks) == 128
    assert max(ranks) > 190 and min(ranks) == 1
    assert len(pieces(utterances, STFT(4, 1), 3, 500)) == 200


def test_run_resynthesis_on_an_empty_machine(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["run", "resynthesis", "--model", "srnn_ss", *SMALL, "--out", str(out)]
    assert main([*arguments, "--num-examples", "1", "--num-draws", "2"]) == 0
    text = capsys.readouterr().out
    assert "teacher forced" in text and "generation" in text and "SI-SDR" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert math.isfinite(metrics["generation/si_sdr"]) and "generation/pesq_raw" in metrics
    names = {path.name for path in out.iterdir()}
    assert "worse than the mean spectrum in every frame" in text  # after one epoch
    assert {"loss.png", "weights.safetensors", "weights.json"} <= names
    assert sum(name.endswith(".png") for name in names) == 2
    sounds = [name for name in names if name.endswith(".wav")]
    assert len(sounds) == 1 + 2 * 2
    assert len({len(read_audio(out / name)) for name in sounds}) == 1
    again = ["run", "resynthesis", "--weights", str(out), "--out", str(tmp_path / "again"), *FEW]
    assert main([*again, "--judged-frames", "150", "--num-examples", "0"]) == 0
    reloaded = json.loads((tmp_path / "again" / "metrics.json").read_text())
    for found in (metrics, reloaded):
        del found["seconds"]
    assert reloaded == pytest.approx(metrics, rel=1e-4)


def test_tables_train_once_and_judge_by_seed(tmp_path, capsys):
    arguments = ["--models", "vae,srnn_ss", "--seeds", "2", *SMALL, "--out", str(tmp_path)]
    assert main(["table", "speech-1", *arguments]) == 0
    first = capsys.readouterr().out
    assert first.count(": training") == 4 and "thesis, VoiceBank" in first and "±" in first
    assert main(["table", "speech-1", *arguments]) == 0
    second = capsys.readouterr().out
    assert ": training" not in second
    assert second.split("means ±")[1] == first.split("means ±")[1]
    assert "cut short" not in second
    metrics = json.loads((tmp_path / "speech-1" / "metrics.json").read_text())
    assert {"vae/generation/estoi", "vae/generation/estoi_se", "vae/parameters"} <= set(metrics)
    assert main(["table", "speech-3", *TRAINING, "--out", str(tmp_path), "--num-samples", "2",
                 "--seconds", "0.8", "--iterations", "2"]) == 0
    text = capsys.readouterr().out
    assert "VAE" in text and "SRNN (SS)" in text and "test, Griffin-Lim" in text
    assert "2 utterances each" in text and "train, the other half" in text
    assert "SRNN (SS), seeds: 2" in text
    found = json.loads((tmp_path / "speech-3" / "metrics.json").read_text())
    assert {"VAE/drawn", "SRNN (SS)/drawn", "SRNN (SS)/expected_se", "SRNN (SS)/FDSD"} < set(found)
    assert "VAE/expected" not in found  # it feeds nothing back
    assert found["SRNN (SS)/drawn"] != found["SRNN (SS)/expected"]
    names = {path.name for path in (tmp_path / "speech-3").glob("*-1.wav")}
    assert names == {"VAE-drawn-1.wav", "SRNN-SS-drawn-1.wav", "SRNN-SS-expected-1.wav"}


def test_a_training_cut_short_is_called_so(tmp_path, capsys):
    arguments = ["--models", "vae", "--seeds", "1", *SMALL, "--epochs", "3", "--max-seconds", "0"]
    assert main(["table", "speech-1", *arguments, "--out", str(tmp_path)]) == 0
    assert "seeds: 1, 1 of them cut short" in capsys.readouterr().out


def test_swap_measures_where_f0_goes(tmp_path, capsys, monkeypatch, data):
    recordings = ["--data", str(data.train[0].parents[1])]
    arguments = ["--window", "512", "--hop", "128", "--num-frames", "20", "--epochs", "1",
                 *recordings]
    train = ["train", "dvae", "--model", "light", *arguments, "--out", str(tmp_path / "m")]
    assert main(train) == 0
    # what an untrained model utters need not be voiced: a power of the level stands in for its F0
    pitch = swap_command.median_f0
    monkeypatch.setattr(
        swap_command, "median_f0",
        lambda signal: pitch(signal) if signal.abs().max() == 1 else signal.std().item() ** 20,
    )
    capsys.readouterr()
    few = ["--iterations", "5", "--num-pairs", "1", "--num-frames", "100", *recordings]
    assert main(["run", "swap", "--weights", str(tmp_path / "m"), *few,
                 "--out", str(tmp_path / "swap")]) == 0
    assert "of the way to the other's" in capsys.readouterr().out
    assert math.isfinite(json.loads((tmp_path / "swap" / "metrics.json").read_text())["moved"])
    assert main(["run", "swap", "--weights", str(tmp_path / "m"), *few,
                 "--out", str(tmp_path / "swap-again")]) == 0
    metrics = [(tmp_path / out / "metrics.json").read_text() for out in ("swap", "swap-again")]
    assert metrics[0] == metrics[1]
    assert (tmp_path / "swap" / "swap.png").is_file()
    assert len(list((tmp_path / "swap").glob("z-*-w-*.wav"))) == 4
    with pytest.raises(ValueError, match="one F0"):
        Swapped(own=151.0, swapped=180.0, other=150.0).moved  # noqa: B018
    assert Swapped(own=100.0, swapped=200.0, other=200.0).moved == pytest.approx(1.0)
    assert Swapped(own=100.0, swapped=100.0, other=200.0).moved == pytest.approx(0.0)


def test_bench_prints_every_rival(tmp_path, capsys):
    assert main(["bench", "dvae", "--quick", "--json", str(tmp_path / "rows.json")]) == 0
    text = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    for words in ("vae, a site a frame", "light, a site a frame", "srnn, plain torch",
                  "srnn, own history, all hops", "hit, T = 20, cached"):
        assert words in text and words in {row["name"] for row in rows}
    assert all(row["seconds"]["median"] > 0 for row in rows)
    factors = {row["name"]: row["real_time_factor"] for row in rows if "real_time_factor" in row}
    assert {"dkf, small, generation", "hit, small, teacher forced"} < factors.keys()
    assert "dkf, small, teacher forced" not in factors  # it has no history
    hit = next(row for row in rows if row["name"] == "hit, small, generation")
    assert hit["real_time_factor"] == pytest.approx(hit["seconds"]["median"] / 0.2)
    assert f"real time factor: {hit['real_time_factor']:.3g}" in text


def test_wrong_words_are_named(tmp_path, capsys):
    with pytest.raises(SpecError, match="unknown size of dkf 'tiny'; .*small"):
        spec_of("dkf", "tiny")
    with pytest.raises(SpecError, match="model.prior: given tvgmm; expected one of .*vae"):
        SpeechModelSpec({"name": "tvgmm"})
    assert main(["table", "speech-1", "--models", "vea", "--out", str(tmp_path)]) == 2
    assert "did you mean 'vae'" in capsys.readouterr().err
    for option in (["--model", "vae"], ["--seed", "1"]):
        with pytest.raises(SystemExit):
            main(["table", "speech-1", *option, "--out", str(tmp_path)])
        assert f"unrecognized arguments: {' '.join(option)}" in capsys.readouterr().err
    assert main(["run", "resynthesis", "--weights", "x.pt", "--size", "paper", "--hop", "128",
                 "--seed", "1", "--out", str(tmp_path / "run")]) == 2
    assert "without --size, --hop\n" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["table", "speech-3", *FEW, "--out", str(tmp_path)]) == 2
    assert "table speech-1" in capsys.readouterr().err
    assert main(["run", "swap", "--weights", str(tmp_path / "none")]) == 2
    assert "missing" in capsys.readouterr().err
