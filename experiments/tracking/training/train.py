"""`pyromodels train srnn-mot`: pre-train a prior of one walker's box on synthetic trajectories.

The bound is that of p(s_{2:T} | s_1), in nats a frame of the T - 1 predicted, for s in (centre x,
centre y, width, height) over the image's size, the networks fed with what a tracker would believe
of s (`smoothed_detections`). Errors of predictions are in heights of the box
(of the width: in widths), root mean square over the four coordinates. "Constant velocity" continues
with the last difference; "over 5" with the mean of the last five.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.experiments.datasets.tracking.box_coordinates import box_size
from pyromodels.experiments.datasets.tracking.files import load_tracking
from pyromodels.experiments.datasets.tracking.trajectories import (
    TrajectoryStatistics,
    corners_to_centres,
    generate_trajectories,
)
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import open_run
from pyromodels.experiments.harness.store import (
    History,
    MadeBy,
    Trained,
    find_or_train,
    place_of,
)
from pyromodels.experiments.harness.weights import CENTRES
from pyromodels.experiments.tracking.training.smoothed import smoothed_detections
from pyromodels.inference.training import distributed
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions, ScheduledSampling, Weights

SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("srnn", "paper"): {},
    ("deep_ar", "paper"): {},
    ("srnn", "small"): {
        "hidden_dim": 32, "input_dims": [16], "prior_dims": [16, 16], "decoder_dims": [32],
        "encoder": {"preset": "srnn_filter", "dims": [32, 16]},
    },
    ("deep_ar", "small"): {"hidden_dim": 32, "input_dims": [16], "decoder_dims": [32]},
}
INCREMENTS = {
    "name": "gaussian", "predicts": "increment", "scale": "centre_box", "typical_step": 0.03,
}
HORIZON = 10
MIN_HISTORY = 10


@dataclass(frozen=True)
class TrainingSpec:
    """What determines the weights, but for the time limit; the command's options of these names."""

    dynamics: str = "srnn"
    predicts: str = "increment"
    mode: str = "teacher_forced"
    sizes: str = "small"
    num_train: int = 16384
    num_valid: int = 2048
    num_frames: int = 60
    fraction: float = 1.0
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 3e-3
    patience: int = 10
    seed: int = 0
    statistics: TrajectoryStatistics = field(default_factory=TrajectoryStatistics)

    def __post_init__(self) -> None:
        """Refuse what no trajectories can be drawn for."""
        for name, least in (("num_train", 1), ("num_valid", 1), ("num_frames", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: given {getattr(self, name)}; expected at least {least}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: given {self.fraction}; expected a number in (0, 1]")

    def command(self) -> str:
        """The command that trains like this; statistics of one's own are in a JSON file."""
        words = ["pyromodels", "train", "srnn-mot"]
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "statistics" and value != TrajectoryStatistics():
                words += ["--statistics", "statistics.json"]
            elif f.name != "statistics" and value != f.default:
                words += [f"--{f.name.replace('_', '-')}", str(value)]
        return " ".join(words)

    def prior(self) -> dict[str, Any]:
        """The registry's spec of the prior, in centre-size coordinates."""
        emission = INCREMENTS if self.predicts == "increment" else {"name": "gaussian"}
        return {"name": self.dynamics, **SIZES[self.dynamics, self.sizes], "emission": emission}

    def made_by(self) -> MadeBy:
        """Return what determines the weights, for the store: the data are made of it, too."""
        return {"prior": self.prior(), "coordinates": CENTRES,
                "training": dataclasses.asdict(self)}

    def options(self) -> FitOptions:
        """How the prior is trained."""
        sampled = self.mode == "scheduled_sampling"
        return FitOptions(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            final_learning_rate=self.learning_rate / 30, kl_warm_up=max(1, self.epochs // 10),
            sampling=(
                ScheduledSampling(self.epochs // 10, self.epochs // 2, 0.5) if sampled else None
            ),
            patience=self.patience, seed=self.seed,
        )

    def data(self) -> tuple[Tensor, Tensor, Tensor]:  # s, each (S, T, 4)
        """Draw training, validation and test trajectories, each with a seed of its own."""
        sets = [
            corners_to_centres(generate_trajectories(
                count, self.num_frames, statistics=self.statistics, seed=3 * self.seed + number
            ))
            for number, count in enumerate((self.num_train, self.num_valid, self.num_valid))
        ]
        sets[0] = sets[0][: max(1, int(self.fraction * len(sets[0])))]
        return tuple(sets)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("--dynamics", choices=("srnn", "deep_ar"), default="srnn")
    add("--predicts", choices=("increment", "position"), default="increment")
    add("--mode", choices=("teacher_forced", "scheduled_sampling"), default="teacher_forced")
    add("--sizes", choices=("small", "paper"), default="small", help="paper: appendix A.1.2")
    add("--num-train", type=int, default=16384, metavar="N", help="synthetic trajectories")
    add("--num-valid", type=int, default=2048, metavar="N")
    add("--num-frames", type=int, default=60, metavar="T")
    add("--fraction", type=float, choices=(1.0, 0.5, 0.25), default=1.0,
        help="part of the training trajectories that is used")
    add("--epochs", type=int, default=60)
    add("--batch-size", type=int, default=128)
    add("--learning-rate", type=float, default=3e-3)
    add("--patience", type=int, default=10, help="epochs without a better validation bound")
    add("--seed", type=int, default=0)
    add("--statistics", type=Path, metavar="JSON", help="of `pyromodels estimate trajectories`")
    add("--data", type=Path, help="real tracks to report predictions on; never trained on")
    add("--out", type=Path, metavar="DIR", help="default: the store, runs/weights")
    add("--resume", action="store_true", help="continue from the last checkpoint in DIR")
    add("--max-seconds", type=float, default=math.inf)
    add_device_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Train, report, save; 0 when done."""
    torch.set_num_threads(1)
    chosen = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainingSpec)}
    statistics = args.statistics and TrajectoryStatistics.from_json(args.statistics)
    tracks = [] if args.data is None else real_tracks(args.data)  # a wrong path fails at once
    with distributed.start(use_device(args.device)) as device:
        with nullcontext() if distributed.is_first() else redirect_stdout(None):
            trained_prior(
                TrainingSpec(**{**chosen, "statistics": statistics or TrajectoryStatistics()}),
                out=args.out, resume=args.resume, max_seconds=args.max_seconds, tracks=tracks,
                device=device,
            )
    return 0


def trained_prior(
    spec: TrainingSpec,
    *,
    out: Path | None = None,
    resume: bool = False,
    max_seconds: float = math.inf,
    tracks: Sequence[tuple[str, Tensor]] = (),
    device: torch.device | str = "cpu",
) -> Trained:
    """Return a prior with weights, found or trained now, and print how well it predicts.

    Its record says the bounds in the best epoch: `bound_nats_per_frame` of the validation data,
    `train_bound_nats_per_frame` with the noise of training.

    Args:
        spec: the training.
        out: folder of weights and record, in place of the store's own.
        resume: continue a training that ran out of time from its last checkpoint.
        max_seconds: of training.
        tracks: what `real_tracks` found, to report on.
        device: to train on; predictions are judged on the CPU.
    """
    run = open_run(out or place_of(spec.made_by()), "train-srnn-mot",
                   {**dataclasses.asdict(spec), "prior": spec.prior()})

    def train_one(prior: SourcePrior, checkpoints: Path) -> tuple[dict[str, Any], History]:
        train, valid, test = spec.data()
        print(f"{len(train)} trajectories of {spec.num_frames} frames")
        # the networks learn to predict from a tracker's estimates, and are judged by them
        sets = [
            (s.to(device), smoothed_detections(s, seed=3 * spec.seed + number).to(device))
            for number, s in enumerate((train, valid))
        ]
        result = fit(
            prior, PriorLoss(prior), *sets, options=spec.options(),
            folder=checkpoints, resume=resume, max_seconds=max_seconds,
            on_epoch=lambda r: print(
                f"epoch {r['epoch']:3d}  bound, nats a frame: train {-r['train_loss']:8.3f}  "
                f"validation {-r['valid_loss']:8.3f}  {r['seconds']:5.1f} s", flush=True),
        )
        prior.cpu().eval()
        best = result.history[result.best_epoch - 1]
        metrics = {"bound_nats_per_frame": -result.best_loss, "best_epoch": result.best_epoch,
                   "train_bound_nats_per_frame": -best["train_loss"],
                   **report(prior, test, "synthetic, held out")}
        return {"command": spec.command(), "seed": spec.seed, "epochs": len(result.history),
                "stopped": result.stopped, "metrics": metrics}, result.history

    print(f"{spec.dynamics}; record in {run.path}")
    trained = find_or_train(spec.made_by(), train_one, seed=spec.seed, device=device,
                            resume=resume, folder=run.path)
    prior, record = trained.prior.cpu(), trained.record
    metrics = dict(record["metrics"])
    print(f"\n{record['parameters']} parameters, stopped by {record['stopped']}; best epoch "
          f"{metrics['best_epoch']}\n"
          f"validation bound: {metrics['bound_nats_per_frame']:.3f} nats a frame")
    for name, s in tracks:
        metrics |= {f"{name}/{key}": value for key, value in report(prior, s, name).items()}
    if distributed.is_first():
        run.write_metrics(metrics)
    print(f"\nweights: {run.path / 'weights.safetensors'}")
    return trained


def real_tracks(path: Path) -> list[tuple[str, Tensor]]:
    """True trajectories without gaps of every data set there, each once; s of shape (S, T, 4)."""
    found = []
    for data in load_tracking(path):
        if data.truth is None:
            continue
        whole = data.truth_mask.all(1)                                       # (S, N)
        s = corners_to_centres(data.truth.transpose(1, 2)[whole])
        s = s.unique(dim=0)  # windows share tracks
        if len(s) and s.shape[1] > MIN_HISTORY + HORIZON:
            found.append((data.name, s))
    return found


class PriorLoss:
    """Negative bound on log p(s_{2:T} | s_1), in nats a frame, of every trajectory.

    Given estimates beside the trajectories, the networks are fed with those: what a tracker feeds
    them is smoother than the truth, and wrong.
    """

    def __init__(self, prior: SourcePrior) -> None:
        self.prior = prior

    def __call__(self, batch: tuple[Tensor, ...], weights: Weights) -> Tensor:
        """Return the loss of every sequence, shape (B,); batch: s[, estimates], each (B, T, 4)."""
        s, *estimates = batch
        # Variance 1 / 2 pi: a density of one at s_1, whose term is then zero.
        anchor = Anchor(s[:, 0], torch.full_like(s[:, 0], 1 / (2 * math.pi)))
        keywords: dict[str, Any] = {"use_prediction": weights.use_prediction}
        if self.prior.latent_dim > 0:
            keywords["kl_weight"] = weights.kl
        if estimates:
            (keywords["history"],) = estimates
        return -self.prior.elbo(s, anchor=anchor, **keywords) / max(s.shape[1] - 1, 1)


def report(
    prior: SourcePrior,
    s: Tensor,                        # shape: (S, T, 4)
    name: str,
) -> dict[str, float]:                # e.g. "rmse_1", "hold/rmse_10", "velocity/rmse_1"
    """Print and return the errors of one-step and ten-step predictions."""
    methods = {"": _learned(prior), "hold": _constant(0), "velocity": _constant(1),
               "velocity_5": _constant(5)}
    label = {"": type(prior).__name__, "hold": "hold the last box",
             "velocity": "constant velocity", "velocity_5": "constant velocity, over 5"}
    horizons = (1, HORIZON)
    ends = range(MIN_HISTORY, s.shape[1] - HORIZON + 1, 3)
    if not ends:
        print(f"{name}: fewer than {MIN_HISTORY + HORIZON} frames, no prediction to judge")
        return {}
    metrics: dict[str, float] = {}
    print(f"\n{name}: {len(s)} trajectories, {len(ends)} predictions each; RMS error, % of size")
    sides = ("", " x", " y", " w", " h")
    columns = [f"{h} step{'s' * (h > 1)}{side}" for h in horizons for side in sides]
    print(f"{'':28}" + "".join(f"{c:>11}" for c in columns))
    for key, predict in methods.items():
        squared = torch.stack([_squared_errors(predict, s, end) for end in ends])
        rmse = squared.mean((0, 1)).sqrt()                                   # (2, 4)
        overall = squared.mean((0, 1, 3)).sqrt()
        cells = []
        for h, row, total in zip(horizons, rmse.tolist(), overall.tolist(), strict=True):
            metrics[f"{key}/rmse_{h}".lstrip("/")] = total
            cells += [total, *row]
        print(f"{label[key]:28}" + "".join(f"{100 * c:11.3f}" for c in cells))
    return metrics


def _squared_errors(predict: Any, s: Tensor, end: int) -> Tensor:            # (S, 2, 4)
    size = box_size(s[:, end - 1])[:, None]
    error = (predict(s[:, :end]) - s[:, end : end + HORIZON]) / size
    return error[:, [0, HORIZON - 1]].square().double()


def _learned(prior: SourcePrior) -> Any:
    return lambda history: prior.predict(history, HORIZON)


def _constant(window: int) -> Any:
    """Continue with the mean of the last `window` differences; 0 holds the last box."""
    def predict(history: Tensor) -> Tensor:
        last = history[:, -1:]
        step = (last - history[:, -1 - window, None]) / max(window, 1)
        return last + step * torch.arange(1, HORIZON + 1, dtype=history.dtype)[:, None]
    return predict
