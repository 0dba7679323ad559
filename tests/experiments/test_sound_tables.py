"""Tables and figures of sound: what they declare can be run, is run once, and stands beside theirs.
"""

import argparse
import json
import shlex
from types import SimpleNamespace

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.enhancement.scores import PARTS
from pyromodels.experiments.enhancement.tables import thesis as enhancement
from pyromodels.experiments.results.pages import PAGES
from pyromodels.experiments.runs import paper_tables
from pyromodels.experiments.runs.paper_tables import PaperTable, Row, of_run, specs_of
from pyromodels.experiments.runs.spec import make_spec, read_table
from pyromodels.experiments.separation.tables import thesis as separation

TABLES = separation.TABLES | enhancement.TABLES


def asked(*words):
    """Return what a table is told."""
    parser = argparse.ArgumentParser()
    paper_tables.add_arguments(parser)
    return parser.parse_args([*words, "--device", "cpu"])


# ---- what is declared


@pytest.mark.parametrize("data", [(), ("--data", "sounds")], ids=["generated", "data"])
@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_spec_and_what_is_quoted_has_a_column(name, data):
    args = asked(*data, "--most", "3")
    table = TABLES[name](args)
    labels = [row.label for row in table.rows]
    assert len(set(labels)) == len(labels)
    for row in table.rows:
        assert row.method is not None or row.quoted, f"{row.label}: neither ours nor theirs"
        for where, figures in row.quoted.items():
            assert figures and set(figures) <= set(table.columns), (row.label, where)
    for row, spec in specs_of(table, args):
        own = spec.to_table()
        assert own["metrics"]["num_examples"] == 0
        assert ("sounds" in own["data"].get("path", "")) == bool(data), row.label
        others = [r.method for r in table.rows if r.run == row.run and r.method]
        assert set(others) - {"start"} <= {*own["metrics"]["baselines"], *PARTS}


def test_figures_of_enhancement_do_not_hang_on_what_the_shipped_spec_says_of_noise_and_start():
    shipped = read_table("enhancement")
    bare = shipped | {"model": dict(shipped["model"]), "inference": {}}
    for key in ("noise", "gain"):
        bare["model"].pop(key, None)
    runs = {tuple(spec_words(run.command)) for run in PAGES["enhancement"].runs}
    for data in ((), ("--data", "sounds")):
        args = asked(*data)
        runs |= {row.settings + row.fixed for table in enhancement.TABLES.values()
                 for row in table(args).rows if row.method is not None}
    assert len(runs) > 25
    for settings in runs:
        with_shipped, without = (make_spec(table, settings).to_table() for table in (shipped, bare))
        assert with_shipped == without, settings


def spec_words(command):
    """Return what a command of a page sets."""
    words = shlex.split(command)
    assert words[:2] == ["run", "enhancement"]
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


def test_a_run_of_one_table_is_that_of_another():
    args = asked("--data", "sounds")
    runs = {name: [spec.to_table() for _, spec in specs_of(TABLES[name](args), args)]
            for name in ("scass-1", "scass-2", "scass-3", "scass-4", "scass-6")}
    assert runs["scass-2"] == runs["scass-3"] == runs["scass-6"]
    assert len([run for run in runs["scass-4"] if run in runs["scass-1"]]) == 3


def test_settings_change_budgets_and_not_what_a_row_is_about():
    args = asked("--set", "guide.steps=4", "--set", "inference.steps=3")
    made = {row.label: (spec.guide.steps, spec.inference.steps)
            for row, spec in specs_of(TABLES["se-1"](args), args)}
    assert made["RVAE-LV U-NA"] == (0, 3) and made["RVAE-LV U-ND"] == (4, 0)
    assert made["RVAE-LV U-NDA"] == (4, 3) and made["Noisy mixture"] == (0, 3)
    start = [spec.inference.steps for row, spec in specs_of(TABLES["scass-1"](args), args)]
    assert start == 3 * [3, 3, 3, 3, 0]


# ---- how it is run and printed


def toy(*rows):
    return PaperTable("A table", "separation", {"a": ("A", 1), "b": ("B", 2)}, rows, "A note.")


@pytest.fixture
def made(monkeypatch):
    """Specs that are run; what a run measures is its seed and the method's name."""
    ran = []

    def run(spec, out=None, *, resume, draw):
        ran.append(spec)
        if spec.inference.steps == 7:
            raise ValueError("seven\nsweeps")
        metrics = {"a": float(spec.seed), "nmf/a": 10.0 + spec.seed, "other": 3.0}
        return None, SimpleNamespace(metrics=metrics)

    monkeypatch.setattr(paper_tables, "run_spec", run)
    return ran


def test_rows_of_one_run_are_beside_what_the_paper_prints(made, tmp_path, capsys):
    quoted = {"thesis": {"a": 1.25, "b": 2.0}}
    rows = of_run(["inference.steps=1"], [Row("ours", "", quoted), Row("nmf", "nmf"),
                                          Row("theirs", None, quoted)], ["nmf"])
    args = asked("--seeds", "2", "--out", str(tmp_path / "out"))
    assert paper_tables.print_table("toy", toy(*rows), args) == 0
    assert [spec.seed for spec in made] == [0, 1]
    assert list(made[0].metrics.baselines) == ["nmf"] and made[0].inference.steps == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["A"] in lines, "a column without a figure of ours is left out"
    assert ["ours", "0.5", "±", "0.5"] in lines and ["nmf", "10.5", "±", "0.5"] in lines
    assert ["thesis", "1.2"] in lines and ["theirs,", "thesis", "1.2"] in lines
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert kept == {"ours/a": 0.5, "ours/a_se": 0.5, "nmf/a": 10.5, "nmf/a_se": 0.5}


def test_a_run_that_fails_says_why_and_ends_nothing_else(made, tmp_path, capsys):
    rows = [Row("wrong", "", {}, ("inference.steps=7",)), Row("right", "", {}, ())]
    args = asked("--out", str(tmp_path))
    assert paper_tables.print_table("toy", toy(*rows), args) == 1
    said = capsys.readouterr().out
    assert "failed: seven sweeps (seed 0)" in said
    assert ["right", "0.0"] in [line.split() for line in said.splitlines()]


@pytest.mark.parametrize("words", [("--most", "0"), ("--seeds", "0"), ("--set", "model.prior=x")])
def test_what_no_run_can_have_is_refused_before_the_first(made, tmp_path, words):
    with pytest.raises(SpecError, match="--most|--seeds|model.prior"):
        paper_tables.print_table("toy", toy(Row("ours")), asked(*words))
    assert not made


# ---- from end to end


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder as `--data` names it: noise for recordings, two mixtures of a list."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sounds") / "audio"
    for kind in ("speech", "flute", "noise"):
        for split in ("train", "valid", "test"):
            (folder / kind / split).mkdir(parents=True)
            for number in range(4 if split == "train" else 1):
                colour = torch.rand(14000).cumsum(0) if kind == "flute" else torch.rand(14000)
                signal = (colour - colour.mean()) / colour.abs().max()
                write_wav(folder / kind / split / f"{number}.wav", 0.5 * signal)
    for kind in ("flute", "noise"):
        entries = [
            {"id": f"T{frames}", "T": frames, "n": (frames - 1) * 256, "norm_gain": 1.0,
             "speech": "speech/test/0.wav", "speech_offset": 9, kind: f"{kind}/test/0.wav"}
            for frames in (50, 40)
        ]
        (folder / f"mix_speech_{kind}{'_test' if kind == 'noise' else ''}.json").write_text(
            json.dumps(entries)
        )
    return folder.parent


SMALL = ("model.prior=vae", "model.epochs=1", "inference.steps=2",
         "metrics.figures=[\"si_sdr\",\"rmse\"]")


def run(*words, settings=SMALL):
    extra = [word for setting in settings for word in ("--set", setting)]
    return main([*words, *extra, "--device", "cpu"])


def test_tables_share_runs_and_find_them_again(sounds, tmp_path, capsys):
    for name, found in (("scass-3", 0), ("scass-2", 3)):
        out = tmp_path / name
        assert run("table", name, "--data", str(sounds), "--out", str(out)) == 0
        said = capsys.readouterr().out
        assert f"runs: 3, {found} of them found" in said and "thesis, T=50" in said
        kept = json.loads((out / "metrics.json").read_text())
        assert len({value for key, value in kept.items() if "/speech/" in key}) == 6
    assert "SRNN-quarter/speech/prior_valid_loss" in kept
    assert run("table", "scass-6", "--data", str(sounds), "--anew") == 0
    assert "runs: 3, 0 of them found" in capsys.readouterr().out


def test_figures_of_mixtures_are_drawn_of_the_one_that_is_named(sounds, tmp_path, capsys):
    few = (*SMALL, "metrics.nmf_atoms=2", "guide.weights=assigner_speech_flute")
    data = ("--data", str(sounds), "--length", "short")
    assert run("plot", "scass-1", *data, "--mixture", "T50", "--out", str(tmp_path / "one"),
               settings=few) == 0
    assert "T50, SI-SDR in dB" in capsys.readouterr().out
    reached = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert reached["ideal binary mask/speech/si_sdr"] > reached["Mixture/speech/si_sdr"]
    assert (tmp_path / "one" / "scass-1.png").is_file()
    assert run("plot", "scass-1", *data, "--mixture", "T60", settings=few) == 2
    assert "T60" in capsys.readouterr().err
    for name in ("scass-1", "se-2"):
        assert run("plot", name, "--mixture", "T50", settings=()) == 2
        assert "--mixture: given T50; expected --data DIR" in capsys.readouterr().err


def test_sweeps_are_drawn_as_far_as_they_are_made(sounds, tmp_path):
    out = tmp_path / "sweeps"
    words = ("--data", str(sounds), "--length", "short", "--out", str(out))
    assert run("plot", "scass-2", *words) == 0
    reached = json.loads((out / "metrics.json").read_text())
    assert list(reached) == [f"{kind}/si_sdr_after_{n}" for kind in ("speech", "flute")
                             for n in (0, 1, 2)]
    assert len(set(reached.values())) == 6 and (out / "scass-2.png").is_file()


def test_a_prior_of_other_files_is_another_one(sounds, tmp_path, capsys):
    settings = ("model.prior=vae", "model.epochs=1", "inference.steps=1", "inference.num_draws=1")
    for files in ("*", "0*"):
        name = "all" if files == "*" else "some"
        words = [f"model.files={files}", f"data.path={sounds}/audio/mix_speech_noise_test.json",
                 "data.kinds=[\"speech\",\"noise\"]", *settings]
        assert run("run", "enhancement", "--no-plots", "--out", str(tmp_path / name),
                   settings=words) == 0
    reached = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in
               ("all", "some")]
    assert reached[0]["si_sdr"] != reached[1]["si_sdr"]
    assert run("run", "enhancement", settings=("model.files=libri_*",)) == 2
    assert "libri_*" in capsys.readouterr().err


def test_noisy_speech_is_drawn_beside_the_variances_of_the_noise(sounds, tmp_path, capsys):
    out = tmp_path / "noisy"
    assert run("plot", "se-3", "--data", str(sounds), "--mixture", "T50", "--out", str(out),
               settings=("inference.steps=1", "guide.steps=0", "inference.num_draws=1")) == 0
    reached = json.loads((out / "metrics.json").read_text())
    assert list(reached) == ["noisy/si_sdr", "RVAE-LV U-ND/si_sdr", "RVAE-LV U-NA/si_sdr",
                             "RVAE-VEM U-NA/si_sdr"]
    assert (out / "se-3.png").is_file()
    assert "the thesis, on another signal" in capsys.readouterr().out
