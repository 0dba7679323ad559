"""The tracking experiment end to end: the figures it must reach, and its command."""

import json
import math
from pathlib import Path

import pytest
import torch

from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.tracking.box_coordinates import (
    box_size,
    corners_to_centres,
    start_boxes,
)
from pyromodels.experiments.datasets.tracking.npz import load_npz
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.datasets.tracking.trajectories import generate_trajectories
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.runs.runner import build, fit
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.experiments.tracking.methods.base import Options
from pyromodels.experiments.tracking.methods.by_name import BASELINES, PRESETS, run_method
from pyromodels.experiments.tracking.model_spec import noise_rows
from pyromodels.experiments.tracking.stages import ERROR_STD, TUNED
from pyromodels.experiments.tracking.training.smoothed import smoothed_detections
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.observations.detector import Detector


def score(name: str, data: TrackingData, options: Options) -> dict[str, float]:
    tracked = run_method(name, data, options)
    return tracking_metrics(data.truth, data.truth_mask, tracked.boxes, variance=tracked.covariance)


def changed(stage: str, **options) -> list[dict]:
    """The stages of the tuned tracker, one of them with other options."""
    return [s | options if s["name"] == stage else s for s in TUNED]


def shuffled(path: Path, every: int = 1) -> TrackingData:
    data = load_npz(path).subset(slice(0, None, every))
    return data.shuffled(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "every", "mota", "idf1"),
    [
        ("MOT17-hard", 1, 99.0, 99.5),
        ("TUD-Stadtmitte", 1, 99.4, 99.7),
        ("MOT16-11", 6, 98.6, 99.3),
        ("MOT17-sim", 6, 98.9, 99.4),
    ],
)
def test_default_preset_reaches_its_figures(mot_data, name, every, mota, idf1):
    figures = score("linear", shuffled(mot_data / f"{name}_T60.npz", every), Options())
    assert figures["mota"] >= mota
    assert figures["idf1"] >= idf1


@pytest.mark.parametrize("preset", ["srnn", "deep_ar"])
@pytest.mark.parametrize(
    ("name", "every", "mota", "nees"), [("MOT17-hard", 4, 97.5, 4.0), ("MOT16-11", 6, 98.0, 9.0)]
)
def test_deep_presets_reach_their_figures(mot_data, preset, name, every, mota, nees):
    """Without the detector's correlated error NEES is 15 and 44."""
    figures = score(preset, shuffled(mot_data / f"{name}_T60.npz", every), Options())
    assert figures["mota"] >= mota
    assert figures["nees"] <= nees


def test_posterior_of_a_deep_preset_has_the_error_beside_every_coordinate(mot_data):
    data = load_npz(mot_data / "TUD-Stadtmitte_T60.npz").subset(slice(0, 2))
    fitted = run_method("srnn", data).fitted
    posterior = Posterior(fitted.model, fitted.guide, fitted.batch)
    draws = posterior.sample(3)
    num_sources, num_frames = data.num_objects, data.num_frames
    assert draws["s"].shape == (3, 2, num_sources, num_frames, 8)
    assert draws["s_z"].shape[:4] == (3, 2, num_sources, num_frames)
    assert posterior.log_joint(draws).isfinite().all()
    assert posterior.log_prob(draws).isfinite().all()
    replica = posterior.predictive(draws=draws)["o"]
    assert replica.shape == (3, *fitted.batch.observations.shape)
    assert posterior.to_inference_data(2).posterior["s"].shape[-2:] == (4, 2)
    again = run_method("srnn", data)
    torch.testing.assert_close(again.fitted.guide.loc, fitted.guide.loc, rtol=0, atol=0)


def test_deep_preset_without_correlated_error_keeps_the_prior_alone(mot_data):
    data = load_npz(mot_data / "TUD-Stadtmitte_T60.npz").subset(slice(0, 2))
    options = Options(changes={"stages": changed("deep_smoothing", error_std=[])})
    fitted = run_method("deep_ar", data, options).fitted
    assert isinstance(fitted.model.prior, DeepAR)
    assert fitted.guide.loc.shape[-2:] == (4, 1)


def test_smoothed_detections_of_an_exact_detector_are_the_truth():
    s = corners_to_centres(generate_trajectories(5, 20, seed=1, dtype=torch.float64))
    found = smoothed_detections(
        s,
        noise_ratio=(1e-4, 1e-4),
        error_std=(1e-5,) * 4,
        detector=Detector(visible_rate=1.0, hide=0.0),
    )
    torch.testing.assert_close(found, s, atol=1e-4, rtol=1e-3)


def test_smoothed_detections_err_less_than_the_detector_and_repeat_with_the_seed():
    s = corners_to_centres(generate_trajectories(50, 40, seed=1))
    first, again, other = (smoothed_detections(s, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    typical = ((first - s) / box_size(s)).abs().flatten(0, 1).median(0).values
    std = torch.tensor(ERROR_STD)
    assert (typical > 0.1 * std).all() and (typical < std).all()


@pytest.mark.parametrize(
    ("name", "mota", "num_seeds"),
    [("MOT16-11", 90.49, 1), ("TUD-Stadtmitte", 73.37, 4), ("MOT17-sim", 75.65, 1)],
)
def test_published_method_reaches_the_published_code(mot_data, name, mota, num_seeds):
    """Within a point; on the sixteen sequences of TUD seeds differ by 1.4, hence the average."""
    data = load_npz(mot_data / f"{name}_T60.npz")
    weights = str(mot_data / "model_mot.pt")
    runs = [Options(weights=weights, seed=seed) for seed in range(num_seeds)]
    figures = [score("reference", data, options)["mota"] for options in runs]
    assert sum(figures) / num_seeds == pytest.approx(mota, abs=1.0)


def test_order_of_detections_does_not_matter(mot_data):
    data = load_npz(mot_data / "TUD-Stadtmitte_T60.npz").subset(slice(0, 4))
    other = data.shuffled(torch.Generator().manual_seed(3))
    assert not torch.equal(data.detections, other.detections)
    boxes = [run_method("linear", each).boxes for each in (data, other)]
    torch.testing.assert_close(*boxes, atol=1e-4, rtol=0)


def test_run_on_an_empty_machine(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", "mot", "--out", str(out), "--seed", "1"]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    wanted = {"mota", "motp", "idf1", "hota", "ids", "mt", "ml", "fp", "fn", "gospa", "nees"}
    assert wanted <= figures.keys()
    assert {"kalman/mota", "hold/mota", "vkf/mota"} <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["mota"] > figures["hold/mota"]
    for name in ("tracks.npz", "posterior.nc", "spec.toml", "environment.json"):
        assert (out / name).stat().st_size > 0
    assert len(list(out.glob("*.png"))) >= 3
    assert "MOTA" in capsys.readouterr().out


def test_run_on_a_file_shuffled(mot_data, tmp_path):
    file = mot_data / "TUD-Stadtmitte_T60.npz"
    out = tmp_path / "run"
    command = ["run", "mot", "--data", str(file), "--shuffle", "--out", str(out), "--no-plots"]
    assert main([*command, "--baselines", "kalman"]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["mota"] > figures["kalman/mota"]


def test_run_on_a_motchallenge_folder(mot_data, tmp_path):
    out = tmp_path / "run"
    folder = mot_data / "raw" / "TUD-Stadtmitte"
    command = [
        "run",
        "mot",
        "--data",
        str(folder),
        "--out",
        str(out),
        "--no-plots",
        "--num-tracks",
        "2",
    ]
    assert main([*command, "--num-frames", "40", "--baselines"]) == 0
    assert json.loads((out / "metrics.json").read_text())["mota"] > 95


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "liner"], "unknown preset 'liner'; did you mean 'linear'"),
        (["--preset", "reference"], "--weights"),
        (["--data", "nowhere"], "nowhere"),
        (["--num-sources", "50"], "at most"),
    ],
)
def test_errors_are_one_clear_line(arguments, words, capsys, tmp_path):
    assert main(["run", "mot", *arguments, "--out", str(tmp_path / "run"), "--baselines"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_more_sources_than_first_detections_start_where_there_are_enough():
    detections = torch.zeros(1, 4, 2, 4)
    detections[..., 2:] = 0.1
    detections[:, :, 1] += 0.5
    mask = torch.ones(1, 4, 2, dtype=torch.bool)
    mask[:, :2, 1] = False
    start = start_boxes(detections, mask, 2)
    torch.testing.assert_close(start[0, :, 0], torch.tensor([0.05, 0.55]))
    with pytest.raises(ValueError, match="at most 2"):
        start_boxes(detections, mask, 3)


def test_last_smoothing_lets_a_walker_who_has_left_go_on_growing():
    """Seen for 40 of 60 frames: the assignment is the same whatever the decay is."""
    height = 0.2 + 0.004 * torch.arange(60)
    left, bottom = torch.linspace(0.3, 0.2, 60), 0.5 + height
    boxes = torch.stack((left, bottom - height, left + 0.4 * height, bottom), -1)[None, :, None]
    mask = (torch.arange(60) < 40)[None, :, None]
    data = TrackingData(name="walker", detections=boxes, mask=mask)

    def fitted(final_decay):
        stages = changed("last_smoothing", decay=[final_decay] * 4)
        return run_method("linear", data, Options(changes={"stages": stages})).fitted

    lasting, forgetful = fitted(0.97), fitted(0.9)
    assert torch.equal(lasting.guide.responsibilities, forgetful.guide.responsibilities)
    error, other = (
        (each.marginals.mean[0, -1, 0, 3] - height[-1]).abs() for each in (lasting, forgetful)
    )
    assert error < 0.15 * height[-1]
    assert other > 1.5 * error


@pytest.mark.parametrize("name", [*PRESETS, *BASELINES])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_every_method_tracks_one_frame(name, num_frames):
    box = torch.tensor([[0.1, 0.1, 0.2, 0.4], [0.5, 0.1, 0.6, 0.4]])
    boxes = box.expand(3, num_frames, 2, 4)
    data = TrackingData.from_arrays("still", boxes.numpy(), truth=boxes.numpy())
    tracked = run_method(name, data)
    assert tracked.boxes.shape == (3, num_frames, 2, 4)
    assert torch.isfinite(tracked.boxes).all()


def test_table_puts_our_rows_beside_the_thesis(tmp_path, capsys):
    out = tmp_path / "table"
    assert main(["table", "mot-1", "--sequences", "2", "--out", str(out)]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert {f"scene/{name}/mota" for name in ("linear", "srnn", "vkf", "hold")} <= figures.keys()
    assert "T=300 MixDVAE" in capsys.readouterr().out


def test_figure_of_the_iterations(mot_data, tmp_path):
    out = tmp_path / "plot"
    file, weights = mot_data / "TUD-Stadtmitte_T60.npz", mot_data / "model_mot.pt"
    command = ["plot", "mot-iterations", "--data", str(file), "--weights", str(weights)]
    assert main([*command, "--sequences", "2", "--out", str(out)]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert len(figures) == 55
    assert list(out.glob("*.png"))


def test_benchmark_writes_its_rows(tmp_path):
    rows = tmp_path / "bench.json"
    assert main(["bench", "mot", "--quick", "--json", str(rows)]) == 0
    measured = json.loads(rows.read_text())
    assert {"name", "sizes", "seconds", "ratio"} <= measured[0].keys()
    assert all(row["seconds"]["min"] <= row["seconds"]["median"] for row in measured)


def test_stopping_benchmark_prints_a_row_for_every_rule(capsys, tmp_path):
    rows = tmp_path / "stop.json"
    small = ["--sequences", "2", "--num-frames", "12", "--repeats", "1"]
    assert main(["bench", "mot-stopping", *small, "--json", str(rows)]) == 0
    measured = json.loads(rows.read_text())
    assert [row["tolerance"] for row in measured] == [None, 0.03, 0.01, 0.003]
    assert measured[0]["ratio"] == 1.0 and all(row["seconds"] > 0 for row in measured)
    assert capsys.readouterr().out.count("linear") == 4


def test_vem_benchmark_prints_a_ratio(capsys, tmp_path):
    rows = tmp_path / "vem.json"
    small = ["--repeats", "2", "--num-frames", "8"]
    assert main(["bench", "vem", *small, "--json", str(rows)]) == 0
    assert all(row["ratio"] > 0 for row in json.loads(rows.read_text()))


# ---- specs of the tuned tracker


def tuned(*settings):
    small = ["data.num_sequences=3", "data.num_frames=12", "data.num_sources=2"]
    return load_spec("tracking", settings=[*small, *settings])


def test_a_spec_of_the_tuned_tracker_says_every_stage_with_its_options():
    stages = tuned().to_table()["inference"]["stages"]
    assert [stage["name"] for stage in stages] == [stage["name"] for stage in TUNED]
    assert [stage["steps"] for stage in stages if stage["name"] == "sweeps"] == [9, 3]
    assert stages[0]["noises"][1] == [0.001, 0.002] and stages[1]["likelihood"] == "cavity"
    assert stages[-1]["correlation"] == 0.9 and stages[-2]["correlation"] == 0.95


@pytest.mark.parametrize("prior", ["linear", "srnn"])
def test_a_spec_and_a_method_are_one_tracker(prior):
    spec = tuned(f'model.prior={{dynamics="{prior}", least_std=1e-4}}')
    outcome = fit(build(spec))
    tracked = run_method(prior, outcome.data)
    assert torch.equal(outcome.fitted.boxes, tracked.boxes)
    assert torch.equal(outcome.fitted.covariance, tracked.covariance)
    phases = {"cavity": 9, "bound": 3, "final": 1} | ({"prior": 1} if prior == "srnn" else {})
    assert {phase: len(sweeps) for phase, sweeps in outcome.fitted.trace.items()} == phases
    assert outcome.metrics["steps"] == sum(phases.values())
    assert outcome.metrics["bound"] == pytest.approx(tracked.fitted.elbo.mean().item())


def test_chunks_change_nothing():
    whole, parts = (fit(build(tuned(f"inference.chunk={size}"))) for size in (64, 2))
    torch.testing.assert_close(whole.fitted.boxes, parts.fitted.boxes, atol=1e-5, rtol=0)
    assert parts.fitted.posterior.batch.num_sequences == 2
    assert parts.metrics["bound"] == pytest.approx(whole.metrics["bound"], rel=1e-4)


def test_one_start_without_learning_keeps_the_noise_it_starts_from():
    """What is left is a fit that the closed-form updates make from the same online pass."""
    one = [
        {"name": "online_starts", "noises": [[0.002, 0.002]]},
        {"name": "sweeps", "steps": 4, "learn": []},
        {"name": "keep_best"},
    ]
    data = fit(build(tuned())).data
    fitted = run_method("linear", data, Options(changes={"stages": one})).fitted
    expected = torch.tensor(noise_rows(0.002, 0.002))
    torch.testing.assert_close(fitted.model.prior.process_std[0, 0], expected)
    learnt = [one[0], {"name": "sweeps", "steps": 4}, one[2]]
    other = run_method("linear", data, Options(changes={"stages": learnt})).fitted
    assert not torch.allclose(other.model.prior.process_std[0, 0], expected)
    assert (other.elbo > fitted.elbo).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['inference.stages=["keep_best"]'], "first one must be online_starts"),
        (['inference.stages=["online_starts", "last_smoothing"]'], "comes after keep_best"),
        (['inference.stages=["online_starts"]'], "keep_best is missing"),
        (["model.detector=false"], "needs a detector"),
        (["model.prior=tvnf"], "not Gaussian"),
        (["guide=chain"], "guide: given .*mean_field"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_told(settings, message):
    with pytest.raises(SpecError, match=message):
        fit(build(tuned(*settings)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['inference.stages=["keep_bets"]'], "unknown stage 'keep_bets'; did you mean"),
        (['inference.stages=[{name="sweeps"}]'], "'sweeps': missing.*'steps'"),
        (['inference.stages=[{name="sweeps", steps=1, step=2}]'], "unknown key 'step'; did you"),
        (["inference.chunk=0"], "inference.chunk: given 0; expected at least 1"),
        (["inference=tunde"], "unknown inference engine 'tunde'; did you mean 'tuned'"),
        (['metrics.baselines=["klaman"]'], "unknown method 'klaman'; did you mean 'kalman'"),
        (["metrics.baseline=1"], "metrics: unknown key 'baseline'"),
        (['inference={name="kalman", gaet=2}'], "unknown key 'gaet'; did you mean 'gate'"),
        (['inference={name="kalman", motion="still"}'], "motion: given 'still'"),
    ],
)
def test_a_wrong_stage_or_method_is_told_before_anything_is_built(settings, message):
    with pytest.raises(SpecError, match=message):
        tuned(*settings)


def test_show_prints_the_stages_of_the_default(capsys):
    small = ["--set", "data.num_sequences=1", "--set", "data.num_frames=8"]
    assert main(["show", "tracking", *small]) == 0
    shown = capsys.readouterr().out
    for words in ("online_starts", "noises=[[0.001, 0.0005]", "likelihood=cavity", "keep_best",
                  "last_smoothing", "correlation=0.95", "deep_smoothing"):
        assert words in shown
    assert max(map(len, shown.partition("inference  ")[2].splitlines())) <= 120


def test_run_mot_is_the_spec_that_it_keeps(tmp_path):
    out = tmp_path / "mot"
    options = ["--num-sources", "2", "--baselines", "hold", "--no-plots"]
    assert main(["run", "mot", "--preset", "kalman", *options, "--out", str(out)]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    again = fit(build(load_spec(out / "spec.toml")))
    assert again.metrics["mota"] == figures["mota"]
    assert again.metrics["hold/mota"] == figures["hold/mota"] != figures["mota"]
