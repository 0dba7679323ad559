"""`pyromodels estimate trajectories`: the statistics of the trajectory generator, from detections.

Detections are matched to the true boxes frame by frame (Hungarian on IoU, at least 0.5), and each
run of frames without a gap is one sequence (thesis, appendix A.2.2). Speed and acceleration are the
slope and twice the curvature of a parabola fitted to a window of frames.

Departure: the thesis takes first and second differences. Those of detections measure the detector:
its jitter, some percent of the box a frame, is larger than a walker's acceleration by far. A window
of one step each way gives the thesis' differences (`--window 3`).
"""

import argparse
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from pyromodels.experiments.datasets.tracking.box_coordinates import box_size
from pyromodels.experiments.datasets.tracking.box_overlap import assign, pairwise_iou
from pyromodels.experiments.datasets.tracking.files import load_tracking
from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.datasets.tracking.trajectories import (
    TrajectoryStatistics,
    corners_to_centres,
)
from pyromodels.experiments.harness.records import open_run, replacing

MIN_FRAMES = 20
NAMES = ("centre x", "centre y", "width", "height")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--data", type=Path, required=True, help=".npz, or a MOTChallenge folder")
    parser.add_argument("--of", choices=("detections", "truth"), default="detections")
    parser.add_argument("--window", type=int, default=15, help="frames of a fit, odd")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/estimate-<hash>")


def main(args: argparse.Namespace) -> int:
    """Print a table and write `statistics.json`."""
    if args.window < 3 or args.window % 2 == 0:
        raise ValueError(f"--window: given {args.window}; expected an odd number of 3 or more")
    tracks = [t for data in load_tracking(args.data) for t in matched_tracks(data, args.of)]
    tracks = [t for t in unique(tracks) if len(t) >= max(MIN_FRAMES, args.window + 2)]
    if not tracks:
        raise ValueError(
            f"{args.data}: no {args.of} of one object in {max(MIN_FRAMES, args.window + 2)} frames "
            "in a row; truth is needed to tell which detections belong together"
        )
    stats = estimate_statistics(tracks, window=args.window)
    run = open_run(args.out, "estimate", {"of": args.of, "window": args.window})
    print(f"{len(tracks)} sequences of matched {args.of}, {sum(map(len, tracks))} boxes\n")
    print(table(stats))
    with replacing(run.path / "statistics.json") as part:
        stats.to_json(part)
    run.write_metrics({"num_sequences": len(tracks), "num_boxes": sum(map(len, tracks))})
    print(f"\nstatistics: {run.path / 'statistics.json'}")
    return 0


def matched_tracks(
    data: TrackingData, of: str = "detections", *, iou_threshold: float = 0.5
) -> list[Tensor]:                    # s of each run without a gap, shape: (T, 4)
    """Return the detections that belong to each true object, in (centre x, y, width, height)."""
    if data.truth is None:
        return []
    truth, present = data.truth, data.truth_mask                             # (S, T, N, 4)
    boxes, found = truth, present
    if of == "detections":
        iou = pairwise_iou(truth, data.detections)
        iou = iou * present[..., :, None] * data.mask[..., None, :]
        pairs = assign(iou * (iou >= iou_threshold)) & (iou >= iou_threshold)
        found, slot = pairs.any(-1), pairs.to(torch.uint8).argmax(-1)
        boxes = data.detections.gather(2, slot[..., None].expand_as(truth))
    tracks = []
    for track, there in zip(
        corners_to_centres(boxes).transpose(1, 2).flatten(0, 1),
        found.transpose(1, 2).flatten(0, 1), strict=True,
    ):
        edges = torch.nn.functional.pad(there.int(), (1, 1)).diff()
        starts, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
        tracks += [track[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return tracks


def unique(tracks: list[Tensor]) -> list[Tensor]:
    """Drop sequences that are there already: windows of a video share tracks."""
    return list({track.numpy().tobytes(): track for track in tracks}.values())


def estimate_statistics(
    tracks: list[Tensor],             # each (T, 4), T >= window + 2
    *,
    window: int = 15,
) -> TrajectoryStatistics:
    """Estimate what a set of tracks tells; the kinds of pieces and the camera keep their defaults.

    A moving camera is in the speeds and in the irregularity of the centre, as tracks alone cannot
    tell it apart. The mean of `omega` and `phase` is of the strongest period in what is left of
    a sequence's centre and size after a parabola.
    """
    speeds, accelerations, irregularity, waves = [], [], [], []
    for track in tracks:
        s = track.double()
        unit = box_size(s).mean(0)
        unit_path = torch.cat([s[:, :2] / unit[:2], s[:, 2:].clamp_min(1e-6).log()], -1)
        fits = unit_path.unfold(0, window, 1) @ _parabola(window).mT         # (T', 4, 3)
        speeds.append(fits[..., 1])
        accelerations.append(2 * fits[..., 2])
        irregularity.append((s / unit).diff(n=2, dim=0).std(0))
        whole = _parabola(len(s))
        time = torch.arange(len(s), dtype=torch.float64) - (len(s) - 1) / 2
        powers = torch.stack([time**k for k in range(3)])
        left = unit_path.mT - (unit_path.mT @ whole.mT) @ powers             # (4, T)
        spectrum = torch.fft.rfft(left)[:, 1:]
        best = spectrum.abs().argmax(-1)
        omega = 2 * math.pi * (best + 1).double() / len(s)
        angle = spectrum.gather(-1, best[:, None])[:, 0].angle() + math.pi / 2
        moving = left.abs().amax(-1) > 1e-9
        waves.append(torch.stack([omega, (angle + math.pi) % (2 * math.pi) - math.pi], -1)[moving])
    speed, acceleration = torch.cat(speeds), torch.cat(accelerations)
    wave = torch.cat(waves)
    defaults = TrajectoryStatistics()
    boxes = torch.stack([t.double().mean(0) for t in tracks])
    # An interpolated track has no irregularity at all, and its logarithm would say nothing.
    rough = torch.stack(irregularity).clamp_min(1e-4).log()
    return dataclasses.replace(
        defaults,
        log_width=_pair(boxes[:, 2].log()),
        log_ratio=_pair((boxes[:, 3] / boxes[:, 2]).log()),
        speed_x=_pair(speed[:, 0]), speed_y=_pair(speed[:, 1]), growth=_pair(speed[:, 3]),
        acceleration_x=_pair(acceleration[:, 0]), acceleration_y=_pair(acceleration[:, 1]),
        growth_rate=_pair(acceleration[:, 3]),
        omega=_pair(wave[:, 0]) if len(wave) else defaults.omega,
        phase=_pair(wave[:, 1]) if len(wave) else defaults.phase,
        log_irregularity=tuple(_pair(rough[:, i]) for i in range(4)),
    )


def table(stats: TrajectoryStatistics) -> str:
    """The estimated statistics, mean and standard deviation, with units."""
    units = {
        "log_width": "log of image widths", "log_ratio": "log of height over width",
        "speed_x": "heights a frame", "speed_y": "heights a frame", "growth": "log height a frame",
        "acceleration_x": "heights a frame^2", "acceleration_y": "heights a frame^2",
        "growth_rate": "log height a frame^2", "omega": "radians a frame", "phase": "radians",
    }
    rows = [(name, getattr(stats, name), unit) for name, unit in units.items()]
    rows += [
        (f"irregularity, {name}", pair, "log of " + ("widths" if name == "width" else "heights"))
        for name, pair in zip(NAMES, stats.log_irregularity, strict=True)
    ]
    lines = [f"{'':26}{'mean':>12}{'std':>12}  unit"]
    lines += [f"{name:26}{pair[0]:12.5f}{pair[1]:12.5f}  {unit}" for name, pair, unit in rows]
    return "\n".join(lines)


def _parabola(window: int) -> Tensor:             # value, slope, curvature / 2; (3, window)
    """Least-squares weights of a parabola about the middle of a window."""
    time = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    return torch.linalg.pinv(torch.stack([time**k for k in range(3)], -1))


def _pair(values: Tensor) -> tuple[float, float]:
    std = values.std().item() if len(values) > 1 else 0.0
    return round(values.mean().item(), 6), round(std, 6)
