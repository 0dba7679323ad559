"""A checkpoint is read whole or refused with one clear error, whatever its bytes are."""

import json
import pickle
import shutil
import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pyromodels.inference.training.checkpoint import (
    META,
    TENSORS,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the checkpoint was unpickled",))


@pytest.fixture
def written(tmp_path):
    place = save_checkpoint(tmp_path / "run", 3, {"a": torch.arange(4.0)}, {"note": "x"})
    return place


def copied(place, tmp_path):
    target = tmp_path / "copy" / place.name
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(place, target)
    return target


@FUZZ
@given(st.sampled_from([TENSORS, META]), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(written, tmp_path, name, part):
    target = copied(written, tmp_path)
    whole = (target / name).read_bytes()
    (target / name).write_bytes(whole[: int(part * (len(whole) - 2))])
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(target)


@FUZZ
@given(st.sampled_from([TENSORS, META]), st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused(written, tmp_path, name, content):
    target = copied(written, tmp_path)
    (target / name).write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(target)


@FUZZ
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
        max_leaves=6,
    )
)
def test_metadata_of_any_shape_are_refused(written, tmp_path, meta):
    target = copied(written, tmp_path)
    (target / META).write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(target)


def test_a_hostile_pickle_is_never_run(written, tmp_path):
    target = copied(written, tmp_path)
    (target / TENSORS).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(target)
    (target / META).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(target)


def test_the_last_whole_checkpoint_is_found_behind_broken_ones(written):
    folder = written.parent
    for epoch, content in ((4, b""), (5, b"{}")):
        (folder / f"epoch-{epoch:05d}").mkdir()
        (folder / f"epoch-{epoch:05d}" / META).write_bytes(content)
    (folder / "epoch-00006").write_text("a file where a folder should be")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert latest_checkpoint(folder).epoch == 3
    assert len(told) == 3
