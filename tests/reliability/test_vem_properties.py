"""Whatever the shapes, masks and scales: VEM ends in a proper posterior, or in a clear error."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.mixture.updates import AssignmentUpdate, SourceUpdate, VisibilityUpdate
from pyromodels.inference.mixture.vem import VEM
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.observations.detector import Detector

STEPS = [SourceUpdate(), VisibilityUpdate(), AssignmentUpdate()]
ONE_AT_A_TIME = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def scenes(draw, dtypes=(torch.float64,), scales=(1.0,)):
    """A MixDVAE of boxes and data for it, any size, any mask, some detections twice."""
    sizes = {
        "sequences": draw(st.integers(1, 3)),
        "frames": draw(st.integers(1, 6)),
        "slots": draw(st.integers(0, 4)),
        "sources": draw(st.integers(1, 4)),
    }
    order, seed = draw(st.integers(1, 2)), draw(st.integers(0, 10**6))
    dtype, scale = draw(st.sampled_from(dtypes)), draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes["sequences"], sizes["frames"], sizes["slots"])
    boxes = torch.rand(*shape, 4, generator=generator, dtype=torch.float64) + 0.2
    if sizes["slots"] > 1 and draw(st.booleans()):
        boxes[:, :, 1] = boxes[:, :, 0]
    mask = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    loc = torch.rand(sizes["sequences"], sizes["sources"], 4, order, generator=generator) + 0.2
    loc[..., 1:] = 0.0
    loc = loc.flatten(-2).double()
    detector = draw(st.sampled_from([None, Detector()]))
    prior = LinearGaussian(
        num_coordinates=4,
        order=order,
        process_std=(0.1 * scale, 0.02 * scale)[:order],
    )
    model = MixDVAE(prior, detector=detector).to(dtype)
    batch = MixtureBatch(
        (scale * boxes).to(dtype),
        mask,
        torch.full_like(boxes, (0.1 * scale) ** 2).to(dtype),
        Anchor((scale * loc).to(dtype), torch.full_like(loc, (0.1 * scale) ** 2).to(dtype)),
    )
    return model, batch


@ONE_AT_A_TIME
@given(scenes())
def test_the_bound_never_falls(scene):
    model, batch = scene
    vem = VEM(model, MeanField(model, batch), STEPS)
    losses = [vem.step(batch) for _ in range(8)]
    slack = 1e-9 * (1 + abs(losses[0]))
    assert all(after <= before + slack for before, after in zip(losses, losses[1:], strict=False))


@ONE_AT_A_TIME
@given(scenes(dtypes=(torch.float32, torch.float64), scales=(1e-6, 1e-3, 1.0, 1e3, 1e6)))
def test_posteriors_are_proper_at_any_scale_and_precision(scene):
    model, batch = scene
    vem = VEM(model, MeanField(model, batch), STEPS)
    for _ in range(5):
        vem.sweep(batch)
    guide, dtype = vem.guide, batch.observations.dtype
    assert guide.loc.dtype == dtype and guide.loc.isfinite().all()
    assert (torch.linalg.eigvalsh(guide.covariance.double()) > 0).all()
    total = guide.responsibilities.sum(-1)
    torch.testing.assert_close(total, batch.mask.to(dtype), atol=1e-5, rtol=0)
    assert vem.elbo(batch).isfinite().all()
    draws = Posterior(model, guide, batch).sample(3)
    assert all(draw.isfinite().all() for draw in draws.values())


@ONE_AT_A_TIME
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_slots_and_sources_is_only_a_name(scene, random):
    model, batch = scene
    slots = list(range(batch.mask.shape[2]))
    sources = list(range(batch.num_sources))
    random.shuffle(slots)
    random.shuffle(sources)
    shuffled = MixtureBatch(
        batch.observations[:, :, slots],
        batch.mask[:, :, slots],
        batch.variance[:, :, slots],
        Anchor(*(part[:, sources] for part in batch.anchor)),
    )
    guides = []
    for data in (batch, shuffled):
        vem = VEM(model, MeanField(model, data), STEPS)
        for _ in range(4):
            vem.sweep(data)
        guides.append(vem.guide)
    close = {"atol": 1e-8, "rtol": 1e-8}
    torch.testing.assert_close(guides[1].loc, guides[0].loc[:, sources], **close)
    columns = [*sources, batch.num_sources][: guides[0].responsibilities.shape[-1]]
    expected = guides[0].responsibilities[:, :, slots][..., columns]
    torch.testing.assert_close(guides[1].responsibilities, expected, **close)


@ONE_AT_A_TIME
@given(scenes())
def test_what_is_masked_is_never_read(scene):
    model, batch = scene
    spoiled = MixtureBatch(
        batch.observations.masked_fill(~batch.mask[..., None], torch.nan),
        batch.mask,
        batch.variance.masked_fill(~batch.mask[..., None], -torch.inf),
        batch.anchor,
    )
    answers = []
    for data in (batch, spoiled):
        vem = VEM(model, MeanField(model, data), STEPS)
        vem.step(data)
        answers.append((vem.guide.loc, vem.elbo(data)))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)


@ONE_AT_A_TIME
@given(scenes(), st.sampled_from(["observations", "variance"]), st.floats())
def test_what_is_not_finite_is_refused_where_it_counts(scene, name, value):
    _, batch = scene
    fields = {key: getattr(batch, key) for key in ("observations", "mask", "variance", "anchor")}
    valid = -1e300 < value < 1e300 and (name == "observations" or value > 0)
    if valid or not batch.mask.any():
        return
    fields[name] = fields[name].masked_fill(batch.mask[..., None], value)
    with pytest.raises(ValueError, match=name):
        MixtureBatch(**fields)
