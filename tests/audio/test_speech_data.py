"""Corpora on miniature trees, and the recordings beside the checkout."""

from pathlib import Path

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.experiments.datasets.speech.audio import (
    peak_normalise,
    read_audio,
    trim_silence,
    write_wav,
)
from pyromodels.experiments.datasets.speech.recordings import (
    SpeechData,
    load_speech_folder,
    load_voicebank,
    load_wsj0,
    padded_segments,
    power_segments,
)
from pyromodels.experiments.datasets.speech.synthesis import synthesise

WSJ0 = ("si_tr_s/011/a.wav", "si_tr_s/012/b.wav", "si_dt_05/050/c.wav", "si_et_05/440/d.wav")
VOICEBANK = (
    "clean_trainset_28spk_wav/p226_001.wav", "clean_trainset_28spk_wav/p287_002.wav",
    "clean_trainset_28spk_wav/p230_001.wav", "clean_trainset_28spk_wav/p2260_001.wav",
    "clean_testset_wav/p232_001.wav",
)


def plant(root: Path, *files: str) -> Path:
    """Make empty files: to list a corpus nothing is read."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def names(data: SpeechData) -> list[list[str]]:
    return [[file.name for file in data.files(split)] for split in ("train", "valid", "test")]


def test_wsj0(tmp_path):
    data = load_wsj0(plant(tmp_path, *WSJ0, "si_tr_s/011/a.txt", "si_tr_s/list.wav"))
    assert names(data) == [["a.wav", "b.wav"], ["c.wav"], ["d.wav"]]


def test_voicebank_holds_two_speakers_out(tmp_path):
    data = load_voicebank(plant(tmp_path, *VOICEBANK, "clean_testset_wav/log.txt"))
    assert names(data) == [
        ["p2260_001.wav", "p230_001.wav"], ["p226_001.wav", "p287_002.wav"], ["p232_001.wav"]
    ]


def test_a_folder_with_splits(tmp_path):
    files = ("train/b.wav", "train/x/a.flac", "valid/c.WAV", "test/d.wav", "test/d.json", "e.wav")
    data = load_speech_folder(plant(tmp_path / "mine", *files))
    assert data.name == "mine"
    assert names(data) == [["b.wav", "a.flac"], ["c.WAV"], ["d.wav"]]


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (10, (8, 1, 1)), (21, (15, 3, 3))])
def test_a_flat_folder_is_cut_in_the_order_of_names(tmp_path, count, sizes):
    files = [f"{i:02d}.wav" for i in range(count)]
    data = load_speech_folder(plant(tmp_path, *reversed(files)))
    train, valid, test = names(data)
    assert (len(train), len(valid), len(test)) == sizes
    assert train + valid + test == files


@pytest.mark.parametrize(
    ("load", "files", "error", "words"),
    [
        (load_wsj0, WSJ0[:3], FileNotFoundError, "si_et_05 is missing"),
        (load_wsj0, ("si_tr_s/011/a.wv1",), FileNotFoundError, "si_tr_s has no wav.*converted"),
        (load_voicebank, VOICEBANK[:4], FileNotFoundError, "clean_testset_wav is missing"),
        (load_voicebank, VOICEBANK[1:], FileNotFoundError, "no file p226_"),
        (load_speech_folder, ("train/a.wav", "test/b.wav"), FileNotFoundError, "valid is missing"),
        (load_speech_folder, ("a.mp3",), FileNotFoundError, "no wav or flac file"),
        (load_speech_folder, ("a.wav", "b.wav"), ValueError, "given 2 files; expected at least 3"),
    ],
)
def test_what_is_missing_is_named(tmp_path, load, files, error, words):
    with pytest.raises(error, match=words):
        load(plant(tmp_path, *files))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_fingerprint_tells_corpora_of_one_name_apart(tmp_path):
    first, second = (load_wsj0(plant(tmp_path / place, *WSJ0)) for place in ("a", "b"))
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 16
    second.test[0].write_bytes(b"longer")
    more = load_wsj0(plant(tmp_path / "a", "si_tr_s/013/e.wav"))
    assert len({data.fingerprint for data in (first, second, more)}) == 3


def test_unknown_and_empty_splits_are_refused(tmp_path):
    data = load_wsj0(plant(tmp_path, *WSJ0))
    with pytest.raises(ValueError, match="wsj0: unknown split 'val'; did you mean 'valid'"):
        data.files("val")
    with pytest.raises(ValueError, match="mine: no file in valid, test"):
        SpeechData("mine", data.train, (), ())


@pytest.fixture
def corpus(tmp_path: Path) -> SpeechData:
    """Three files of 0.8 s of speech-like sound, with silence around it."""
    pause = torch.zeros(4000)
    for split, utterance in zip(("train", "valid", "test"), synthesise(3, 0.8), strict=True):
        (tmp_path / split).mkdir()
        signal = 0.3 * torch.cat([pause, utterance.signal, pause])
        write_wav(tmp_path / split / "a.wav", signal, encoding="float32")
    return load_speech_folder(tmp_path)


def test_power_of_segments_is_that_of_the_trimmed_cut_normalised_signal(corpus):
    stft = STFT(512, 256)
    power = power_segments(corpus, "train", 20, stft)
    assert power.shape == (2, 20, 257) and power.dtype == torch.float32
    signal = trim_silence(read_audio(corpus.train[0]))
    for row in range(2):
        piece = peak_normalise(signal[row * 19 * 256:(row + 1) * 19 * 256])
        torch.testing.assert_close(power[row], stft.analyse(piece).abs().square())
    (utterance,) = corpus.utterances("train")
    assert utterance.name == "a" and torch.equal(utterance.signal, signal)


def test_digital_silence_is_refused_unless_a_floor_is_given(corpus):
    signal = read_audio(corpus.valid[0])
    signal[7000:11000] = 0
    write_wav(corpus.valid[0], signal, encoding="float32")
    with pytest.raises(ValueError, match="a has [0-9]+ time-frequency bins of power 0.*floor"):
        power_segments(corpus, "valid", 20, STFT())
    power = power_segments(corpus, "valid", 20, STFT(), floor=1e-10)
    assert power.min() == torch.tensor(1e-10)
    assert torch.isfinite(power.log()).all()


def test_files_too_short_are_said_so(corpus):
    with pytest.raises(ValueError, match="none of the 1 files of test has num_frames=150"):
        power_segments(corpus, "test", 150, STFT())


def test_padded_segments_keep_the_rest_of_a_file(corpus):
    stft = STFT(512, 256)
    power, mask = padded_segments(corpus, "train", 20, stft, shortest=5, floor=1e-10)
    signal = trim_silence(read_audio(corpus.train[0]))
    whole, rest = divmod(len(signal), 19 * 256)
    counts = [20] * whole + ([1 + rest // 256] if 1 + rest // 256 >= 5 else [])
    assert mask.sum(-1).tolist() == counts and not power[~mask].any()
    last = peak_normalise(signal[(len(counts) - 1) * 19 * 256:][: 19 * 256])
    expected = stft.analyse(last).abs().square().clamp_min(1e-10)
    torch.testing.assert_close(power[-1, : counts[-1]], expected)
    torch.testing.assert_close(power[:2], power_segments(corpus, "train", 20, stft)[:2])
    with pytest.raises(ValueError, match="shortest: given 30; expected 2 to 20"):
        padded_segments(corpus, "train", 20, stft, shortest=30)
    with pytest.raises(ValueError, match="no file of test has 200 frames"):
        padded_segments(corpus, "test", 400, stft, shortest=200)


def test_the_recordings(audio_data):
    data = load_speech_folder(audio_data / "speech")
    assert [len(data.files(s)) for s in ("train", "valid", "test")] == [813, 56, 118]
    power = power_segments(data, "valid", 50, STFT())
    assert power.shape[0] > 56 and power.shape[1:] == (50, 513)
    assert 0 < power.min() and torch.isfinite(power).all()
