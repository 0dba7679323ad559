"""The text of the tables: one row a model, figures of others beside it."""

from pyromodels.experiments.datasets.labelled.problems import Problem
from pyromodels.experiments.harness.table_rows import Columns

COLUMNS = Columns({
    "accuracy": ("accuracy %", 2),
    "valid_accuracy": ("validation %", 2),
    "nats_per_frame": ("nats/frame", 3),
    "nats_per_frame_recorded": ("as recorded", 3),
    "cross_entropy": ("cross-entropy", 3),
    "calibration_error": ("miscalibr. %", 2),
    "strangers": ("strangers", 3),
}, label_width=30, width=17)
row = COLUMNS.row


def describe(problem: Problem) -> str:
    """Return a line about the data."""
    data = problem.data
    sizes = f"{len(data.train)} / {len(data.valid)} / {len(data.test)}"
    return f"{data.name}, classes {', '.join(data.classes)}: {sizes} sequences"


def header(problem: Problem) -> str:
    """Return the headings and, where they are known, the figures of the sources themselves."""
    known = [row(label, figures) for label, figures in of_sources(problem).items()]
    return "\n".join([COLUMNS.header(), *known])


def of_sources(problem: Problem) -> dict[str, dict[str, float]]:
    """Return the row of the sources themselves, by its label, where it is known."""
    if problem.bayes is None:
        return {}
    best = {"accuracy": problem.bayes.accuracy,
            "nats_per_frame_recorded": problem.bayes.nats_per_frame}
    return {"the sources themselves": best}
