"""`pyromodels run phones`: tell sequences apart by the density of each class.

Runs a spec of classification for each of several models, side by side: every model is trained, or
found trained, calibrated on the validation data and counted on the test data. Writes figures, and
the likelihood of every test sequence under every class as InferenceData. Without `--data` the
sequences come from five hidden Markov models, so that the best possible figures are known.
"""

import argparse
from pathlib import Path

import torch

from pyromodels.experiments.classification import options
from pyromodels.experiments.classification import table_rows as rows
from pyromodels.experiments.classification.experiment import decisions
from pyromodels.experiments.classification.scores import hidden_markov_scores, judge
from pyromodels.experiments.classification.table_models import VARIANTS, variant
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.runs.runner import run_spec

DEFAULT_MODELS = "tvgmm1,tvgmm3,tvnf,tvnf_tied"
BASELINE = "hidden Markov, 3 states"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--models", metavar="NAMES", default=DEFAULT_MODELS,
        help=f"comma-separated, of {', '.join(VARIANTS)}; default: {DEFAULT_MODELS}")
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="DIR", help="default: runs/phones-<hash>")
    options.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the models, print, draw; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    chosen = {name: variant(name) for name in args.models.split(",")}
    specs = {name: options.classification_spec(args, name, model, args.seed)
             for name, model in chosen.items()}  # a wrong number fails before anything is done
    first = next(iter(specs.values()))
    given = experiment(first.experiment).data(first)
    run = open_run(args.out, "phones", spec_of(args))
    judged = {BASELINE: judge(hidden_markov_scores(given, 3), given)}
    print(rows.describe(given))
    print(rows.header(given))
    print(rows.row(BASELINE, judged[BASELINE].figures), flush=True)
    for name, model in chosen.items():
        _, outcome = run_spec(specs[name], run.path / name, resume=args.resume)
        judged[model.label] = outcome.fitted.judged
        print(rows.row(model.label, judged[model.label].figures), flush=True)
    for name, figure in decisions(judged, given).items():
        save(figure, run.path / f"{name}.png")
    table = rows.of_sources(given) | {label: made.figures for label, made in judged.items()}
    run.write_metrics({
        f"{label}/{key}": value for label, row in table.items() for key, value in row.items()
    })
    print(f"\nfigures and likelihoods: {run.path}")
    return 0
