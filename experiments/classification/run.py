"""`pyromodels run phones`: tell sequences apart by the density of each class.

Trains the models, calibrates them on the validation data and counts on the test data; writes
figures, and the likelihood of every test sequence under every class as InferenceData. Without
`--data` the sequences come from five hidden Markov models, so that the best possible figures are
known and printed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pyromodels.experiments.classification import data as problem
from pyromodels.experiments.classification import plots
from pyromodels.experiments.classification import table_rows as rows
from pyromodels.experiments.classification.data import Problem, load_problem
from pyromodels.experiments.classification.scores import (
    Judged,
    hidden_markov_scores,
    judge,
    scores_of,
)
from pyromodels.experiments.classification.table_models import VARIANTS, Variant, variant
from pyromodels.experiments.classification.training import train_bank
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import RunFolder, open_run, spec_of
from pyromodels.experiments.metrics.classification import confusion, reliability
from pyromodels.inference.classes.fit import ClassOptions
from pyromodels.inference.posterior.arviz_io import inference_data, save

DEFAULT_MODELS = "tvgmm1,tvgmm3,tvnf,tvnf_tied"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    problem.add_arguments(parser)
    add = parser.add_argument
    add("--models", metavar="NAMES", default=DEFAULT_MODELS,
        help=f"comma-separated, of {', '.join(VARIANTS)}; default: {DEFAULT_MODELS}")
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="DIR", help="default: runs/phones-<hash>")
    add_training_arguments(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of training that are commonly changed."""
    add = parser.add_argument
    add("--updates", type=int, help="of every class; default: the model's own")
    add("--batch-size", type=int, help="sequences of a class; default: the model's own")
    add("--learning-rate", type=float, help="default: the model's own")
    add("--input-noise", type=float, help="deviation, of standardised data; default: the model's")
    add("--offset-std", type=float, default=0.0, metavar="NATS",
        help="how far calibration may move the prior of a class; default: not at all")
    add_device_argument(parser)
    add("--threads", type=int, default=1, help="of torch on a CPU")
    add("--resume", action="store_true", help="continue an interrupted training")


def options_of(chosen: Variant, args: argparse.Namespace, seed: int) -> ClassOptions:
    """Return the model's own options, overridden by what is said."""
    said = {name: getattr(args, name)
            for name in ("updates", "batch_size", "learning_rate", "input_noise")}
    given = {name: value for name, value in said.items() if value is not None}
    return replace(chosen.options, seed=seed, **given)


def main(args: argparse.Namespace) -> int:
    """Train, judge, print, draw; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    names = args.models.split(",")
    chosen = {name: variant(name) for name in names}  # a wrong name fails before anything is done
    run = open_run(args.out, "phones", spec_of(args))
    given = load_problem(args)
    print(rows.describe(given))
    judged = {"hidden Markov, 3 states": judge(hidden_markov_scores(given, 3), given)}
    print(rows.header(given))
    print(rows.row("hidden Markov, 3 states", judged["hidden Markov, 3 states"].figures))
    for name, model in chosen.items():
        trained = train_bank(
            model, options_of(model, args, args.seed), given, run.path / name,
            device=args.device, resume=args.resume,
        )
        judged[model.label] = judge(scores_of(trained.bank), given, offset_std=args.offset_std)
        print(rows.row(model.label, judged[model.label].figures), flush=True)
        write_likelihoods(run, name, judged[model.label], given)
        plots.samples(trained.bank, given.data, run.path / name / "samples.png", seed=args.seed)
        plots.one_step(trained.bank, given.data, run.path / name / "one_step.png", seed=args.seed)
    draw_decisions(run, judged, given)
    run.write_metrics({
        f"{label}/{key}": value for label, made in judged.items()
        for key, value in made.figures.items()
    })
    print(f"\nfigures and likelihoods: {run.path}")
    return 0


def write_likelihoods(run: RunFolder, name: str, judged: Judged, given: Problem) -> Path:
    """Write log p(x | c) and p(c | x) of every test sequence as InferenceData."""
    dims = ("chain", "draw", "sequence", "class")
    test = given.data.test
    data = inference_data(
        {
            "posterior": {"probability": (dims, judged.logits.exp()[None, None].numpy())},
            "log_likelihood": {"x": (dims, judged.scores[None, None].numpy())},
            "observed_data": {
                "label": (("sequence",), test.labels.numpy()),
                "num_frames": (("sequence",), test.lengths.numpy()),
            },
        },
        coords={"class": given.data.classes},
        attrs={"data": given.data.name, "model": name},
    )
    return save(data, run.path / name / "likelihoods.nc")


def draw_decisions(run: RunFolder, judged: dict[str, Judged], given: Problem) -> None:
    """Draw who is taken for whom, and whether probabilities are frequencies."""
    labels = given.data.test.labels
    count = len(given.data.classes)
    plots.confusions(
        {name: confusion(made.logits.argmax(-1), labels, num_classes=count)
         for name, made in judged.items()},
        given.data.classes, run.path / "confusion.png",
    )
    plots.reliabilities(
        {name: reliability(made.logits, labels) for name, made in judged.items()},
        run.path / "reliability.png",
    )
