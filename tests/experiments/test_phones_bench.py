"""`pyromodels bench tvnf` in its quick form, and the rival that it assembles from zuko."""

import json

import torch

from pyromodels.experiments.classification import bench
from pyromodels.experiments.command.cli import main


def test_bench_prints_every_rival_and_feeds_all_the_same_sequences(tmp_path, capsys, monkeypatch):
    seen = {}
    loss = bench.mean_loss

    def noted(density, x):
        seen.setdefault(x.data_ptr(), set()).add(type(density).__name__)
        return loss(density, x)

    monkeypatch.setattr(bench, "mean_loss", noted)
    assert main(["bench", "tvnf", "--quick", "--json", str(tmp_path / "rows.json")]) == 0
    assert {"TVNF", "Assembled", "TVGMM"} in seen.values()
    shown = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert list(rows) == [
        "tvnf", "zuko, RealNVP told by nn.GRU", "tvgmm, M = 1", "tvgmm, M = 3",
        "tvnf, B = 4, T = 5", "tvnf, B = 4, T = 10",
        "one class, B = 4", "five classes at once, B = 4", "five classes one by one, B = 4",
    ]  # fmt: skip
    for name, row in rows.items():
        assert name in shown
        seconds = row["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"] and seconds["cpu"] > 0
    assert [rows[f"tvnf, B = 4, T = {t}"]["linear"] for t in (5, 10)] == [1.0, 2.0]
    assert [rows[f"tvnf, B = 4, T = {t}"]["sizes"]["frames"] for t in (5, 10)] == [5, 10]


def test_rival_is_a_causal_density_of_the_size_of_ours():
    torch.manual_seed(0)
    rival, ours = bench.Assembled(), bench.tvnf()
    sizes = [sum(p.numel() for p in density.parameters()) for density in (rival, ours)]
    assert sizes[0] == sizes[1] == 65552
    x = torch.randn(2, 6, bench.DIM)
    changed = x.clone()
    changed[:, 3] += 1
    same = rival.log_prob_by_frame(x) == rival.log_prob_by_frame(changed)
    assert same[:, :3].all() and not same[:, 3:].any()
    first = rival.flow(torch.zeros(2, bench.PAST_DIM)).log_prob(x[:, 0])
    torch.testing.assert_close(rival.log_prob_by_frame(x)[:, 0], first)


def test_loss_of_a_bank_is_the_sum_over_its_classes():
    torch.manual_seed(0)
    bank, x = bench.tvnf(num_members=2), torch.randn(3, 2, 4, bench.DIM)
    expected = 0.0
    for member in range(2):
        single = bench.tvnf()
        single.load_state_dict({k: v[member : member + 1] for k, v in bank.state_dict().items()})
        expected = expected + bench.mean_loss(single, x[:, member])
    torch.testing.assert_close(bench.mean_loss(bank, x), expected)
