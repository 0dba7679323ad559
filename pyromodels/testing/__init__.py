"""The contract suite: what every path distribution, source prior and guide must fulfil.

It ships with the package, so that whoever adds a prior runs it:

    @pytest.mark.parametrize("check", SOURCE_PRIOR_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MyPrior(...).double())

Every check raises `AssertionError` where the contract is broken. They work in float64 on small
sizes.
"""

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

__all__ = [
    "SOURCE_PRIOR_CHECKS",
    "build_source_prior",
    "check_guide",
    "check_joint_draw",
    "check_path",
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
