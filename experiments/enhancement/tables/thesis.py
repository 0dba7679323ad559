"""`pyromodels table se-1` ... `se-4`: thesis, Tables 6.1 to 6.4, speech in noise made clean.

Every row is a run of the spec `enhancement`. U-NA: the noise is learnt from the noisy signal alone;
U-ND: from drawn noisy signals beforehand; U-NDA: from these, then from the signal. A method that is
new among the baselines of enhancement needs one more `Row`, nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence

from pyromodels.experiments.enhancement.scores import BASELINES
from pyromodels.experiments.runs.paper_tables import (
    MixtureList,
    PaperTable,
    Row,
    add_arguments,
    of_run,
    print_table,
)
from pyromodels.experiments.separation.measures import installed

__all__ = ["add_arguments", "main"]

NOISY = MixtureList("audio/mix_speech_noise_test.json", ("speech", "noise"))
"""What `--data` has."""

COLUMNS = {
    "si_sdr": ("SI-SDR", 1), "improvement": ("gained", 1), "pesq_raw": ("PESQ MOS", 2),
    "pesq_wb": ("PESQ WB", 2), "pesq_nb": ("PESQ NB", 2), "estoi": ("ESTOI", 2),
    "real_time_factor": ("real time", 2),
}
"""Those of Tables 6.1, 6.2 and 6.4, and what is ours."""
QUALITY = ("si_sdr", "pesq_raw", "pesq_wb", "pesq_nb", "estoi")
"""What the thesis prints there, in this order."""

Cells = Sequence[float | None]
"""Figures of the thesis, in the order of `QUALITY`."""

WSJ0_QUT: dict[str, Cells] = {
    "Noisy mixture": (-2.6, 1.83, 1.14, 1.57, 0.50),
    "RVAE-LV U-NA": (5.4, 2.31, 1.53, 2.01, 0.65),
    "RVAE-LV U-ND": (5.3, 2.25, 1.53, 1.95, 0.60),
    "RVAE-LV U-NDA": (6.2, 2.38, 1.56, 2.07, 0.62),
    "RVAE-NO U-NA": (6.0, 2.33, 1.56, 2.04, 0.65),
    "RVAE-NO U-ND": (3.7, 2.11, 1.37, 1.81, 0.58),
    "RVAE-NO U-NDA": (5.8, 2.31, 1.54, 2.02, 0.63),
    "RVAE-NOLV U-NA": (5.5, 2.31, 1.53, 2.01, 0.65),
    "RVAE-NOLV U-ND": (4.9, 2.11, 1.42, 1.83, 0.60),
    "RVAE-NOLV U-NDA": (6.2, 2.29, 1.56, 2.00, 0.62),
    "Wiener filter, oracle": (12.1, 3.14, 2.56, 3.03, 0.88),
    "UMX, supervised": (5.7, 2.16, 1.38, 1.83, 0.63),
    "MetricGAN+, supervised": (3.6, 2.83, 2.18, 2.61, 0.60),
    "RVAE-VEM U-NA": (5.8, 2.27, 1.54, 1.98, 0.62),
}
"""Tables 6.1 and 6.2, as printed there, -5 to 5 dB."""
VB_DMD: dict[str, Cells] = {
    "Noisy mixture": (8.4, 3.02, 1.97, 2.88, 0.79),
    "RVAE-LV U-NA": (17.5, 3.23, 2.39, 3.15, 0.82),
    "RVAE-LV U-ND": (17.4, 3.24, 2.40, 3.17, 0.81),
    "RVAE-LV U-NDA": (17.8, 3.22, 2.38, 3.14, 0.81),
    "RVAE-NO U-NA": (17.3, 3.25, 2.40, 3.18, 0.82),
    "RVAE-NO U-ND": (16.7, 3.03, 2.12, 2.89, 0.79),
    "RVAE-NO U-NDA": (17.2, 3.06, 2.18, 2.93, 0.80),
    "RVAE-NOLV U-NA": (17.5, 3.25, 2.40, 3.18, 0.82),
    "RVAE-NOLV U-ND": (16.9, 3.04, 2.14, 2.90, 0.79),
    "RVAE-NOLV U-NDA": (17.4, 3.17, 2.30, 3.07, 0.81),
    "Wiener filter, oracle": (21.5, 3.70, 3.39, 3.79, 0.93),
    "UMX, supervised": (14.0, 3.18, 2.35, 3.08, 0.83),
    "MetricGAN+, supervised": (8.5, 3.59, 3.13, 3.63, 0.83),
    "CDiffuSE, supervised": (12.6, None, 2.46, None, 0.79),
    "SGMSE+, supervised": (17.3, None, 2.93, None, 0.87),
    "NyTT Xtra U-ND": (17.7, None, 2.30, None, None),
    "MetricGAN-U U-ND": (8.2, 3.20, 2.45, 3.11, 0.77),
    "RVAE-VEM U-NA": (17.1, 3.23, 2.48, 3.15, 0.81),
}
"""Likewise, 2.5 to 17.5 dB."""
UNMATCHED: dict[str, Mapping[str, Cells]] = {
    "RVAE-VEM U-NA": {
        "WSJ0-QUT, prior of VB": (4.3, 2.12, 1.37, 1.84, 0.57),
        "VB-DMD, prior of WSJ0": (17.3, 3.21, 2.41, 3.13, 0.81),
    },
    "RVAE-LV U-ND": {
        "WSJ0-QUT, prior of VB": (4.3, 2.17, 1.41, 1.85, 0.58),
        "VB-DMD, prior of WSJ0": (17.4, 3.18, 2.21, 3.09, 0.80),
    },
}
"""Table 6.4."""
SPEEDS: dict[str, Mapping[str, float]] = {
    "RVAE-VEM U-NA": {"WSJ0-QUT, 300 steps": 27.91, "VB-DMD, 100 steps": 9.55},
    "RVAE-LV U-NA": {"WSJ0-QUT, 1000 steps": 89.42, "VB-DMD, 900 steps": 81.62},
    "RVAE-LV U-ND": {"WSJ0-QUT": 0.02, "VB-DMD": 0.02},
    "RVAE-LV U-NDA": {"WSJ0-QUT, 190 steps": 17.42, "VB-DMD, 25 steps": 2.32},
    "SGMSE+, supervised": {"WSJ0-QUT": 3.39},
}
"""Table 6.3: seconds for a second of sound."""


def main(args: argparse.Namespace) -> int:
    """Print the table of `args.name`."""
    return print_table(args.name, TABLES[args.name](args), args)


FROM_QUIET_FRAMES = ('inference.starts=["subtracted"]', "inference.average=false")
"""How inference starts, and that it ends with what it says itself: no network, as published."""


def base(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings that all runs share; small ones where data are generated."""
    few = () if args.data is not None else ("model.epochs=3", "inference.num_draws=2")
    figures = json.dumps(installed(("si_sdr", "pesq", "estoi")))
    return (*NOISY.settings(args.data, args.most), *few, *FROM_QUIET_FRAMES,
            f"metrics.figures={figures}", "metrics.num_examples=0", "metrics.num_draws=0",
            "metrics.checked=0")


def prior(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings of the prior: that which ships, or that of generated data."""
    return () if args.data is None else ('model.prior={weights="rvae_speech"}',)


NOTHING_BEFORE, NOTHING_ALONE = ("guide.steps=0",), ("inference.steps=0",)
"""What makes U-NA, and U-ND, whatever the budget."""
CONFIGURATIONS = {"U-NA": NOTHING_BEFORE, "U-ND": NOTHING_ALONE, "U-NDA": ()}


def vem(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings of RVAE-VEM; its noise is each signal's own."""
    sweeps = 10 if args.data is None else 100
    return ("model.noise=nmf", "model.gain=true", f"inference.steps={sweeps}")


def network(args: argparse.Namespace, noise: str, configuration: str) -> tuple[str, ...]:
    """Return the settings of a network of the noise in one of the `CONFIGURATIONS`."""
    few = args.data is None
    budget = ("guide.steps=20", "guide.steps_per_epoch=10") if few else ("guide.steps=1000",)
    alone = (10 if few else 900) if configuration == "U-NA" else (5 if few else 190)
    return (f"model.noise={noise}", "model.gain=false", *budget, f"inference.steps={alone}")


def quoted_of(label: str) -> dict[str, dict[str, float]]:
    """Return what the thesis prints of a method in Tables 6.1 and 6.2."""
    return {
        f"thesis, {data}": named(known[label])
        for data, known in (("WSJ0-QUT", WSJ0_QUT), ("VB-DMD", VB_DMD)) if label in known
    }


def named(cells: Cells) -> dict[str, float]:
    """Name figures in the order of `QUALITY`."""
    return {key: cell for key, cell in zip(QUALITY, cells, strict=True) if cell is not None}


def of_method(
    args: argparse.Namespace, settings: Sequence[str], fixed: Sequence[str], *rows: Row
) -> list[Row]:
    """Return rows of one run on the noisy signals."""
    return of_run((*base(args), *settings), rows, BASELINES, always=("noisy",), fixed=fixed)


def row_of(label: str, method: str | None = "") -> Row:
    """Return a row beside the thesis' figures."""
    return Row(label, method, quoted_of(label))


def by_network(args: argparse.Namespace) -> dict[str, Row]:
    """Return the rows of Table 6.1 by label."""
    rows = [
        row for noise in ("lv", "no", "nolv") for configuration, fixed in CONFIGURATIONS.items()
        for row in of_method(args, (*prior(args), *network(args, noise, configuration)), fixed,
                             row_of(f"RVAE-{noise.upper()} {configuration}"))
    ]
    return {row.label: row for row in rows}


def by_sweeps(args: argparse.Namespace) -> list[Row]:
    """Return the rows of variational EM, and of what is compared with it."""
    return of_method(
        args, (*prior(args), *vem(args)), NOTHING_BEFORE, row_of("Noisy mixture", "noisy"),
        row_of("Wiener filter, oracle", "oracle_wiener"),
        Row("Wiener filter, decision-directed", "decision_directed"), row_of("RVAE-VEM U-NA"),
    )


def variants(args: argparse.Namespace) -> PaperTable:
    """Table 6.1: networks of the noise, and how they learn."""
    rows = [by_sweeps(args)[0], *by_network(args).values()]
    return PaperTable("Table 6.1: networks of the noise", "enhancement", COLUMNS, rows, NOTE)


def compared(args: argparse.Namespace) -> PaperTable:
    """Table 6.2: other methods."""
    both = ('inference.starts=["network"]', "inference.average=true")
    heard = of_method(
        args, (*prior(args), *vem(args), *both), NOTHING_BEFORE,
        Row("RVAE-VEM from a network", "variational_em"), Row("network alone", "network"),
        Row("mean of both"),
    )
    ours = by_sweeps(args)
    networks = by_network(args)
    known = {*networks, *(row.label for row in ours)}
    others = [row_of(label, None) for label in {**WSJ0_QUT, **VB_DMD} if label not in known]
    rows = [*ours[:-1], *others, ours[-1], networks["RVAE-LV U-ND"], *heard]
    note = (f"{NOTE} Network, ours: trained on drawn pairs of speech and noise; the start of "
            "variational EM, alone, and averaged with what comes of it.")
    return PaperTable("Table 6.2: other methods", "enhancement", COLUMNS, rows, note)


def speeds(args: argparse.Namespace) -> PaperTable:
    """Table 6.3: seconds for a second of sound."""
    known = {**by_network(args), **{row.label: row for row in by_sweeps(args)}}
    rows = [
        known.get(label, Row(label, None))._replace(quoted={
            f"thesis, {data}": {"real_time_factor": value} for data, value in said.items()
        }) for label, said in SPEEDS.items()
    ]
    note = ("Seconds for a second of sound; the thesis': on a GPU, a signal at a time. Ours: "
            "variational EM takes up to inference.batch_size signals at once.")
    return PaperTable("Table 6.3: speed", "enhancement",
                      {key: COLUMNS[key] for key in ("real_time_factor", "si_sdr")}, rows, note)


def conditions(args: argparse.Namespace) -> PaperTable:
    """Table 6.4: a prior of other recordings."""
    other = "00*" if args.data is None else "ktu_*"
    rows = []
    for label, settings, fixed in (
        ("RVAE-VEM U-NA", vem(args), NOTHING_BEFORE),
        ("RVAE-LV U-ND", network(args, "lv", "U-ND"), NOTHING_ALONE),
    ):
        rows += of_method(args, settings, fixed,
                          row_of(label)._replace(label=f"{label}, all speech"))
        said = {f"thesis, {data}": named(cells) for data, cells in UNMATCHED[label].items()}
        rows += of_method(args, settings, (*fixed, f"model.files={other}"),
                          Row(f"{label}, files {other}", "", said))
    note = (f"{NOTE} The prior learns from all recordings of speech, or from those files alone; "
            "the network of the noise hears all. Priors of other corpora: train dvae --data DIR, "
            "then --set 'model.prior={weights=\"FOLDER\"}'.")
    return PaperTable("Table 6.4: a prior of other recordings", "enhancement", COLUMNS, rows, note)


NOTE = ("PESQ, ESTOI of ours: where their packages are installed. Gained: SI-SDR above the noisy "
        "signal's. Networks of the noise are told the level of quiet frames; the thesis' are not.")

TABLES: dict[str, Callable[[argparse.Namespace], PaperTable]] = {
    "se-1": variants, "se-2": compared, "se-3": speeds, "se-4": conditions,
}
