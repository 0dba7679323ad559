"""Tables of tracking figures for people."""

from collections.abc import Mapping, Sequence

COLUMNS = {
    "mota": "MOTA",
    "motp": "MOTP",
    "idf1": "IDF1",
    "hota": "HOTA",
    "ids": "IDS",
    "mt": "MT",
    "ml": "ML",
    "fp": "FP",
    "fn": "FN",
    "gospa": "GOSPA",
    "nees": "NEES",
    "nees_low": "(95%",
    "nees_high": "interval)",
    "coverage95": "cover95",
    "seconds_per_sequence": "s/seq",
}
COUNTS = ("ids", "mt", "ml", "fp", "fn")


def format_table(
    rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = tuple(COLUMNS)
) -> str:
    """Return one line for each row, the figures under their names; a dash where there is none."""
    columns = [c for c in columns if any(c in row for row in rows.values())]
    width = max(len("method"), *map(len, rows))
    lines = ["  ".join([f"{'method':<{width}}", *(f"{COLUMNS[c]:>9}" for c in columns)])]
    for name, row in rows.items():
        cells = [_cell(column, row.get(column)) for column in columns]
        lines.append("  ".join([f"{name:<{width}}", *(f"{cell:>9}" for cell in cells)]))
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column in COUNTS:
        return f"{value:.0f}"
    return f"{value:.4f}" if column == "seconds_per_sequence" else f"{value:.2f}"
