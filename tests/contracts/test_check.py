"""The door to the contract suite: it dispatches by kind, refuses by name, and disturbs nothing."""

import pytest
import torch
from torch import nn

from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError
from pyromodels.experiments.command import cli
from pyromodels.guides.amortised import Amortised
from pyromodels.guides.denoising import EncodedSpeech, FreeSpeech, SampledSpeech
from pyromodels.guides.mean_field import MeanField
from pyromodels.guides.point import Point
from pyromodels.registry import DYNAMICS, GUIDES
from pyromodels.testing import SOURCE_PRIOR_CHECKS, check, contract
from pyromodels.testing.components import small_mixture


class Doubled(LinearGaussian):
    """A prior whose message is wider than its density."""

    def gaussian_message(self, s, **keywords):
        message = super().gaussian_message(s, **keywords)
        return message._replace(covariance=2 * message.covariance)


def test_a_class_is_built_by_each_of_its_specs():
    names = [name for name, _ in contract(DeepAR)]
    assert len(names) == len(DeepAR.contract_specs) * len(SOURCE_PRIOR_CHECKS) == len(set(names))


def test_a_prior_as_it_is_passes_and_stays_as_it_was():
    prior, generator = LinearGaussian(num_coordinates=1), torch.get_rng_state()
    before = prior.log_process_std.clone()
    check(prior)
    assert prior.log_process_std.dtype == torch.float32
    assert torch.equal(prior.log_process_std, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_default_dtype() == torch.float32


def test_a_fault_is_found_and_named():
    with pytest.raises(AssertionError, match="^Doubled: message"):
        check(Doubled(num_coordinates=1))


def test_a_path_is_under_the_contract_of_paths():
    torch.manual_seed(0)
    model, batch = small_mixture()
    path = model.prior.double().path(2, batch.anchor)
    assert {"shapes", "noise", "causality"} <= {name for name, _ in contract(path)}


@pytest.mark.parametrize(
    "guide", [MeanField, Point, Amortised, EncodedSpeech, FreeSpeech, SampledSpeech],
    ids=lambda guide: guide.__name__,
)
def test_a_registered_guide_is_checked_on_a_small_problem(guide):
    check(guide)


def test_a_guide_is_checked_on_the_problem_that_is_given():
    model, batch = small_mixture()
    names = [name for name, _ in contract(MeanField(model, batch), model, batch)]
    assert names == ["sites", "draws", "density", "gradients", "dtype"]


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (nn.Linear(1, 1), "Linear: there is no contract for it"),
        (nn.Linear, "Linear: there is no contract for it; there is one for a source prior"),
        (GUIDES["empirical"], "Empirical: no small problem is for it.*'draws'"),
    ],
)
def test_what_has_no_contract_is_refused_by_name(component, words):
    with pytest.raises(SpecError, match=words):
        check(component)


def test_the_command_says_which_check_failed(monkeypatch, capsys):
    monkeypatch.setattr(Doubled, "contract_specs", Doubled.contract_specs[:1])
    _ = DYNAMICS["linear"]
    monkeypatch.setitem(DYNAMICS._components, "doubled", Doubled)
    assert cli.main(["check", "doubled"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("  FAILED  message")]
    assert failed and lines[0] == "dynamics doubled" and lines[-1] == f"{len(failed)} checks failed"


def test_the_command_refuses_what_it_does_not_know(capsys):
    assert cli.main(["check", "scene"]) == 2
    assert "data set generate_scene: there is no contract" in capsys.readouterr().err
    assert cli.main(["check", "lineer"]) == 2
    assert "unknown component 'lineer'; did you mean 'linear'?" in capsys.readouterr().err
