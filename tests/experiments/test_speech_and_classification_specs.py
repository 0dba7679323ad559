"""Resynthesis, generation and classification as specs: run, compare, show, report, resume."""

import json
import math

import pytest

from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.runs.spec import load_spec, make_spec, shipped_specs

SPEECH = ["data.num_train=4", "data.num_valid=2", "data.num_test=2", "data.seconds=1.2",
          "model.window=128", "model.hop=64", "inference.num_frames=20", "inference.epochs=1"]
FEW = {
    "resynthesis": [*SPEECH, "metrics.num_examples=1", "metrics.num_draws=1"],
    "generation": [*SPEECH, "metrics.num_samples=2", "metrics.seconds=0.5",
                   "metrics.iterations=2"],
    "classification": ["data.num_train=20", "data.num_valid=10", "data.num_test=12",
                       "inference.updates=2", "inference.batch_size=8",
                       "metrics.hidden_markov_states=1"],
}
FIGURES = {
    "resynthesis": {"loss.png", "speaker0-000.png"},
    "generation": {"loss.png", "generated.png"},
    "classification": {"confusion.png", "reliability.png", "samples.png", "one_step.png"},
}
FIRST = {"resynthesis": "generation/si_sdr", "generation": "drawn", "classification": "accuracy"}
TASKS = sorted(FEW)


def changed(task, *more):
    return [word for setting in (*FEW[task], *more) for word in ("--set", setting)]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_a_shipped_spec_names_each_experiment_and_is_read_as_it_is_written(task):
    assert task in shipped_specs()
    spec = load_spec(task, settings=FEW[task], seed=3)
    assert spec.experiment == task
    table = spec.to_table()
    assert make_spec(table, []) == spec and make_spec(table, []).to_table() == table


@pytest.mark.parametrize("task", TASKS)
def test_run_writes_figures_weights_and_numbers_and_a_seed_changes_them(task, tmp_path, capsys):
    numbers = {}
    for name, seed in (("a", 0), ("b", 1)):
        out = tmp_path / name
        assert main(["run", task, *changed(task), "--seed", str(seed), "--out", str(out)]) == 0
        numbers[name] = metrics_of(out)
        names = {path.name for path in out.iterdir()}
        assert FIGURES[task] | {"weights.safetensors", "weights.json", "spec.toml"} <= names
    assert math.isfinite(numbers["a"][FIRST[task]])
    assert numbers["a"] != numbers["b"]
    capsys.readouterr()
    again = ["run", str(tmp_path / "a" / "spec.toml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0  # found trained
    assert "epoch" not in capsys.readouterr().err
    same = {k: v for k, v in metrics_of(tmp_path / "again").items() if k != "seconds"}
    assert same == {k: v for k, v in numbers["a"].items() if k != "seconds"}


@pytest.mark.parametrize(
    ("task", "priors", "words"),
    [("resynthesis", "vae,hit", "SI-SDR dB"), ("classification", "tvnf,tvgmm", "accuracy %"),
     ("generation", "dkf,srnn", "of expectations")],
)
def test_compare_prints_one_table_of_priors_and_draws_one_figure(
    task, priors, words, tmp_path, capsys
):
    assert main(["compare", task, "--vary", f"model.prior={priors}", *changed(task),
                 "--seeds", "2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert words in said and "failed" not in said
    for prior in priors.split(","):
        (line,) = (line for line in said.splitlines() if line.startswith(prior))
        assert "±" in line
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    runs = list((tmp_path / "out").glob("*/seed-*"))
    assert len(runs) == 4
    for run in runs:
        assert FIGURES[task] <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize("task", TASKS)
def test_show_draws_the_model_and_says_how_it_is_trained(task, capsys):
    assert main(["show", task, *changed(task)]) == 0
    said = capsys.readouterr().out
    assert "inference  " in said
    words = {"classification": ("p(class)", "Classifier"), "resynthesis": ("x_z", "Amortised"),
             "generation": ("x_z", "Amortised")}
    assert all(word in said for word in words[task])


@pytest.mark.parametrize(
    ("task", "more", "variable"),
    [
        ("resynthesis", ["model.prior=srnn", "inference.scheduled_sampling=true"],
         ("figures['si_sdr']", "generation/si_sdr")),
        ("resynthesis", ["model.prior=hit", 'model.size="paper"', "inference.num_frames=60"],
         ("figures['estoi']", "generation/estoi")),
        ("classification", ["model.prior={name = 'tvgmm', num_components = 2}"],
         ("figures['nats_per_frame']", "nats_per_frame")),
    ],
    ids=["srnn", "hit", "tvgmm"],
)
def test_the_script_makes_the_same_run(task, more, variable, tmp_path, capsys):
    assert main(["show", task, *changed(task, *more), "--python"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    names: dict = {}
    exec(compile(text, "script", "exec"), names)
    assert main(["run", task, *changed(task, *more), "--out", str(tmp_path / "run")]) == 0
    expression, key = variable
    assert eval(expression, names) == pytest.approx(metrics_of(tmp_path / "run")[key], rel=1e-6)


def test_report_judges_the_encoder(tmp_path, capsys):
    few = ["--num-draws", "100", "--num-simulations", "0", "--out", str(tmp_path / "page")]
    assert main(["report", "resynthesis", *changed("resynthesis"), *few]) == 0
    assert "x_z: " in capsys.readouterr().out
    assert main(["report", "classification", *changed("classification"), *few]) == 2
    assert "'classification' has no posterior" in capsys.readouterr().err


def test_a_training_cut_short_is_said_and_gone_on_with(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    short = changed("resynthesis", "inference.epochs=3", "inference.max_seconds=0.0")
    assert main(["run", "resynthesis", *short, *out]) == 0
    assert "cut short; --resume" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["epochs"] == 1
    whole = changed("resynthesis", "inference.epochs=3")
    assert main(["run", "resynthesis", *whole, "--resume", "--out", str(tmp_path / "on")]) == 0
    assert "cut short" not in capsys.readouterr().out
    record = json.loads((tmp_path / "on" / "weights.json").read_text())
    assert record["epochs"] == 3 and record["stopped"] == "epochs"


@pytest.mark.parametrize(
    ("task", "setting", "words"),
    [
        ("resynthesis", "data=scene", "expected speech"),
        ("classification", "data=scene", "expected labelled sequences"),
        ("resynthesis", "model.prior=tvgmm", "model.prior: given tvgmm; expected one of"),
        ("resynthesis", "model.size=tiny", "unknown size of vae 'tiny'"),
        ("resynthesis", "inference.epoch=3", "did you mean 'epochs'"),
        ("resynthesis", "inference.epochs=0", "epochs: given 0"),
        ("classification", "model.prior=srnn", "expected a density of classes"),
        ("classification", "inference.seed=1", "unknown key 'seed'"),
        ("classification", "inference.updates=0", "inference: updates"),
        ("generation", "guide=mean_field", "unknown table 'guide'"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(task, setting, words, tmp_path):
    from pyromodels.experiments.runs.runner import build

    with pytest.raises(SpecError, match="(?i)" + words.replace(".", r"\.")):
        build(load_spec(task, settings=[*FEW[task], setting]))
    assert not (tmp_path / "runs" / "weights").exists()


def test_weights_take_the_place_of_a_training(tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["run", "resynthesis", *changed("resynthesis"), "--out", str(first)]) == 0
    loaded = [f"model.weights={first}", *FEW["resynthesis"]]
    words = [word for setting in loaded for word in ("--set", setting)]
    assert main(["run", "resynthesis", *words, "--out", str(again)]) == 0
    key = "generation/si_sdr"
    assert metrics_of(again)[key] == pytest.approx(metrics_of(first)[key], rel=1e-5)
    assert load_spec("resynthesis", settings=loaded).to_table()["model"] == {"weights": str(first)}
    assert main(["show", "resynthesis", *words]) == 0
    assert "inference  none: weights" in capsys.readouterr().out
