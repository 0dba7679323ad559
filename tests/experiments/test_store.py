"""The store of trained weights: found by what made them, trained where they are not."""

import contextlib
import io
import json
import threading

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.harness.store import find, find_or_train, place_of


@pytest.fixture
def made_by():
    return {
        "prior": {"name": "vae", "source_dim": 5, "latent_dim": 2},
        "options": {"epochs": 3, "seed": 1, "sizes": (8, 8)},
        "data": {"name": "made", "files": "0123"},
    }


def training(calls, stopped="epochs"):
    def train(prior, checkpoints):
        calls.append(checkpoints)
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(torch.randn(()))
        return {"stopped": stopped, "best": 2.5}, [{"epoch": 1, "loss": 3.0}]

    return train


def weights(prior):
    return torch.cat([p.detach().flatten() for p in prior.parameters()])


def test_the_same_training_is_found_and_not_made_again(made_by, runs):
    calls = []
    first = find_or_train(made_by, training(calls), seed=1)
    again = find_or_train(made_by, training(calls), seed=1)
    assert len(calls) == 1
    assert first.folder == again.folder == place_of(made_by)
    assert first.folder.parent == runs / "weights"
    assert torch.equal(weights(first.prior), weights(again.prior))
    assert not again.prior.training
    assert again.record["best"] == 2.5 and again.record["data"] == made_by["data"]
    assert first.record == {k: v for k, v in again.record.items() if k != "versions"}
    assert again.record["parameters"] == len(weights(again.prior))
    assert again.history == [{"epoch": 1, "loss": 3.0}]


@pytest.mark.parametrize(
    ("table", "change"),
    [("prior", {"latent_dim": 3}), ("options", {"seed": 2}), ("options", {"sizes": (8, 9)}),
     ("data", {"files": "0124"})],
)
def test_whatever_else_would_have_made_them_finds_nothing(made_by, table, change):
    find_or_train(made_by, training([]), seed=1)
    other = made_by | {table: made_by[table] | change}
    assert place_of(other) != place_of(made_by)
    assert find(other) is None and find(other, place_of(made_by)) is None
    assert find(made_by) is not None


@pytest.mark.parametrize("table", ["options", "data"])
def test_a_record_that_does_not_tell_all_is_not_the_one(made_by, table):
    place = find_or_train(made_by, training([]), seed=1).folder
    record = json.loads((place / "weights.json").read_text())
    del record[table]
    (place / "weights.json").write_text(json.dumps(record))
    assert find(made_by) is None


def test_a_seed_settles_start_and_training(made_by, tmp_path):
    found = [
        weights(find_or_train(made_by, training([]), seed=seed, folder=tmp_path / name).prior)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_training_cut_short_is_gone_on_with_where_asked(made_by):
    calls = []
    for resume, stopped in ((False, "time"), (False, "time"), (True, "epochs"), (True, "epochs")):
        find_or_train(made_by, training(calls, stopped), seed=1, resume=resume)
    assert len(calls) == 2  # the first, and the one that went on


def test_of_two_commands_that_ask_at_once_one_trains_and_the_other_waits(made_by):
    calls, found = [], []
    train, asked = training(calls), threading.Event()

    def slow(prior, checkpoints):
        second.start()
        assert asked.wait(30)
        return train(prior, checkpoints)

    class Told(io.StringIO):
        def write(self, text):
            asked.set()
            return super().write(text)

    def ask():
        with contextlib.redirect_stderr(Told()):
            found.append(find_or_train(made_by, training(calls), seed=1))

    second = threading.Thread(target=ask)
    first = find_or_train(made_by, slow, seed=1)
    second.join(30)
    assert len(calls) == 1 and torch.equal(weights(first.prior), weights(found[0].prior))


def test_weights_that_are_not_those_of_their_record_are_refused(made_by):
    place = find_or_train(made_by, training([]), seed=1).folder
    other = made_by | {"options": {}}
    wider = other | {"prior": made_by["prior"] | {"latent_dim": 4}}
    foreign = find_or_train(wider, training([]), seed=1).folder
    (foreign / "weights.safetensors").replace(place / "weights.safetensors")
    with pytest.raises(SpecError, match="does not hold the weights of 'vae'"):
        find(made_by)
    assert find(wider) is None  # half of it is gone
