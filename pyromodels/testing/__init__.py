"""The contract suite: what every path, source prior, emission, transform and guide must fulfil.

It ships with the package, so that whoever adds one runs it:

    def test_contract():
        pyromodels.testing.check(MyPrior)

or `pyromodels check my_prior`, which prints a line for every check. Checks raise `AssertionError`
where the contract is broken, and work in float64 on small sizes.
"""

from pyromodels.testing.components import check, contract
from pyromodels.testing.emission import EMISSION_CHECKS, emission_specs
from pyromodels.testing.guide import check_guide
from pyromodels.testing.paths import check_joint_draw, check_path
from pyromodels.testing.runs import (
    build_source_prior,
    example_anchor,
    log_prob,
    run_guide,
    run_prior,
    sites,
    source_prior_specs,
    total_log_prob,
    values,
)
from pyromodels.testing.source_prior import SOURCE_PRIOR_CHECKS, message_log_prob
from pyromodels.testing.transform import check_transform

__all__ = [
    "EMISSION_CHECKS",
    "SOURCE_PRIOR_CHECKS",
    "build_source_prior",
    "check",
    "check_guide",
    "check_joint_draw",
    "check_path",
    "check_transform",
    "contract",
    "emission_specs",
    "example_anchor",
    "log_prob",
    "message_log_prob",
    "run_guide",
    "run_prior",
    "sites",
    "source_prior_specs",
    "total_log_prob",
    "values",
]
