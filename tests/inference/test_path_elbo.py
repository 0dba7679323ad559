"""PathELBO against one site for every frame, derivations by hand, and the prior's own bound."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.emissions.gaussian import Gaussian
from pyromodels.experiments.demonstrations.site_a_frame import StepwiseGuide, StepwiseModel
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.inference.training.fit import fit
from pyromodels.inference.training.options import FitOptions
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.networks.mlp import before
from pyromodels.registry import DYNAMICS

LENGTHS = (6, 4, 1)


@pytest.fixture(autouse=True)
def empty_param_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


MODELS = [
    ("position", {}),
    ("increment", {}),
    *(("position", {"name": name}) for name in ("vae", "dkf", "rvae", "storn", "vrnn")),
    ("increment", {"name": "rvae", "causal": False}),
]


@pytest.fixture(params=MODELS, ids=str)
def problem(request):
    predicts, spec = request.param
    return make_problem(predicts, **spec)


def make_problem(predicts="position", lengths=LENGTHS, seed=0, name="srnn", **spec):
    """A model, its guide and three sequences of different lengths."""
    torch.manual_seed(seed)
    emission = Gaussian(predicts, scale="unit")
    spec = {"name": name, "source_dim": 2, "latent_dim": 3, "emission": emission, **spec}
    model = DynamicalVAE(DYNAMICS.build(spec))
    x = 0.3 * torch.randn(len(lengths), max(lengths), 2).cumsum(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    anchor = Anchor(x[:, 0] + 0.1, torch.full_like(x[:, 0], 0.5))
    return model, Amortised(model), SequenceBatch(x, mask, anchor)


class Driven(Messenger):
    """Latent sites take given noise in place of their own: `noise(name)`."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        law = msg["fn"]
        if msg["is_observed"] or msg["value"] is not None or not getattr(law, "event_shape", ()):
            return
        noise = self.noise(msg["name"])
        path = isinstance(law, PathDistribution)
        msg["value"] = law.roll_out(noise) if path else law.mean + law.stddev * noise


def gradients(loss, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def z_noise(batch, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch.num_sequences, 1, 1, batch.num_frames, 3, generator=generator)


def own_bound(model, batch, noise, **keywords):
    """The prior's closed form, nats a sequence."""
    x, anchor, mask = model.trajectories(batch)
    return model.prior.elbo(x, anchor=anchor, mask=mask, z_noise=noise, **keywords).flatten()


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_equals_the_closed_form_of_the_prior_given_the_same_noise(problem, kl_weight):
    model, guide, batch = problem
    noise = z_noise(batch)
    expected = -own_bound(model, batch, noise, kl_weight=kl_weight)
    driven, elbo = Driven(lambda name: noise)(guide), PathELBO(kl_weight=kl_weight)
    torch.testing.assert_close(elbo.per_sequence(model, driven, batch), expected)
    loss = elbo.differentiable_loss(model, driven, batch)
    torch.testing.assert_close(loss, expected.sum())
    assert elbo.loss(model, driven, batch) == pytest.approx(expected.sum().item())
    torch.testing.assert_close(gradients(loss, model), gradients(expected.sum(), model))


def test_equals_one_site_a_frame_in_value_and_gradient(problem):
    model, guide, batch = problem
    noise = z_noise(batch)
    frames = Driven(lambda name: noise[..., int(name[2:]) - 1, :])(StepwiseGuide(model))
    loss = PathELBO().differentiable_loss(model, Driven(lambda name: noise)(guide), batch)
    expected = TraceMeanField_ELBO(max_plate_nesting=3).differentiable_loss(
        StepwiseModel(model), frames, batch
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model))


@pytest.mark.parametrize("name", ["hit", "light"])
def test_one_site_a_frame_after_w_equals_the_closed_form_of_the_prior(name):
    """Of w `PathELBO` takes the log ratio; here it is in closed form on both sides."""
    sizes = {"global_dim": 2, "model_dim": 4, "ff_dim": 6, "feature_dims": (4,), "summary_dim": 3}
    model, _, batch = make_problem(name=name, **sizes)
    model, batch, noise = model.double(), batch.to("cpu", torch.float64), z_noise(batch).double()
    w_noise = torch.randn(batch.num_sequences, 1, 1, 2, dtype=torch.float64)
    loss = TraceMeanField_ELBO(max_plate_nesting=3).differentiable_loss(
        StepwiseModel(model),
        Driven(lambda name: w_noise if name == "w" else noise[..., int(name[2:]) - 1, :])(
            StepwiseGuide(model)
        ),
        batch,
    )
    expected = -own_bound(model, batch, noise, w_noise=w_noise).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model))


def test_gradient_has_the_mean_of_the_log_ratio_and_less_variance():
    model, guide, batch = make_problem()
    draws = {}
    for elbo in (PathELBO(), Trace_ELBO(max_plate_nesting=3)):
        torch.manual_seed(1)
        draws[type(elbo)] = torch.stack(
            [gradients(elbo.differentiable_loss(model, guide, batch), model) for _ in range(200)]
        )
    path, plain = draws.values()
    error = ((path.var(0) + plain.var(0)) / 200).sqrt()
    assert ((path - plain).mean(0).abs() < 5 * error + 1e-12).all()
    assert path.var(0).sum() < 0.5 * plain.var(0).sum()


@pytest.mark.parametrize("scale", [3.0, "tensor"])
def test_scale_multiplies_and_a_plate_mask_leaves_out(problem, scale):
    model, guide, batch = problem
    scale = torch.tensor([0.5, 2.0, 4.0])[:, None, None] if scale == "tensor" else scale
    keep, noise = torch.tensor([True, False, True]), z_noise(batch)
    expected = -own_bound(model, batch, noise, kl_weight=0.6) * keep
    expected = expected * (scale.flatten() if isinstance(scale, torch.Tensor) else scale)
    programs = (model, Driven(lambda name: noise)(guide))
    programs = [
        poutine.scale(poutine.mask(program, mask=keep[:, None, None]), scale=scale)
        for program in programs
    ]
    loss = PathELBO(kl_weight=0.6).per_sequence(*programs, batch)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("handler", ["scale", "mask"])
def test_where_model_and_guide_differ_it_is_the_log_ratio(problem, handler):
    model, guide, batch = problem
    keep = torch.tensor([True, False, True])[:, None, None]
    model_only = {
        "scale": lambda program: poutine.scale(program, scale=0.5),
        "mask": lambda program: poutine.mask(program, mask=keep),
    }[handler](model)
    noise = z_noise(batch)
    driven = Driven(lambda name: noise)(guide)
    loss = PathELBO().differentiable_loss(model_only, driven, batch)
    expected = Trace_ELBO(max_plate_nesting=3).differentiable_loss(model_only, driven, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model))


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_particles_are_averaged_in_a_loop_and_at_once(problem, kl_weight):
    model, guide, batch = problem
    noise = torch.stack([z_noise(batch, seed) for seed in range(4)])
    expected = -torch.stack([own_bound(model, batch, n, kl_weight=kl_weight) for n in noise])
    one_by_one = iter(noise)
    looped = Driven(lambda name: next(one_by_one))(guide)
    loss = PathELBO(num_particles=4, kl_weight=kl_weight).differentiable_loss(model, looped, batch)
    torch.testing.assert_close(loss, expected.sum(-1).mean())
    elbo = PathELBO(num_particles=4, vectorize_particles=True, kl_weight=kl_weight)
    together = elbo.per_sequence(model, Driven(lambda name: noise)(guide), batch)
    torch.testing.assert_close(together, expected.mean(0))


def test_nothing_but_padding_costs_nothing(problem):
    model, guide, batch = problem
    empty = SequenceBatch(batch.x, torch.zeros_like(batch.mask), batch.anchor)
    loss = PathELBO()(model, guide)(empty)
    assert loss == 0 and not gradients(loss, model).any()


class Autoregression(PathDistribution):
    """v_t ~ N(offset_t + slope v_{t-1}, scale^2), v_0 = 0."""

    def __init__(self, offset, slope, scale, mask=None):
        super().__init__(torch.Size(), len(offset), 1, like=offset, mask=mask)
        self.offset, self.slope, self.scale = offset, slope, scale

    def conditionals(self, value):
        loc = self.offset[:, None] + self.slope * before(value)
        return diagonal_normal(loc, self.scale.expand_as(loc))

    def roll_out(self, noise):
        v, path = noise.new_zeros(1), []
        for offset, draw in zip(self.offset, noise.unbind(-2), strict=True):
            v = offset + self.slope * v + self.scale * draw
            path.append(v)
        return torch.stack(path, -2)


def test_gradient_is_the_one_derived_by_hand():
    r"""q: z_t ~ N(m_t + b z_{t-1}, s^2), p: z_t ~ N(a z_{t-1}, 1), nothing observed.

    With d_t = m_t + (b - a) z_{t-1} the loss is \sum_t (s^2 + d_t^2 - 1)/2 - log s, and
    dz_r/dm_t = b^{r-t} along the path, r >= t.
    """
    a, b, scale = (torch.tensor(v).requires_grad_() for v in (0.7, -0.4, 0.6))
    m, noise = torch.randn(4).requires_grad_(), torch.randn(4, 1)

    def model():
        return pyro.sample("z", Autoregression(torch.zeros(4), a, torch.tensor(1.0)))

    def guide():
        return pyro.sample("z", Autoregression(m, b, scale))

    loss = PathELBO(kl_weight=2.0).differentiable_loss(model, Driven(lambda name: noise)(guide))
    by_a, by_m = torch.autograd.grad(loss, (a, m))
    with torch.no_grad():
        z = before(Autoregression(m, b, scale).roll_out(noise))[:, 0]  # z_{t-1}
        d = m + (b - a) * z
        value = ((scale**2 + d**2 - 1) / 2 - scale.log()).sum()
        along = [
            d[t] + sum(d[r] * (b - a) * b ** (r - 1 - t) for r in range(t + 1, 4))
            for t in range(4)
        ]
    torch.testing.assert_close(loss, 2 * value)
    torch.testing.assert_close(by_a, -2 * (d * z).sum())
    torch.testing.assert_close(by_m, 2 * torch.stack(along))


class HeavyTailed(Autoregression):
    """Conditionals between which and a normal there is no closed-form KL."""

    def conditionals(self, value):
        given = super().conditionals(value)
        return dist.StudentT(4.0, given.mean, given.stddev).to_event(1)


@pytest.mark.parametrize(
    ("law", "mask"), [(HeavyTailed, None), (Autoregression, torch.arange(4) < 3)]
)
def test_without_a_closed_form_or_one_time_mask_it_is_the_log_ratio(law, mask):
    half, noise = torch.tensor(0.5), torch.randn(4, 1)
    p = Autoregression(torch.zeros(4), half, half)
    q = law(torch.ones(4), half, half, mask)
    value = q.roll_out(noise)

    def guide():
        return pyro.sample("z", q)

    loss = PathELBO().loss(lambda: pyro.sample("z", p), Driven(lambda name: noise)(guide))
    assert loss == pytest.approx((q.log_prob(value) - p.log_prob(value)).item())


def test_an_unknown_trajectory_drawn_after_its_latents_in_the_model_before_them_in_the_guide():
    """The order of `MixDVAE`: p(z | s) is asked for once s is known."""
    prior = make_problem()[0].prior
    torch.manual_seed(1)
    loc, noise = 0.3 * torch.randn(3, 1, 1, 6, 2).cumsum(-2), torch.randn(3, 1, 1, 6, 2)
    anchor = Anchor(loc[..., 0, :], torch.ones(3, 1, 1, 2))
    draws = {"s": noise, "s_z": torch.randn(3, 1, 1, 6, 3)}
    q_s = dist.Normal(loc, 0.1).to_event(2)

    def model():
        with pyro.plate("batch", 3, dim=-3):
            prior.sample_sources("s", 6, anchor=anchor)

    def guide():
        with pyro.plate("batch", 3, dim=-3):
            prior.guide_sources("s", pyro.sample("s", q_s), anchor=anchor)

    s = loc + 0.1 * noise
    bound = prior.elbo(s, anchor=anchor, z_noise=draws["s_z"]) - q_s.log_prob(s)
    loss = PathELBO().per_sequence(model, Driven(draws.get)(guide))
    torch.testing.assert_close(loss, -bound.flatten())


def test_other_latents_and_auxiliary_sites_enter_by_their_log_ratio(problem):
    model, guide, batch = problem
    elbo = PathELBO(kl_weight=0.5)
    noise = z_noise(batch)
    driven = Driven(lambda name: noise)(guide)

    def wider(batch):
        pyro.sample("rate", dist.Exponential(1.0))
        return model(batch)

    def wider_guide(batch):
        unit = pyro.sample("unit", dist.Normal(0.3, 2.0), infer={"is_auxiliary": True})
        pyro.sample("rate", dist.Delta(unit.exp(), log_density=-unit))
        return driven(batch)

    torch.manual_seed(0)
    loss = elbo.differentiable_loss(wider, wider_guide, batch)
    torch.manual_seed(0)
    unit = dist.Normal(0.3, 2.0).rsample()
    log_ratio = dist.Normal(0.3, 2.0).log_prob(unit) - unit + unit.exp()
    expected = -own_bound(model, batch, noise, kl_weight=0.5).sum() + 0.5 * log_ratio
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="'rate' is outside the plate 'batch'"):
        elbo.per_sequence(wider, wider_guide, batch)


def test_sites_it_cannot_serve_are_refused(mixture, randomised):
    model, batch = mixture()
    with pytest.raises(NotImplementedError, match="'w' is enumerated.*TraceEnum_ELBO"):
        PathELBO()(model, randomised(model, batch))(batch)

    def switch():
        pyro.sample("on", dist.Bernoulli(0.5))

    with pytest.raises(NotImplementedError, match="'on'.*no pathwise gradient.*Trace_ELBO"):
        PathELBO()(switch, switch)()
    with pytest.raises(NotImplementedError, match="'on'.*not in the guide"):
        PathELBO()(switch, lambda: None)()


def test_fit_trains_to_the_same_parameters_as_with_the_closed_form():
    lengths = (12,) * 20 + (7,) * 12
    options = FitOptions(epochs=4, batch_size=8, learning_rate=0.01, kl_warm_up=3)
    weights_seen, results, trained = set(), [], []
    for by_path in (True, False):
        model, guide, batch = make_problem("increment", lengths)
        elbo = PathELBO()

        def loss(data, weights, by_path=by_path, model=model, guide=guide, elbo=elbo):
            part = SequenceBatch(*data[:2], Anchor(*data[2:]))
            elbo.kl_weight = weights.kl
            weights_seen.add(weights.kl)
            if by_path:
                return elbo.per_sequence(model, guide, part)
            return -own_bound(model, part, None, kl_weight=weights.kl)

        data = (batch.x, batch.mask, *batch.anchor)
        results.append(fit(model, loss, data, data, options=options))
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert weights_seen == {1 / 3, 2 / 3, 1.0}
    by_path = results[0]
    assert by_path.best_loss < by_path.history[0]["valid_loss"]
    assert by_path.best_loss == pytest.approx(results[1].best_loss)
    torch.testing.assert_close(*trained)
    assert not len(pyro.get_param_store())


def test_stock_svi_takes_the_steps_of_torch_adam():
    batches, stepped = [], []
    for stock in (True, False):
        model, guide, batch = make_problem()
        batches.append(batch)
        torch.manual_seed(3)
        if stock:
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), PathELBO())
            losses = [svi.step(batch) for _ in range(3)]
            assert math.isfinite(svi.evaluate_loss(batch))
        else:
            loss = PathELBO()(model, guide)
            adam = torch.optim.Adam(loss.parameters(), lr=0.01)
            with pyro.settings.context(module_local_params=True):
                for expected in losses:
                    adam.zero_grad()
                    value = loss(batch)
                    value.backward()
                    adam.step()
                    assert value.item() == pytest.approx(expected)
        stepped.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    fresh = torch.cat([p.flatten() for p in make_problem()[0].parameters()])
    torch.testing.assert_close(*stepped)
    assert (stepped[0] != fresh).all()
