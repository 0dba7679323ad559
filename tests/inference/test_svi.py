"""SVI reaches what VEM reaches: closed form to many digits, Monte Carlo within its noise."""

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.training.fit import FitError
from pyromodels.observations.detector import Detector

DETECTOR = Detector(0.9, 0.1, 0.4, hide=0.2, reappear=0.3)
STEPS = [SourceUpdate(), AssignmentUpdate(), VisibilityUpdate()]
ENUM = {"max_plate_nesting": 3, "num_particles": 8, "vectorize_particles": True}


def converged(model, batch):
    vem = VEM(model, MeanField(model, batch), STEPS)
    vem.run(batch, 1000, tolerance=1e-12)
    return vem.evaluate_loss(batch)


@pytest.mark.parametrize("detector", [None, DETECTOR], ids=["thesis", "detector"])
def test_the_closed_form_reaches_the_bound_of_vem(mixture, detector):
    model, batch = mixture(detector=detector)
    guide = MeanField(model, batch).parametrised()
    svi = SVI(model, guide, elbo=closed_form_elbo, learning_rate=0.1, num_steps=1000)
    start = svi.evaluate_loss(batch)
    for _ in range(1000):
        svi.step(batch)
    target = converged(model, batch)
    gap = svi.evaluate_loss(batch) - target
    # a responsibility of 1 lies at infinite logits: the last hundredths take forever
    assert -1e-6 < gap < (1e-3 if detector is None else 0.1)
    assert gap < 0.01 * (start - target)


def test_monte_carlo_reaches_the_bound_of_vem_within_its_noise(mixture):
    model, batch = mixture()
    guide = MeanField(model, batch).parametrised()
    svi = SVI(model, guide, elbo=TraceEnum_ELBO(**ENUM), learning_rate=0.1, num_steps=600)
    for _ in range(600):
        svi.step(batch)
    reached = -closed_form_elbo(model, guide, batch).sum().item()
    draws = torch.tensor([svi.evaluate_loss(batch) for _ in range(50)])
    error = draws.std().item() / 50**0.5
    assert abs(draws.mean().item() - reached) < 5 * error
    noise = draws.std().item()  # of the gradient's own estimate of the loss
    assert -1e-6 < reached - converged(model, batch) < 2 * noise


def test_the_parametrised_guide_starts_as_the_guide_it_is_made_of(mixture, randomised):
    model, batch = mixture(detector=DETECTOR)
    guide = randomised(model, batch)
    twin = guide.parametrised()
    close = {"atol": 1e-9, "rtol": 1e-9}
    torch.testing.assert_close(twin.responsibilities, guide.responsibilities, **close)
    torch.testing.assert_close(twin.sources.loc, guide.sources.loc, **close)
    torch.testing.assert_close(twin.sources.covariance, guide.sources.covariance, **close)
    torch.testing.assert_close(twin.visibility.transition, guide.visibility.transition, **close)
    torch.testing.assert_close(
        closed_form_elbo(model, twin, batch), closed_form_elbo(model, guide, batch), **close
    )


def test_minibatches_train_their_own_rows(mixture):
    model, batch = mixture(4)
    guide = MeanField(model, batch).parametrised()
    svi = SVI(model, guide, elbo=closed_form_elbo)
    before = guide.loc.detach().clone()
    rows = torch.tensor([3, 0])
    svi.step(batch.subset(rows))
    moved = (guide.loc.detach() - before).abs().flatten(1).amax(-1) > 0
    assert moved.tolist() == [True, False, False, True]


def test_training_the_model_too_raises_the_bound_further(mixture):
    losses = []
    for train_model in (False, True):
        model, batch = mixture()
        guide = MeanField(model, batch).parametrised()
        svi = SVI(model, guide, elbo=closed_form_elbo, learning_rate=0.1, train_model=train_model)
        for _ in range(200):
            svi.step(batch)
        losses.append(svi.evaluate_loss(batch))
    assert losses[1] < losses[0] - 0.1


def test_a_state_dict_resumes_to_the_same_bits(mixture):
    model, batch = mixture()

    def stepper():
        guide = MeanField(model, batch).parametrised()
        return SVI(model, guide, elbo=closed_form_elbo, num_steps=9)

    whole, first, second = stepper(), stepper(), stepper()
    for _ in range(6):
        whole.step(batch)
    for _ in range(3):
        first.step(batch)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step(batch)
    assert torch.equal(second.guide.loc, whole.guide.loc)


def test_what_cannot_train_is_refused(mixture):
    model, batch = mixture()
    with pytest.raises(ValueError, match="no parameter to train.*parametrised"):
        SVI(model, MeanField(model, batch), elbo=closed_form_elbo)
    with pytest.raises(ValueError, match="elbo: given 'elbow'"):
        SVI(model, MeanField(model, batch).parametrised(), elbo="elbow")


def test_a_gradient_that_is_not_finite_is_named(mixture):
    model, batch = mixture()
    guide = MeanField(model, batch).parametrised()
    svi = SVI(model, guide, elbo=closed_form_elbo)
    with torch.no_grad():
        guide.loc[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(FitError, match="step 1.*'guide.loc'"):
        svi.step(batch)


def test_nothing_is_left_in_the_parameter_store(mixture):
    pyro.clear_param_store()
    model, batch = mixture()
    guide = MeanField(model, batch).parametrised()
    svi = SVI(model, guide, elbo=TraceEnum_ELBO(max_plate_nesting=3))
    before = [p.detach().clone() for p in guide.parameters()]
    svi.step(batch)
    assert not list(pyro.get_param_store())
    after = list(guide.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert isinstance(svi.guide, nn.Module)


def test_stock_pyro_trains_two_instances_in_one_process(mixture):
    pyro.clear_param_store()
    model, batch = mixture()
    gaps = []
    for _ in range(2):
        guide = MeanField(model, batch).parametrised()
        stock = pyro.infer.SVI(
            model.requires_grad_(False),
            guide,
            pyro.optim.Adam({"lr": 0.05}),
            TraceEnum_ELBO(**ENUM),
        )
        start = -closed_form_elbo(model, guide, batch).sum().item()
        for _ in range(300):
            stock.step(batch)
        reached = -closed_form_elbo(model, guide, batch).sum().item()
        gaps.append((reached - converged(model, batch)) / (start - converged(model, batch)))
    assert max(gaps) < 0.1
    pyro.clear_param_store()
