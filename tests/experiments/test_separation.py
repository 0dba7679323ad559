"""Separation: drawn mixtures, masks, the law of errors, and a small run from end to end."""

import itertools
import json

import pytest
import torch

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.by_source import BySource
from pyromodels.dynamics.srnn import SRNN
from pyromodels.dynamics.vae import VAE
from pyromodels.errors import SpecError
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets.mixtures.mixtures import load_mixture_list
from pyromodels.experiments.datasets.mixtures.synthetic import tones
from pyromodels.experiments.datasets.speech.audio import write_wav
from pyromodels.experiments.datasets.speech.recordings import load_speech_folder
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.runs.spec import Spec, load_spec
from pyromodels.experiments.separation.assigner import (
    CEILING_DB,
    AssignerOptions,
    distortion_db,
)
from pyromodels.experiments.separation.baselines.nmf import NMF, divergence, factorise
from pyromodels.experiments.separation.baselines.oracles import ideal_binary_mask, oracle_wiener
from pyromodels.experiments.separation.calibration import (
    LEVELS,
    ErrorLaw,
    Errors,
    coverage,
    errors_of_shares,
    fit_error_law,
    gaussian_law,
    level_around,
    measured_radii,
    measured_widths,
    variance_of_shares,
    waveform_coverage,
)
from pyromodels.experiments.separation.separate import SeparationInference, separate
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.networks.assigner import Assigner


@pytest.fixture
def spectra():
    torch.manual_seed(0)
    return torch.randn(3, 2, 7, 33, dtype=torch.complex64)


# ---- masks and factorisations


def test_oracles_share_out_a_mixture(spectra):
    for masks in (ideal_binary_mask(spectra), oracle_wiener(spectra)):
        torch.testing.assert_close(masks.sum(1).float(), torch.ones(3, 7, 33))
    loudest = spectra.abs() >= spectra.abs().amax(1, True)
    assert (ideal_binary_mask(spectra).bool() == loudest).all()


def test_multiplicative_updates_lower_the_divergence():
    torch.manual_seed(0)
    magnitude = torch.rand(12, 30, dtype=torch.float64)
    w, h = torch.rand(12, 4, dtype=torch.float64), torch.rand(4, 30, dtype=torch.float64)
    w = w / w.sum(0)
    values = [divergence(magnitude, w @ h)]
    for _ in range(20):
        w, h = factorise(magnitude, w, h, 1, learn_dictionary=True)
        values.append(divergence(magnitude, w @ h))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(values)) and values[-1] < values[0]


def test_dictionaries_take_apart_what_they_have_learnt():
    torch.manual_seed(0)
    shapes = torch.zeros(2, 33)
    shapes[0, :10], shapes[1, 20:] = 1.0, 1.0
    parts = [shape * torch.randn(200, 33, dtype=torch.complex64) for shape in shapes]
    learnt = NMF(parts, num_atoms=4, updates=20)
    mixed = torch.stack([part[:8] for part in parts])[None]
    masks = learnt.masks(mixed.sum(1), updates=30)
    assert distortion_db((masks + 1e-9).log().movedim(1, -1), mixed).item() < -15


# ---- the network


def test_the_level_of_a_mixture_does_not_matter():
    torch.manual_seed(0)
    network, power = Assigner(33, 3, hidden_dim=4), torch.rand(2, 7, 33)
    logits = network(power)
    torch.testing.assert_close(network(100 * power), logits, atol=1e-5, rtol=1e-5)
    assert logits.shape == (2, 7, 33, 3) and not logits[..., -1].any()


def test_distortion_is_that_of_the_masks(spectra):
    logits = torch.randn(3, 7, 33, 2)
    mask = logits.softmax(-1).movedim(-1, 1)
    error = (spectra - mask * spectra.sum(1, keepdim=True)).abs().square().sum((-2, -1))
    expected = 10 * (error / spectra.abs().square().sum((-2, -1))).log10().mean(-1)
    torch.testing.assert_close(distortion_db(logits, spectra), expected, atol=0.1, rtol=0.0)


def test_a_source_that_is_silent_has_a_finite_distortion_and_gradient(spectra):
    silent = spectra.clone()
    silent[:, 1] = 0
    logits = torch.zeros(*silent[:, 0].shape, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(distortion_db(logits, silent).sum(), logits)
    assert slope.isfinite().all() and slope[..., 1].sum() > 0
    better = torch.tensor([9.0, 0.0]).expand_as(logits)
    assert (distortion_db(better, silent) < distortion_db(logits, silent) - 10).all()
    nothing = distortion_db(logits.detach(), torch.zeros_like(silent))
    torch.testing.assert_close(nothing, torch.full_like(nothing, -CEILING_DB))


# ---- the law of errors


def test_regions_of_the_law_hold_its_own_draws(spectra):
    torch.manual_seed(1)
    sources = torch.randn(40, 2, 20, 33, dtype=torch.complex64)
    mask = torch.rand(40, 2, 20, 33)
    law = ErrorLaw(torch.tensor([0.3, -0.2]), torch.tensor([-3.0, -4.0]), torch.tensor([0.5, 1.5]))
    level = level_around(sources.sum(1).abs().square())
    scale = law.scale(variance_of_shares(mask, level), level)
    square = law.draw(scale).abs().square()
    for level, radius in zip(LEVELS, law.radii(), strict=True):
        held = (square / scale <= radius[:, None, None]).float().mean((0, 2, 3))
        torch.testing.assert_close(held, torch.full((2,), level), atol=0.01, rtol=0.0)


def test_its_density_integrates_to_one():
    law = ErrorLaw(torch.zeros(1), torch.zeros(1), torch.tensor([0.7]))
    radius = torch.linspace(0, 400, 400001, dtype=torch.float64)
    density = law.log_prob(radius.square()[:, None, None, None], torch.ones(1)).exp().flatten()
    total = torch.trapezoid(2 * torch.pi * radius * density, radius)
    assert total == pytest.approx(1, abs=2e-3)


def test_many_degrees_of_freedom_are_a_gaussian():
    law = gaussian_law(1, torch.zeros(()))
    square = torch.tensor([0.5, 2.0])[:, None, None, None]
    expected = -torch.tensor(torch.pi).log() - square
    torch.testing.assert_close(
        law.log_prob(square, torch.ones(1)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_fitted_law_covers_what_it_says():
    torch.manual_seed(0)
    mask = torch.rand(30, 2, 20, 33)
    mixture = torch.randn(30, 20, 33, dtype=torch.complex64)
    truth = ErrorLaw(torch.tensor([0.5, 0.5]), torch.tensor([-3.0, -3.0]), torch.tensor([0.6, 0.6]))
    level = level_around(mixture.abs().square())
    errors = truth.draw(truth.scale(variance_of_shares(mask, level), level))
    first = mask[:, 0] * mixture + errors[:, 0]
    sources = torch.stack((first, mixture - first), 1)
    masks = torch.stack((mask[:, 0], 1 - mask[:, 0]), 1)
    found = errors_of_shares(sources, masks)
    law = fit_error_law(found)
    held = coverage(law, law.radii(), found)
    torch.testing.assert_close(held[:, 0], torch.tensor(LEVELS), atol=0.02, rtol=0.0)


def test_measured_discs_hold_what_they_say_even_of_a_wrong_law():
    torch.manual_seed(0)
    sources, masks = torch.randn(30, 2, 20, 33, dtype=torch.complex64), torch.rand(30, 2, 20, 33)
    law, errors = gaussian_law(2, torch.zeros(())), errors_of_shares(sources, masks)
    held = coverage(law, measured_radii(law, errors), errors)
    stated = torch.tensor(LEVELS)[:, None].expand(-1, 2)
    torch.testing.assert_close(held, stated, atol=1e-3, rtol=0.0)
    assert (coverage(law, law.radii(), errors) - stated).abs().max() > 0.1


def test_intervals_of_the_waveform_hold_what_they_say_and_no_more_at_twice_the_error():
    torch.manual_seed(0)
    stft = STFT(window=64, hop=16)
    law, level = gaussian_law(1, torch.zeros(())), torch.ones(8, 1, 30, 33)
    variance = torch.rand(8, 1, 30, 33)
    error = variance.sqrt() * torch.randn(8, 1, 30, 33, dtype=torch.complex64)
    errors = Errors(error, variance, level, level[:, 0] > 0)
    widths = measured_widths(law, errors, stft)
    stated = torch.tensor(LEVELS)[:, None].double()
    held = waveform_coverage(law, widths, errors, stft)
    torch.testing.assert_close(held, stated, atol=1e-3, rtol=0.0)
    normal = torch.distributions.Normal(0, 1).icdf((1 + stated) / 2).square()
    torch.testing.assert_close(widths.double(), normal, atol=0.0, rtol=0.1)
    twice = errors._replace(error=2 * error)
    assert (waveform_coverage(law, widths, twice, stft) < stated - 0.15).all()


# ---- variational EM


@pytest.fixture
def priors():
    torch.manual_seed(2)
    sizes = {"source_dim": 33, "emission": "complex"}
    return BySource([SRNN(**sizes), VAE(**sizes)]).eval()


def test_what_is_kept_between_sweeps_is_what_fewer_sweeps_end_with(spectra, priors):
    def made(steps, after=()):
        options = SeparationInference(start="encoders", steps=steps)
        return separate(spectra.sum(1), priors, options, assigner=None, after=after)

    kept = made(4, after=(1, 3, 9)).between
    assert list(kept) == [1, 3]
    for number, estimate in kept.items():
        torch.testing.assert_close(estimate, made(number).estimate)


@pytest.mark.parametrize("elbo", ["closed_form", "trace_enum"])
def test_svi_climbs_by_a_copy_of_the_network(spectra, priors, elbo):
    network = Assigner(33, 2, num_channels=4, hidden_dim=4).eval()
    before = [parameter.clone() for parameter in network.parameters()]
    options = SeparationInference(engine="svi", steps=6, learning_rate=1e-2, elbo=elbo)
    made = separate(spectra.sum(1), priors, options, assigner=network, num_draws=2, after=(2, 6))
    assert made.bounds.shape == (6, 3) and (made.bounds[-1] > made.bounds[0]).all()
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    said = closed_form_elbo(made.program, made.guide, made.batch).detach()
    torch.testing.assert_close(made.bounds[-1], said)
    torch.testing.assert_close(made.between[6], made.estimate)
    assert (made.between[2] != made.estimate).any() and made.draws.shape[:3] == (2, 3, 2)
    still = separate(spectra.sum(1), priors, SeparationInference(steps=0), assigner=network)
    torch.testing.assert_close(made.start, still.start)


def test_priors_are_tuned_as_copies_each_to_its_own_source(spectra, priors):
    before = [p.clone() for p in priors.parameters()]
    options = SeparationInference(start="encoders", steps=2, fine_tune=1e-2)
    made = separate(spectra.sum(1), priors, options, assigner=None)
    tuned = made.program.prior
    assert all(torch.equal(a, b) for a, b in zip(before, priors.parameters(), strict=True))
    for own, first in zip(tuned.priors, priors.priors, strict=True):
        moved = [not torch.equal(a, b) for a, b in zip(own.parameters(), first.parameters(),
                                                       strict=True)]
        assert any(moved) and not own.training
    held = separate(spectra.sum(1), priors, SeparationInference(start="encoders", steps=2),
                    assigner=None)
    assert (made.estimate - held.estimate).abs().max() > 1e-3


# ---- data


def test_a_part_of_the_recordings_lies_within_a_larger_one(tmp_path):
    for split, count in (("train", 8), ("valid", 1), ("test", 1)):
        (tmp_path / split).mkdir()
        for number in range(count):
            write_wav(tmp_path / split / f"{number}.wav", torch.rand(99) - 0.5)
    data = load_speech_folder(tmp_path)
    half, quarter = data.part(0.5, 3), data.part(0.25, 3)
    assert len(half.train) == 4 and len(quarter.train) == 2
    assert set(quarter.train) < set(half.train) < set(data.train)
    assert half.valid == data.valid and half.fingerprint != data.fingerprint
    assert data.part(0.5, 4).train != half.train and data.part(1.0, 3) is data


def mixture_list(folder, **changes):
    torch.manual_seed(0)
    for kind in ("speech", "tones"):
        for split in ("train", "valid", "test"):
            (folder / kind / split).mkdir(parents=True)
            write_wav(folder / kind / split / "a.wav", 0.5 * torch.rand(4000) - 0.25)
    entry = {"id": "one", "n": 2000, "norm_gain": 2.0, "speech": "speech/test/a.wav",
             "speech_offset": 100, "tones": "tones/test/a.wav", "tones_gain": 0.5, "T": 9}
    path = folder / "list.json"
    path.write_text(json.dumps([{**entry, **changes}]))
    return path


def test_a_list_of_mixtures_says_gains_and_offsets(tmp_path):
    data = load_mixture_list(mixture_list(tmp_path), ("speech", "tones"))
    (mixture,) = data.mixtures
    torch.manual_seed(0)
    assert data.kinds == ("speech", "tones") and mixture.sources.shape == (2, 2000)
    from pyromodels.experiments.datasets.speech.audio import read_audio

    speech, tone = (read_audio(tmp_path / k / "test" / "a.wav") for k in ("speech", "tones"))
    torch.testing.assert_close(mixture.sources[0], 2 * speech[100:2100])
    torch.testing.assert_close(mixture.sources[1], tone[:2000])


@pytest.mark.parametrize(
    "changes, kinds, said",
    [
        ({"n": 5000}, ("speech", "tones"), "4000|3900"),
        ({}, ("speech", "drums"), "drums"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, changes, kinds, said):
    path = mixture_list(tmp_path, **changes)
    with pytest.raises((SpecError, FileNotFoundError), match=said):
        load_mixture_list(path, kinds)


def test_entries_are_taken_by_name(tmp_path):
    path = mixture_list(tmp_path)
    path.write_text(json.dumps([entry | {"id": name} for entry in json.loads(path.read_text())
                                for name in ("one", "two", "three")]))
    data = load_mixture_list(path, ("speech", "tones"), names=("three", "one"))
    assert [mixture.name for mixture in data.mixtures] == ["one", "three"]
    with pytest.raises(SpecError, match="names: given four"):
        load_mixture_list(path, ("speech", "tones"), names=("four",))


def test_tones_are_the_same_for_a_seed_and_others_for_another():
    one, again, other = tones(1, 0)[0], tones(1, 0)[0], tones(1, 1)[0]
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.abs().max() == pytest.approx(1)


# ---- specs


@pytest.mark.parametrize(
    "setting, said",
    [
        ("inference.program=product", "mixture.*additive"),
        ("inference.steps=-1", "0 or more"),
        ("inference.engine=em", "vem"),
        ('inference={engine="svi",program="additive"}', "program: given additive beside engine"),
        ('inference={engine="svi",start="encoders"}', "start: given encoders beside engine"),
        ('inference={engine="svi",damping=0.5}', "damping: given 0.5 beside engine"),
        ('inference={engine="svi",learning_rate=0.0}', "learning_rate.*above 0"),
        ("inference.fine_tune=-1e-3", "fine_tune.*learning rate"),
        ("model.fraction=0.0", "model.fraction: given 0.0"),
        ('model={prior={weights="a.pt"},fraction=0.5}', "learnt already"),
        ("metrics.baselines=[\"magic\"]", "magic"),
        ("model.prior=gas", "gas"),
        ("model.priors.speech=gas", "model.priors.speech"),
        ("data=synthetic_speech", "mixtures"),
    ],
)
def test_what_a_spec_cannot_mean_is_refused_by_name(setting, said):
    with pytest.raises(SpecError, match=said):
        from pyromodels.experiments.runs.runner import build

        build(load_spec("separation", settings=[setting]))


def test_weights_of_a_network_are_none_of_a_prior_nor_the_other_way():
    assert isinstance(load_weights("assigner_speech_flute", "network").prior, Assigner)
    for name, kind in (("assigner_speech_flute", "prior"), ("srnn_mot", "network")):
        with pytest.raises(SpecError, match=f"weights of a {kind}"):
            load_weights(name, kind)


def test_walks_and_what_is_shown_of_svi(capsys):
    with pytest.raises(SpecError, match="inference.engine: given svi.*linear"):
        from pyromodels.experiments.runs.runner import build

        build(load_spec("separation", settings=["model.prior=linear", "inference.engine=svi"]))
    assert main(["show", "separation", "--set", "inference.engine=svi"]) == 0
    assert "guide  AmortisedAssignment" in capsys.readouterr().out


def test_options_of_the_network_are_in_the_spec():
    spec = load_spec("separation", settings=["guide.hidden_dim=16"])
    assert isinstance(spec, Spec) and spec.guide == AssignerOptions(
        num_channels=12, hidden_dim=16, steps=200
    )


@pytest.mark.slow
@pytest.mark.parametrize("program, start", [("mixture", "assigner"), ("additive", "encoders")])
def test_a_small_run_from_end_to_end(tmp_path, monkeypatch, capsys, program, start):
    monkeypatch.setenv("PYROMODELS_RUNS", str(tmp_path / "runs"))
    settings = {
        "guide.steps": 4, "guide.steps_per_epoch": 2, "guide.batch_size": 4, "guide.hidden_dim": 8,
        "guide.num_frames": 16, "model.epochs": 1, "inference.steps": 2,
        "inference.program": program, "inference.start": start, "data.num_mixtures": 2,
        "data.num_frames": 40, "metrics.checked": 4, "metrics.num_examples": 1,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", "separation", *words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "ideal binary mask" in said
    assert metrics["ideal_binary_mask/si_sdr"] > metrics["mixture/si_sdr"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scores.png", "bound.png", "mixture0.wav", "mixture0-speech.wav"} <= written
    assert ("calibration.png" in written) == (start == "assigner")
