"""The text of the tables: one row a model, figures of others beside it."""

from collections.abc import Mapping, Sequence

from experiments.phones.problem import Problem

COLUMNS = {
    "accuracy": ("accuracy %", 2),
    "valid_accuracy": ("validation %", 2),
    "nats_per_frame": ("nats/frame", 3),
    "nats_per_frame_recorded": ("as recorded", 3),
    "cross_entropy": ("cross-entropy", 3),
    "calibration_error": ("miscalibr. %", 2),
    "strangers": ("strangers", 3),
}
"""Key of a figure -> its heading and digits."""
LABEL, WIDTH = 30, 17


def describe(problem: Problem) -> str:
    """Return a line about the data."""
    data = problem.data
    sizes = f"{len(data.train)} / {len(data.valid)} / {len(data.test)}"
    return f"{data.name}, classes {', '.join(data.classes)}: {sizes} sequences"


def header(problem: Problem) -> str:
    """Return the line of headings."""
    return f"{'':{LABEL}}" + "".join(f"{name:>{WIDTH}}" for name, _ in COLUMNS.values())


def bayes(problem: Problem) -> str:
    """Return the line of the sources themselves, with its end, where they are known."""
    if problem.bayes is None:
        return ""
    figures = {"accuracy": problem.bayes.accuracy,
               "nats_per_frame_recorded": problem.bayes.nats_per_frame}
    return row("the sources themselves", [figures]) + "\n"


def row(label: str, figures: Sequence[Mapping[str, float]]) -> str:
    """Return a line: means, and standard errors over seeds where there are several."""
    cells = []
    for key, (_, digits) in COLUMNS.items():
        values = [f[key] for f in figures if key in f]
        cells.append(f"{_mean_and_error(values, digits):>{WIDTH}}")
    return f"{label:{LABEL}}" + "".join(cells)


def _mean_and_error(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if len(values) > 1 else "")


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, 0 for one value."""
    count = len(values)
    mean = sum(values) / count
    spread = sum((value - mean) ** 2 for value in values)
    return mean, (spread / max(count - 1, 1) / count) ** 0.5
