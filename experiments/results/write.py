"""`pyromodels results PAGE`: make the runs of a page and write it, nothing joined by hand.

Beside `PAGE.md` lies `PAGE.json`: every figure of its runs, to the last digit but for speeds, so
that two versions of the library can be compared.
"""

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pyromodels.errors import SpecError
from pyromodels.experiments.harness.records import replacing
from pyromodels.experiments.results.pages import DATA, PAGES, Page, Run

VERSIONS = ("pyromodels", "torch", "pyro-ppl", "numpy", "scipy")
"""Packages whose versions a page names."""

Rows = dict[str, dict[str, float | str]]
"""Name of a row -> column -> figure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("page", nargs="+", choices=PAGES, metavar="PAGE",
                        help=f"of {', '.join(PAGES)}")
    parser.add_argument("--data", type=Path, help=f"the folder called {DATA} in the commands")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"),
                        help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"),
                        help="folder of the pages (default: %(default)s)")
    parser.add_argument("--reuse", action="store_true",
                        help="take runs that are finished in --runs as they are")


def main(args: argparse.Namespace) -> int:
    """Make the runs, write the pages; 0 when done."""
    for name in args.page:  # what is missing is said before anything runs
        if args.data is None and any(DATA in run.command for run in PAGES[name].runs):
            raise SpecError(f"--data: page {name!r} needs the folder that its commands call {DATA}")
    for name in args.page:
        folders = {}
        for number, run in enumerate(PAGES[name].runs, 1):
            folder = args.runs / name / f"{number:02}"
            if not (args.reuse and list(folder.rglob("metrics.json"))):
                make(run, folder, args.data)
            folders[run] = folder
        print(f"page: {write_page(name, PAGES[name], folders, args.out, args.data)}")
    return 0


def make(run: Run, folder: Path, data: Path | None) -> None:
    """Make one run in a process of its own.

    Raises:
        SpecError: where it ends with an error.
    """
    print(f"pyromodels {run.command}", file=sys.stderr, flush=True)
    words = [word.replace(DATA, str(data)) for word in shlex.split(run.command)]
    command = [sys.executable, "-m", "pyromodels", *words, "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SpecError(f"`pyromodels {run.command}` ended with {done.returncode}: "
                        f"{done.stdout.strip()[-500:] or 'see the lines above'}")


def write_page(
    name: str, page: Page, folders: Mapping[Run, Path], out: Path, data: Path | None
) -> Path:
    """Write a page and its figures from finished runs; return the path of the page."""
    figures = {run.command: figures_of(folders[run]) for run in page.runs}
    tables: dict[str, Rows] = {}
    for run in page.runs:
        rows = tables.setdefault(run.table, {})
        for key, value in {**figures[run.command], **verdict_of(folders[run])}.items():
            row, column = page.split(key)
            if column.removesuffix("_se") in page.columns and value is not None:
                rows.setdefault(row or run.row, {})[column] = value
    if empty := [run.command for run in page.runs if not figures[run.command]]:
        raise SpecError(f"page {name!r}: no figures of {empty}")
    needs_data = any(DATA in run.command for run in page.runs)
    command = f"pyromodels results {name}{f' --data {DATA}' if needs_data else ''}"
    lines = [f"# {page.title}", "", page.about, "",
             f"Written by `{command}`; every figure, to the last digit, is in "
             f"[{name}.json]({name}.json).", ""]
    for title, rows in tables.items():
        lines += [*([f"## {title}", ""] if title else []), *markdown(rows, page), ""]
    lines += ["## How it was measured", "", "```bash"]
    lines += [f"pyromodels {run.command}" for run in page.runs]
    lines += ["```", "", *(f"{line}  " for line in circumstances(page, folders, data))]
    out.mkdir(parents=True, exist_ok=True)
    kept = {
        command: {key: value for key, value in found.items() if key != "real_time_factor"}
        for command, found in figures.items()
    }
    texts = {".json": json.dumps(kept, indent=1), ".md": "\n".join(lines).rstrip()}
    for suffix, text in texts.items():
        with replacing(out / f"{name}{suffix}") as part:
            part.write_text(f"{text}\n", encoding="utf-8")
    return out / f"{name}.md"


def figures_of(folder: Path) -> dict[str, Any]:
    """The figures of a run that do not depend on how fast the machine is."""
    found = sorted(folder.rglob("metrics.json"), key=lambda path: len(path.parts))
    if not found:
        raise SpecError(f"{folder} holds no metrics.json: the run did not end")
    metrics = json.loads(found[0].read_text(encoding="utf-8"))
    return {key: value for key, value in metrics.items() if "seconds" not in key}


def verdict_of(folder: Path) -> dict[str, str]:
    """The verdict of a run that wrote a report."""
    report = folder / "report.md"
    if not report.is_file():
        return {}
    return {"verdict": re.search(r"\*\*Verdict: (.*)\.\*\*", report.read_text("utf-8"))[1]}


def markdown(rows: Rows, page: Page) -> list[str]:
    """A table with the columns that have a figure, ± its standard error; a dash for none."""
    columns = [c for c in page.columns if any(c in row for row in rows.values())]
    lines = [["", *(page.columns[c][0] for c in columns)], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        cells = []
        for column in columns:
            found = [row[key] for key in (column, f"{column}_se") if key in row]
            cells.append(" ± ".join(format(v, page.columns[column][1]) for v in found) or "-")
        lines.append([name, *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def circumstances(page: Page, folders: Mapping[Run, Path], data: Path | None) -> list[str]:
    """Versions and weights; the versions of all runs are the same, or it is an error."""
    found = {}
    for run, folder in folders.items():
        record = next(iter(sorted(folder.rglob("environment.json"), key=lambda p: len(p.parts))))
        made = json.loads(record.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {made['versions'][name]}" for name in VERSIONS)
        found.setdefault(f"Python {made['python']}, {versions}.", []).append(run.command)
    if len(found) > 1:
        raise SpecError(f"runs of one page were made with other versions: {list(found)}")
    lines = list(found)
    if page.weights:
        each = [f"`{name}` (sha256 {digest(name, data)})" for name in page.weights]
        lines.append(f"Weights: {', '.join(each)}.")
    return lines


def digest(name: str, data: Path | None) -> str:
    """The first digits of the hash of shipped weights, or of a file under `DATA`."""
    if name.startswith(DATA):
        content = Path(name.replace(DATA, str(data), 1)).read_bytes()
    else:
        shipped = resources.files("pyromodels").joinpath("weights", f"{name}.safetensors")
        content = shipped.read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]
