"""`pyromodels plot scass-2`: SI-SDR over the sweeps of variational EM, thesis, Figure 5.2.

The thesis draws the same of tracking, MOTA over iterations: `plot mot-iterations`.
"""

from __future__ import annotations

import argparse

from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.runs.paper_tables import (
    PaperTable,
    Row,
    add_runs,
    add_source,
    check_counts,
    data_line,
    figures_of,
    of_run,
    specs_of,
)
from pyromodels.experiments.separation.scores import BASELINES
from pyromodels.experiments.separation.tables.thesis import (
    LENGTHS,
    PUBLISHED,
    base,
    kinds_of,
    published,
)
from pyromodels.experiments.tracking.figures.plots import plot_metric_curves

SWEEPS = (1, 2, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70)
"""After which SI-SDR is measured, as far as they are made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_runs(parser)
    parser.add_argument("--length", choices=LENGTHS, default="medium",
                        help="of the mixtures (default: %(default)s, as in the thesis)")


def main(args: argparse.Namespace) -> int:
    """Run MixDVAE as published, and draw what it has reached after its sweeps."""
    check_counts(args)
    use_device(args.device)
    settings = (*base(args, args.length), *published(args), f"metrics.after={list(SWEEPS)}")
    rows = of_run(settings, [Row("MixDVAE")], BASELINES, fixed=PUBLISHED)
    ((_, spec),) = specs_of(PaperTable("", "separation", {}, rows), args)
    folder = open_run(args.out, f"plot-{args.name}", spec_of(args))
    found, _ = figures_of(spec, args)
    kinds = kinds_of(args)
    made = [0, *(sweep for sweep in SWEEPS if f"{kinds[0]}/si_sdr_after_{sweep}" in found)]
    curves = {
        kind: [found[f"start/{kind}/si_sdr"],
               *(found[f"{kind}/si_sdr_after_{sweep}"] for sweep in made[1:])]
        for kind in kinds
    }
    print(f"{data_line(args)}\nSI-SDR in dB, in the mean, after sweep")
    width = 2 + max(map(len, kinds))
    print("".join([f"{'':{width}}", *(f"{sweep:>8}" for sweep in made)]))
    for kind, values in curves.items():
        print("".join([f"{kind:{width}}", *(f"{value:8.2f}" for value in values)]))
    figure = plot_metric_curves(made, curves, ylabel="SI-SDR (dB)", title=f"{args.length} mixtures")
    save(figure, folder.path / f"{args.name}.png")
    folder.write_metrics({
        f"{kind}/si_sdr_after_{sweep}": value for kind, values in curves.items()
        for sweep, value in zip(made, values, strict=True)
    })
    print("\nthe thesis, Figure 5.2: no more gain from about 20 sweeps on, in the medium length")
    print(f"\nresults: {folder.path}")
    return 0
