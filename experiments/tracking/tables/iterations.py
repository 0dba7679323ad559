"""`pyromodels plot mot-iterations`: MOTA over VEM iterations, Figure 4.3."""

import argparse
import dataclasses
from pathlib import Path

import torch

from pyromodels.experiments.datasets.tracking.sequences import TrackingData
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.tracking.figures.plots import plot_metric_curves
from pyromodels.experiments.tracking.methods.published import flip, published_inputs
from pyromodels.experiments.tracking.run import add_data_arguments, load
from pyromodels.inference.published.method import published_vem
from pyromodels.inference.published.options import PublishedOptions
from pyromodels.inference.training.seeding import seed_all

RATIOS = (0.01, 0.02, 0.04, 0.06, 0.08)
ITERATIONS = (1, 2, 3, 5, 10, 20, 30, 40, 50, 60, 70)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, help="published state dict")
    add_data_arguments(parser)
    parser.add_argument("--sequences", type=int, default=64, help="use at most so many sequences")
    add_device_argument(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    device = use_device(args.device)
    seed_all(args.seed)
    prior = load_weights(args.weights).prior.to(device)
    folder = open_run(args.out, "mot-iterations", spec_of(args))
    figures: dict[str, float] = {}
    for data in load(args):
        data = data.spread(args.sequences)
        curves = {f"r = {ratio}": _mota(data, prior, ratio, args.seed) for ratio in RATIOS}
        print(f"\n{data.name}, MOTA after iteration")
        print("  ".join([f"{'':<9}", *(f"{i:>6}" for i in ITERATIONS)]))
        for label, values in curves.items():
            print("  ".join([f"{label:<9}", *(f"{value:>6.2f}" for value in values)]))
            figures |= {
                f"{data.name}/{label.replace(' ', '')}/mota_{i}": value
                for i, value in zip(ITERATIONS, values, strict=True)
            }
        figure = plot_metric_curves(ITERATIONS, curves, ylabel="MOTA (%)", title=data.name)
        figure.savefig(folder.path / f"mot-iterations-{data.name}.png")
    folder.write_metrics(figures)
    print(f"\nresults: {folder.path}")
    return 0


def _mota(data: TrackingData, prior: torch.nn.Module, ratio: float, seed: int) -> list[float]:
    device = next(prior.parameters()).device
    result = published_vem(
        prior,
        **published_inputs(data, data.num_objects, ratio, device),
        options=dataclasses.replace(PublishedOptions.REFERENCE, num_iterations=ITERATIONS[-1]),
        generator=torch.Generator(device).manual_seed(seed),
        history=ITERATIONS,
    )
    boxes = (flip(result.kept[i].loc).transpose(1, 2).cpu() for i in ITERATIONS)
    return [tracking_metrics(data.truth, data.truth_mask, box)["mota"] for box in boxes]
