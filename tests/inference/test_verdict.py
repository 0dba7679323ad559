"""Each check of the report passes what is good, fails what is not, and says which."""

import numpy as np
import pytest

from pyromodels.inference.adequacy.page import headline
from pyromodels.inference.adequacy.statistics import Estimate, compare_moments
from pyromodels.inference.adequacy.verdict import (
    Advice,
    Check,
    Verdict,
    check_gap,
    check_pareto_k,
    check_reference,
    check_rhat,
    judge,
)


def test_few_simulations_prove_nothing():
    passing = Check("simulation", ("a",), 1.0, 0.01, True, "fine", sees_all=False)
    assert judge("a", [passing]).word == "cannot say"


def test_fits_that_are_constant_but_elsewhere_disagree():
    tables = {"a[0]": np.array([np.inf, np.inf]), "a[1]": np.array([np.nan, np.nan])}
    assert not check_rhat("a", tables, tables).passed
    good = {"a[0]": np.array([1.0, 1.01]), "a[1]": np.array([np.nan, np.nan])}
    assert check_rhat("a", good, good).passed


@pytest.mark.parametrize(("num_draws", "num_reference"), [(1000, 10), (300, 60), (2000, 2000)])
def test_an_exact_guide_is_not_damned_by_few_draws_of_a_reference(num_draws, num_reference):
    rng = np.random.default_rng(0)
    checks = [
        check_reference("a", compare_moments(rng.normal(size=(num_draws, 50)),
                                             rng.normal(size=(num_reference, 50))),
                        num_draws, num_reference)
        for _ in range(200)
    ]
    assert np.mean([not check.passed for check in checks]) < 0.01 + 5 * (0.01 * 0.99 / 200) ** 0.5
    sharp = num_reference == 2000
    assert {check.sees_all for check in checks if check.passed} == {sharp}
    verdict = judge("a", [next(check for check in checks if check.passed)])
    assert verdict.word == ("trust" if sharp else "cannot say")
    assert verdict.advice == (() if sharp else (Advice.MORE_DRAWS,))


def test_a_narrow_guide_is_still_told_from_its_reference():
    rng = np.random.default_rng(0)
    found = compare_moments(0.7 * rng.normal(size=(1000, 5)), rng.normal(size=(1000, 5)))
    check = check_reference("a", found, 1000, 1000)
    assert not check.passed and check.advice == Advice.NARROW


def test_the_headline_does_not_leave_out_a_joint_that_is_worse():
    def table(joint):
        return {"a": Verdict("a", "trust", (), ()), "joint": Verdict("joint", joint, (), ())}

    assert headline("trust", table("do not trust")) == "trust; joint: do not trust"
    assert headline("trust", table("trust")) == "trust"
    assert headline("do not trust", table("cannot say")) == "do not trust"
    assert headline("trust", {}) == "trust"


def test_one_sequence_has_no_share_of_sequences():
    assert check_pareto_k(("a",), np.array([0.48]), 1000).finding == "0.48 (limit 0.67)"
    finding = check_gap(("a",), Estimate(np.array([0.1]), np.array([0.01]))).finding
    assert finding == "at least 0.10 ± 0.01 nats between guide and posterior"
