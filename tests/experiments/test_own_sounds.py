"""Sounds whose sources nobody knows: read, refused, taken apart in blocks, written as loud."""

import json

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.mixtures.files import load_mixture_files
from pyromodels.experiments.datasets.mixtures.mixtures import load_mixture_list
from pyromodels.experiments.datasets.mixtures.synthetic import tones
from pyromodels.experiments.datasets.speech.audio import read_audio, write_wav
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.runs.runner import build
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.experiments.separation.assigner import kinds_of, load_assigner
from pyromodels.experiments.separation.run import SHIPPED
from pyromodels.experiments.separation.separate import SeparationInference, shares
from pyromodels.experiments.separation.sounds import write_together

KINDS = ("speech", "flute")


@pytest.fixture
def tone(tmp_path):
    """A second of 1000 Hz in two channels at 44100 Hz, the left one twice as loud."""
    wave = np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "tone.wav", np.stack((0.4 * wave, 0.2 * wave), 1), 44100)
    return tmp_path / "tone.wav"


# ---- files


def test_any_rate_and_channels_become_16_khz_mono_and_it_is_said(tone, capsys):
    (mixture,) = load_mixture_files(tone, KINDS).mixtures
    said = capsys.readouterr().err
    assert said == "tone.wav: 2 channels averaged, 44100 Hz resampled to 16000 Hz\n"
    assert mixture.sources is None and mixture.signal.shape == (16000,)
    assert mixture.signal[1000:-1000].abs().max() == pytest.approx(0.3, abs=2e-3)
    assert torch.fft.rfft(mixture.signal).abs().argmax() == 1000


def test_what_is_16_khz_mono_is_read_without_a_word(tmp_path, capsys):
    write_wav(tmp_path / "a.wav", torch.full((100,), 0.25))
    (mixture,) = load_mixture_files(tmp_path / "a.wav", KINDS).mixtures
    assert capsys.readouterr().err == "" and mixture.signal.eq(0.25).all()


def test_a_folder_is_its_sounds_each_with_a_name(tmp_path):
    signal = 0.1 * tones(1, 0)[0]
    for name in ("a.wav", "a.flac", "b.ogg"):
        soundfile.write(tmp_path / name, signal.numpy(), 16000)
    (tmp_path / "notes.txt").write_text("no sound")
    data = load_mixture_files(tmp_path, KINDS)
    assert [m.name for m in data.mixtures] == ["a.flac", "a.wav", "b"]
    assert data.kinds == KINDS == data.unheard and not data.has_truth


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("junk.wav", b"junk", "junk.wav is not an audio file"),
        ("silent.wav", None, "silent.wav: given digital silence"),
        ("", b"", "has no .wav, .flac, .ogg file"),
    ],
)
def test_what_is_no_sound_is_refused_by_name(tmp_path, name, content, said):
    if content is None:
        write_wav(tmp_path / name, torch.zeros(100))
    elif name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_mixture_files(tmp_path / name, KINDS)


@pytest.mark.parametrize("kinds", [("speech",), ("speech", "speech")])
def test_kinds_are_two_or_more(tone, kinds):
    with pytest.raises(SpecError, match="kinds: given speech"):
        load_mixture_files(tone, kinds)


# ---- blocks of the network


class Loudness(nn.Module):
    """A network that says of a bin only what its power is, and notes what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, power):
        self.seen.append(tuple(power.shape))
        return torch.stack((power, torch.zeros_like(power)), -1)


def test_blocks_say_what_the_whole_does_and_no_block_is_long():
    torch.manual_seed(0)
    mixture, network = torch.randn(1, 2000, 5, dtype=torch.complex64), Loudness()
    said = shares(network, mixture, SeparationInference(block_frames=300, overlap_frames=60))
    assert max(shape[1] for shape in network.seen) == 300 and len(network.seen) == 9
    whole = network(mixture.abs().square()).softmax(-1)
    torch.testing.assert_close(said, whole)


def test_the_shipped_network_in_blocks_agrees_away_from_their_edges():
    torch.manual_seed(0)
    network = load_weights("assigner_speech_flute", "network").prior
    mixture = torch.randn(1, 400, 513, dtype=torch.complex64)
    with torch.no_grad():
        whole = shares(network, mixture, SeparationInference(block_frames=400))
        said = shares(network, mixture, SeparationInference(block_frames=300, overlap_frames=200))
    gap = (said - whole).abs().mean((0, 2, 3))
    assert gap[:80].max() < 0.02 and gap[-80:].max() < 0.02
    torch.testing.assert_close(said.sum(-1), torch.ones(1, 400, 513))


def test_silence_in_a_file_is_no_trouble_to_the_shipped_network():
    network = load_weights("assigner_speech_flute", "network").prior
    mixture = torch.zeros(1, 40, 513, dtype=torch.complex64)
    mixture[:, 20:] = torch.randn(1, 20, 513, dtype=torch.complex64)
    with torch.no_grad():
        said = shares(network, mixture, SeparationInference(block_frames=10, overlap_frames=2))
    assert said.isfinite().all()


@pytest.mark.parametrize("overlap", [-1, 300])
def test_an_overlap_that_is_none_is_refused(overlap):
    with pytest.raises(SpecError, match=f"overlap_frames: given {overlap}"):
        SeparationInference(block_frames=300, overlap_frames=overlap)


# ---- what is written


def test_sounds_keep_their_level_unless_one_would_clip(tmp_path, capsys):
    loud, soft = torch.tensor([0.5, -2.0, 1.0]), torch.tensor([0.1, 0.2, 0.0])
    assert write_together(tmp_path, {"soft": soft}, "one") == 1
    assert capsys.readouterr().err == ""
    torch.testing.assert_close(read_audio(tmp_path / "soft.wav"), soft, atol=2e-5, rtol=0)
    assert write_together(tmp_path, {"loud": loud, "soft": soft}, "both") == 0.5
    assert "both: a peak of 2.00 would clip" in capsys.readouterr().err
    torch.testing.assert_close(read_audio(tmp_path / "soft.wav"), soft / 2, atol=2e-5, rtol=0)
    torch.testing.assert_close(read_audio(tmp_path / "loud.wav"), loud / 2, atol=4e-5, rtol=0)


def test_a_sound_of_ones_own_is_taken_apart_without_anything_else(tone, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", "separation", "--mix", str(tone), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "nobody knows the truth" in said and "SI-SDR" not in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"speech/level_db", "flute/level_db", "sum/si_sdr", "seconds_each",
                            "seconds"}
    assert {path.name for path in out.iterdir() if path.suffix in (".wav", ".png")} == {
        "tone.wav", "tone-speech.wav", "tone-flute.wav", "tone.png",
        *(f"tone-{kind}-draw{n}.wav" for kind in KINDS for n in (1, 2)),
    }
    heard = read_audio(out / "tone.wav")
    parts = sum(read_audio(out / f"tone-{kind}.wav") for kind in KINDS)
    torch.testing.assert_close(parts, heard, atol=1e-4, rtol=0)
    assert heard[1000:-1000].abs().max() == pytest.approx(0.3, abs=2e-3)


def test_every_sound_of_a_folder_has_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.wav", "b.flac")):
        soundfile.write(tmp_path / "in" / name, 0.1 * tones(2, 0)[number].numpy()[:8000], 16000)
    words = ["--mix", str(tmp_path / "in"), "--priors", "flute,speech", "--no-plots"]
    assert main(["run", "separation", *words, "--out", str(tmp_path / "out")]) == 0
    for name, stem in (("a.wav", "a"), ("b.flac", "b")):
        assert (tmp_path / "out" / name / f"{stem}-speech.wav").is_file()


@pytest.mark.slow
def test_other_kinds_are_learnt_from_recordings(tmp_path, tone, capsys):
    torch.manual_seed(0)
    for kind in ("hiss", "tones"):
        for split in ("train", "valid"):
            (tmp_path / "known" / kind / split).mkdir(parents=True)
            signal = 0.1 * torch.randn(20000) if kind == "hiss" else tones(1, 0)[0]
            write_wav(tmp_path / "known" / kind / split / "a.wav", signal.clamp(-1, 1))
    small = ("guide.steps=2", "guide.steps_per_epoch=2", "guide.batch_size=2",
             "guide.hidden_dim=4", "guide.num_frames=16", "metrics.checked=2")
    words = [word for setting in small for word in ("--set", setting)]
    words += ["--recordings", str(tmp_path / "known"), "--out", str(tmp_path / "o")]
    assert main(["run", "separation", "--mix", str(tone), "--priors", "hiss,tones", *words]) == 0
    assert "fitted to mixtures of validation recordings" in capsys.readouterr().out
    assert (tmp_path / "o" / "tone-hiss.wav").is_file()


def test_speech_and_a_flute_that_were_mixed_come_apart(audio_data, tmp_path):
    path = audio_data / "mix_speech_flute.json"
    truth = load_mixture_list(path, KINDS, num_frames=100, most=1).mixtures[0]
    write_wav(tmp_path / "mixed.wav", truth.signal.clamp(-1, 1))
    words = ["--mix", str(tmp_path / "mixed.wav"), "--no-plots", "--out", str(tmp_path / "out")]
    assert main(["run", "separation", *words]) == 0
    made = torch.stack([read_audio(tmp_path / "out" / f"mixed-{kind}.wav") for kind in KINDS])
    gained = si_sdr(truth.sources, made) - si_sdr(truth.sources, truth.signal.expand(2, -1))
    assert gained.min() > 6


# ---- what cannot be


@pytest.mark.parametrize(
    "words, said",
    [
        (["--priors", "speech,flute"], "--priors: given speech,flute; expected --mix"),
        (["--mix", "TONE", "--priors", "speech,piano"], "speech,piano without --recordings"),
        (["--mix", "TONE", "--recordings", "nowhere"], "nowhere/speech is missing"),
        (["--mix", "TONE", "--set", "inference.steps=1"], "data.recordings: given none of speech"),
        (["--mix", "TONE", "--set", "guide.weights=none"], "none"),
    ],
)
def test_what_a_command_cannot_mean_is_refused_in_a_line(tone, tmp_path, capsys, words, said):
    words = [str(tone) if word == "TONE" else word for word in words]
    assert main(["run", "separation", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pyromodels: error: ") and said in error
    assert not (tmp_path / "out").exists()


def test_kinds_in_another_order_than_the_network_says_them_are_refused(tone):
    settings = ["data.name=mixture_files", f"data.path={tone}", "data.kinds=[\"flute\",\"speech\"]",
                "guide.weights=assigner_speech_flute", "inference.steps=0"]
    with pytest.raises(SpecError, match="data.kinds: given flute, speech; expected speech, flute"):
        build(load_spec("separation", settings=settings))


@pytest.mark.parametrize("kinds", SHIPPED)
def test_a_network_that_ships_tells_what_it_is_listed_for(kinds):
    assert kinds_of(load_assigner(SHIPPED[kinds], len(kinds), "guide.weights").record) == kinds
