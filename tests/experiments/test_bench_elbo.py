"""`pyromodels bench elbo` in its quick form."""

import json

from pyromodels.experiments.command.cli import main


def test_a_path_is_three_times_as_fast_as_a_site_a_frame(capsys, tmp_path):
    rows = tmp_path / "elbo.json"
    assert main(["bench", "elbo", "--quick", "--json", str(rows)]) == 0
    shown = capsys.readouterr().out
    path, stepwise = json.loads(rows.read_text())
    assert path["ratio"] == 1.0 and stepwise["ratio"] >= 3.0
    for row in (path, stepwise):
        assert row["sizes"] == {"batch": 1, "frames": 60}
        assert 0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert row["name"].endswith(", B=1") and f"\n{row['name']} " in shown
