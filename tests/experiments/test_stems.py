"""Songs as stems: read by the names of their files, scored by song, beside known oracles."""

import json

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.mixtures.stems import load_stem_list
from pyromodels.experiments.datasets.mixtures.synthetic import tones
from pyromodels.experiments.datasets.speech.audio import read_audio, write_wav
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.separation.baselines.oracles import ideal_binary_mask, oracle_wiener

SONGS = {"train": ("a_song",), "valid": ("b",), "test": ("c", "d_e")}


@pytest.fixture
def stems(tmp_path):
    """Four songs of three stems, two of them for tests, and a list of a piece of each of these."""
    torch.manual_seed(0)
    for split, songs in SONGS.items():
        (tmp_path / split).mkdir()
        for song in songs:
            for number, kind in enumerate(("low", "high", "noise")):
                signal = 0.1 * tones(3, len(song))[number][:20000]
                write_wav(tmp_path / split / f"{song}_{kind}.wav", signal)
    entries = [{"id": f"p{n}", "song": song, "offset": 1000 * n, "n": 10000}
               for n, song in enumerate(("c", "d_e", "d_e"))]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    return tmp_path / "list.json"


def test_a_song_is_the_files_that_begin_with_its_name(stems):
    data = load_stem_list(stems)
    assert data.kinds == ("high", "low", "noise")
    assert [m.name for m in data.mixtures] == ["p0", "p1", "p2"]
    assert [m.group for m in data.mixtures] == ["c", "d_e", "d_e"]
    low = read_audio(stems.parent / "test" / "d_e_low.wav")
    torch.testing.assert_close(data.mixtures[2].sources[1], low[2000:12000])
    assert [f.name for f in data.recordings["low"].train] == ["a_song_low.wav"]
    files = [stems.parent / "test" / f"{song}_low.wav" for song in SONGS["test"]]
    torch.testing.assert_close(data.recorded("test")[1], torch.cat([*map(read_audio, files)]))


@pytest.mark.parametrize(
    "entry, said",
    [
        ({"song": "c", "n": 10}, "without 'offset'"),
        ({"song": "x", "offset": 0, "n": 10}, "song 'x' without high, low, noise"),
        ({"song": "c", "offset": 19995, "n": 10}, "c_high.wav without 10 samples from 19995"),
        (None, "an empty list"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(stems, entry, said):
    stems.write_text(json.dumps([entry] if entry else []))
    with pytest.raises(SpecError, match=said):
        load_stem_list(stems)


def test_a_song_without_one_of_its_stems_is_refused(stems):
    (stems.parent / "test" / "c_low.wav").unlink()
    with pytest.raises(SpecError, match="song 'c' without low"):
        load_stem_list(stems)
    (stems.parent / "valid" / "b_low.wav").unlink()
    with pytest.raises(ValueError, match="low: no file in valid"):
        load_stem_list(stems)


@pytest.mark.slow
def test_three_stems_from_end_to_end_with_figures_by_song(stems, tmp_path, capsys):
    small = {
        "data.name": "stem_list", "data.path": stems, "guide.steps": 2, "guide.steps_per_epoch": 2,
        "guide.batch_size": 2, "guide.hidden_dim": 4, "guide.num_frames": 16, "inference.steps": 0,
        "metrics.checked": 2, "metrics.num_examples": 1, "metrics.nmf_atoms": 3,
        "metrics.baselines": '["mixture","nmf"]',
    }
    words = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", "separation", *words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "mean of the 1 of c" in said and "mean of the 2 of d_e" in said
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for kind in ("high", "low", "noise"):
        for prefix in ("", "mixture/", "nmf/"):
            name = f"{prefix}{kind}/si_sdr"
            whole = (metrics[f"{name}/c"] + 2 * metrics[f"{name}/d_e"]) / 3
            assert metrics[name] == pytest.approx(whole)
    assert metrics["sum/si_sdr"] > 60
    assert (tmp_path / "out" / "p0-low-draw2.wav").is_file()


def test_oracles_of_the_songs_are_those_that_their_page_says(music_data):
    """Mean SI-SDR of drums, bass, other over the 40 items: computed by another program."""
    data, stft = load_stem_list(music_data / "mix_test.json"), STFT()
    truth = torch.stack([mixture.sources for mixture in data.mixtures])
    assert data.kinds == ("bass", "drums", "other") and truth.shape == (40, 3, 65280)
    spectra = stft.analyse(truth)
    said = {None: (-4.48, -5.89, 0.77), ideal_binary_mask: (4.94, 7.05, 10.41),
            oracle_wiener: (6.81, 7.42, 11.14)}
    for oracle, means in said.items():
        made = spectra.sum(1, keepdim=True) * (1 if oracle is None else oracle(spectra))
        signals = stft.synthesise(made.expand_as(spectra), truth.shape[-1])
        found = si_sdr(truth, signals).mean(0)
        torch.testing.assert_close(found, torch.tensor(means).double(), atol=0.05, rtol=0.0)
