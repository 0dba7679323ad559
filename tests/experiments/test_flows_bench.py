"""`pyromodels bench flows` in its quick form."""

import json

from pyromodels.experiments.command.cli import main


def test_every_prior_is_timed_both_ways(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert main(["bench", "flows", "--quick", "--threads", "1", "--json", str(file)]) == 0
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    shown = capsys.readouterr().out
    assert list(rows) == [
        "flowavenet, training step", "flowavenet, densities", "flowavenet, a draw",
        "wavenet, width 4, draws by queues",
        "glow, training step", "glow, densities", "glow, a draw",
    ]  # fmt: skip
    wavenet = rows["wavenet, width 4, draws by queues"]
    assert wavenet["per_second"] == 20 / wavenet["seconds"]["median"]
    assert all(name in shown for name in rows) and "per second" in shown
    assert not any("quoted" in row for row in rows.values()), "small sizes are nobody's"
