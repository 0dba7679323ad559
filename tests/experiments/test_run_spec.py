"""Runs, comparisons and pictures of specs: the same numbers whichever way they are asked for."""

import ast
import json
import math
import re
import tomllib

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.dynamics.srnn import SRNN
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.harness.weights import save_prior
from pyromodels.experiments.runs.cells import Cell, format_cells
from pyromodels.experiments.runs.compare_figure import plot_cells
from pyromodels.experiments.runs.runner import build, fit, run_spec
from pyromodels.experiments.runs.show import format_graph, sites
from pyromodels.experiments.runs.spec import load_spec, make_spec, read_table, shipped_specs
from pyromodels.experiments.tracking.experiment import Tracking
from pyromodels.experiments.tracking.setup import box_anchor, trained_prior, walker_prior
from pyromodels.experiments.tracking.to_python import to_python

COLUMNS = {"mota": "MOTA", "idf1": "IDF1"}
SMALL = ["data.num_frames=12", "inference.steps=2"]


def small(*settings, name="mot_smoke"):
    return load_spec(name, settings=[*SMALL, *settings])


# ---- run


def test_run_by_file_keeps_spec_metrics_tracks_and_posterior(tmp_path, capsys):
    spec = tmp_path / "mine.toml"
    spec.write_text(
        "experiment = 'tracking'\n[data]\nname = 'scene'\nnum_frames = 10\nnum_sources = 2\n"
        "[inference]\nname = 'vem'\nsteps = 2\n"
    )
    out = tmp_path / "out"
    assert main(["run", str(spec), "--seed", "3", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "mine" in shown and "nats a sequence, 2 steps" in shown
    resolved = tomllib.loads((out / "spec.toml").read_text())
    assert resolved["seed"] == resolved["data"]["seed"] == 3
    assert resolved["model"]["detector"]["clutter_rate"] == 0.3
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"mota", "idf1", "nees", "bound", "seconds", "steps"} <= metrics.keys()
    assert np.load(out / "tracks.npz")["boxes"].shape == (1, 10, 2, 4)
    posterior = arviz.from_netcdf(out / "posterior.nc")
    assert posterior["bound_trace"] is not None
    assert {"s", "v", "w"} <= set(posterior["posterior"].data_vars)
    for name in ("trajectories", "responsibilities", "bound"):
        assert (out / f"{name}.png").stat().st_size > 10_000


def test_a_resolved_spec_runs_again_to_the_same_bound(tmp_path):
    folder, first = run_spec(small(), tmp_path / "a")
    again = fit(build(load_spec(folder.path / "spec.toml")))
    assert again.metrics["bound"] == first.metrics["bound"]


def test_shipped_specs_are_found_by_name_with_and_without_suffix(tmp_path):
    for name in ("mot_smoke.toml", "mot_smoke"):
        words = [name] if name.endswith(".toml") else ["spec", name]
        arguments = [*words, *(f"--set={s}" for s in SMALL), "--out", str(tmp_path / "out")]
        assert main(["run", *arguments]) == 0


def test_the_default_spec_tracks_its_scene():
    metrics = fit(build(load_spec("tracking", settings=["data.num_sequences=2"]))).metrics
    assert metrics["mota"] > 99
    assert metrics["nees"] < 8


@pytest.mark.parametrize("dynamics", ["srnn", "deep_ar"])
@pytest.mark.parametrize("inference", ["vem", "svi_natural", "svi"])
def test_every_engine_takes_every_prior(dynamics, inference):
    settings = [f"model.prior={dynamics}", f"inference={inference}", "inference.steps=2"]
    outcome = fit(build(small(*settings)))
    assert math.isfinite(outcome.metrics["bound"])
    assert len(outcome.fitted.trace["inference"]) == 2


MIXTURE = 'model.prior.dynamics={name="tvgmm", num_components=3}'


@pytest.mark.parametrize("dynamics", ["model.prior.dynamics=tvnf", MIXTURE])
def test_a_prior_without_gaussian_frames_runs_by_svi(tmp_path, capsys, dynamics):
    settings = [*SMALL, dynamics, "inference=svi", "inference.steps=2"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", "mot_smoke", *arguments, "--out", str(tmp_path)]) == 0
    assert "nats a sequence, 2 steps" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert math.isfinite(metrics["bound"]) and metrics["mota"] > 90


@pytest.mark.parametrize(
    "setting",
    [
        "model.detector=false",
        "model.prior.dynamics.order=1",
        'model.prior={dynamics="deep_ar", weights="none"}',
        "dtype=float32",
        "model.num_sources=1",
        "data.num_frames=1",
        'inference={name="vem", learn=["process_noise", "observation_noise"], steps=2}',
    ],
)
def test_variants_run(setting):
    assert math.isfinite(fit(build(small(setting))).metrics["bound"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.path=/no/such.npz", "/no/such.npz does not exist"),
        ("data.num_sources=0", "data: num_sources is 0"),
        ("model.num_sources=50", "model: num_sources: given 50; expected at most"),
        ("model.prior.dynamics.process_std=[1, 2, 3]", "model.prior: process_std: given shape"),
        ("model.prior.dynamics.num_coordinates=2", "model.prior: given 4 coordinates in blocks"),
        ('model.prior={dynamics="srnn", weights="deep_ar_mot"}', "weights of deep_ar; expected of"),
        ('model.prior={dynamics="srnn", weights="srn_mot"}', "unknown weights 'srn_mot'; did you"),
        ('model.prior={dynamics="srnn", least_std=2.0}', "least_std: given 2.0; expected below 1"),
        ("inference.damping=3", "inference: damping: given 3"),
        ("model.prior.dynamics=tvnf", "'vem'.*TVNF.*not Gaussian.*'svi' with elbo 'trace_enum'"),
        (MIXTURE, "'vem'.*TVGMM.*not Gaussian.*'svi' with elbo 'trace_enum'"),
        (
            'inference={name="svi", num_particles=2, elbo="closed_form"}',
            "num_particles.*draws nothing",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_folder(tmp_path, capsys, setting, message):
    out = tmp_path / "out"
    assert main(["run", "mot_smoke.toml", "--set", setting, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pyromodels: error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["guide=amortised"], "guide.*mean_field"),
        (["guide=auto"], "guide: .*'v'.*mean_field"),
        (["guide=auto", "model.detector=false"], "inference 'vem' sets factors.*AutoGuide"),
        (["guide=chain", 'inference={name="svi", elbo="closed_form"}'], "needs q.w. and q.s."),
    ],
)
def test_a_guide_that_does_not_fit_is_told(settings, message):
    with pytest.raises(SpecError, match=message):
        build(small(*settings))


@pytest.mark.parametrize("guide", ["chain", "auto", "point", "parametrised_mean_field"])
def test_every_guide_of_the_model_runs_from_the_common_start(guide):
    svi = 'inference={name="svi", steps=3, learning_rate=1e-4}'
    outcome = fit(build(small(f"guide={guide}", "model.detector=false", svi)))
    assert math.isfinite(outcome.metrics["bound"])
    found = outcome.fitted.marginals
    owned = found.responsibilities.sum(-1)
    torch.testing.assert_close(owned, outcome.model.batch.mask.to(owned))
    assert len(Tracking().figures(outcome)) == 3
    assert (outcome.fitted.covariance is None) == (guide == "point")
    assert outcome.metrics["mota"] > 50


def test_published_weights_are_refused_with_the_command_that_takes_them(tmp_path):
    path = tmp_path / "published.safetensors"
    save_prior(path, SRNN(), {"name": "srnn"}, {})
    with pytest.raises(SpecError, match="predict positions.*--preset reference"):
        trained_prior(str(path), "srnn")


def test_an_anchor_is_in_the_coordinates_of_its_prior():
    start = torch.tensor([[[0.5, 0.5, 0.1, 0.4]]], dtype=torch.float64)
    steady = LinearGaussian(order=1, process_std=(1e-3,), scale="centre_box")
    for prior, deviations in ((walker_prior(), [0.06, 0.008]), (steady, [0.06])):
        anchor = box_anchor(start, prior)
        first = anchor.variance[0, 0, : prior.block_dim].sqrt()
        assert first.tolist() == pytest.approx(deviations, rel=1e-5)
        assert anchor.loc[0, 0, :: prior.block_dim].tolist() == start.flatten().tolist()


# ---- compare


def test_compare_says_that_a_point_has_no_bound(tmp_path, capsys):
    few = ["--set", "inference={name='svi',steps=3}", "--set", "model.detector=false"]
    few += ["--seeds", "1", "--out", str(tmp_path)]
    assert main(["compare", "mot_smoke", "--vary", "guide=point,mean_field", *few]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of the guide `point` it is no bound but the log density at the mode" in shown


def test_compare_runs_every_cell_and_tells_the_one_that_fails(tmp_path, capsys):
    arguments = ["compare", "mot_smoke", "--vary", "inference=vem,nope,svi_natural", "--seeds", "2"]
    arguments += ["--vary", "model.prior.dynamics=linear,srnn", "--set", "data.num_frames=12"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    header, *rows = shown.splitlines()[:7]
    assert header.split() == ["inference", "dynamics", "MOTA", "IDF1", "NEES", "bound", "seconds"]
    assert [row.split()[:2] for row in rows][:3] == [
        ["vem", "linear"], ["vem", "srnn"], ["nope", "linear"]
    ]
    assert all("±" in row for row in (*rows[:2], *rows[4:]))
    assert all("failed: unknown inference engine 'nope'" in row for row in rows[2:4])
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    content = json.loads((tmp_path / "comparison.json").read_text())
    cell = content["cells"][0]
    assert [run["seed"] for run in cell["runs"]] == [0, 1]
    bounds = [run["metrics"]["bound"] for run in cell["runs"]]
    assert cell["summary"]["bound"] == pytest.approx(np.mean(bounds))
    assert cell["summary"]["bound_se"] == pytest.approx(np.std(bounds, ddof=1) / 2**0.5)
    for run in cell["runs"]:
        saved = tomllib.loads(open(f"{run['folder']}/spec.toml").read())
        assert saved["seed"] == run["seed"]


def test_a_cell_of_one_seed_has_no_standard_error(tmp_path):
    cell = Cell({"inference": "vem"}, tmp_path, [{"seed": 0, "metrics": {"mota": 50.0}}])
    assert cell.summary() == {"mota": 50.0}
    row = format_cells([cell], ["inference"], COLUMNS).splitlines()[1]
    assert row.split() == ["vem", "50.00", "-"]


def test_the_figure_of_a_comparison_has_a_bar_for_every_cell_and_metric(tmp_path):
    def cell(inference, dynamics, motas, error=""):
        runs = [{"metrics": {"mota": mota, "idf1": None}} for mota in motas]
        return Cell({"inference": inference, "dynamics": dynamics}, tmp_path, runs, error)

    cells = [cell("vem", "linear", [80.0, 90.0]), cell("vem", "srnn", [70.0, 70.0]),
             cell("svi", "linear", [], "no")]
    (axes,) = plot_cells(cells, COLUMNS, title="t").axes  # no cell has IDF1
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "vem, linear", "vem, srnn", "svi, linear"
    ]
    bars = [bar.lines[2][0].get_segments()[0][:, 0] for bar in axes.containers]
    np.testing.assert_allclose(bars, [[80.0, 90.0], [70.0, 70.0]])  # one standard error is 5
    texts = [text.get_text() for text in axes.texts]
    assert {"85", "70", "failed"} <= set(texts)
    first, second, third = axes.get_yticks()
    assert third - second > second - first  # another engine, another group


def test_without_any_figure_the_comparison_is_drawn_still(tmp_path):
    (axes,) = plot_cells([Cell({"a": "1"}, tmp_path, [], "no")], COLUMNS, title="t").axes
    assert axes.get_xlabel() == "no cell has a figure"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: given 0; expected at least 1"),
        (["--vary", "inference"], "expected key=value"),
        (["--set", "seeed=1"], "unknown key 'seeed'"),
    ],
)
def test_compare_refuses_in_one_line(capsys, arguments, message):
    assert main(["compare", "tracking", *arguments]) == 2
    assert message in capsys.readouterr().err


# ---- show


def test_show_draws_plates_shapes_parents_and_parameters(capsys):
    assert main(["show", "mot_smoke", "--set", "data.num_frames=12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    assert lines[0] == "model  MixDVAE"
    assert "┌ batch ×1 (dim -3)" in text and "│ ┌ source ×2 (dim -1)" in text
    site = next(line for line in lines if "p(o | s, w)" in line)
    assert "●" in site and "|(4)" in site and site.endswith("observed")
    assert next(line for line in lines if "p(w | v)" in line).endswith("enumerated")
    assert "p(v) " in text and "guide  MeanField" in text and "q(s)" in text
    assert "prior.log_process_std        parameter  (4, 2)" in text


def test_show_says_the_choices_of_the_published_method(capsys):
    assert main(["show", "tracking", "--set", "inference=reference"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "inference reference: a method that brings its own model" in said
    assert "The published tracker" in said
    assert "tempering=0.008" in said and "num_iterations=70" in said and "noise_ratio=0.04" in said


def test_a_method_takes_options_and_refuses_what_is_none():
    table = small('inference={name="kalman", gate=0.3}').to_table()["inference"]
    assert table == {"name": "kalman", "association": "iou", "motion": "sort", "smooth": False,
                     "gate": 0.3}
    with pytest.raises(SpecError, match="method 'kalman': unknown key 'gaet'; did you mean 'gate'"):
        small('inference={name="kalman", gaet=0.3}')
    with pytest.raises(SpecError, match="inference: tempering: given -1; expected a positive"):
        small('inference={name="reference", tempering=-1}')


def test_a_graph_of_any_program():
    def model():
        with pyro.plate("rows", 3):
            x = pyro.sample("x", dist.Normal(torch.zeros(2), 1).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1), obs=torch.tensor(0.0))

    x, y = sites(model)
    assert (x.name, x.law, x.batch_shape, x.event_shape) == ("x", "Normal", (3,), (2,))
    assert x.plates[0].size == 3 and not x.observed
    assert y.parents == ("x",) and y.plates == () and y.observed
    assert format_graph("toy", [x, y]).splitlines()[-1].startswith("  ● p(y | x)")


TRACKING = [name for name in shipped_specs() if read_table(name)["experiment"] == "tracking"]
CODE = [  # scripts of other experiments: test_speech_and_classification_specs.py
    *((name,) for name in TRACKING if name != "mot_svi"),
    ("mot_svi", "inference.steps=3"),
    ("mot_srnn", "inference.name=svi_natural", "inference.rate=0.3"),
    ("mot_smoke", "model.detector={hide=0.05}", "model.noise_ratio=[0.1, 0.1]", "dtype=float32"),
    ("mot_smoke", "model.detector=false", 'model.prior={dynamics="deep_ar", weights="none"}'),
    ("mot_smoke", 'inference={name="svi", elbo="trace_enum", steps=2}', "seed=3"),
    ("mot_smoke", "model.prior.dynamics=tvnf", 'inference={name="svi", steps=2}'),
    ("mot_smoke", "model.prior.dynamics.process_std=[1e-3, 1e-3]", "model.start_std=[0.1, 0.1]"),
]


@pytest.mark.parametrize("case", CODE, ids=lambda case: "-".join(case)[:40])
def test_the_printed_python_makes_the_same_run(case):
    spec = make_spec(load_spec(case[0]).to_table(), ["data.num_frames=12", *case[1:]])
    code = to_python(spec)
    assert max(map(len, code.splitlines())) <= 100
    space = {}
    exec(compile(code, "printed.py", "exec"), space)
    assert space["bound"] == fit(build(spec)).metrics["bound"]


def test_the_printed_python_keeps_hostile_text():
    path = 'two  spaces/"; import os #' + "\\n\n é" + "x" * 90
    code = to_python(make_spec({"experiment": "tracking", "data": {"path": path}}, []))
    constants = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert path in constants


def test_show_python_prints_it(capsys):
    assert main(["show", "mot_smoke", "--python", "--set", "seed=4"]) == 0
    assert capsys.readouterr().out == to_python(load_spec("mot_smoke", settings=["seed=4"]))


def test_a_shipped_spec_runs_by_its_bare_name(tmp_path, capsys):
    arguments = ["run", "mot_smoke", "--set", "data.num_frames=8", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "mot_smoke" in capsys.readouterr().out
    assert main(["run", "mot_smoek"]) == 2
    assert "unknown 'run' name 'mot_smoek'; did you mean 'mot_smoke'?" in capsys.readouterr().err
    assert main(["report", "mot_srn"]) == 2
    assert "did you mean 'mot_srnn'?" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_told_before_anything_is_built(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    out = tmp_path / "out"
    for command in (["run", "mot_smoke"], ["compare", "mot_smoke", "--seeds", "1"]):
        assert main([*command, "--device", "cuda:1", "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert "--device: given cuda:1; expected a machine with a GPU" in error
        assert error.count("\n") == 1
    assert not out.exists()


def test_resuming_in_the_folder_of_another_spec_is_refused(tmp_path, capsys):
    run = ["run", "mot_smoke", "--set", "data.num_frames=8", "--out", str(tmp_path)]
    assert main(run) == 0
    assert main([*run, "--resume"]) == 0
    assert main([*run, "--set", "inference.damping=0.5", "--resume"]) == 2
    told = capsys.readouterr().err
    assert "--resume: inference.damping = 0.5, but" in told and "has 1.0" in told
