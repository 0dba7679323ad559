"""Climbing a bound: the stopping rule, minibatches, and resuming to the same bits."""

import json

import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.ascend import AscentOptions, ascend
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.training.fit import FitError

STEPS = [SourceUpdate(), AssignmentUpdate()]


def vem(mixture, **how):
    model, batch = mixture(5)
    return VEM(model, MeanField(model, batch), STEPS, **how), batch


def svi(mixture):
    model, batch = mixture(5)
    elbo = TraceEnum_ELBO(max_plate_nesting=3)
    return SVI(model, MeanField(model, batch).parametrised(), elbo=elbo, num_steps=20), batch


def test_it_stops_once_the_bound_settles(mixture):
    stepper, batch = vem(mixture)
    ascent = ascend(stepper, batch, AscentOptions(max_steps=500, tolerance=1e-6))
    assert ascent.stopped == "tolerance"
    drops = torch.tensor(ascent.losses).diff().neg()
    assert drops[-1] < 1e-6 and (drops[:-1] >= 1e-6).all()
    again, _ = vem(mixture)
    whole = ascend(again, batch, AscentOptions(max_steps=7))
    assert whole.stopped == "max_steps" and len(whole.losses) == 7


def test_the_window_averages_noise():
    options = AscentOptions(tolerance=0.5, window=2)
    assert not options.settled([5.0, 3.0, 4.0])  # too few
    assert not options.settled([5.0, 3.0, 4.0, 2.0])  # 4 -> 3
    assert options.settled([5.0, 3.0, 4.0, 3.5])  # 4 -> 3.75


@pytest.mark.parametrize("make", [vem, svi])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_run_that_was_cut_resumes_to_the_same_bits(mixture, tmp_path, make, batch_size):
    class Cut(Exception):
        pass

    def cut(step, loss):
        if step == 8:
            raise Cut

    options = AscentOptions(max_steps=11, batch_size=batch_size, checkpoint_every=3, seed=5)
    stepper, batch = make(mixture)
    whole = ascend(stepper, batch, options)
    stepper_cut, _ = make(mixture)
    with pytest.raises(Cut):
        ascend(stepper_cut, batch, options, folder=tmp_path, on_step=cut)
    resumed_stepper, _ = make(mixture)
    torch.randn(3)  # the global state is not what it was
    resumed = ascend(resumed_stepper, batch, options, folder=tmp_path, resume=True)
    assert resumed.losses == whole.losses
    for name, value in stepper.state_dict().items():
        assert torch.equal(value, resumed_stepper.state_dict()[name]), name
    lines = (tmp_path / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == whole.losses


def test_minibatches_visit_every_sequence_in_a_pass(mixture):
    stepper, batch = vem(mixture)
    seen = []
    step = stepper.step
    stepper.step = lambda part: (seen.extend(part.index.tolist()), step(part))[1]
    ascend(stepper, batch, AscentOptions(max_steps=6, batch_size=2))
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))


def test_options_that_do_not_fit_are_named(mixture, tmp_path):
    with pytest.raises(ValueError, match="window: given 0"):
        AscentOptions(window=0)
    with pytest.raises(ValueError, match="max_steps: given 2.5; expected an integer"):
        AscentOptions(max_steps=2.5)
    stepper, batch = vem(mixture)
    with pytest.raises(ValueError, match="batch_size: given Tensor.*subset"):
        ascend(stepper, torch.zeros(3), AscentOptions(batch_size=2))
    with pytest.raises(ValueError, match="no folder"):
        ascend(stepper, batch, resume=True)
    ascend(stepper, batch, AscentOptions(max_steps=2), folder=tmp_path)
    with pytest.raises(ValueError, match="made with seed=None, now 1"):
        options = AscentOptions(max_steps=2, seed=1)
        ascend(stepper, batch, options, folder=tmp_path, resume=True)


def test_a_loss_that_is_no_number_is_told(mixture):
    stepper, batch = vem(mixture)
    stepper.step = lambda batch: float("nan")
    with pytest.raises(FitError, match="step 1: the loss is nan"):
        ascend(stepper, batch)
