"""The evidence lower bound of MixDVAE in closed form, given the prior's Gaussian message."""

import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain, block_inverse, block_logdet
from pyromodels.distributions.message import GaussianMessage
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.inference.mixture.moments import step_second_moment
from pyromodels.inference.objectives.closed_form import BOUNDS, Bound, BoundParts
from pyromodels.models.mixdvae import MixDVAE


def expected_log_prior(message: GaussianMessage, sources: GaussianChain) -> Tensor:
    """E_q(s)[log p(s)] under the message, nats, shape (B, N)."""
    first = sources.loc_blocks[..., 0, :, :] - message.offset[..., 0, :, :]
    first_moment = first.unsqueeze(-1) * first.unsqueeze(-2) + sources.covariance[..., 0, :, :, :]
    steps = step_second_moment(message.transition, message.offset, sources)
    moment = torch.cat((first_moment.unsqueeze(-4), steps), -4)
    square = (block_inverse(message.covariance) * moment.mT).sum((-1, -2))
    return -0.5 * (square + block_logdet(2 * torch.pi * message.covariance)).sum((-1, -2))


def expected_log_joint(
    model: MixDVAE,
    guide: FactorisedGuide,
    batch: MixtureBatch,
    log_parts: Tensor | None = None,  # in place of E_q(s)[log p(o | w, s)], shape: (B, T, K, N)
) -> Tensor:  # nats, shape: (B, T, K, N [+ 1 for clutter])
    """E_q(s) q(v)[log p(o_tk, w_tk = j | s, v)]; with a detector log p(w | v) is its log rates."""
    visible = None if model.detector is None else guide.visibility.mean
    if log_parts is None:
        log_parts = model.observation.expected_log_prob(batch, guide.sources)
    return model.log_weights(batch, visible) + model.with_clutter(batch, log_parts)


def binary_kl(posterior: BinaryChain, prior: BinaryChain) -> Tensor:
    """KL(q(v) || p(v)), nats, shape of the batch."""

    tiny = torch.finfo(prior.transition.dtype).tiny

    def kl(q: Tensor, p: Tensor) -> Tensor:
        p = p.clamp(tiny, 1 - torch.finfo(p.dtype).eps)
        return torch.xlogy(q, q / p) + torch.xlogy(1 - q, (1 - q) / (1 - p))

    marginal = posterior.mean[..., :-1]
    weight = torch.stack((1 - marginal, marginal), -1)
    # every source starts visible, in p and so in q: no KL at the first frame
    return (weight * kl(posterior.transition, prior.transition)).sum((-1, -2))


def closed_form_elbo(
    model: MixDVAE,
    guide: FactorisedGuide,
    batch: MixtureBatch,
    *,
    known: BoundParts | None = None,
) -> Tensor:  # nats, shape: (B,)
    """E_q[log p(o, w, v, s)] - E_q[log q], s under the prior's message at the guide's own iterate.

    The bound itself where the message is exact (linear-Gaussian priors). For deep priors it lacks
    their KL over z and holds the history at its mean: a surrogate, to watch one run with.

    Args:
        model: the program.
        guide: its guide.
        batch: the data.
        known: parts, "sources" and "assignment", that an update has computed on its way; the others
            are computed here.
    """
    if not isinstance(guide, FactorisedGuide):
        raise ValueError(
            f"closed_form_elbo: the bound is of a MixDVAE and a guide with q(w) and q(s) as "
            f"factors; a {type(guide).__name__} is none. Use an estimator of pyro.infer"
        )
    if guide.assignment == "marginal":
        raise ValueError(
            "closed_form_elbo: the guide leaves w to enumeration, its bound has no closed form; "
            "use pyro.infer.TraceEnum_ELBO, or a guide with q(w) as a factor"
        )
    guide, known = guide.of(batch), known or {}
    total = known["sources"] if "sources" in known else sources_part(model, guide, batch)
    if "assignment" in known:
        total = total + known["assignment"]
    else:
        log_joint = expected_log_joint(model, guide, batch)
        total = total + assignment_part(guide.responsibilities, log_joint, batch)
    if model.detector is not None:
        total = total + visibility_part(model, guide, batch)
    return total


def sources_part(model: MixDVAE, guide: FactorisedGuide, batch: MixtureBatch) -> Tensor:
    """E_q(s)[log p(s) - log q(s)], nats, shape (B,)."""
    sources = guide.sources
    seen = model.prior.iterate(sources.loc, sources.variance)
    message = model.prior.gaussian_message(seen, anchor=batch.anchor)
    return (expected_log_prior(message, sources) + sources.entropy()).sum(1)


def assignment_part(
    eta: Tensor,  # q(w_tk = j), shape: (B, T, K, J)
    log_joint: Tensor,  # E_q(s) q(v)[log p(o_tk, w_tk = j | s, v)], shape: (B, T, K, J)
    batch: MixtureBatch,
) -> Tensor:
    """E_q[log p(o, w | s, v) - log q(w)], nats, shape (B,)."""
    # the slope of x log x at 0 is clamped: an infinite one times the mask would be NaN
    log_eta = eta.clamp_min(torch.finfo(eta.dtype).tiny).log()
    return (eta * (log_joint - log_eta) * batch.mask[..., None]).sum((1, 2, 3))


def visibility_part(model: MixDVAE, guide: FactorisedGuide, batch: MixtureBatch) -> Tensor:
    """E_q(v)[log p(K | v) p(v) - log q(v)], nats, shape (B,), less what the log rates hold."""
    visible = guide.visibility
    prior = model.detector.visibility(batch.num_frames, visible.mean)
    count = batch.mask.sum(-1).to(visible.mean)
    expected = model.detector.rates(visible.mean).sum(1) + model.detector.clutter_rate
    return -binary_kl(visible, prior).sum(1) - (expected + torch.lgamma(count + 1.0)).sum(1)


@BOUNDS.register("mixdvae")
def mixdvae_bound(model: nn.Module, guide: nn.Module) -> Bound | None:
    """The bound of a MixDVAE whose prior sends a message, and a guide with q(w), q(s) as factors.

    Raises:
        SpecError: where the prior sends none, or the guide has no such factors.
    """
    if not isinstance(model, MixDVAE):
        return None
    if not model.prior.has_gaussian_message:
        raise SpecError(silent(model))
    if not isinstance(guide, FactorisedGuide) or guide.assignment == "marginal":
        raise SpecError(
            f"it needs q(w) and q(s) as factors, which this {type(guide).__name__} has not"
        )
    return closed_form_elbo


def silent(model: MixDVAE) -> str:
    """Say that a model's prior sends no Gaussian message, and what to use instead."""
    given = f"{type(model.prior).__name__}, whose frames are not Gaussian"
    expected = "one that sends a Gaussian message, for a closed form"
    hint = "Use inference 'svi' with elbo 'trace_enum'"
    return mismatch("prior", given=given, expected=expected, hint=hint)
