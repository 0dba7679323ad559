"""The text of the speech tables: one row a model and mode, the paper's figures beside it."""

from collections.abc import Mapping, Sequence

from experiments.speech.variants import Quoted

COLUMNS = {
    "rmse": ("RMSE", 3),
    "si_sdr": ("SI-SDR", 2),
    "pesq_raw": ("PESQ", 2),
    "pesq_wb": ("PESQ wb", 2),
    "estoi": ("ESTOI", 3),
}
"""Key of `speech_metrics` -> its heading and digits."""
LABEL = 40


def header() -> str:
    """Return the line of headings."""
    return f"{'':{LABEL}}" + "".join(f"{name:>16}" for name, _ in COLUMNS.values())


def row(
    label: str,
    figures: Mapping[str, float],
    errors: Mapping[str, float] | None = None,
) -> str:
    """Return a line: means, and standard errors over seeds where they are given."""
    cells = []
    for key, (_, digits) in COLUMNS.items():
        value = f"{figures[key]:.{digits}f}" if key in figures else "-"
        if errors and key in figures:
            value += f" ± {errors[key]:.{digits}f}"
        cells.append(f"{value:>16}")
    return f"{label:{LABEL}}" + "".join(cells)


def quoted_row(label: str, quoted: Quoted) -> str:
    """Return a line of the thesis."""
    values = {"rmse": quoted.rmse, "si_sdr": quoted.si_sdr, "pesq_raw": quoted.pesq,
              "estoi": quoted.estoi}
    return row(label, values)


def mean_and_error(
    figures: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, float] | None]:
    """Return means over seeds and their standard errors; no errors for one seed."""
    count = len(figures)
    mean = {key: sum(f[key] for f in figures) / count for key in figures[0]}
    if count == 1:
        return mean, None
    error = {
        key: (sum((f[key] - m) ** 2 for f in figures) / (count - 1) / count) ** 0.5
        for key, m in mean.items()
    }
    return mean, error
