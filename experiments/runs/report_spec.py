"""`pyromodels report spec SPEC`: the guide-adequacy report on the run that a spec describes."""

import argparse

import torch

from pyromodels.batch import MixtureBatch
from pyromodels.experiments.harness.adequacy_report import add_options, check_options, write_report
from pyromodels.experiments.runs.build import build
from pyromodels.experiments.runs.runner import add_settings
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.experiments.tracking.setup import started_guide
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.inference.engines.by_name import STEPPERS
from pyromodels.inference.posterior.posterior import Posterior


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("spec", help="a TOML file, the name of a shipped spec or an experiment")
    add_settings(parser)
    add_options(parser)


def main(args: argparse.Namespace) -> None:
    """Fit as the spec says, as often as the report asks, and judge."""
    check_options(args)
    spec = load_spec(args.spec, settings=args.settings, seed=args.seed)
    built = build(spec)

    def fit(batch: MixtureBatch, seed: int) -> Posterior:
        torch.manual_seed(seed)
        guide = started_guide(spec.guide, built.model, batch, start_std=spec.model.start_std)
        engine = STEPPERS.build(spec.inference, built.model, guide, batch)
        engine.run(batch)
        return Posterior(built.model, engine.guide, batch)

    write_report(
        args,
        f"report-{spec.name}",
        spec.to_table(),
        lambda: guide_report(
            fit,
            built.batch,
            num_simulations=args.num_simulations,
            num_draws=args.num_draws,
            seed=args.seed,
            title=f"{spec.name}: may its posterior be trusted?",
        ),
    )
