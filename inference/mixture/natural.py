"""Coordinate updates as natural-gradient steps, by automatic differentiation.

For a factor q of the exponential family with expectation parameters mu and natural parameters eta,
the natural gradient of the bound is its plain gradient in mu, and that of the entropy is -eta:

    eta <- eta + rate * (d E_q[log p] / d mu - eta)

E_q[log p] is linear in the mu of one factor at a time, so a step of size one is the closed-form
update of `pyromodels.inference.mixture.updates`, and a smaller one the damped update. What the
gradient adds is the choice of what it sees: with `detach_history=False` it also passes through the
networks of a deep prior, which the published update holds still.

Reference: Hoffman et al., 2013, Stochastic variational inference; Khan and Lin, 2017,
Conjugate-computation variational inference.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import (
    GaussianChain,
    Natural,
    block_inverse,
    block_logdet,
    chain_of,
)
from pyromodels.distributions.message import GaussianMessage
from pyromodels.guides.damping import damped
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import Update
from pyromodels.inference.mixture.bound import expected_log_joint
from pyromodels.models.mixdvae import MixDVAE


@dataclass
class NaturalAssignment(Update):
    """E-W as a natural-gradient step; mu are the responsibilities.

    Args:
        rate: step size, in (0, 1].
    """

    rate: float = 1.0
    changes_model: ClassVar[bool] = False

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the guide's responsibilities."""
        with torch.enable_grad():
            mean = guide.responsibilities.detach().requires_grad_()
            energy = (mean * expected_log_joint(model, guide, batch)).sum()
            (log_ratio,) = torch.autograd.grad(energy, mean)
        update = log_ratio.softmax(-1) * batch.mask[..., None]
        guide.responsibilities = damped(guide.responsibilities, update, self.rate)


@dataclass
class NaturalSources(Update):
    r"""E-S as a natural-gradient step; mu are E[s_t], E[s_t s_t'] and E[s_t s_{t+1}'].

    Args:
        rate: step size, in (0, 1].
        detach_history: hold the networks of a deep prior at the iterate, as the published update
            does. False: the gradient passes through them; the step is then no fixed-point update,
            and wants a rate well below one.
    """

    rate: float = 1.0
    detach_history: bool = True
    changes_model: ClassVar[bool] = False

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the guide's sources."""
        chain = guide.sources
        with torch.enable_grad():
            moments = [moment.detach().requires_grad_() for moment in expectations(chain)]
            history = moments[0].flatten(-2)
            if self.detach_history:
                history = history.detach()
            square = moments[1].diagonal(dim1=-2, dim2=-1).flatten(-2)
            if self.detach_history:
                square = square.detach()
            seen = model.prior.iterate(history, square - history.square())
            message = model.prior.gaussian_message(seen, anchor=batch.anchor)
            energy = expected_log_path(message, *moments).sum()
            energy = energy + _log_likelihood(model, guide, batch, *moments[:2])
            first, second, cross = torch.autograd.grad(energy, moments)
        update = chain_of(Natural(first, -(second + second.mT), -cross))
        guide.sources = damped(chain, update, self.rate)


def expectations(
    chain: GaussianChain,
) -> tuple[Tensor, Tensor, Tensor]:  # shapes: (*, T, G, d), (*, T, G, d, d), (*, T - 1, G, d, d)
    """Return E[s_t], E[s_t s_t'] and E[s_t s_{t+1}']."""
    loc = chain.loc_blocks
    second = chain.covariance + loc.unsqueeze(-1) * loc.unsqueeze(-2)
    now, after = loc[..., :-1, :, :], loc[..., 1:, :, :]
    return loc, second, chain.cross_covariance + now.unsqueeze(-1) * after.unsqueeze(-2)


def expected_log_path(
    message: GaussianMessage,
    first: Tensor,  # E[s_t], shape: (*, T, G, d)
    second: Tensor,  # E[s_t s_t'], shape: (*, T, G, d, d)
    cross: Tensor,  # E[s_t s_{t+1}'], shape: (*, T - 1, G, d, d)
) -> Tensor:  # nats, shape: (*)
    """E[log p(s)] under the message, written out in the expectation parameters of q(s)."""
    transition, offset, noise = message
    a, b = transition[..., 1:, :, :, :], offset.unsqueeze(-1)
    mean = first.unsqueeze(-1)
    moment = second - mean @ b.mT - b @ mean.mT + b @ b.mT
    # what the frame before adds for t > 1: r_t = s_t - A s_{t-1} - b
    before, after = mean[..., :-1, :, :, :], b[..., 1:, :, :, :]
    mixed = a @ cross - a @ before @ after.mT
    step = a @ second[..., :-1, :, :, :] @ a.mT - mixed - mixed.mT
    moment = torch.cat((moment[..., :1, :, :, :], moment[..., 1:, :, :, :] + step), -4)
    square = (block_inverse(noise) * moment.mT).sum((-1, -2))
    return -0.5 * (square + block_logdet(2 * torch.pi * noise)).sum((-1, -2))


def _log_likelihood(
    model: MixDVAE, guide: MeanField, batch: MixtureBatch, first: Tensor, second: Tensor
) -> Tensor:
    """E[log p(o | w, s)] of all sequences, as a function of the moments of q(s)."""
    covariance = second - first.unsqueeze(-1) * first.unsqueeze(-2)
    marginals = GaussianChain(first, covariance, validate_args=False)
    score = model.observation.expected_log_prob(batch, marginals)
    return (guide.assigned * score).sum()
