"""`pyromodels table scass-1` ... `scass-6`: thesis, Tables 5.1 to 5.6, speech and a flute.

Every row is a run of the spec `separation`, in which priors and network are trained, or found. A
method that is new among the baselines of separation needs its name in `METHODS`, nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pyromodels.experiments.runs.paper_tables import (
    MixtureList,
    PaperTable,
    Row,
    add_arguments,
    of_run,
    print_table,
)
from pyromodels.experiments.separation.measures import installed
from pyromodels.experiments.separation.scores import BASELINES

__all__ = ["add_arguments", "main"]

SOUNDS = MixtureList("audio/mix_speech_flute.json", ("speech", "flute"))
"""What `--data` has."""
GENERATED = ("speech", "tones")
"""Kinds of the data that are generated."""


class Length(NamedTuple):
    """A set of mixtures of one length."""

    num_frames: int
    generated_frames: int
    """Where data are generated: recordings of these have 187 frames."""


LENGTHS = {"short": Length(50, 50), "medium": Length(100, 100), "long": Length(300, 150)}

METHODS: dict[str, str | None] = {
    "Mixture": "mixture",
    "VKF-Oracle": "",
    "DVAE-init": "start",
    "VKF-DVAE-init": "",
    "Deep AR": "",
    "MixIT": None,
    "Vanilla NMF": "nmf",
    "Temporal NMF": "temporal_nmf",
    "MixDVAE": "",
}
"""Method of the thesis -> what a run calls it, None where there is none of it."""


THESIS: dict[str, dict[str, Sequence[float | None]]] = {
    "short": {
        "Mixture": (0.016, -4.94, 1.22, 0.016, 4.93, 1.09),
        "VKF-Oracle": (0.004, 14.83, 2.00, 0.004, 20.15, 2.33),
        "DVAE-init": (0.013, -0.51, 1.20, 0.019, 3.04, 1.44),
        "VKF-DVAE-init": (0.012, 2.24, 1.21, 0.012, 8.06, 1.33),
        "Deep AR": (0.009, 5.32, 1.29, 0.018, 5.19, 1.48),
        "MixIT": (0.011, 3.26, None, 0.009, 7.15, None),
        "Vanilla NMF": (0.011, 3.01, 1.40, 0.012, 9.09, 1.37),
        "Temporal NMF": (0.009, 4.99, 1.53, 0.011, 10.26, 1.53),
        "MixDVAE": (0.006, 9.23, 1.73, 0.007, 13.50, 2.30),
    },
    "medium": {
        "Mixture": (0.016, -4.44, 1.17, 0.016, 4.44, 1.08),
        "VKF-Oracle": (0.004, 14.88, 1.88, 0.003, 20.24, 2.41),
        "DVAE-init": (0.014, 0.10, 1.15, 0.020, 2.42, 1.27),
        "VKF-DVAE-init": (0.013, 1.25, 1.12, 0.013, 7.42, 1.26),
        "Deep AR": (0.010, 4.88, 1.21, 0.017, 5.17, 1.35),
        "MixIT": (0.009, 4.75, None, 0.009, 8.74, None),
        "Vanilla NMF": (0.011, 3.28, 1.41, 0.011, 8.88, 1.35),
        "Temporal NMF": (0.010, 5.12, 1.48, 0.011, 9.96, 1.44),
        "MixDVAE": (0.007, 9.32, 1.65, 0.007, 13.05, 2.16),
    },
    "long": {
        "Mixture": (0.016, -4.52, 1.19, 0.016, 4.53, 1.10),
        "VKF-Oracle": (0.004, 14.65, 1.89, 0.003, 20.45, 2.60),
        "DVAE-init": (0.013, 0.20, 1.15, 0.020, 2.29, 1.22),
        "VKF-DVAE-init": (0.013, 0.34, 1.10, 0.013, 7.35, 1.24),
        "Deep AR": (0.010, 3.87, 1.17, 0.017, 4.74, 1.27),
        "MixIT": (0.006, 10.2, None, 0.007, 11.76, None),
        "Vanilla NMF": (0.011, 3.31, 1.40, 0.011, 8.98, 1.35),
        "Temporal NMF": (0.010, 5.01, 1.47, 0.011, 10.06, 1.42),
        "MixDVAE": (0.007, 9.06, 1.64, 0.007, 12.92, 2.06),
    },
}
"""Table 5.1, as printed there; recordings of WSJ0 and of Chinese bamboo flutes."""

FRACTIONS = {"SRNN-full": 1.0, "SRNN-half": 0.5, "SRNN-quarter": 0.25}
"""Of the recordings that priors learn from, in Tables 5.2, 5.3 and 5.6."""
LOSSES = {
    "SRNN-full": (353.89, 373.61, 521.76, 779.69),
    "SRNN-half": (358.13, 389.58, 489.53, 949.11),
    "SRNN-quarter": (361.58, 383.64, 646.55, 1106.27),
}
"""Table 5.2: training and validation loss on WSJ0, then on the flutes."""
BY_SIZE = {
    "SRNN-full": (0.006, 9.23, 1.73, 0.007, 13.50, 2.30),
    "SRNN-half": (0.006, 9.66, 1.82, 0.009, 12.29, 2.28),
    "SRNN-quarter": (0.007, 8.83, 1.79, 0.011, 10.29, 2.13),
}
"""Table 5.3."""
TUNED = {
    "short": (0.007, 8.00, 1.63, 0.007, 12.73, 2.15),
    "medium": (0.008, 8.00, 1.55, 0.008, 12.23, 2.02),
    "long": (0.008, 7.02, 1.49, 0.008, 11.40, 1.88),
}
"""Table 5.4, with fine-tuning; without it is MixDVAE of Table 5.1."""
TRACKING_SECONDS = {(60, 3): 23.01, (60, 6): 57.29, (120, 3): 45.05, (120, 6): 110.41,
                    (300, 3): 112.93, (300, 6): 272.94}
"""Table 5.5: frames and sources -> seconds a sequence; of tracking, none of sound is printed."""
EPOCH_SECONDS = {"SRNN-full": 190.8, "SRNN-half": 121.2, "SRNN-quarter": 63.0}
"""Table 5.6, on WSJ0."""

OTHER_LEVELS = (
    "RMSE: of the thesis, of sources as loud as they were recorded; of ours, of mixtures with a "
    "peak of one. Compare ratios to the row of the mixture."
)


def main(args: argparse.Namespace) -> int:
    """Print the table of `args.name`."""
    return print_table(args.name, TABLES[args.name](args), args)


def base(args: argparse.Namespace, length: str, **data: object) -> tuple[str, ...]:
    """Return the settings that all runs on mixtures of one length share.

    Args:
        args: those of `add_source`, and `most`.
        length: of `LENGTHS`.
        data: more settings of the data.
    """
    frames = LENGTHS[length]
    chosen = frames.generated_frames if args.data is None else frames.num_frames
    figures = ", ".join(f'"{name}"' for name in installed(("si_sdr", "rmse", "pesq")))
    return (
        *SOUNDS.settings(args.data, args.most), f"data.num_frames={chosen}",
        *(f"data.{key}={value}" for key, value in data.items()),
        f"metrics.figures=[{figures}]", "metrics.num_examples=0", "metrics.num_draws=0",
        "metrics.checked=0",
    )


PUBLISHED = ("inference.start=encoders",)
"""What MixDVAE as published is, whatever its budget."""
ALONE = ("inference.start=assigner", "inference.steps=0")
"""What the network that says whose a bin is, is without variational EM."""


def published(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the budget of MixDVAE as published; a small one where data are generated.

    There the priors are those of the spec, VAEs, in place of SRNNs.
    """
    if args.data is None:
        return ("model.epochs=3", "inference.steps=10", "metrics.nmf_atoms=16")
    return ("model.prior=srnn", "model.epochs=20", "inference.steps=70")


def of_their_own(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Return methods that are a run of their own, and what each is, whatever the budget."""
    walks = ("model.prior=linear", "inference.ratio=1e-4")
    heard = f"model.start_prior={'vae' if args.data is None else 'srnn'}"
    return {
        "VKF-Oracle": (*walks, "inference.start=oracle"),
        "VKF-DVAE-init": (*walks, "inference.start=encoders", heard),
        "Deep AR": ("model.prior=deep_ar", "inference.start=encoders"),
    }


def network(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings of the network alone: the weights that ship, or a short training."""
    return ("guide.steps=50" if args.data is None else "guide.weights=assigner_speech_flute",)


def kinds_of(args: argparse.Namespace) -> tuple[str, str]:
    """Return the two kinds of sources."""
    first, second = GENERATED if args.data is None else SOUNDS.kinds
    return first, second


def of_kinds(args: argparse.Namespace, keys: Sequence[str], cells: Sequence[float | None]
             ) -> dict[str, float]:
    """Name figures that are printed by kind, all of the first one before those of the second."""
    names = [f"{kind}/{key}" for kind in kinds_of(args) for key in keys]
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}


QUALITY = {"rmse": ("RMSE", 3), "si_sdr": ("SI-SDR", 2), "pesq_wb": ("PESQ", 2)}
"""Columns of Tables 5.1, 5.3 and 5.4, of each kind."""
LOSS = {"prior_train_loss": ("training", 1), "prior_valid_loss": ("validation", 1)}
"""Columns of Table 5.2."""


def columns_of(
    args: argparse.Namespace, figures: dict[str, tuple[str, int]]
) -> dict[str, tuple[str, int]]:
    """Return the columns of both kinds."""
    return {f"{kind}/{key}": (f"{kind} {heading}", digits)
            for kind in kinds_of(args) for key, (heading, digits) in figures.items()}


def by_method(args: argparse.Namespace, length: str) -> list[Row]:
    """Return the rows of Table 5.1 of one length: the thesis' methods, an oracle, and ours."""
    shared, start = base(args, length), title_of(args, length)
    rows = {
        label: Row(f"{start} {label}", METHODS[label],
                   {quoted_of(length): of_kinds(args, list(QUALITY), cells)})
        for label, cells in THESIS[length].items()
    }
    rows["oracle"] = Row(f"{start} ideal binary mask", "ideal_binary_mask")
    settings, own = (*shared, *published(args)), of_their_own(args)
    joint = [row for label, row in rows.items() if label not in own]
    made = of_run(settings, joint, BASELINES, fixed=PUBLISHED)
    for label, fixed in own.items():
        made += of_run(settings, [rows[label]], BASELINES, fixed=fixed)
    order = [row.label for row in rows.values()]
    return [
        *sorted(made, key=lambda row: order.index(row.label)),
        *of_run((*shared, *network(args)), [Row(f"{start} network alone")], BASELINES,
                fixed=ALONE),
    ]


def title_of(args: argparse.Namespace, length: str) -> str:
    """Return "T=50"."""
    frames = LENGTHS[length]
    return f"T={frames.generated_frames if args.data is None else frames.num_frames}"


def quoted_of(length: str) -> str:
    """Return where the thesis measured: "thesis, T=50"."""
    return f"thesis, T={LENGTHS[length].num_frames}"


def methods(args: argparse.Namespace) -> PaperTable:
    """Table 5.1: methods, by length."""
    rows = [row for length in LENGTHS for row in by_method(args, length)]
    note = (f"{OTHER_LEVELS} DVAE-init: what MixDVAE starts from. Network alone, ours: what a "
            "network that has heard drawn mixtures gives each source of a bin.")
    return PaperTable("Table 5.1: sounds taken apart", "separation", columns_of(args, QUALITY),
                      rows, note)


def by_size(
    args: argparse.Namespace, quoted: Callable[[str], dict[str, float]]
) -> Iterator[Row]:
    """Yield MixDVAE with priors that have learnt from all, half and a quarter of the files."""
    settings = (*base(args, "short"), *published(args))
    for label, fraction in FRACTIONS.items():
        row = Row(label, "", {quoted_of("short"): quoted(label)})
        fixed = (*PUBLISHED, f"model.fraction={fraction}")
        yield from of_run(settings, [row], BASELINES, fixed=fixed)


def capacity(args: argparse.Namespace) -> PaperTable:
    """Table 5.2: losses of priors that have learnt from fewer recordings."""
    rows = by_size(args, lambda label: of_kinds(args, list(LOSS), LOSSES[label]))
    note = ("Ours: minus the bound in nats a frame at the best epoch; the published loss leaves "
            "out constants, and its code weighs the divergence of the latents by 0.01.")
    return PaperTable("Table 5.2: capacity of the priors", "separation", columns_of(args, LOSS),
                      list(rows), note)


def size(args: argparse.Namespace) -> PaperTable:
    """Table 5.3: mixtures taken apart with these priors."""
    rows = by_size(args, lambda label: of_kinds(args, list(QUALITY), BY_SIZE[label]))
    return PaperTable("Table 5.3: MixDVAE, by the size of the priors' training data",
                      "separation", columns_of(args, QUALITY), list(rows), OTHER_LEVELS)


def tuning(args: argparse.Namespace) -> PaperTable:
    """Table 5.4: with and without fine-tuning."""
    rows = []
    for length, cells in TUNED.items():
        start = title_of(args, length)
        settings = (*base(args, length), *published(args))
        said = {quoted_of(length): of_kinds(args, list(QUALITY), cells)}
        rows += of_run(settings, [Row(f"{start} tuned", "", said)], BASELINES,
                       fixed=(*PUBLISHED, "inference.fine_tune=1e-3"))
        rows += [row._replace(label=f"{start} not tuned") for row in by_method(args, length)
                 if row.label == f"{start} MixDVAE"]
    note = f"{OTHER_LEVELS} Tuned: to all mixtures of a length together."
    return PaperTable("Table 5.4: MixDVAE with and without fine-tuning", "separation",
                      columns_of(args, QUALITY), rows, note)


def seconds(args: argparse.Namespace) -> PaperTable:
    """Table 5.5: seconds a mixture; of three sources where they are generated."""
    rows = []
    for length in LENGTHS:
        for kinds in (GENERATED, (*GENERATED, "noise")) if args.data is None else (None,):
            named = {} if kinds is None else {"kinds": "[{}]".format(
                ", ".join(f'"{kind}"' for kind in kinds))}
            label = f"{title_of(args, length)}, N={len(kinds or SOUNDS.kinds)}"
            settings = (*base(args, length, **named), *published(args))
            rows += of_run(settings, [Row(label)], BASELINES, fixed=PUBLISHED)
    rows += [Row(f"tracking, T={frames}, N={sources}", None, {"thesis": {"seconds_each": value}})
             for (frames, sources), value in TRACKING_SECONDS.items()]
    note = ("Seconds of variational EM, all mixtures of a length together, training left out. The "
            "thesis measures tracking alone, a sequence at a time, on a GPU."
            + (" Three sources: without --data." if args.data is not None else ""))
    return PaperTable("Table 5.5: seconds a mixture", "separation",
                      {"seconds_each": ("seconds", 2)}, rows, note)


def epochs(args: argparse.Namespace) -> PaperTable:
    """Table 5.6: seconds an epoch of the priors' training."""
    speech, other = kinds_of(args)
    key = "prior_seconds_per_epoch"
    rows = by_size(args, lambda label: {f"{speech}/{key}": EPOCH_SECONDS[label]})
    note = ("On the machine where a prior was trained. The thesis: 25 hours of WSJ0 on a GPU; of "
            "tracking it prints 15, 7.8 and 4.8 s.")
    columns = {f"{speech}/{key}": (speech, 1), f"{other}/{key}": (other, 1)}
    return PaperTable("Table 5.6: seconds an epoch of training", "separation", columns,
                      list(rows), note)


TABLES: dict[str, Callable[[argparse.Namespace], PaperTable]] = {
    "scass-1": methods, "scass-2": capacity, "scass-3": size, "scass-4": tuning,
    "scass-5": seconds, "scass-6": epochs,
}
