"""`pyromodels report speech`: an encoder is examined on data its own model draws."""

import json
import math

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.vae import VAE
from pyromodels.errors import SpecError
from pyromodels.experiments.command import cli
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.speech.adequacy_report import (
    active,
    encoder_fit,
    in_words,
    loudest_pieces,
    middle_frame,
    normal_fit,
    program_of,
)
from pyromodels.experiments.speech.trained_models import SpeechModel
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.inference.adequacy.simulation import sequence_simulator
from pyromodels.models.dvae import DynamicalVAE


def power(num_sequences=4, num_frames=6, num_bins=5):
    torch.manual_seed(0)
    x = torch.rand(num_sequences, num_frames, num_bins) + 0.1
    return SequenceBatch(x, torch.ones_like(x[..., 0], dtype=torch.bool))


@pytest.fixture
def blank():
    """A VAE whose frames say nothing of z: with all weights zero its encoder says N(0, 1) too."""
    prior = VAE(source_dim=5, latent_dim=3, emission="spectral")
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.zero_()
    return DynamicalVAE(prior)


def narrowed(program, by):
    """The encoder's standard deviations times `by`."""
    with torch.no_grad():
        *_, log_variance = (b for n, b in program.prior.encoder.named_parameters() if "bias" in n)
        log_variance[-program.prior.latent_dim :] = 2 * math.log(by)
    return program


def test_an_exact_encoder_is_trusted_and_a_narrow_one_is_not(blank):
    batch, options = power(), {"num_fits": 1, "num_draws": 300, "summaries": middle_frame}
    report = guide_report(encoder_fit(blank), batch, **options)
    assert report.overall == "trust"
    assert not any("simulate" in note for note in report.notes)
    report = guide_report(encoder_fit(narrowed(blank, 0.5)), batch, **options)
    assert report.overall == "do not trust"
    assert "under-dispersed" in " ".join(report.verdicts["x_z"].reasons)


def test_normals_fitted_to_each_sequence_find_what_the_encoder_has_lost(blank):
    batch = power()
    narrow = normal_fit(narrowed(blank, 0.1), 300)(batch, 0)
    draws = narrow.sample(500)["x_z"]
    assert draws.mean(0).abs().max() < 0.25 and 0.8 < draws.std(0).mean() < 1.2
    log_evidence = -batch.x.sum((-1, -2))  # x_f ~ Exponential(1)
    lost = [
        log_evidence - (posterior.log_joint(draws) - posterior.log_prob(draws)).mean(0)
        for posterior in (narrow, encoder_fit(narrow.model)(batch, 0))
        for draws in [posterior.sample(500)]
    ]
    assert lost[0].max() < 1
    assert lost[1].min() > 30  # 18 numbers, each log(10) - 0.495 nats


def test_masked_frames_have_no_simulator():
    batch = power()
    batch.mask[0, -1] = False
    model = DynamicalVAE(VAE(source_dim=5, emission="spectral"))
    with pytest.raises(SpecError, match="masked frames has no simulator"):
        sequence_simulator(model, batch, 5)
    report = guide_report(encoder_fit(model), batch, num_fits=1, num_draws=100)
    assert any(note.startswith("no `simulate`") for note in report.notes)


def test_the_bound_in_words_is_that_of_the_model(blank):
    """Nothing is lost where the guide is exact: both bounds are log p(x)."""
    batch = power()
    words = in_words(encoder_fit(blank)(batch, 0), 100)
    expected = float(-batch.x.sum(-1).mean())  # x_f ~ Exponential(1): log p = -x_f
    assert words == (f"bound {expected:.2f} nats a frame, importance-weighted over 100 draws "
                     f"{expected:.2f}; 0 of 3 latents in use")


def test_a_model_is_told_of_what_it_was_taught_by():
    def told(history=None, **record):
        model = SpeechModel(VAE(source_dim=5, emission="spectral"), STFT(8, 4), record)
        return program_of(model, history).use_prediction

    assert told(options={"sampling": {"first": 0}}) == 1.0 == told("own", published="a.pt")
    assert told(options={"sampling": None}) == 0.0 == told(published="a.pt")
    assert told("true", options={"sampling": {"first": 0}}) == 0.0


def test_latents_in_use_are_those_whose_means_move():
    z = torch.randn(100, 4, 1, 6, 2)
    z[..., 1] += torch.arange(6.0)
    assert active(z).tolist() == [False, True]


def test_the_loudest_piece_is_cut_out():
    signal = torch.randn(16000) * 0.01
    signal[8000:9000] += torch.sin(torch.arange(1000.0))
    stft = STFT(256, 64)
    pieces = loudest_pieces([Utterance("a", signal)] * 3, stft, 2, 10)
    assert pieces.shape == (2, 10, 129) and torch.equal(pieces[0], pieces[1])
    assert pieces[0].sum(-1).min() > 100 * 0.01
    for number, frames, words in (
        (4, 10, "--num-pieces: given 4; expected 1 to 3"),
        (1, 999, "--num-frames: given 999; expected 2 to 251, the length of a"),
    ):
        with pytest.raises(ValueError, match=words):
            loudest_pieces([Utterance("a", signal)] * 3, stft, number, frames)


def test_the_command_prints_bounds_of_both_guides_and_writes_the_page(tmp_path, capsys):
    weights = tmp_path / "vae"
    few = ["--epochs", "1", "--window", "128", "--hop", "64", "--num-frames", "10"]
    assert cli.main(["train", "dvae", "--model", "vae", *few, "--out", str(weights)]) == 0
    capsys.readouterr()
    options = ["--num-pieces", "2", "--num-frames", "4", "--num-draws", "100", "--guide", "normal",
               "--num-steps", "20"]
    out = tmp_path / "page"
    argv = ["report", "speech", "--weights", str(weights), *options, "--num-simulations", "10"]
    assert cli.main([*argv, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 pieces of 4 frames of" in shown and "x_z: " in shown
    assert shown.index("encoder: bound") < shown.index("normal: bound") < shown.index("verdict:")
    assert (out / "ranks.png").is_file()
    assert "k_hat/x_z" in json.loads((out / "metrics.json").read_text())
