"""The published tracking inference reproduces the iterates of the authors' code, without noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyromodels.inference.published.method import box_variance, published_vem
from pyromodels.inference.published.options import PublishedOptions
from pyromodels.published_weights.load import load_published

ITERATIONS = (1, 10, 70)
WITHOUT_NOISE = replace(PublishedOptions.REFERENCE, sample_latents=False)


@pytest.fixture(scope="module")
def reference(mot_data):
    with np.load(mot_data / "parity_mot.npz") as arrays:
        return {n: torch.from_numpy(arrays[n]) for n in arrays.files if arrays[n].dtype.kind != "U"}


@pytest.fixture(scope="module")
def model(mot_data):
    return load_published(mot_data / "model_mot.pt")


def diagonal(covariance):
    return covariance.diagonal(dim1=-2, dim2=-1)


def arguments(reference):
    """Their coordinates; a missing detection is NaN there."""
    observations = reference["det_ref"]
    mask = ~observations.isnan().any(-1)
    return {
        "observations": observations,
        "mask": mask,
        "observation_variance": box_variance(observations),
        "anchor_loc": observations[:, 0],
    }


def test_the_fixture_has_missing_detections_and_its_iterations(reference):
    assert reference["iterations"].tolist() == list(ITERATIONS)
    assert not arguments(reference)["mask"].all()


def test_observation_covariance(reference):
    phi = diagonal(reference["phi"])
    torch.testing.assert_close(box_variance(reference["det_ref"]), phi, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("schedule", ["wavefront", "sweeps"])
@pytest.mark.parametrize("start", ["cascade", "given"])
def test_iterates(model, reference, schedule, start):
    given = reference["init_mean"].transpose(0, 1) if start == "given" else None
    result = published_vem(
        model,
        **arguments(reference),
        options=WITHOUT_NOISE,
        initial_loc=given,
        schedule=schedule,
        history=ITERATIONS,
    )
    for index, iteration in enumerate(ITERATIONS):
        q = result.kept[iteration]
        loc, variance = reference["mean"][index], diagonal(reference["var"][index])
        eta = reference["eta"][index].permute(1, 2, 3, 0)
        missing = ~arguments(reference)["mask"]
        assert torch.equal(eta.isnan().all(-1), missing)
        torch.testing.assert_close(q.loc, loc.transpose(0, 1), rtol=0, atol=1e-4)
        torch.testing.assert_close(q.variance, variance.transpose(0, 1), rtol=0, atol=1e-6)
        torch.testing.assert_close(q.responsibilities, eta.nan_to_num(0.0), rtol=0, atol=5e-4)
        assert not q.responsibilities[missing].any()


def test_cascade(model, reference):
    """m of iteration 0 is constant in each piece of 30 frames."""
    start = published_vem(
        model, **arguments(reference), options=replace(WITHOUT_NOISE, num_iterations=0)
    )
    expected = reference["init_mean"].transpose(0, 1)
    torch.testing.assert_close(start.loc, expected, rtol=0, atol=1e-4)
    assert not torch.equal(start.loc[:, :, 29], start.loc[:, :, 30])
    phi = diagonal(reference["init_var"]).transpose(0, 1)
    torch.testing.assert_close(start.variance, phi, rtol=1e-6, atol=0)
