"""The text of the speech tables: one row a model and mode, the paper's figures beside it."""

from collections.abc import Mapping

from pyromodels.experiments.harness.table_rows import heading, line
from pyromodels.experiments.speech.table_models import Quoted

COLUMNS = {
    "rmse": ("RMSE", 3),
    "si_sdr": ("SI-SDR", 2),
    "pesq_raw": ("PESQ", 2),
    "pesq_wb": ("PESQ wb", 2),
    "estoi": ("ESTOI", 3),
}
"""Key of `speech_metrics` -> its heading and digits."""
WIDTHS = {"label_width": 40, "width": 16}


def header() -> str:
    """Return the line of headings."""
    return heading(COLUMNS, **WIDTHS)


def row(label: str, figures: Mapping[str, float]) -> str:
    """Return a line, with standard errors where there are several seeds."""
    return line(label, figures, COLUMNS, **WIDTHS)


def quoted_row(label: str, quoted: Quoted) -> str:
    """Return a line of the thesis."""
    values = {"rmse": quoted.rmse, "si_sdr": quoted.si_sdr, "pesq_raw": quoted.pesq,
              "estoi": quoted.estoi}
    return row(label, values)
