"""Phones of TIMIT, from miniature trees in its layout."""

import numpy as np
import pytest
import torch

from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.labelled import timit
from pyromodels.experiments.datasets.labelled.mfcc import features
from pyromodels.experiments.datasets.labelled.phones import load_labelled
from pyromodels.experiments.datasets.labelled.timit import CLASS_OF, CLASSES, load_timit
from pyromodels.experiments.datasets.speech.audio import write_wav

SYMBOLS = """
    iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h jh ch s sh z zh f th v dh
    m n ng em en eng nx l r w y hh hv el b d g p t k dx q bcl dcl gcl pcl tcl kcl pau epi h#
""".split()
STEP = 800                            # samples of each phone of an utterance here: five frames


def header(samples: int, **changes: str) -> bytes:
    fields = {"database_id": "-s5 TIMIT", "utterance_id": "-s8 abc0_si1", "channel_count": "-i 1",
              "sample_count": f"-i {samples}", "sample_rate": "-i 16000", "sample_min": "-i -9",
              "sample_n_bytes": "-i 2", "sample_byte_format": "-s2 01", "sample_sig_bits": "-i 16"}
    lines = [f"{name} {value}" for name, value in (fields | changes).items()]
    return "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""]).encode().ljust(1024)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2")


def plant(root, file, symbols=SYMBOLS, *, audio=".WAV", seed=0, lower=False, boundaries=None):
    """Write one utterance; ``file`` is like TRAIN/DR1/FABC0/SI1."""
    file = root / (file.lower() if lower else file)
    file.parent.mkdir(parents=True, exist_ok=True)
    boundaries = boundaries or [STEP * i for i in range(len(symbols) + 1)]
    lines = zip(boundaries, boundaries[1:], symbols, strict=False)
    suffix = ".phn" if lower else ".PHN"
    file.with_suffix(suffix).write_text("".join(f"{b} {e} {s}\n" for b, e, s in lines))
    samples = noise(boundaries[-1], seed)
    if audio == ".WAV":
        content = header(len(samples)) + samples.tobytes()
        file.with_suffix(".wav" if lower else audio).write_bytes(content)
    elif audio:
        write_wav(f"{file}{audio}", torch.from_numpy(samples.astype(np.float32)) / 32768)
    return file


@pytest.fixture
def tree(tmp_path):
    """Five training utterances and one for test, each symbol once in each."""
    for i, sentence in enumerate(("SA1", "SA2", "SI1", "SI2", "SX3")):
        plant(tmp_path, f"TRAIN/DR{i + 1}/FABC{i}/{sentence}", seed=i)
    plant(tmp_path, "TEST/DR1/MXYZ0/SX4", seed=9)
    (tmp_path / "TRAIN/DR1/FABC0/SA1.WRD").write_text("0 100 she\n")
    (tmp_path / "README.DOC").write_text("x")
    return tmp_path


def test_the_map_has_61_symbols_and_39_classes():
    assert len(set(SYMBOLS)) == 61
    assert set(CLASS_OF) == set(SYMBOLS)
    assert len(CLASSES) == 39
    assert list(CLASSES) == sorted(set(CLASS_OF.values()) - {None})
    assert [symbol for symbol, phone in CLASS_OF.items() if phone is None] == ["q"]


def test_the_map_folds_as_lee_and_hon_do():
    folded = {symbol: CLASS_OF[symbol] for symbol in SYMBOLS
              if symbol != CLASS_OF[symbol] and symbol != "q"}
    closures = dict.fromkeys(("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "pau", "epi", "h#"), "sil")
    assert folded == closures | {
        "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l",
        "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    }


def test_every_class_of_a_tree(tree):
    data = load_timit(tree, valid_share=0.2)
    assert data.classes == CLASSES
    assert data.dim == 40
    symbols_of = torch.tensor([sum(v == c for v in CLASS_OF.values()) for c in CLASSES])
    counts = {s: getattr(data, s).labels.bincount() for s in ("train", "valid", "test")}
    assert torch.equal(counts["test"], symbols_of)
    assert torch.equal(counts["valid"], symbols_of)
    assert torch.equal(counts["train"], 4 * symbols_of)
    assert data.train.lengths.unique().tolist() == [4, 5]   # 4 at the start: centres from 200


def test_frames_whose_centre_lies_in_the_segment(tmp_path, monkeypatch):
    """Centres lie at samples 200, 360, 520, ...: by hand for six segments of one utterance."""
    symbols = ["h#", "n", "q", "iy", "p", "n"]
    boundaries = [0, 200, 361, 520, 521, 680, 2000]
    expected = {"sil": [()], "n": [(0, 1), range(3, 11)], "iy": [(2,)], "p": [()]}
    plant(tmp_path, "TRAIN/DR1/FABC0/SI1", symbols, boundaries=boundaries)
    transcript = tmp_path / "TRAIN/DR1/FABC0/SI1.PHN"
    frames = features(torch.from_numpy(noise(2000).astype(np.float32)) / 32768, 16_000)
    assert len(frames) == 11
    found = timit._segments(transcript)
    assert [phone for phone, _ in found] == ["sil", "n", "iy", "p", "n"]
    for phone, segment in found:
        assert torch.equal(segment, frames[list(expected[phone].pop(0))])


def test_no_frame_is_in_two_segments(tree):
    transcript = tree / "TEST/DR1/MXYZ0/SX4.PHN"
    frames = features(torch.from_numpy(noise(61 * STEP, 9).astype(np.float32)) / 32768, 16_000)
    found = torch.cat([segment for _, segment in timit._segments(transcript)])
    position = STEP * SYMBOLS.index("q")
    centre = 160 * torch.arange(len(frames)) + 200
    kept = (centre < position) | (centre >= position + STEP)
    assert torch.equal(found, frames[kept & (centre < 61 * STEP)])


def test_the_split_is_drawn_again_alike(tree):
    first, again = load_timit(tree), load_timit(tree)
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.valid.x, again.valid.x)
    other = load_timit(tree, seed=1)
    assert not torch.equal(first.valid.x, other.valid.x)
    assert torch.equal(first.test.x, other.test.x)


def test_the_draw_of_a_class_does_not_depend_on_the_others(tree):
    whole, some = load_timit(tree), load_timit(tree, classes=["sil", "n"])
    assert some.classes == ("sil", "n")
    expected = whole.only(["sil", "n"])
    for split in ("train", "valid", "test"):
        for label in (0, 1):
            assert torch.equal(getattr(some, split).of_class(label).x,
                               getattr(expected, split).of_class(label).x)


@pytest.mark.parametrize(("share", "valid"), [(0.2, 9), (0.5, 22), (0.01, 0)])
def test_a_share_of_each_class_validates(tree, share, valid):
    """The silences: nine symbols in five utterances."""
    if not valid:
        with pytest.raises(ValueError, match="class sil has no sequence in valid"):
            load_timit(tree, classes=["sil"], valid_share=share)
        return
    data = load_timit(tree, classes=["sil"], valid_share=share)
    assert (len(data.valid), len(data.train), len(data.test)) == (valid, 45 - valid, 9)
    both = torch.cat((data.train.x, data.valid.x)).flatten(1)
    assert len(both.unique(dim=0)) == 45


def test_sentences_read_by_all_may_be_left_out(tree):
    kept, dropped = load_timit(tree, classes=["sil"]), load_timit(tree, classes=["sil"],
                                                                   keep_sa=False)
    assert len(kept.train) + len(kept.valid) == 45
    assert len(dropped.train) + len(dropped.valid) == 27
    assert len(kept.test) == len(dropped.test) == 9


def test_limits_of_length(tree):
    """Five utterances with three nasals of five frames each, and one with 9, 5 and 3."""
    plant(tree, "TRAIN/DR8/FABC9/SI9", ["n", "en", "n"], boundaries=[0, 1600, 2400, 2880])
    for limits, lengths in (({}, [3, *[5] * 16, 9]), ({"min_frames": 4}, [*[5] * 16, 9]),
                            ({"max_frames": 8}, [3, *[5] * 16]),
                            ({"min_frames": 5, "max_frames": 5}, [5] * 16)):
        data = load_timit(tree, classes=["n"], **limits)
        found = torch.cat((data.train.lengths, data.valid.lengths))
        assert found.sort().values.tolist() == lengths
    with pytest.raises(ValueError, match="class n has no sequence in valid.*min_frames"):
        load_timit(tree, classes=["n"], min_frames=6)


def test_lower_case_gives_the_same(tree, tmp_path_factory):
    lower = tmp_path_factory.mktemp("lower")
    for i, sentence in enumerate(("SA1", "SA2", "SI1", "SI2", "SX3")):
        plant(lower, f"TRAIN/DR{i + 1}/FABC{i}/{sentence}", seed=i, lower=True)
    plant(lower, "TEST/DR1/MXYZ0/SX4", seed=9, lower=True)
    first, second = load_timit(tree, classes=["p", "r"]), load_timit(lower, classes=["p", "r"])
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(first, split).x, getattr(second, split).x)


@pytest.mark.parametrize("audio", [".wav", ".WAV.wav"])
def test_riff_and_sphere_give_the_same(tmp_path, audio):
    plant(tmp_path, "TRAIN/DR1/FABC0/SI1")
    plant(tmp_path, "TRAIN/DR1/FABC0/SI2", audio=audio)
    signals = [timit._signal(tmp_path / f"TRAIN/DR1/FABC0/SI{i}.PHN") for i in (1, 2)]
    assert torch.equal(*signals)


def test_sphere_as_another_library_writes_it(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples = noise(3000)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16_000, format="NIST", subtype="PCM_16", endian="LITTLE")
    assert path.read_bytes().startswith(b"NIST_1A")
    expected = torch.from_numpy(samples.astype(np.float32) / 32768)
    assert torch.equal(timit._read_sphere(path), expected)


def test_sphere_as_another_library_reads_it(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = plant(tmp_path, "TRAIN/DR1/FABC0/SI1").with_suffix(".WAV")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    assert torch.equal(timit._read_sphere(path), torch.from_numpy(samples))


def test_phones_of_a_tree_are_told_apart_by_the_command(tree, tmp_path, capsys):
    command = ["run", "phones", "--data", str(tree), "--models", "tvgmm1", "--updates", "2",
               "--batch-size", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "timit, classes n, iy, hh, oy, p: " in capsys.readouterr().out
    assert main([*command, "--split", "theo"]) == 2
    assert "of spoken digits" in capsys.readouterr().err


def test_from_the_dispatcher(tree):
    data = load_labelled(tree, classes=["n", "iy"], keep_sa=False)
    assert (data.name, data.classes) == ("timit", ("n", "iy"))
    with pytest.raises(ValueError, match="option of load_timit 'clases'; did you mean 'classes'"):
        load_labelled(tree, clases=["n"])


@pytest.mark.parametrize(("changes", "words"), [
    ({"sample_coding": "-s26 pcm,embedded-shorten-v2.00"}, "sample_coding.*shorten.*Convert"),
    ({"sample_byte_format": "-s2 10"}, "sample_byte_format: given 10; expected 01"),
    ({"sample_rate": "-i 8000"}, "sample_rate: given 8000; expected 16000"),
    ({"channel_count": "-i 2"}, "channel_count: given 2"),
    ({"sample_n_bytes": "-i 1"}, "sample_n_bytes: given 1"),
    ({"sample_count": "-i 5000"}, "given 3000 samples; expected 5000"),
    ({"sample_count": "-i many"}, "no SPHERE header"),
])
def test_sphere_files_that_are_refused(tmp_path, changes, words):
    path = tmp_path / "a.wav"
    path.write_bytes(header(3000, **changes) + noise(3000).tobytes())
    with pytest.raises(ValueError, match=words):
        timit._read_sphere(path)


@pytest.mark.parametrize(("line", "words"), [
    ("0 800 xx", "line 1: unknown symbol 'xx'"),
    ("0 800", "line 1.*begin end symbol"),
    ("0 0.5 n", "line 1.*in samples"),
    ("800 0 n", "800 to 0"),
    ("0 999999 n", "0 to 999999.*48800 samples"),
])
def test_transcripts_that_are_refused(tree, line, words):
    (tree / "TEST/DR1/MXYZ0/SX4.PHN").write_text(line + "\n")
    with pytest.raises(ValueError, match=words):
        load_timit(tree)


@pytest.mark.parametrize(("options", "words"), [
    ({"classes": ["ao"]}, "unknown class 'ao'"),
    ({"classes": ["n", "n"]}, "each once"),
    ({"classes": []}, "at least one"),
    ({"valid_share": 0.0}, "valid_share: given 0.0"),
    ({"min_frames": 0}, "frames: given 0 to None"),
    ({"min_frames": 5, "max_frames": 4}, "frames: given 5 to 4"),
])
def test_options_that_are_refused(tree, options, words):
    with pytest.raises(ValueError, match=words):
        load_timit(tree, **options)


def test_what_is_missing(tree, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="nowhere.*TRAIN and TEST"):
        load_timit(tree / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder TRAIN; did you mean .*TIMIT"):
        load_timit(plant(tmp_path_factory.mktemp("above"), "TIMIT/TRAIN/DR1/F/SI1").parents[4])
    (tree / "TEST/DR1/MXYZ0/SX4.WAV").unlink()
    with pytest.raises(FileNotFoundError, match="SX4.PHN has no audio.*SX4.WAV"):
        load_timit(tree)
    (tree / "TEST/DR1/MXYZ0/SX4.PHN").unlink()
    with pytest.raises(FileNotFoundError, match="no PHN file at dialect/speaker"):
        load_timit(tree)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="no folder TRAIN$"):
        load_timit(empty)
