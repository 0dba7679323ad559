"""The coordinate updates of variational EM, a small class each: E-W, E-S, E-V, E-Z, M.

An update takes the model, the guide and the batch, and moves one factor of the guide, or one
parameter of the model, to where the bound is highest given the rest. `VEM` applies a list of them
in order.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.visibility import posterior_chain
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import check_choice, mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines.coordinate_ascent import Update
from pyromodels.inference.mixture.bound import assignment_part, expected_log_joint
from pyromodels.inference.mixture.moments import step_second_moment
from pyromodels.inference.objectives.closed_form import BoundParts
from pyromodels.inference.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from pyromodels.models.mixdvae import MixDVAE


@dataclass
class AssignmentUpdate(Update):
    r"""E-W: q(w_tk = n) ∝ p(w_tk = n) exp E_q(s)[log N(o_tk; P s_tn, Phi_tk)]      (3.24-3.25)

    Args:
        likelihood: "expected" is the update of the thesis, the maximiser of the bound. "cavity"
            judges an observation by what the others say of the source (see
            `ObservationLaw.cavity_log_prob`).
            Departure: an expectation-propagation step, not the maximiser of the bound; it lets go
            of a false detection that has pulled a source to itself, which the bound's maximiser
            never does.
        keep_first: leave the first frame as it is: its observations name the sources.
    """

    likelihood: Literal["expected", "cavity"] = "expected"
    keep_first: bool = False
    changes_model: ClassVar[bool] = False

    def __call__(
        self, model: MixDVAE, guide: MeanField, batch: MixtureBatch
    ) -> BoundParts | None:
        """Set the guide's responsibilities."""
        score = None
        if self.likelihood == "cavity":
            score = model.observation.cavity_log_prob(batch, guide.sources, guide.assigned)
        logits = expected_log_joint(model, guide, batch, score)
        eta = logits.softmax(-1) * batch.mask[..., None]
        if self.keep_first:
            eta[:, 0] = guide.responsibilities[:, 0]
        guide.responsibilities = eta
        if self.likelihood == "cavity":  # its scores are not those of the bound
            return None
        return {"assignment": assignment_part(eta, logits, batch)}


@dataclass
class SourceUpdate(Update):
    """E-S: q(s) ∝ message × observations, soft-assigned.

    A message without transitions makes this eq. 3.18-3.19, frame by frame; one with transitions
    makes it a Kalman filter and smoother (`smooth`). Deep priors' latents sit at the encoder mean
    of the guide's mean trajectory, or at a draw where a generator is given.

    Args:
        generator: of the draws of deep priors' latents; None: their encoder means.
        history: "smoothed" keeps the transitions of the message. "fixed" is the thesis' update,
            where the past is a number whatever the prior: s_{t-1} at the mean of the iterate, each
            frame updated alone, and nothing learnt from what comes after it.
    """

    generator: torch.Generator | None = None
    history: Literal["smoothed", "fixed"] = "smoothed"
    changes_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("history", self.history, "smoothed", "fixed")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generator, where there is one."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def __call__(
        self, model: MixDVAE, guide: MeanField, batch: MixtureBatch
    ) -> BoundParts | None:
        """Set the guide's sources."""
        loc = guide.sources.loc
        noise = None
        if self.generator is not None and model.prior.latent_dim:
            shape = (*loc.shape[:-1], model.prior.latent_dim)
            noise = torch.randn(shape, generator=self.generator, dtype=loc.dtype, device=loc.device)
        seen = model.prior.iterate(loc, guide.sources.variance)
        message = model.prior.gaussian_message(seen, anchor=batch.anchor, z_noise=noise)
        if self.history == "fixed":
            message = message.at(loc)
        exact = model.prior.message_is_exact and self.history == "smoothed"
        evidence = model.observation.pseudo_observations(batch, guide.assigned)
        guide.sources, divergence = smooth_and_compare(message, *evidence, compare=exact)
        return {"sources": -divergence.sum(1)} if exact else None


class VisibilityUpdate(Update):
    """E-V: q(v_n) by forward-backward over the expected detections of each source and frame."""

    changes_model: ClassVar[bool] = False

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the guide's visibility; nothing to do without a detector."""
        if model.detector is None:
            return
        count = guide.assigned.sum(2).transpose(1, 2)  # expected detections, (B, N, T)
        evidence = [
            count * model.detector.log_rates(state) - model.detector.rates(state)
            for state in (torch.zeros_like(count), torch.ones_like(count))
        ]
        prior = model.detector.visibility(batch.num_frames, count)
        guide.visibility = posterior_chain(prior, torch.stack(evidence, -1))


@dataclass
class ProcessNoiseUpdate(Update):
    r"""M: the process noise of a linear-Gaussian prior and a sequence, at its posterior mode.

        std^2 = (\sum_{n,t} E[r_t^2] / unit^2 + strength * std_0^2) / (N (T - 1) + strength)

    r_t the residual of frame t; std_0 the prior's value when the update is made, `strength` its
    worth in frames. This is the Lambda of the variational Kalman filter (thesis 4.4.5), shared over
    a sequence.

    Args:
        centre: std_0; shape (G, d), (B, 1, G, d), or by source (B, N, G, d).
        strength: of the centre, frames; 0 is the maximum of the bound.
        by_source: each source has a noise of its own: no sum over n, and 1 in place of N.

    Raises:
        TypeError: when called, for another prior.
        ValueError: when called, for a minibatch, or for sequences of one frame at strength 0, which
            say nothing of a step.
    """

    centre: Tensor
    strength: float = 20.0
    by_source: bool = False

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the prior's process noise."""
        prior = model.prior
        if batch.index is not None:
            raise ValueError(
                "ProcessNoiseUpdate: given a minibatch; expected all sequences, each of which has "
                "a noise of its own"
            )
        if not isinstance(prior, LinearGaussian):
            raise TypeError(
                f"ProcessNoiseUpdate: given a {type(prior).__name__} prior; expected LinearGaussian"
            )
        message = prior.gaussian_message(guide.sources.loc, anchor=batch.anchor)
        moment = step_second_moment(message.transition, message.offset, guide.sources)
        square = moment.diagonal(dim1=-2, dim2=-1) / prior.unit(batch.anchor).unsqueeze(-3).square()
        summed = square.sum(2) if self.by_source else square.sum((1, 2)).unsqueeze(1)
        total = summed + self.strength * self.centre.square()
        num_sources = 1 if self.by_source else batch.num_sources
        weight = num_sources * (batch.num_frames - 1) + self.strength
        if not weight:
            expected = "2 or more, or strength above 0"
            raise ValueError(
                mismatch("frames of ProcessNoiseUpdate", given=batch.num_frames, expected=expected)
            )
        prior.process_std = (total / weight).sqrt()


class ObservationNoiseUpdate(Update):
    r"""M: the scale of Phi, from eq. 3.26 pooled over observations instead of one Phi_tk for each.

    Departure: a covariance estimated from a single observation is unreliable (thesis 3.3.4, 4.4.3).
    """

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Set the model's noise scale; keep it where no source holds an observation."""
        square = observation_variance(model, guide, batch) / batch.variance
        weight = guide.assigned.sum(-1, keepdim=True).expand_as(square)
        total = weight[batch.mask].sum()
        if total == 0:  # every frame empty, or everything clutter: nothing to learn from
            return
        model.observation.set_noise(square[batch.mask].sum() / total)


def observation_variance(model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> Tensor:
    r"""diag \sum_n eta_tkn ((o - P m)(o - P m)' + P V P') (eq. 3.26), shape (B, T, K, X)."""
    square = model.observation.expected_square(batch, guide.sources)
    return (guide.assigned.unsqueeze(-1) * square).sum(-2)


class FineTuneUpdate(Update):
    """E-Z with fine-tuning: a gradient step on the prior's own bound (eq. 3.27) at a draw of q(s).

    Args:
        prior: a deep prior with `elbo`.
        learning_rate: of Adam, whose state lives as long as this update.
    """

    def __init__(self, prior: torch.nn.Module, learning_rate: float = 1e-3) -> None:
        if not prior.has_elbo:
            raise TypeError(
                f"FineTuneUpdate: a {type(prior).__name__} prior has no networks to tune; "
                "expected a deep prior such as srnn or deep_ar"
            )
        self.optimizer = torch.optim.Adam(prior.parameters(), lr=learning_rate)

    def __call__(self, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> None:
        """Take one gradient step on the prior's networks."""
        training = model.prior.training
        model.prior.train()  # cuDNN knows no gradient of recurrent layers in evaluation
        with torch.enable_grad():
            s = guide.sources.rsample().detach()
            loss = -model.prior.elbo(s, anchor=batch.anchor).mean() / batch.num_frames
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        model.prior.train(training)

    def state_dict(self) -> dict[str, Tensor]:
        """Return Adam's moments."""
        return optimizer_tensors(self.optimizer)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        load_optimizer_tensors(self.optimizer, state)
