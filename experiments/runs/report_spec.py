"""`pyromodels report spec SPEC`: the guide-adequacy report on the run that a spec describes."""

import argparse

from pyromodels.experiments.harness.adequacy_report import add_options, check_options, write_report
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.runs.runner import add_spec, build
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.inference.adequacy.report import guide_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec(parser)
    add_options(parser)


def main(args: argparse.Namespace) -> None:
    """Fit as the spec says, as often as the report asks, and judge."""
    check_options(args)
    spec = load_spec(args.spec, settings=args.settings, seed=args.seed, device=args.device)
    judged = experiment(spec.experiment).judged(*build(spec))
    write_report(
        args,
        f"report-{spec.name}",
        spec.to_table(),
        lambda: guide_report(
            judged.fit,
            judged.batch,
            simulate=judged.simulate,
            left_out=judged.left_out,
            num_simulations=args.num_simulations,
            num_draws=args.num_draws,
            seed=args.seed,
            title=f"{spec.name}: may its posterior be trusted? {judged.about}".strip(),
        ),
    )
