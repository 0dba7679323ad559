"""What the tracker promises: order of detections, scenes at the edge, precision."""

from types import SimpleNamespace

import pytest
import torch

from pyromodels.experiments.datasets.tracking.box_coordinates import start_boxes
from pyromodels.experiments.datasets.tracking.scene import generate_scene
from pyromodels.experiments.tracking import tracker
from pyromodels.experiments.tracking.model_spec import ModelSpec
from pyromodels.experiments.tracking.setup import box_program


def scene(**kwargs):
    data = generate_scene(**{"num_sources": 3, "num_frames": 25, "seed": 2, **kwargs})
    return data.detections.double(), data.mask


def track(detections, mask, num_sources=None):
    """The tuned tracker on bare boxes, in their own precision."""
    data = SimpleNamespace(detections=detections, mask=mask, num_objects=None)
    batch, model = box_program(data, ModelSpec(num_sources=num_sources), dtype=detections.dtype)
    return tracker.track(model, batch)


def shuffled(detections, mask, seed=0):
    """The detections of every frame after the first in another order; and that order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(mask.shape, generator=generator).argsort(-1)
    order[:, 0] = torch.arange(mask.shape[-1])
    wide = order[..., None].expand(-1, -1, -1, 4)
    return detections.gather(2, wide), mask.gather(2, order), order


def test_order_of_the_detections_changes_nothing():
    detections, mask = scene(num_sequences=2)
    plain = track(detections, mask, num_sources=3)
    *others, order = shuffled(detections, mask)
    assert not torch.equal(others[0], detections)
    other = track(*others, num_sources=3)
    tight = {"atol": 1e-9, "rtol": 1e-7}
    wide = order[..., None].expand_as(plain.guide.responsibilities)
    torch.testing.assert_close(
        other.guide.responsibilities, plain.guide.responsibilities.gather(2, wide), **tight
    )
    for name in ("loc", "covariance", "gain", "visible_first", "visible_step"):
        torch.testing.assert_close(getattr(other.guide, name), getattr(plain.guide, name), **tight)
    torch.testing.assert_close(other.elbo, plain.elbo, **tight)


def test_sequences_of_a_batch_do_not_touch_each_other():
    detections, mask = scene(num_sequences=3)
    together = track(detections, mask, num_sources=3)
    alone = track(detections[1:2], mask[1:2], num_sources=3)
    torch.testing.assert_close(together.guide.loc[1:2], alone.guide.loc, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(together.elbo[1:2], alone.elbo, atol=1e-7, rtol=1e-9)


def finite(fitted):
    guide = fitted.guide
    return all(value.isfinite().all() for _, value in guide.named_buffers(recurse=False)) and bool(
        (guide.sources.variance > 0).all() and fitted.elbo.isfinite().all()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case",
    [
        "some frames empty",
        "empty after the first",
        "one frame",
        "one source",
        "one detection at most",
    ],
)
def test_scenes_at_the_edge_give_finite_tracks(case, dtype):
    detections, mask = scene()
    detections, num_sources = detections.to(dtype), 3
    if case == "some frames empty":
        mask[:, 5:9] = False
    elif case == "empty after the first":
        mask[:, 1:] = False
    elif case == "one frame":
        detections, mask = detections[:, :1], mask[:, :1]
    elif case == "one source":
        num_sources = 1
    else:
        detections, mask, num_sources = detections[:, :, :1], mask[:, :, :1], 1
    fitted = track(detections, mask, num_sources=num_sources)
    assert finite(fitted)
    mean, variance = fitted.marginals[:2]
    assert mean.shape == variance.shape == (*mask.shape[:2], num_sources, 4)
    assert mean.dtype == dtype
    if case == "some frames empty":
        assert not fitted.guide.responsibilities[:, 5:9].any()
        assert (variance[:, 6:8, :, 0].amin(1) > variance[:, [4, 9], :, 0].amax(1)).all()


def test_without_detections_uncertainty_grows_with_every_frame():
    detections, mask = scene()
    mask[:, 1:] = False
    variance = track(detections, mask, num_sources=3).marginals.variance
    assert (variance[..., 0].diff(dim=1) > 0).all()


def test_what_stands_in_masked_slots_does_not_matter():
    detections, mask = scene()
    for nothing in (0.0, float("nan"), float("inf")):
        hidden = torch.where(mask[..., None], detections, nothing)
        answer = track(hidden, mask, num_sources=3)
        assert finite(answer)
        if nothing == 0.0:
            first = answer
        torch.testing.assert_close(answer.guide.loc, first.guide.loc, atol=0, rtol=0)


def test_sources_start_at_the_first_frame_that_shows_enough_of_them():
    detections, mask = scene(miss_start=0.0, clutter_rate=0.0, occlusion=1.0)
    full = int((mask[0].sum(-1) >= 3).nonzero()[0])
    mask[:, 0, 1] = False  # one of three is missing in the first frame
    second = 1 + int((mask[0, 1:].sum(-1) >= 3).nonzero()[0])
    assert full == 0
    start = start_boxes(detections, mask, 3)
    boxes = detections[0, second][mask[0, second]]
    expected = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), -1)
    torch.testing.assert_close(start[0], expected)
    assert finite(track(detections, mask, num_sources=3))


def test_impossible_numbers_of_sources_are_refused():
    detections, mask = scene(num_sequences=2)
    with pytest.raises(ValueError, match="given 50; expected at most"):
        track(detections, mask, num_sources=50)
    with pytest.raises(ValueError, match="no detection in the first frame"):
        track(detections, torch.zeros_like(mask))
    mask[1, 0, 0] = False
    with pytest.raises(ValueError, match="sequences start with 2 to 3 detections"):
        track(detections, mask)


def test_single_and_double_precision_agree():
    detections, mask = scene(num_frames=60)
    double = track(detections, mask, num_sources=3)
    single = track(detections.float(), mask, num_sources=3)
    torch.testing.assert_close(single.guide.loc.double(), double.guide.loc, atol=2e-4, rtol=0)
    torch.testing.assert_close(single.elbo.double(), double.elbo, atol=0.1, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_tiny_boxes_are_tracked_in_single_precision(size):
    detections, mask = scene()
    middle = (detections[..., :2] + detections[..., 2:]) / 2
    half = torch.full_like(middle, size / 2)
    tiny = torch.cat((middle - half, middle + half), -1).float()
    assert finite(track(tiny, mask, num_sources=3))
