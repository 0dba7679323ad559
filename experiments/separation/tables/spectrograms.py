"""`pyromodels plot scass-1`: one mixture, its sources, and what methods make of it; Figure 5.1."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import Outcome
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.runs.paper_tables import (
    PaperTable,
    Row,
    add_mixture,
    add_source,
    data_line,
    named_mixture,
    outcomes,
)
from pyromodels.experiments.separation.scores import ESTIMATE, estimates_of, masks_of
from pyromodels.experiments.separation.tables.thesis import LENGTHS, by_method
from pyromodels.experiments.speech.figures import spectrogram_grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    parser.set_defaults(most=1)
    parser.add_argument("--length", choices=LENGTHS, default="long",
                        help="of the mixture (default: %(default)s)")
    add_mixture(parser)


def main(args: argparse.Namespace) -> int:
    """Run the rows of Table 5.1 on one mixture, and draw what they make of it."""
    use_device(args.device)
    chosen = named_mixture(args)
    table = PaperTable("", "separation", {}, by_method(args, args.length))
    folder = open_run(args.out, f"plot-{args.name}", spec_of(args))
    panels, metrics = {}, {}
    for own, outcome in outcomes(table, args, chosen):
        truth, found = estimates(own, outcome)
        panels = {"truth": truth} | panels | found
        metrics |= {
            f"{label_of(row)}/{kind}/si_sdr": outcome.metrics[f"{prefix}{kind}/si_sdr"]
            for row in own for kind in outcome.data.kinds
            for prefix in [f"{row.method}/" if row.method else ""]
        }
    name, kinds = outcome.data.mixtures[0].name, outcome.data.kinds
    grid = [
        {f"{kind}\n{label}": spectra[n].abs().square() for label, spectra in panels.items()}
        for n, kind in enumerate(kinds)
    ]
    drawn = spectrogram_grid(name, grid, outcome.model.model.stft)
    save(drawn, folder.path / f"{args.name}.png")
    print(f"{data_line(args)}\n{name}, SI-SDR in dB")
    for label in panels:
        if f"{label}/{kinds[0]}/si_sdr" in metrics:
            said = "".join(f"{kind} {metrics[f'{label}/{kind}/si_sdr']:6.2f}   " for kind in kinds)
            print(f"{label:20}{said}".rstrip())
    folder.write_metrics(metrics)
    print(f"\nresults: {folder.path}")
    return 0


def estimates(rows: list[Row], outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sources of the first mixture (N, T, F), and what each row makes of them."""
    stft = outcome.model.model.stft
    (mixtures, made), *_ = outcome.fitted.groups
    spectra = stft.analyse(torch.stack([mixture.sources for mixture in mixtures]))
    found = estimates_of(made, spectra, masks_of(outcome.data, stft, outcome.spec.metrics))
    return spectra[0], {label_of(row): found[row.method or ESTIMATE][0] for row in rows}


def label_of(row: Row) -> str:
    """Return the label of a row of Table 5.1 without its length: "MixDVAE"."""
    return row.label.partition(" ")[2]
