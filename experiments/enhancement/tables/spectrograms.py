"""`pyromodels plot se-2`, `se-3`: noisy speech, estimates and noise by method; Figures 6.2, 6.3.

The thesis shows a restaurant at 0 dB, which is hard, and speech-shaped noise at 5 dB.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from pyromodels.experiments.enhancement.scores import heard
from pyromodels.experiments.enhancement.tables.thesis import by_network, by_sweeps
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.runs.paper_tables import (
    PaperTable,
    add_mixture,
    add_source,
    data_line,
    named_mixture,
    outcomes,
)
from pyromodels.experiments.separation.sounds import SHOWN_FRAMES
from pyromodels.experiments.speech.figures import spectrogram_grid


class Example(NamedTuple):
    """A noisy signal."""

    name: str
    """In the list of `--data`."""
    place: int
    """Among those that are generated, from one; the last of so many is drawn."""
    quoted: str
    """What the thesis reaches on its own."""


EXAMPLES = {
    "se-2": Example("N003", 2, "RVAE-LV U-ND 4.52 dB, U-NA 4.42 dB, RVAE-VEM 6.85 dB"),
    "se-3": Example("N076", 1, "RVAE-LV U-ND 13.7 dB, U-NA 14.8 dB, RVAE-VEM 11.2 dB"),
}
"""Babble at 0 dB, and speech-shaped noise at 5 dB."""
METHODS = ("RVAE-LV U-ND", "RVAE-LV U-NA", "RVAE-VEM U-NA")
"""Rows of Tables 6.1 and 6.2 that are drawn."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    parser.set_defaults(most=None)
    add_mixture(parser)


def main(args: argparse.Namespace) -> int:
    """Run the methods on one signal, and draw their estimates and variances of the noise."""
    use_device(args.device)
    example = EXAMPLES[args.name]
    chosen = named_mixture(args) or (
        (f"data.num_mixtures={example.place}",) if args.data is None
        else (f'data.names=["{example.name}"]',)
    )
    known = {**by_network(args), **{row.label: row for row in by_sweeps(args)}}
    table = PaperTable("", "enhancement", {}, [known[label] for label in METHODS])
    folder = open_run(args.out, f"plot-{args.name}", spec_of(args))
    above, below, metrics = {}, {}, {}
    for (row,), outcome in outcomes(table, args, chosen):
        mixture, made, stft = (outcome.data.mixtures[-1], outcome.fitted.made[-1],
                               outcome.fitted.stft)
        speech = mixture.sources[0]
        reached = si_sdr(speech, heard(made.estimate.cpu(), stft, mixture)).item()
        above["noisy"] = stft.analyse(mixture.signal).abs().square()
        below["clean"] = stft.analyse(speech).abs().square()
        above[f"{row.label}, {reached:.1f} dB"] = made.estimate.cpu().abs().square()
        below[f"noise, {row.label}"] = made.noise.cpu()
        metrics |= {"noisy/si_sdr": si_sdr(speech, mixture.signal).item(),
                    f"{row.label}/si_sdr": reached}
    grid = [{name: power[:SHOWN_FRAMES] for name, power in panels.items()}
            for panels in (above, below)]
    save(spectrogram_grid(mixture.name, grid, stft), folder.path / f"{args.name}.png")
    print(f"{data_line(args)}\n{mixture.name}, SI-SDR in dB")
    for key, value in metrics.items():
        print(f"{key.removesuffix('/si_sdr'):16}{value:6.2f}")
    print(f"the thesis, on another signal: {example.quoted}")
    folder.write_metrics(metrics)
    print(f"\nresults: {folder.path}")
    return 0
