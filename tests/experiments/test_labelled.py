"""Labelled sequences, and the three files of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyromodels.errors import ShapeError
from pyromodels.experiments.datasets.labelled.phones import (
    load_digits,
    load_hmm5,
    load_labelled,
    load_phones,
)
from pyromodels.experiments.datasets.labelled.problem import SPLITS, LabelledData
from pyromodels.labelled import LabelledSequences


def sequences(count: int = 12, num_classes: int = 3, seed: int = 0) -> LabelledSequences:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, 2, generator=generator) * torch.tensor([2.0, 0.1]) + 3
    lengths = torch.randint(1, 6, (count,), generator=generator)
    return LabelledSequences(x, lengths, torch.arange(count) % num_classes)


def problem() -> LabelledData:
    splits = {split: sequences(seed=i) for i, split in enumerate(SPLITS)}
    return LabelledData("toy", ("a", "b", "c"), **splits)


def test_padding_becomes_zero():
    x = torch.full((2, 3, 1), 7.0)
    x[0, 2] = torch.nan
    found = LabelledSequences(x, torch.tensor([2, 3]), torch.tensor([0, 0]))
    assert found.x.squeeze(-1).tolist() == [[7, 7, 0], [7, 7, 7]]
    assert found.mask.tolist() == [[True, True, False], [True, True, True]]
    assert x[0, 0] == 7 and torch.isnan(x[0, 2]).all()   # what was given is left as it was


def test_rows_are_cut_at_the_longest():
    found = LabelledSequences(torch.ones(3, 4, 1), torch.tensor([1, 2, 4]), torch.tensor([0, 0, 1]))
    assert found.of_class(0).x.shape == (2, 2, 1)
    assert found.of_class(1).x.shape == (1, 4, 1)
    assert found.of_class(2).x.shape == (0, 4, 1)
    assert len(found) == 3


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({"x": torch.ones(3, 4)}, ShapeError, r"x: given shape \(3, 4\); expected \(n, T, D\)"),
    ({"lengths": torch.tensor([1, 2])}, ShapeError, "lengths.*3"),
    ({"labels": torch.zeros(3, 1)}, ShapeError, r"labels: given shape \(3, 1\)"),
    ({"lengths": torch.tensor([0, 2, 4])}, ValueError, "lengths: given 0 to 4; expected 1 to 4"),
    ({"lengths": torch.tensor([1, 2, 5])}, ValueError, "lengths: given 1 to 5"),
    ({"x": torch.full((3, 4, 1), torch.inf)}, ValueError, "NaN or infinite"),
])
def test_sequences_that_are_refused(changes, error, words):
    fitting = {"x": torch.ones(3, 4, 1), "lengths": torch.tensor([1, 2, 4]),
               "labels": torch.tensor([0, 0, 1])}
    with pytest.raises(error, match=words):
        LabelledSequences(**(fitting | changes))


def test_only_numbers_the_classes_as_given():
    data = problem()
    some = data.only(["c", "a"])
    assert some.classes == ("c", "a")
    for split in SPLITS:
        before, after = getattr(data, split), getattr(some, split)
        assert len(after) == 8
        for label, was in ((0, 2), (1, 0)):
            assert torch.equal(after.of_class(label).x, before.of_class(was).x)
            assert torch.equal(after.of_class(label).lengths, before.of_class(was).lengths)
    with pytest.raises(ValueError, match="classes: given d; expected a, b, c"):
        data.only(["a", "d"])


def test_standardised():
    data = problem()
    found = data.standardised()
    frames = found.train.x[found.train.mask]
    torch.testing.assert_close(frames.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(2))
    raw = data.train.x[data.train.mask]
    mean, deviation = raw.mean(0), raw.std(0, correction=0)
    torch.testing.assert_close(found.test.x[found.test.mask],
                               (data.test.x[data.test.mask] - mean) / deviation)
    for split in SPLITS:
        assert getattr(found, split).x[~getattr(found, split).mask].abs().sum() == 0


def test_the_scale_returns_a_density_to_the_units_of_the_recording():
    """Also after standardising twice, where the second time nothing is left to scale."""
    data = problem()
    found = data.standardised()
    raw, scaled = data.train.x[data.train.mask], found.train.x[found.train.mask]
    normal = torch.distributions.Normal(raw.mean(0), raw.std(0, correction=0))
    standard = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(normal.log_prob(raw).sum(-1),
                               standard.log_prob(scaled).sum(-1) + found.log_scale)
    assert found.standardised().log_scale == pytest.approx(found.log_scale, abs=1e-5)


def test_a_constant_coordinate_is_refused():
    data = problem()
    flat = data.train.x.clone()
    flat[..., 1] = 0.0
    with pytest.raises(ValueError, match="toy: coordinate 1 never varies"):
        replace(data, train=replace(data.train, x=flat)).standardised()


@pytest.fixture
def miniatures(tmp_path):
    """Write the three layouts, all classes in all splits; return their paths and their arrays."""
    rng = np.random.default_rng(0)

    def part(n, dim, classes):
        return (rng.normal(size=(n, 6, dim)).astype(np.float32), rng.integers(1, 7, n),
                np.arange(n) % classes)

    x, length, label = part(90, 40, 3)
    split = np.arange(90) // 3 % 3
    arrays = {"phones": {"x": x, "len": length, "phone": label, "split": split,
                         "phones": np.array(["N", "IY", "P"]), "word": np.full(90, "pin")}}
    x, length, label = part(60, 40, 10)
    split = np.arange(60) // 10 % 3
    arrays["digits"] = {"x": x, "len": length, "digit": label, "split": split,
                        "split_theo": (split + 1) % 3}
    arrays["hmm5"] = {f"{s}_{key}": array for s, n in (("train", 20), ("val", 10), ("test", 5))
                      for key, array in zip(("x", "len", "y"), part(n, 2, 5), strict=True)}
    return {name: save(tmp_path / f"{name}.npz", stored) for name, stored in arrays.items()}, arrays


def save(path, arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("layout", "classes", "counts"), [
    ("phones", ("N", "IY", "P"), (30, 30, 30)), ("digits", tuple("0123456789"), (20, 20, 20)),
    ("hmm5", tuple("12345"), (20, 10, 5)),
])
def test_a_file_is_recognised_by_its_arrays(miniatures, layout, classes, counts):
    paths, _ = miniatures
    data = load_labelled(paths[layout])
    assert data.classes == classes
    assert tuple(len(getattr(data, split)) for split in SPLITS) == counts
    assert data.log_scale == 0
    assert data.train.x.dtype == torch.float32
    some = load_labelled(paths[layout], classes=classes[:2])
    assert some.classes == classes[:2]
    assert set(some.train.labels.tolist()) == {0, 1}


def test_sequences_arrive_as_stored(miniatures):
    paths, arrays = miniatures
    stored, data = arrays["phones"], load_phones(paths["phones"])
    for number, split in enumerate(SPLITS):
        rows, found = np.flatnonzero(stored["split"] == number), getattr(data, split)
        assert found.lengths.tolist() == stored["len"][rows].tolist()
        assert found.labels.tolist() == stored["phone"][rows].tolist()
        for i, row in enumerate(rows):
            length = stored["len"][row]
            assert (found.x[i, :length].numpy() == stored["x"][row, :length]).all()
            assert (found.x[i, length:] == 0).all()


def test_the_two_splits_of_the_digits(miniatures):
    paths, _ = miniatures
    official, theo = load_digits(paths["digits"]), load_labelled(paths["digits"], split="theo")
    assert (official.name, theo.name) == ("digits-official", "digits-theo")
    assert torch.equal(official.train.labels, theo.valid.labels)
    assert torch.equal(official.valid.lengths, theo.test.lengths)
    with pytest.raises(ValueError, match="unknown split 'oficial'; did you mean 'official'"):
        load_digits(paths["digits"], split="oficial")


def test_limits_of_length(miniatures):
    path = miniatures[0]["phones"]
    data = load_phones(path, min_frames=2, max_frames=4)
    whole = load_phones(path)
    for split in SPLITS:
        lengths = getattr(whole, split).lengths
        kept = lengths[(lengths >= 2) & (lengths <= 4)]
        assert torch.equal(getattr(data, split).lengths, kept)
        assert getattr(data, split).x.shape[1] == kept.max()
    with pytest.raises(ValueError, match="class N has no sequence in train.*min_frames"):
        load_phones(path, min_frames=7)
    with pytest.raises(ValueError, match="frames: given 3 to 2"):
        load_phones(path, min_frames=3, max_frames=2)


@pytest.mark.parametrize(("layout", "key", "value", "words"), [
    ("phones", "len", np.full(90, 7), "phones.npz: lengths: given 7 to 7; expected 1 to 6"),
    ("phones", "len", np.ones(90), "lengths: given float64; expected integers"),
    ("phones", "phone", np.full(90, 3), "labels: given 3 to 3; expected 0 to 2"),
    ("phones", "split", np.full(90, 3), "split: given int64.*0, 1 or 2"),
    ("phones", "split", np.zeros(5, int), r"shape \(5,\); expected 0, 1 or 2"),
    ("phones", "split", np.zeros(90, int), "class N has no sequence in valid"),
    ("phones", "x", np.zeros((90, 6)), r"phones.npz: x: given shape \(90, 6\)"),
    ("digits", "x", np.full((60, 6, 40), np.nan), "digits.npz: x: NaN"),
    ("digits", "digit", np.full(60, -1), "labels: given -1"),
    ("hmm5", "val_x", np.zeros((10, 6, 2), int), "x: given int64; expected floats"),
])
def test_arrays_that_do_not_fit(miniatures, tmp_path, layout, key, value, words):
    _, arrays = miniatures
    path = save(tmp_path / f"{layout}.npz", arrays[layout] | {key: value})
    with pytest.raises(ValueError, match=words):
        load_labelled(path)


def test_files_that_are_refused(miniatures, tmp_path):
    paths, arrays = miniatures
    with pytest.raises(FileNotFoundError, match="nowhere.npz is missing"):
        load_labelled(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load_hmm5(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match="given arrays det; expected.*phones: x, len"):
        load_labelled(save(tmp_path / "det.npz", {"det": np.zeros(3)}))
    with pytest.raises(ValueError, match="no array 'phone'.*digit"):
        load_phones(paths["digits"])
    with pytest.raises(ValueError, match="object arrays are refused"):
        load_labelled(save(tmp_path / "o.npz", arrays["phones"] | {"word": np.array([{}])}))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a readable .npz"):
        load_labelled(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="option of load_hmm5 'split'"):
        load_labelled(paths["hmm5"], split="theo")
    with pytest.raises(ValueError, match="unknown class 'n'"):
        load_labelled(paths["phones"], classes=["n"])
    with pytest.raises(ValueError, match="each once"):
        load_labelled(paths["phones"], classes=["N", "N"])


def test_the_phones_beside_the_checkout(tvnf_data):
    path = tvnf_data / "phones_asterisk.npz"
    whole = load_labelled(path)
    assert len(whole.classes) == 39
    assert sum(len(getattr(whole, split)) for split in SPLITS) == 9422
    data = load_labelled(path, classes=["N", "IY", "F", "EY", "P"])
    assert [len(getattr(data, split)) for split in SPLITS] == [1189, 206, 286]
    assert data.train.labels.bincount().tolist() == [488, 275, 130, 94, 202]
    assert data.dim == 40
    assert 3 <= data.train.lengths.min() and data.train.lengths.max() <= 60
    counts = sum(getattr(whole, split).labels.bincount(minlength=39) for split in SPLITS)
    named = dict(zip(whole.classes, counts.tolist(), strict=True))
    assert (named["N"], named["AH"], named["HH"], named["OY"]) == (693, 666, 53, 10)


@pytest.mark.parametrize(("split", "counts", "scale"), [
    ("official", [1200, 150, 150], -54.49), ("theo", [1125, 125, 250], -54.20),
])
def test_the_digits_beside_the_checkout(tvnf_data, split, counts, scale):
    """Also the nats a frame between standardised and raw units, as the facts sheet has them."""
    data = load_digits(tvnf_data / "fsdd_mfcc40.npz", split=split, classes=list("01234"))
    assert [len(getattr(data, s)) for s in SPLITS] == counts
    assert data.standardised().log_scale == pytest.approx(scale, abs=0.01)


def test_the_hidden_markov_models_beside_the_checkout(tvnf_data):
    data = load_labelled(tvnf_data / "hmm5.npz")
    assert [len(getattr(data, split)) for split in SPLITS] == [30_000, 10_000, 10_000]
    assert data.train.labels.bincount().tolist() == 5 * [6000]
    assert data.test.labels.bincount().tolist() == 5 * [2000]
    assert (data.train.lengths.min(), data.train.lengths.max(), data.dim) == (3, 14, 2)
    with pytest.raises(ValueError, match="given arrays A, mean, pi"):
        load_labelled(tvnf_data / "hmm5_est_params.npz")
