"""The variational Kalman filter of spectra: closed forms, the oracle start, what a spec refuses."""

import itertools
import json

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.runs.runner import build
from pyromodels.experiments.runs.spec import load_spec
from pyromodels.experiments.separation.baselines.oracles import ideal_binary_mask
from pyromodels.experiments.separation.separate import SeparationInference, separate
from pyromodels.experiments.separation.vkf import Walks, kalman_em
from pyromodels.inference.mixture.updates import SourceUpdate
from pyromodels.observations.spectra import spectra_batch

SMALL = STFT(window=64, hop=16)


def walked(walks, o, share, *, ratio=1e-4):
    """Return variational EM of walks, and the batch it is given."""
    anchor = walks.anchor(o, share.shape[-1])
    batch = spectra_batch(o, share.shape[-1], ratio=ratio, anchor=anchor)
    return kalman_em(walks, batch, share), batch


def mixture(num_frames=6, num_bins=3):
    torch.manual_seed(0)
    return torch.randn(2, num_frames, num_bins, dtype=torch.complex128)


def test_e_s_is_the_posterior_of_a_dense_gaussian_in_every_bin():
    o = mixture()
    share = torch.rand(2, 6, 3, 2, dtype=torch.float64)
    share = share / share.sum(-1, keepdim=True)
    vem, batch = walked(Walks(0.7), o, share, ratio=0.2)
    SourceUpdate()(vem.model, vem.guide, batch)
    found = vem.guide.sources
    parts = torch.view_as_real(o)
    level = o.abs().square().mean((1, 2)) / 2
    steps = torch.eye(6, dtype=torch.float64) - torch.diag(torch.ones(5, dtype=torch.float64), -1)
    for b, n, f, part in itertools.product(range(2), range(2), range(3), range(2)):
        start = o[b, :, f].abs().square().mean() / 2
        noise = torch.cat((start.view(1), (0.49 * level[b]).expand(5)))
        prior = steps.T @ torch.diag(1 / noise) @ steps
        evidence = share[b, :, f, n] / (0.1 * o[b, :, f].abs().square())
        covariance = torch.linalg.inv(prior + torch.diag(evidence))
        mean = covariance @ (evidence * parts[b, :, f, part])
        torch.testing.assert_close(found.loc[b, n, :, 2 * f + part], mean)
        torch.testing.assert_close(found.variance[b, n, :, 2 * f + part], covariance.diagonal())


def test_every_sweep_raises_the_bound_and_m_is_its_maximum():
    o = mixture(20)
    share = ideal_binary_mask(torch.randn(2, 2, 20, 3)).movedim(1, -1).double()
    vem, batch = walked(Walks(), o, share, ratio=0.1)
    bounds = []
    for _ in range(12):
        vem.sweep(batch)
        bounds.append(vem.elbo(batch))
    rises = torch.stack(bounds).diff(dim=0)
    assert (rises > -1e-9).all() and (rises[0] > 1e-3).all()
    noise = vem.model.prior.process_std.clone()
    assert noise.shape == (2, 2, 6, 1) and noise[:, 0].ne(noise[:, 1]).all()
    best = vem.elbo(batch)
    for factor in (0.9, 1.1):  # of either source alone: the noises are their own
        for n in range(2):
            other = noise.clone()
            other[:, n] *= factor
            vem.model.prior.process_std = other
            assert (vem.elbo(batch) < best).all()


def test_a_louder_mixture_is_taken_apart_alike():
    o = mixture(10)
    share = torch.rand(2, 10, 3, 2, dtype=torch.float64).softmax(-1)
    means = []
    for gain in (1.0, 10.0):
        vem, batch = walked(Walks(), gain * o, share, ratio=0.01)
        for _ in range(3):
            vem.sweep(batch)
        means.append(vem.guide.sources.loc / gain)
    torch.testing.assert_close(*means, rtol=1e-6, atol=1e-8)


def test_digital_silence_stays_finite():
    share = torch.full((1, 8, 3, 2), 0.5)
    vem, batch = walked(Walks(), torch.zeros(1, 8, 3, dtype=torch.complex64), share)
    for _ in range(5):
        vem.sweep(batch)
    assert vem.elbo(batch).isfinite().all() and not vem.guide.sources.loc.any()


def two_tones(num_samples=2000):
    time = torch.arange(num_samples) / 16000
    low, high = (torch.sin(2 * torch.pi * f * time) for f in (1000.0, 4100.0))
    gate = (torch.arange(num_samples) // 500 % 2).float()
    return torch.stack((low, high * gate))


@pytest.mark.parametrize("start", ["oracle", "encoders"])
def test_from_a_good_start_the_sources_come_out_as_from_the_ideal_mask(start, monkeypatch):
    signals = two_tones()
    truth = SMALL.analyse(signals)[None]
    heard = 0.9 * truth.abs() * torch.polar(torch.ones(()), truth.sum(1, keepdim=True).angle())
    module = "pyromodels.experiments.separation.separate"
    monkeypatch.setattr(f"{module}.heard", lambda encoders, mixture: heard)
    options = SeparationInference(start=start, steps=5, ratio=1e-4)
    made = separate(truth.sum(1), Walks(), options, truth=truth, num_draws=2)
    masked = ideal_binary_mask(truth) * truth.sum(1, keepdim=True)
    assert made.bounds.shape == (5, 1) and made.draws.shape == (2, *truth.shape)
    assert (made.variance > 0).all()
    reached, ideal = (
        si_sdr(signals, SMALL.synthesise(s[0], signals.shape[-1])) for s in (made.estimate, masked)
    )
    assert (reached > 25).all() and (ideal > 34).all()
    if start == "oracle":
        torch.testing.assert_close(made.start, masked)


def test_the_oracle_is_a_start_of_the_network_priors_too():
    from pyromodels.dynamics.by_source import BySource
    from pyromodels.dynamics.vae import VAE

    torch.manual_seed(0)
    prior = BySource([VAE(source_dim=3, emission="complex") for _ in range(2)]).eval()
    truth = torch.randn(1, 2, 5, 3, dtype=torch.complex64)
    options = SeparationInference(start="oracle", steps=1)
    made = separate(truth.sum(1), prior, options, truth=truth)
    torch.testing.assert_close(made.start, ideal_binary_mask(truth) * truth.sum(1, keepdim=True))


# ---- specs


@pytest.mark.parametrize(
    "settings, said",
    [
        (["model.start_prior=vae"], "model.start_prior.*not linear"),
        (["model.prior=linear", "model.start_prior=gas"], "model.start_prior.*gas"),
        (["model.prior={name='linear', order=2}"], "model.prior.*order.*process_std"),
        (["model.prior={name='linear', process_std=0.0}"], "process_std.*positive"),
        (["model.prior=linear", "inference.start=oracle", "inference.program=additive"],
         "inference.program: given additive.*linear"),
        (["model.prior=linear", "inference.start=oracle", "inference.fine_tune=0.001"],
         "inference.fine_tune: given 0.001.*no network"),
        (["inference.start=magic"], "magic.*oracle"),
    ],
)
def test_what_a_spec_cannot_mean_is_refused_by_name(settings, said):
    with pytest.raises((SpecError, ValueError), match=said):
        build(load_spec("separation", settings=settings))


def test_encoders_of_walks_are_those_of_the_prior_that_starts_them():
    walks = ["model.prior=linear", "inference.start=encoders"]
    with pytest.raises(SpecError, match="model.start_prior: given none.*vae"):
        load_spec("separation", settings=walks).model.of("speech")
    spec = load_spec("separation", settings=[*walks, "model.start_prior=dkf"]).model
    assert spec.of("speech").prior_name == "dkf" and spec.walks == Walks()


def test_an_oracle_needs_a_known_truth(tmp_path):
    write_wav(tmp_path / "sound.wav", two_tones().mean(0))
    settings = ["data.name=mixture_files", f"data.path={tmp_path / 'sound.wav'}",
                'data.kinds=["speech", "flute"]', "inference.start=oracle", "model.prior=linear"]
    with pytest.raises(SpecError, match="inference.start: given oracle.*not known"):
        build(load_spec("separation", settings=settings))


def test_a_run_from_the_oracle_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path / "runs"))
    settings = {
        "model.prior": "linear", "inference.start": "oracle", "inference.ratio": 1e-4,
        "inference.steps": 3, "data.num_mixtures": 2, "data.num_frames": 12,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "out"
    assert main(["run", "separation", *words, "--no-plots", "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["start/si_sdr"] == pytest.approx(metrics["ideal_binary_mask/si_sdr"], abs=1e-3)
    assert metrics["si_sdr"] > metrics["mixture/si_sdr"]
    assert not (tmp_path / "runs" / "weights").exists()
    assert "ideal binary mask" in capsys.readouterr().out
