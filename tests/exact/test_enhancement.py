"""Speech in noise: the Wiener factor and the bound against traces, updates against the bound."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.path import IndependentFrames
from pyromodels.dynamics.dkf import DKF
from pyromodels.dynamics.rvae import RVAE
from pyromodels.dynamics.srnn import SRNN
from pyromodels.emissions.complex import power_of
from pyromodels.errors import ShapeError, SpecError
from pyromodels.experiments.enhancement.enhance import Made, posterior
from pyromodels.guides.denoising import EncodedSpeech, FreeSpeech
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.enhancement.bound import EnhancementBound, log_density
from pyromodels.inference.enhancement.vem import LatentUpdate, NoiseUpdate, enhancement_em
from pyromodels.models.enhancement import Enhancement
from pyromodels.noise.base import Sizes, quiet_level, subtracted
from pyromodels.noise.nmf import LowRankNoise
from pyromodels.registry import NOISES
from pyromodels.testing.paths import check_path

B, T, F, L = 2, 6, 5, 3
NETWORKS = ("lv", "no", "nolv")


def batch_of(seed=0):
    torch.manual_seed(seed)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1, 4:] = False
    return SequenceBatch(torch.randn(B, T, 2 * F, dtype=torch.float64), mask)


def prior_of(kind=RVAE, **options):
    torch.manual_seed(1)
    sizes = {"source_dim": F, "latent_dim": L, "emission": "complex"}
    return kind(**sizes, **options).double().eval()


def noise_of(name, **options):
    noise = NOISES.build({"name": name, **options}, Sizes(B, T, F, L)).double()
    torch.manual_seed(2)
    for parameter in noise.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return noise


def model_of(name="nmf", kind=RVAE, *, gain=None, **options):
    gain = torch.nn.Parameter(0.3 * torch.randn(B, T, dtype=torch.float64)) if gain else None
    return Enhancement(prior_of(kind, **options), noise_of(name), gain=gain)


@pytest.mark.parametrize("guide_of", [lambda m, b: EncodedSpeech(m), FreeSpeech])
@pytest.mark.parametrize(
    ("name", "kind", "gain"),
    [("nmf", RVAE, True), ("lv", DKF, False), ("no", RVAE, False), ("nolv", RVAE, False)],
)
def test_whatever_s_is_drawn_the_ratio_of_densities_is_that_without_it(name, kind, gain, guide_of):
    batch, model = batch_of(), model_of(name, kind, gain=gain)
    guide = guide_of(model, batch)
    of_latents = poutine.trace(poutine.block(guide, hide=["s"])).get_trace(batch)
    z = of_latents.nodes["s_z"]["value"]
    speech, noise = model.variances(batch, z[:, 0, 0])
    expected = (log_density(power_of(batch.x), speech + noise) * batch.mask).sum(-1)
    for _ in range(3):
        q = poutine.trace(poutine.replay(guide, trace=of_latents)).get_trace(batch)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(batch)
        q.compute_log_prob()
        p.compute_log_prob()
        density = sum(p.nodes[site]["log_prob"] for site in ("s", "x")) - q.nodes["s"]["log_prob"]
        torch.testing.assert_close(density.flatten(), expected, atol=1e-8, rtol=1e-8)


def test_the_bound_is_that_of_pyro():
    batch, model = batch_of(), model_of("lv")
    guide = EncodedSpeech(model)
    torch.manual_seed(3)
    with torch.no_grad():
        ours = torch.stack([EnhancementBound(200)(model, guide, batch).sum() for _ in range(5)])
        elbo = pyro.infer.Trace_ELBO(num_particles=200, vectorize_particles=True,
                                     max_plate_nesting=model.max_plate_nesting)
        theirs = -torch.tensor([elbo.loss(model, guide, batch) for _ in range(5)]).double()
    error = (ours.var() / 5 + theirs.var() / 5).sqrt()
    assert abs(ours.mean() - theirs.mean()) < 6 * error


def test_the_wiener_factor_is_bayes_rule():
    batch, model = batch_of(), model_of("nmf", gain=True)
    guide = FreeSpeech(model, batch)
    z = guide.latents(batch).rsample()
    law = guide.wiener(batch, z)
    clean = (model.variances(batch, z[:, 0, 0])[0] / model.log_gain.exp()[..., None] / 2)
    noise = (model.noise(power_of(batch.x), z[:, 0, 0], batch.mask) / 2)
    clean, noise = (part.repeat_interleave(2, -1) for part in (clean, noise))
    root = (model.log_gain / 2).exp()[..., None]
    precision = 1 / clean + root**2 / noise
    torch.testing.assert_close(law.scale[:, 0, 0] ** -2, precision)
    torch.testing.assert_close(law.loc[:, 0, 0], root * batch.x / noise / precision)


@pytest.mark.parametrize("gain", [False, True])
def test_multiplicative_updates_raise_the_bound_at_their_draws(gain):
    batch, model = batch_of(), model_of("nmf", gain=gain)
    guide = FreeSpeech(model, batch, init_scale=1e-9)  # every draw is the same
    bound, update, values = EnhancementBound(), NoiseUpdate(num_draws=1), []
    with torch.no_grad():
        for _ in range(30):
            values.append(bound(model, guide, batch).sum().item())
            update(model, guide, batch)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1
    spectra = model.noise.spectra
    torch.testing.assert_close(spectra.sum(-1), torch.ones_like(spectra.sum(-1)))


def test_where_the_updates_stand_still_the_slope_is_zero():
    batch, model = batch_of(), model_of("nmf", gain=True)
    guide, update = FreeSpeech(model, batch, init_scale=1e-9), NoiseUpdate(num_draws=1)
    with torch.no_grad():
        for _ in range(1500):
            update(model, guide, batch)
    EnhancementBound()(model, guide, batch).sum().backward()
    slope = torch.where(batch.mask[..., None], model.noise.log_activations.grad, 0.0)
    assert slope.abs().max() < 1e-3


def test_variational_em_and_gradients_climb():
    batch = batch_of()
    model = model_of("nmf", gain=True)
    guide = FreeSpeech(model, batch)
    engine = enhancement_em(model, guide)
    torch.manual_seed(0)
    before = engine.elbo(batch).sum()
    engine.run(batch, 30)
    assert engine.elbo(batch).sum() > before + 5
    network = model_of("lv")
    svi = SVI(network, EncodedSpeech(network), elbo=EnhancementBound(), train_model=True)
    losses = [svi.step(batch) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 10


def test_a_step_begins_where_the_guide_stands():
    batch, model = batch_of(), model_of("nmf")
    guide, update = FreeSpeech(model, batch), LatentUpdate()
    update(model, guide, batch)
    far = tuple(part + 3 for part in guide.moments)
    guide.moments = far
    update(model, guide, batch)
    assert all((new - old).abs().max() < 0.3
               for new, old in zip(guide.moments, far, strict=True))


def test_mean_and_variance_are_those_of_its_draws():
    batch, model = batch_of(), model_of("lv")
    made = Made(model, EncodedSpeech(model), batch)
    torch.manual_seed(4)
    said = posterior(made, 600, 600)
    drawn = said.draws.mean(0)
    spread = (said.draws - drawn).abs().square().mean(0)
    error = (drawn - said.mean).abs().square() / (said.variance / 600)
    assert error[batch.mask].mean() < 4
    torch.testing.assert_close(
        spread[batch.mask], said.variance[batch.mask], atol=0.0, rtol=0.25
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_reads_what_it_says(name):
    noise, power = noise_of(name, relative=False), torch.rand(1, T, F, dtype=torch.float64)
    z, mask = torch.randn(1, T, L, dtype=torch.float64), torch.ones(1, T, dtype=torch.bool)

    def reach(of, at):  # whether v of a frame moves with what is read at another
        slope = torch.autograd.functional.jacobian(of, at)
        return slope[0].abs().amax((1, 2, 4))

    past = reach(lambda value: noise(value, z, mask), power)
    latents = reach(lambda value: noise(power, value, mask), z)
    before = torch.ones(T, T).tril(-1).bool()
    assert (past[~before] == 0).all() and (past[before] > 0).all() == (name != "lv")
    if name == "no":
        assert (latents == 0).all()
    else:
        assert ((latents > 0) == (torch.ones(T, T) if name == "lv" else torch.ones(T, T).tril())
                .bool()).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_begins_near_the_level_of_quiet_frames_and_goes_with_it(name):
    batch, z = batch_of(), torch.randn(B, T, L, dtype=torch.float64)
    noise = NOISES.build({"name": name}, Sizes(B, T, F, L)).double()
    power = power_of(batch.x)
    found = noise(power, z, batch.mask)
    level = quiet_level(power, batch.mask).unsqueeze(1)
    assert (found / level).log().abs().max() < 0.7
    torch.testing.assert_close(noise(100 * power, z, batch.mask), 100 * found)
    as_published = NOISES.build({"name": name, "relative": False}, Sizes(B, T, F, L)).double()
    moved = as_published(100 * power, z, batch.mask) / as_published(power, z, batch.mask)
    assert (moved - 100).abs().min() > 1


def test_beside_such_noise_the_encoder_is_spared_the_level_of_quiet_frames():
    batch, model = batch_of(), model_of("lv")
    published = Enhancement(model.prior, noise_of("lv", relative=False))
    loc, heard = (EncodedSpeech(m).latents(b).conditionals(torch.zeros(B, 1, 1, T, L).double()).mean
                  for m, b in ((model, batch), (published, subtracted(batch))))
    torch.testing.assert_close(loc, heard)
    other = EncodedSpeech(published).latents(batch)
    assert (other.conditionals(torch.zeros(B, 1, 1, T, L).double()).mean - loc).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 2, 1)])
def test_independent_frames_are_a_path(shape):
    torch.manual_seed(0)
    check_path(IndependentFrames(
        torch.randn(shape, dtype=torch.float64), 0.5 + torch.rand(shape, dtype=torch.float64)
    ))


def test_the_quiet_level_is_that_of_steady_noise():
    torch.manual_seed(0)
    level = torch.tensor([0.5, 2.0])
    power = level * torch.empty(1, 20000, 2).exponential_()
    mask = torch.ones(1, 20000, dtype=torch.bool)
    mask[:, 15000:] = False
    power[:, 15000:] = 1e6
    torch.testing.assert_close(quiet_level(power, mask)[0], level, atol=0.0, rtol=0.05)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(SpecError, match="fed with its past"):
        Enhancement(prior_of(SRNN), noise_of("lv"))
    with pytest.raises(SpecError, match="complex spectra"):
        Enhancement(RVAE(source_dim=F, emission="spectral"), noise_of("lv"))
    with pytest.raises(SpecError, match="expected an Enhancement"):
        EncodedSpeech(prior_of())
    with pytest.raises(SpecError, match="expected nmf"):
        enhancement_em(model_of("lv"), None)
    model = model_of("nmf", gain=True)
    with pytest.raises(ShapeError, match="power"):
        LowRankNoise(Sizes(B, T + 1, F, L))(
            torch.rand(B, T, F), torch.zeros(B, T, L), torch.ones(B, T).bool()
        )
    guide = FreeSpeech(model, batch_of())
    shorter = SequenceBatch(batch_of().x[:, :-1], batch_of().mask[:, :-1])
    with pytest.raises(ShapeError, match="guide's"):
        guide.latents(shorter)
    with pytest.raises(ShapeError, match="gain's"):
        Enhancement(model.prior, noise_of("lv"), gain=model.log_gain)(shorter)
