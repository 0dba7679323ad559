"""Every published DVAE with its authors' weights reproduces one pass of their code.

A figure agrees where |ours - theirs| <= 1e-5 + 1e-5 |theirs|, in float32 as theirs. Variances span
twelve decades and are compared by their logarithm: that is their relative error.
"""

import numpy as np
import pytest
import torch

from pyromodels.distributions.spectral import PowerSpectrum, itakura_saito
from pyromodels.published_weights.load import load_published

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ROLLED_OUT = {"rtol": 2e-4, "atol": 2e-4}
"""Fed with itself for 50 frames, float32 drifts this far from float64, in their code as in ours."""
FIXTURES = {
    "vae": ("VAE_final_epoch164.pt", "paper"),
    "dkf": ("DKF_final_epoch308.pt", "paper"),
    "rvae_causal": ("RVAE_final_epoch127.pt", "paper"),
    "rvae_causal_513": ("final_model_RVAE_epoch121_converted.pt", "paper_513"),
    "vrnn": ("VRNN_final_epoch238.pt", "paper"),
    "storn": ("STORN_final_epoch83.pt", "paper"),
    "srnn_257": ("SRNN_final_epoch497.pt", "paper"),
    "srnn": ("model_scass_wsj.pt", "paper"),
}
MISSING_IN_THEIR_KL = 0.5 * 16
"""Their KL leaves out the constant -1/2 of each of the 16 latents."""


@pytest.fixture(scope="module", params=FIXTURES)
def reference(request, audio_data):
    """Arrays of one pass, batch first, and the model with the same weights."""
    with np.load(audio_data / f"parity_{request.param}.npz") as arrays:
        numbers = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files
                   if arrays[name].dtype.kind == "f"}
    arrays = {name: a.transpose(0, 1) if a.dim() == 3 else a for name, a in numbers.items()}
    file, size = FIXTURES[request.param]
    model = load_published(audio_data / "weights" / file)
    return arrays, model, size


@pytest.fixture(scope="module")
def arrays(reference):
    return reference[0]


@pytest.fixture(scope="module")
def model(reference):
    return reference[1]


def test_published_sizes_are_those_of_the_paper(reference):
    arrays, model, size = reference
    ours = type(model).sized(size, source_dim=arrays["power"].shape[-1], emission="spectral")
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, ours)]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_posterior(arrays, model):
    q = model.infer(arrays["power"], noise=None)
    torch.testing.assert_close(q.mean, arrays["z_mean"], **CLOSE)
    torch.testing.assert_close(q.log_variance, arrays["z_logvar"], **CLOSE)
    given = model.posterior(arrays["power"]).conditionals(arrays["z_mean"])
    torch.testing.assert_close(given.mean, arrays["z_mean"], **CLOSE)
    torch.testing.assert_close(given.variance.log(), arrays["z_logvar"], **CLOSE)


@torch.no_grad()
def test_generative_model(arrays, model):
    mean, log_variance = model.cell.all_latents(arrays["z_mean"], arrays["power"])
    torch.testing.assert_close(mean, arrays["z_mean_prior"], **CLOSE)
    torch.testing.assert_close(log_variance, arrays["z_logvar_prior"], **CLOSE)
    (log_variance,) = model.cell.all_outputs(arrays["z_mean"], arrays["power"])
    torch.testing.assert_close(log_variance, arrays["var"].log(), **CLOSE)


@pytest.mark.parametrize("reference", ["srnn"], indirect=True)
@torch.no_grad()
def test_generation_mode(arrays, model):
    """Fed with its own variances, which are the means of the powers it predicts."""
    history = model.own_history(arrays["power"], arrays["z_mean"])
    torch.testing.assert_close(history.log(), arrays["gm_var"].log(), **ROLLED_OUT)
    (log_variance,) = model.cell.all_outputs(arrays["z_mean"], arrays["gm_var"])
    torch.testing.assert_close(log_variance, arrays["gm_var"].log(), **CLOSE)
    mean, log_variance = model.cell.all_latents(arrays["z_mean"], arrays["gm_var"])
    torch.testing.assert_close(mean, arrays["gm_z_mean_prior"], **CLOSE)
    torch.testing.assert_close(log_variance, arrays["gm_z_logvar_prior"], **CLOSE)
    check_losses(model, arrays, history, "gm_")


def test_losses(arrays, model):
    check_losses(model, arrays, arrays["power"], "")


@torch.no_grad()
def check_losses(model, arrays, history, prefix):
    """Itakura-Saito and KL of a frame, as their code counts them."""
    q = model.infer(arrays["power"], noise=None)
    (log_variance,) = model.cell.all_outputs(q.z, history)
    mean, prior_log_variance = model.cell.all_latents(q.z, history)
    p, posterior = (
        torch.distributions.Normal(m, (0.5 * v).exp())
        for m, v in ((mean, prior_log_variance), (q.mean, q.log_variance))
    )
    kl = torch.distributions.kl_divergence(posterior, p).sum(-1).mean() + MISSING_IN_THEIR_KL
    reconstruction = itakura_saito(arrays["power"], log_variance.exp()).mean()
    total = reconstruction + arrays["beta"] * kl
    for name, value in (("recon", reconstruction), ("kl", kl), ("tot", total)):
        expected = arrays[f"{prefix}loss_{name}"].to(value.dtype)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0.0)


@torch.no_grad()
def test_bound_is_their_loss(arrays, model):
    """At z = its mean, up to what depends on the data alone."""
    power = arrays["power"]
    bound = model.elbo(power, z_noise=torch.zeros_like(arrays["z_mean"])) / power.shape[-2]
    best = PowerSpectrum(power.log()).log_prob(power).mean()
    theirs = arrays["loss_recon"] + arrays["loss_kl"] - MISSING_IN_THEIR_KL
    torch.testing.assert_close(best - bound.mean(), theirs.to(bound.dtype), rtol=1e-5, atol=0.0)
