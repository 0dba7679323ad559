"""The loop itself, around a training that counts."""

import json

import pytest
import torch

from pyromodels.inference.training import trainer as module
from pyromodels.inference.training.checkpoint import Checkpoint, latest_checkpoint
from pyromodels.inference.training.trainer import Trainer, check_same_options


class Counting:
    """Adds a random number a turn; settled at a count."""

    name, unit, most = "counting", "turn", 9

    def __init__(self, settled=99):
        self.total, self.history, self.settled = torch.zeros(()), [], settled
        self.generator = torch.Generator().manual_seed(0)

    @property
    def num_done(self):
        return len(self.history)

    def stopped(self):
        if self.num_done >= self.settled:
            return "settled"
        return "most" if self.num_done >= self.most else None

    def advance(self):
        self.total = self.total + torch.rand((), generator=self.generator)
        self.history.append({"turn": self.num_done + 1, "total": self.total.item()})
        return self.history[-1]

    def in_words(self, record):
        return f"total={record['total']:.2f}"

    def tensors(self):
        return {"total": self.total, "state.generator": self.generator.get_state()}

    def meta(self):
        return {"history": self.history}

    def restore(self, found):
        self.total, self.history = found.tensors["total"], found.meta["history"]
        self.generator.set_state(found.part("state")["generator"])


class Cut(Exception):
    """Somebody pulls the plug."""


def cut_at(turn):
    def tell(record):
        if record["turn"] == turn:
            raise Cut

    return tell


@pytest.mark.parametrize("every", [1, 4])
def test_a_run_cut_short_goes_on_to_the_same_bits(tmp_path, every):
    whole, cut, again = Counting(), Counting(), Counting()
    assert Trainer().run(whole) == "most"
    with pytest.raises(Cut):
        Trainer(tmp_path, checkpoint_every=every, records="records.jsonl").run(cut, cut_at(6))
    done = latest_checkpoint(tmp_path).epoch
    assert done == 6 - 6 % every
    told = []
    resumed = Trainer(tmp_path, True, every, "records.jsonl")
    assert resumed.run(again, lambda record: told.append(record["turn"])) == "most"
    assert told == list(range(done + 1, 10))
    assert again.history == whole.history and torch.equal(again.total, whole.total)
    assert latest_checkpoint(tmp_path).epoch == 9  # the last turn has one whatever `every`
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history
    once_more = Counting()
    assert Trainer(tmp_path, True, every).run(once_more) == "most"
    assert once_more.history == whole.history


def test_without_resumption_a_folder_is_begun_anew(tmp_path):
    Trainer(tmp_path).run(Counting())
    Trainer(tmp_path).run(Counting(settled=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001", "epoch-00002"]


def test_its_own_rule_goes_before_the_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    assert Trainer(max_seconds=0).run(one := Counting()) == "time"
    assert one.num_done == 1  # one turn in any case
    assert Trainer(max_seconds=0).run(Counting(settled=1)) == "settled"
    assert Trainer(max_seconds=0).run(Counting(settled=0)) == "settled"


def test_what_cannot_be_resumed_is_said():
    with pytest.raises(ValueError, match="no folder"):
        Trainer(resume=True)
    check_same_options({"a": [1, 2], "b": 3, "late": 1}, {"a": (1, 2), "b": 3})
    with pytest.raises(ValueError, match="made with b=3, now 4"):
        check_same_options({"a": 1, "b": 3}, {"a": 1, "b": 4})


def test_parts_of_a_checkpoint_are_found_by_their_prefix():
    found = Checkpoint(0, {"a.x": torch.zeros(1), "a.b.y": torch.ones(2), "ab": torch.ones(3)}, {})
    assert {name: len(value) for name, value in found.part("a").items()} == {"x": 1, "b.y": 2}
