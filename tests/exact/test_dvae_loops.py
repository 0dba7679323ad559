"""Every dynamical VAE against a loop over time written from its equations, without torch's layers.

The loop shares nothing with the models but their weights: matrix products, its own LSTM cell, one
frame after another. Joint densities must agree, and the moments of draws from the prior.
"""

import math

import pytest
import torch
from pyro import poutine
from torch.nn.functional import softplus

from pyromodels.pyro_support.plates import batch_plate, source_plate
from pyromodels.registry import DYNAMICS

T, L, D, H = 4, 2, 2, 3
SPECS = [
    {"name": "vae"},
    {"name": "dkf", "gate_dim": 5},
    {"name": "rvae", "hidden_dim": H, "latent_dims": (3,), "decoder_dims": (4,)},
    {"name": "rvae", "hidden_dim": H, "latent_dims": (3,), "decoder_dims": (4,), "causal": False},
    {"name": "storn", "hidden_dim": H, "latent_dims": (3,), "input_dims": (4,)},
    {"name": "vrnn", "hidden_dim": H, "latent_dims": (3,), "input_dims": (4,)},
    {"name": "srnn", "hidden_dim": H, "input_dims": (4,), "prior_dims": (5,)},
]
GAUSSIAN, SPECTRAL = ("mean", "log_variance"), ("log_variance",)


def affine(w, name, v):
    return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def tanh_layers(w, name, v):
    for i in range(sum(key.startswith(f"{name}.layers.") for key in w) // 2):
        v = torch.tanh(affine(w, f"{name}.layers.{i}", v))
    return v


def heads(w, name, outputs, *v):
    body = tanh_layers(w, f"{name}.body", torch.cat(v, -1))
    return [affine(w, f"{name}.{output}", body) for output in outputs]


def cell(w, name, v, state):
    """One step of an LSTM, gates in the order input, forget, candidate, output."""
    h, c = state
    total = (
        v @ w[f"{name}.weight_ih_l0"].T + w[f"{name}.bias_ih_l0"]
        + h @ w[f"{name}.weight_hh_l0"].T + w[f"{name}.bias_hh_l0"]
    )
    i, f, g, o = total.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def standard(z):
    return torch.zeros_like(z), torch.zeros_like(z)


class Loop:
    """p(z_t | past) and p(s_t | past, z_t) of one model; `z` and `s` are lists of frames so far."""

    def __init__(self, spec, weights, outputs, num):
        self.name, self.causal = spec["name"], spec.get("causal", True)
        self.w, self.outputs = weights, outputs
        self.z0 = torch.zeros(num, L, dtype=torch.float64)
        self.s0 = torch.zeros(num, D, dtype=torch.float64)
        self.zero = (torch.zeros(num, H, dtype=torch.float64),) * 2

    def recur(self, name, inputs):
        """h after all of the inputs."""
        state = self.zero
        for v in inputs:
            state = cell(self.w, name, v, state)
        return state[0]

    def hidden(self, z, s):
        """h_t from frames before t."""
        w = self.w
        if self.name == "srnn":
            inputs = [tanh_layers(w, "recurrence.input", x) for x in [self.s0, *s]]
            return self.recur("recurrence.lstm", inputs)
        inputs = [
            torch.cat((tanh_layers(w, "input", x), tanh_layers(w, "latent_input", v)), -1)
            for x, v in zip(s, z, strict=True)
        ]
        return self.recur("lstm", inputs)

    def latent(self, z, s):
        last = z[-1] if z else self.z0
        if self.name in ("vae", "rvae", "storn"):
            return standard(self.z0)
        if self.name == "dkf":
            w = self.w
            gate, proposal = (
                affine(w, f"prior.{n}.2", affine(w, f"prior.{n}.0", last).clamp_min(0))
                for n in ("gate", "proposal")
            )
            gate = gate.sigmoid()
            mean = (1 - gate) * affine(w, "prior.linear", last) + gate * proposal
            return mean, softplus(affine(w, "prior.variance", proposal.clamp_min(0))).log()
        h = self.hidden(z, s)
        inputs = (h, last) if self.name == "srnn" else (h,)
        return heads(self.w, "prior", GAUSSIAN, *inputs)

    def source(self, z, s, later=()):
        w, now = self.w, z[-1]
        if self.name in ("vae", "dkf"):
            inputs = (now,)
        elif self.name == "rvae":
            dense = [tanh_layers(w, "latent_input", v) for v in z]
            inputs = (self.recur("lstm", dense),)
            if not self.causal:
                right = [tanh_layers(w, "latent_input", v) for v in [now, *later]]
                inputs += (self.recur("backward_lstm", right[::-1]),)
        elif self.name == "storn":
            driven = [
                torch.cat((tanh_layers(w, "latent_input", v), tanh_layers(w, "input", x)), -1)
                for v, x in zip(z, [self.s0, *s], strict=True)
            ]
            inputs = (self.recur("lstm", driven),)
        elif self.name == "vrnn":
            inputs = (tanh_layers(w, "latent_input", now), self.hidden(z[:-1], s))
        else:
            inputs = (self.hidden(z[:-1], s), now)
        return heads(w, "decoder", self.outputs, *inputs)

    def log_joint(self, z, s):
        """log p(s, z); z and s are lists of all frames."""
        total = 0.0
        for t in range(T):
            mean, log_variance = self.latent(z[:t], s[:t])
            total = total + normal(z[t], mean, log_variance)
            total = total + self.frame(s[t], self.source(z[: t + 1], s[:t], z[t + 1 :]))
        return total

    def frame(self, s, outputs):
        if len(outputs) == 2:
            return normal(s, *outputs)
        return -(outputs[0] + s * (-outputs[0]).exp()).sum(-1)

    def draw(self):
        z, s = [], []
        for _ in range(0 if self.causal else T):
            z.append(torch.randn_like(self.z0))
        for t in range(T):
            if self.causal:
                mean, log_variance = self.latent(z, s)
                z.append(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            outputs = self.source(z[: t + 1], s, z[t + 1 :])
            if len(outputs) == 2:
                mean, log_variance = outputs
                s.append(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            else:
                s.append(-outputs[0].exp() * torch.rand_like(self.s0).log())
        return torch.cat((torch.stack(z, 1), torch.stack(s, 1)), -1)


def normal(v, mean, log_variance):
    distance = (v - mean) ** 2 / log_variance.exp()
    return -0.5 * (distance + log_variance + math.log(2 * math.pi)).sum(-1)


def label(spec):
    return spec["name"] + ("" if spec.get("causal", True) else "_noncausal")


@pytest.fixture(params=[(spec, e) for spec in SPECS for e in ("gaussian", "spectral")],
                ids=lambda p: f"{label(p[0])}-{p[1]}")
def case(request):
    """The model, and a loop over a number of rows."""
    spec, emission = request.param
    torch.manual_seed(0)
    prior = DYNAMICS.build({**spec, "latent_dim": L, "source_dim": D, "emission": emission})
    prior.double().requires_grad_(False)
    outputs = GAUSSIAN if emission == "gaussian" else SPECTRAL
    return prior, lambda num: Loop(spec, prior.state_dict(), outputs, num)


def test_joint_density(case):
    prior, loop = case
    torch.manual_seed(1)
    values = loop(3).draw()
    z, s = values.split((L, D), -1)
    data = {"s": s[:, None, None], "s_z": z[:, None, None]}

    def program():
        with batch_plate(3), source_plate(1):
            prior.sample_sources("s", T, batch_shape=torch.Size([3, 1, 1]))

    trace = poutine.trace(poutine.condition(program, data)).get_trace()
    trace.compute_log_prob()
    joint = (trace.nodes["s"]["log_prob"] + trace.nodes["s_z"]["log_prob"]).flatten()
    torch.testing.assert_close(joint, loop(3).log_joint(z.unbind(1), s.unbind(1)))


def test_prior_predictive_moments(case):
    """Means, squares and products with the frame before, within five and a half standard errors."""
    prior, loop = case
    num = 20_000
    torch.manual_seed(2)
    pair = prior.pair(T, batch_shape=torch.Size([num]))
    z = pair.latent.sample()
    s = pair.source(z).sample()
    moments = []
    for values in (torch.cat((z, s), -1), loop(num).draw()):
        products = values[:, 1:, :, None] * values[:, :-1, None, :]
        moments.append(torch.cat((values, values**2), 1).flatten(1))
        moments[-1] = torch.cat((moments[-1], products.flatten(1)), 1)
    (ours, theirs) = moments
    error = ((ours.var(0) + theirs.var(0)) / num).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5.5 * error).all()
