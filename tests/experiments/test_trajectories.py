"""The trajectory generator, the estimation of its statistics, and the training command."""

import dataclasses
import json
import math

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.command import cli
from pyromodels.experiments.datasets.tracking.box_coordinates import box_size
from pyromodels.experiments.datasets.tracking.box_overlap import is_valid_box
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.datasets.tracking.trajectories import (
    TrajectoryStatistics,
    centres_to_corners,
    corners_to_centres,
    generate_trajectories,
)
from pyromodels.experiments.harness.weights import load_weights, save_prior
from pyromodels.experiments.tracking.training.estimate import estimate_statistics, matched_tracks
from pyromodels.experiments.tracking.training.smoothed import smoothed_detections
from pyromodels.experiments.tracking.training.train import INCREMENTS, PriorLoss, report
from pyromodels.inference.training.options import Weights
from pyromodels.registry import DYNAMICS

PIECES = {"static": 0, "velocity": 1, "acceleration": 2, "sinusoid": 3}


def second_difference(boxes):
    s = corners_to_centres(boxes.double())
    return (s / box_size(s).mean(1, keepdim=True)).diff(n=2, dim=1)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 60])
def test_every_box_is_valid(num_frames):
    boxes = generate_trajectories(300, num_frames, seed=3)
    assert boxes.shape == (300, num_frames, 4)
    assert is_valid_box(boxes).all()


def test_boxes_stay_valid_under_wild_statistics():
    wild = TrajectoryStatistics(
        growth=(0.0, 0.3), log_irregularity=((-1.0, 1.0),) * 4, log_gait=(1.0, 1.0), pixel=0.05
    )
    assert is_valid_box(generate_trajectories(300, 60, statistics=wild)).all()


def test_the_seed_decides():
    first, again, other = (generate_trajectories(20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("piece", PIECES)
def test_one_piece_is_its_elementary_function(piece):
    """Eq. A.33, noise off and the height constant: the centre obeys the function's own equation."""
    probability = tuple(float(i == PIECES[piece]) for i in range(4))
    stats = dataclasses.replace(
        TrajectoryStatistics().as_published, piece_probability=probability, max_pieces=1,
        growth=(0.0, 0.0), growth_rate=(0.0, 0.0), omega=(0.3, 0.0), speed_x=(0.01, 0.0),
        acceleration_x=(0.002, 0.0),
    )
    s = corners_to_centres(
        generate_trajectories(50, 40, statistics=stats, dtype=torch.float64)
    )
    x = s[..., 0] / s[..., :1, 3]
    if piece == "static":
        assert (x.diff(dim=1)).abs().max() < 1e-12
    elif piece == "velocity":
        torch.testing.assert_close(x.diff(dim=1), torch.full_like(x[:, 1:], 0.01))
    elif piece == "acceleration":
        second = x.diff(n=2, dim=1)
        torch.testing.assert_close(second, torch.full_like(second, 0.002))
        torch.testing.assert_close(x[:, 1] - x[:, 0], torch.full((50,), 0.011).double())
    else:  # differences of sin(omega t + phi) obey d_{t+1} + d_{t-1} = 2 cos(omega) d_t
        d = x.diff(dim=1)
        torch.testing.assert_close(d[:, 2:] + d[:, :-2], 2 * math.cos(0.3) * d[:, 1:-1])
        assert d.abs().max() <= 0.01 + 1e-9  # the drawn speed is the peak


def test_pieces_join_without_a_jump():
    """No step is longer than the speeds that were drawn allow: |a_1| + |a_2| T, six deviations."""
    stats = dataclasses.replace(TrajectoryStatistics().as_published, max_pieces=5)
    s = corners_to_centres(generate_trajectories(500, 60, statistics=stats, dtype=torch.float64))
    step = s[..., :2].diff(dim=1).abs() / s[:, :-1, 3:]
    for i, (speed, acceleration) in enumerate(
        ((stats.speed_x, stats.acceleration_x), (stats.speed_y, stats.acceleration_y))
    ):
        assert step[..., i].max() < 6 * (speed[1] + 60 * acceleration[1])


def test_ratio_is_constant_without_irregularity():
    s = corners_to_centres(
        generate_trajectories(
            100, 60, statistics=TrajectoryStatistics().as_published, dtype=torch.float64
        )
    )
    ratio = s[..., 3] / s[..., 2]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_sizes_follow_their_log_normals():
    stats = dataclasses.replace(
        TrajectoryStatistics().as_published, log_width=(-3.0, 0.2), growth=(0.0, 0.0),
        growth_rate=(0.0, 0.0),
    )
    s = corners_to_centres(generate_trajectories(4000, 1, statistics=stats))[:, 0]
    for values, (mean, std) in (
        (s[:, 2].log(), stats.log_width), ((s[:, 3] / s[:, 2]).log(), stats.log_ratio)
    ):
        assert abs(values.mean() - mean) < 5 * std / 4000**0.5
        assert abs(values.std() - std) < 5 * std / 8000**0.5


def test_irregularity_covers_what_videos_show():
    """Standard deviation, tails and lag-1 correlation of second differences, by trajectory."""
    d = second_difference(generate_trajectories(2000, 60, seed=5))
    std = d.std(1)
    seen = {0: (0.0015, 0.012), 1: (0.001, 0.02), 2: (0.005, 0.06), 3: (0.002, 0.02)}
    for i, (low, high) in seen.items():
        assert std[:, i].quantile(0.03) < low < high < std[:, i].quantile(0.98)
        assert low < std[:, i].median() < high
    z = (d - d.mean(1, keepdim=True)) / std[:, None]
    assert (z**4).mean() > 4
    correlation = (z[:, 1:] * z[:, :-1]).mean(1)
    assert (correlation.median(0).values < -0.1).all()
    assert (correlation.median(0).values > -0.6).all()


def test_a_scene_shares_its_camera():
    stats = dataclasses.replace(
        TrajectoryStatistics().as_published, piece_probability=(1.0, 0.0, 0.0, 0.0),
        moving_camera=1.0,
    )
    s = corners_to_centres(
        generate_trajectories(6, 30, statistics=stats, per_scene=3, dtype=torch.float64)
    )
    motion = s[..., :2].diff(dim=1)
    torch.testing.assert_close(motion[0], motion[2])
    torch.testing.assert_close(motion[3], motion[5])
    assert not torch.allclose(motion[0], motion[3])


def test_statistics_survive_json(tmp_path):
    stats = TrajectoryStatistics(omega=(0.1, 0.05), max_pieces=4)
    assert TrajectoryStatistics.from_json(stats.to_json(tmp_path / "s.json")) == stats


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"omeqa": [0, 1]}, "omega"),
        ({"omega": [0.1]}, "omega"),
        ({"omega": [0.1, -1]}, "negative"),
        ({"omega": [0.1, math.nan]}, "finite"),
        ({"piece_probability": [0.5, 0.5, 0.5, 0.5]}, "sum of 1"),
        ({"moving_camera": 2.0}, "within"),
        ({"max_pieces": 0}, "max_pieces"),
    ],
)
def test_bad_statistics_are_refused(tmp_path, table, words):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(table))
    with pytest.raises(SpecError, match=words):
        TrajectoryStatistics.from_json(path)


def test_corners_and_centres_are_inverse():
    boxes = generate_trajectories(5, 7, dtype=torch.float64)
    torch.testing.assert_close(centres_to_corners(corners_to_centres(boxes)), boxes)


# ---- estimation


def as_data(boxes):                   # (S, T, 4) -> S sequences of one object
    return TrackingData.from_arrays("made", boxes[:, :, None], truth=boxes[:, :, None])


def test_matching_recovers_shuffled_detections_and_cuts_at_gaps():
    boxes = generate_trajectories(2, 30, statistics=TrajectoryStatistics().as_published, seed=4)
    pair = torch.stack([boxes[0], boxes[1] + 3.0], 1)[None]
    det = pair.clone()
    det[0, 12, 0] = float("nan")
    data = TrackingData.from_arrays("made", det, truth=pair).shuffled(
        torch.Generator().manual_seed(0)
    )
    tracks = matched_tracks(data)
    assert sorted(map(len, tracks)) == [12, 17, 30]
    whole = next(t for t in tracks if len(t) == 30)
    torch.testing.assert_close(whole, corners_to_centres(pair[0, :, 1]))


def test_estimation_finds_what_was_put_in():
    truth = dataclasses.replace(
        TrajectoryStatistics().as_published, piece_probability=(0.0, 1.0, 0.0, 0.0), max_pieces=1,
        log_width=(-3.0, 0.3), speed_x=(0.004, 0.01), growth=(0.0, 0.0),
    )
    found = estimate_statistics(
        list(corners_to_centres(generate_trajectories(800, 30, statistics=truth)))
    )
    for name in ("log_width", "log_ratio", "speed_x", "speed_y"):
        (mean, std), (mean_, std_) = getattr(truth, name), getattr(found, name)
        assert abs(mean_ - mean) < 5 * std / 800**0.5, name
        assert abs(std_ - std) < 5 * std / 1600**0.5, name
    assert abs(found.acceleration_x[1]) < 1e-4


def test_estimation_finds_the_irregularity():
    given = ((-5.0, 0.5), (-5.5, 0.5), (-4.0, 0.5), (-5.0, 0.5))
    truth = dataclasses.replace(
        TrajectoryStatistics().as_published, log_irregularity=given, volatility=(0.0, 0.0)
    )
    found = estimate_statistics(
        list(corners_to_centres(generate_trajectories(500, 60, statistics=truth)))
    )
    for (mean, _), (mean_, _) in zip(given, found.log_irregularity, strict=True):
        assert abs(mean_ - mean) < 0.2


def test_estimate_command(tmp_path, capsys):
    import numpy as np

    boxes = generate_trajectories(8, 40, seed=1)[:, :, None].numpy()
    np.savez(tmp_path / "made.npz", det=boxes, gt=boxes)
    out = tmp_path / "out"
    command = ["estimate", "trajectories", "--data", str(tmp_path / "made.npz"), "--out", str(out)]
    assert cli.main(command) == 0
    assert "speed_x" in capsys.readouterr().out
    assert isinstance(TrajectoryStatistics.from_json(out / "statistics.json"), TrajectoryStatistics)
    np.savez(tmp_path / "made.npz", det=boxes)
    assert cli.main(command) == 2
    assert "truth is needed" in capsys.readouterr().err


# ---- training


@pytest.mark.parametrize("dynamics", ["srnn", "deep_ar"])
def test_train_command_resumes_and_its_weights_load(tmp_path, capsys, dynamics):
    command = ["train", "srnn-mot", "--dynamics", dynamics, "--sizes", "paper", "--num-train", "48",
               "--num-valid", "8", "--num-frames", "24", "--batch-size", "16", "--epochs", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([*command, "--out", str(whole)]) == 0
    assert "hold the last box" in capsys.readouterr().out
    assert cli.main([*command, "--out", str(cut), "--max-seconds", "0"]) == 0
    assert "stopped by time" in capsys.readouterr().out
    assert cli.main([*command, "--out", str(cut), "--resume"]) == 0
    first, second = (load_weights(folder).prior.state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert {"bound_nats_per_frame", "rmse_1", "rmse_10", "hold/rmse_1", "velocity/rmse_10"} <= set(
        metrics
    )
    record = load_weights(whole / "weights.json").record
    assert "--sizes paper --num-train 48" in record["command"]
    assert record["seed"] == 0 and record["training"]["statistics"]["max_pieces"] == 3
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("mode", ["teacher_forced", "scheduled_sampling"])
def test_train_command_takes_positions_both_modes_and_statistics(tmp_path, mode):
    TrajectoryStatistics(max_pieces=2).to_json(tmp_path / "statistics.json")
    assert cli.main([
        "train", "srnn-mot", "--predicts", "position", "--mode", mode, "--num-train", "16",
        "--num-valid", "4", "--num-frames", "8", "--epochs", "2", "--fraction", "0.5",
        "--statistics", str(tmp_path / "statistics.json"), "--out", str(tmp_path),
    ]) == 0
    record = load_weights(tmp_path).record
    assert record["training"]["statistics"]["max_pieces"] == 2
    assert record["prior"]["emission"]["name"] == "gaussian"
    assert str(tmp_path) not in json.dumps(record)


def test_loss_leaves_the_first_frame_out():
    prior = DYNAMICS.build({"name": "deep_ar", "emission": INCREMENTS}).double().eval()
    s = corners_to_centres(generate_trajectories(3, 9, dtype=torch.float64))
    # p(s_{2:T} | s_1) by hand, from the conditionals.
    mean, log_variance = prior.decoder(prior.summary(s))
    unit = 0.03 * box_size(s[:, :-1])
    p = torch.distributions.Normal(
        s[:, :-1] + unit * mean[:, 1:], unit * (0.5 * log_variance[:, 1:]).exp()
    )
    expected = -p.log_prob(s[:, 1:]).sum((1, 2)) / 8
    torch.testing.assert_close(PriorLoss(prior)((s,), Weights()), expected)


def test_constant_velocity_is_exact_on_a_line():
    s = torch.tensor([0.1, 0.2, 0.05, 0.2]) + 0.001 * torch.arange(30.0)[:, None]
    metrics = report(DYNAMICS.build({"name": "deep_ar", "emission": INCREMENTS}), s[None], "line")
    assert metrics["velocity/rmse_10"] < 1e-5 < metrics["hold/rmse_10"]
    assert metrics["hold/rmse_10"] == pytest.approx(10 * metrics["hold/rmse_1"], rel=1e-3)


def test_weights_are_loaded_strictly(tmp_path):
    spec = {"name": "deep_ar", "hidden_dim": 4, "emission": INCREMENTS}
    prior = DYNAMICS.build(spec)
    save_prior(tmp_path / "w.safetensors", prior, spec, {})
    loaded = load_weights(tmp_path / "w.safetensors").prior
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in prior.state_dict().items())
    save_prior(tmp_path / "other.safetensors", prior, {**spec, "hidden_dim": 5}, {})
    with pytest.raises(SpecError, match="hidden_dim|size mismatch"):
        load_weights(tmp_path / "other.safetensors")
    with pytest.raises(SpecError, match="did you mean 'srnn_mot'"):
        load_weights("srn_mot")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"no state dict")
    with pytest.raises(SpecError, match="state dict"):
        load_weights(tmp_path / "bad.pt")


def test_published_weights_are_recognised(mot_data):
    weights = load_weights(mot_data / "model_mot.pt")
    assert weights.record["coordinates"] == "published_corners"
    assert weights.prior.emission.predicts == "position"


@pytest.mark.parametrize("name", ["srnn_mot", "deep_ar_mot"])
def test_shipped_weights_predict_better_than_standing_still_or_going_on(name):
    """From a tracker's estimates, what they are trained for, at one step and at ten."""
    prior = load_weights(name).prior
    assert prior.emission.moves and prior.emission.scale == "centre_box"
    s = corners_to_centres(generate_trajectories(400, 60, seed=99))
    seen = smoothed_detections(s, seed=99)
    square = {"network": [], "hold": [], "velocity": []}
    for end in range(10, 50, 5):
        last, size = seen[:, end - 1, None], box_size(s[:, end - 1])[:, None]
        moves = s[:, end : end + 10] - s[:, end - 1, None]
        steps = torch.arange(1, 11)[:, None]
        predicted = {
            "network": prior.predict(seen[:, :end], 10) - last,
            "hold": torch.zeros_like(moves),
            "velocity": (last - seen[:, end - 2, None]) * steps,
        }
        for key, value in predicted.items():
            square[key].append(((value - moves) / size)[:, [0, -1]].square().mean((0, 2)))
    error = {key: torch.stack(values).mean(0) for key, values in square.items()}
    assert (error["network"] < error["hold"]).all()
    assert (error["network"] < error["velocity"]).all()
