"""The SRNN with the authors' weights reproduces the quantities of one pass of their code."""

import numpy as np
import pytest
import torch

from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.srnn import SRNN
from pyromodels.published_weights.formats import FORMATS
from pyromodels.published_weights.load import from_published, load_published

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def reference(mot_data):
    """Arrays of one teacher-forced pass, batch first."""
    with np.load(mot_data / "parity_mot.npz") as arrays:
        names = [name for name in arrays.files if name.startswith("srnn_")]
        return {n.removeprefix("srnn_"): torch.from_numpy(arrays[n]).transpose(0, 1) for n in names}


@pytest.fixture(scope="module")
def model(mot_data):
    return load_published(mot_data / "model_mot.pt")


def anchor_of(s):
    return Anchor(s[:, 0], torch.full_like(s[:, 0], 1e-5))


def test_hidden_states(model, reference):
    h = model.cell.hidden(None, model.see(reference["s"]))
    torch.testing.assert_close(h, reference["h"], **TOLERANCE)


def test_encoder_recursion(model, reference):
    q = model.infer(reference["s"], noise=reference["eps"])
    torch.testing.assert_close(q.z, reference["z"], **TOLERANCE)
    torch.testing.assert_close(q.mean, reference["enc_mean"], **TOLERANCE)
    torch.testing.assert_close(q.log_variance, reference["enc_logvar"], **TOLERANCE)


def test_sites_of_model_and_guide(model, reference):
    """Conditionals of the Pyro sites: p(z | s), q(z | s) everywhere, p(s | z) after the anchor."""
    s, z = reference["s"], reference["z"]
    pair = model.pair(60, anchor=anchor_of(s))
    pair.teach(s)
    for path, value, name in (
        (pair.latent, z, "prior"),
        (model.posterior(s), z, "enc"),
        (pair.source(z), s, "dec"),
    ):
        given, rest = path.conditionals(value), slice(1 if name == "dec" else 0, None)
        mean, log_variance = reference[f"{name}_mean"], reference[f"{name}_logvar"]
        torch.testing.assert_close(given.mean[:, rest], mean[:, rest], **TOLERANCE)
        torch.testing.assert_close(
            given.variance.log()[:, rest], log_variance[:, rest], **TOLERANCE
        )
    torch.testing.assert_close(given.mean[:, 0], s[:, 0])
    torch.testing.assert_close(given.variance[:, 0], torch.full_like(s[:, 0], 1e-5))


def test_message(model, reference):
    s = reference["s"]
    message = model.gaussian_message(s, anchor=anchor_of(s), z_noise=reference["eps"])
    assert not message.transition.any()
    torch.testing.assert_close(
        message.offset[:, 1:, :, 0], reference["dec_mean"][:, 1:], **TOLERANCE
    )
    log_variance = message.covariance[:, 1:, :, 0, 0].log()
    torch.testing.assert_close(log_variance, reference["dec_logvar"][:, 1:], **TOLERANCE)


def test_step_functions(model, reference):
    """The recursion of the published sweep, frame by frame on flat rows."""
    s, eps = reference["s"], reference["eps"]
    state = model.cell.start(s.shape[:1], s)
    encoder = model.encoder.head.split()
    for t in range(60):
        h = model.cell.hidden_step(state)
        torch.testing.assert_close(h, reference["h"][:, t], **TOLERANCE)
        known = encoder.known(torch.cat((h, s[:, t]), -1))
        mean, log_variance = encoder.step(known, {1: state.z})
        torch.testing.assert_close(mean, reference["enc_mean"][:, t], **TOLERANCE)
        z = mean + (0.5 * log_variance).exp() * eps[:, t]
        decoded = model.cell.outputs(state, z)
        torch.testing.assert_close(decoded[0], reference["dec_mean"][:, t], **TOLERANCE)
        torch.testing.assert_close(decoded[1], reference["dec_logvar"][:, t], **TOLERANCE)
        state = model.cell.advance(state, z, s[:, t])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("inf_z_mean.bias"), "lack 'inf_z_mean.bias'"),
        (
            lambda w: w.update({"rnn_h.weight_hh_l0": torch.zeros(32, 9)}),
            "'rnn_h.weight_hh_l0'.*32, 8",
        ),
        (lambda w: w.update({"rnn_g.weight_hh_l0": torch.zeros(1)}), "hold 'rnn_g.weight_hh_l0'"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, words):
    published = SRNN()
    weights = {}
    modules = {  # theirs have numbered layers
        theirs.format(i): ours.format(i)
        for theirs, ours in FORMATS["srnn_tracking"].modules.items()
        for i in range(2)
    }
    for key, value in published.state_dict().items():
        ours, _, parameter = key.rpartition(".")
        theirs = next(t for t, o in modules.items() if o == ours)
        weights[f"{theirs}.{parameter}"] = value
    again = from_published(weights, "srnn_tracking")
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, published.state_dict()[key])
    change(weights)
    with pytest.raises(ValueError, match=words):
        from_published(weights, "srnn_tracking")
