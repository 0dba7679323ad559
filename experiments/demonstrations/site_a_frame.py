"""A dynamical VAE written as Pyro programs usually are: one site for every frame."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.path import diagonal_normal
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.dynamics.latent_paths import gaussian
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.networks.encoders import Encoder
from pyromodels.networks.mlp import lstm_step, rows
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import MAX_PLATE_NESTING, batch_plate, source_plate


class Stepwise(nn.Module):
    """A program whose parameters are those of the model it is given."""

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(self, model: DynamicalVAE) -> None:
        super().__init__()
        self.model = model


class StepwiseModel(Stepwise):
    """p(x, z) of a `DynamicalVAE`, sites "z_1", "x_1", "z_2", ...; before them "w" if it has one.
    """

    def forward(self, batch: SequenceBatch) -> None:
        """Run the program."""
        register(self)
        prior: DynamicalPrior = self.model.prior
        x, anchor, mask = self.model.trajectories(batch)
        shape, num_frames = x.shape[:-2], batch.num_frames
        seen = rows(prior.see(x)).unbind(1)
        with batch_plate(batch.num_sequences), source_plate(1):
            if prior.global_dim:
                w = pyro.sample("w", prior.global_prior().expand(shape))  # p(w)
                prior = prior.given(w)
            cell = prior.cell
            state, path = cell.start(shape, x), []
            if cell.looks_ahead:  # p(z) reads no x, and all of z comes before any x
                for t in range(num_frames):
                    with pyro.poutine.mask(mask=mask[..., t]):
                        path.append(sample_latent(prior, state, t, shape))
                    state = cell.advance(state, path[t], seen[t])
                z = torch.stack(path, 1).reshape(*shape, num_frames, -1)
                state = cell.foresee(cell.start(shape, x), z, mask)
            for t in range(num_frames):
                with pyro.poutine.mask(mask=mask[..., t]):
                    # p(z_t | x_<t, z_<t)
                    if not cell.looks_ahead:
                        path.append(sample_latent(prior, state, t, shape))
                    # p(x_t | x_<t, z_<=t)
                    outputs = [v.reshape(*shape, -1) for v in cell.outputs(state, path[t])]
                    law = frame_law(prior, outputs, x[..., max(t - 1, 0) : t + 1, :], anchor)
                    pyro.sample(f"x_{t + 1}", law, obs=x[..., t, :])
                state = cell.advance(state, path[t], seen[t])


class StepwiseGuide(Stepwise):
    """q(z | x) of the same model's encoder, sites "z_1", "z_2", ...; before them "w" if any."""

    def forward(self, batch: SequenceBatch) -> None:
        """Run the guide."""
        register(self)
        prior: DynamicalPrior = self.model.prior
        x, _, mask = self.model.trajectories(batch)
        with batch_plate(batch.num_sequences), source_plate(1):
            if prior.global_dim:
                infer_given_global(prior, x, mask)
            else:
                infer_frame_by_frame(prior, x, mask)


def infer_frame_by_frame(
    prior: DynamicalPrior,
    x: Tensor,  # shape: (*batch, T, X)
    mask: Tensor,  # shape: (*batch, T)
) -> None:
    """z_t ~ q(z_t | x, z_<t), t = 1..T."""
    shape, seen, encoder = x.shape[:-2], prior.see(x), prior.encoder
    summary = encoder.summary(prior.cell, seen, mask)
    z, memory = x.new_zeros(*shape, prior.latent_dim), None
    state = prior.cell.start(shape, x) if encoder.context_recurs else None
    for t in range(x.shape[-2]):
        with pyro.poutine.mask(mask=mask[..., t]):
            # q(z_t | x, z_<t)
            parts = [summary[..., t, :]]
            if encoder.feedback != "none":
                fed, memory = feedback(encoder, z, memory)
                parts.append(fed)
            if encoder.context_recurs:
                parts.append(prior.cell.hidden_step(state).reshape(*shape, -1))
            if encoder.combine == "average":
                parts = [torch.stack(parts).mean(0)]
            z = pyro.sample(f"z_{t + 1}", gaussian(*encoder.head(*parts)))
            if encoder.context_recurs:
                frame = (z, seen[..., t, :])
                state = prior.cell.advance(state, *(v.reshape(shape.numel(), -1) for v in frame))


def infer_given_global(
    prior: DynamicalPrior,
    x: Tensor,  # shape: (*batch, T, X)
    mask: Tensor,  # shape: (*batch, T)
) -> None:
    """w ~ q(w | x), then z_t ~ q(z_t | x, w), t = 1..T, none of which reads another z."""
    w = pyro.sample("w", prior.global_posterior(x, mask=mask))  # q(w | x)
    networks = prior.given(w)
    unread = x.new_zeros(*x.shape[:-1], prior.latent_dim)
    parameters = networks.encoder.parameters_of(networks.cell, unread, networks.see(x), mask)
    for t, frame in enumerate(zip(*(v.unbind(-2) for v in parameters), strict=True)):
        with pyro.poutine.mask(mask=mask[..., t]):
            pyro.sample(f"z_{t + 1}", gaussian(*frame))  # q(z_t | x, w)


def sample_latent(
    prior: DynamicalPrior, state: Any, t: int, shape: torch.Size
) -> Tensor:  # z_t, rows flat
    """z_t ~ p(z_t | state), the site of frame t."""
    law = gaussian(*(v.reshape(*shape, -1) for v in prior.cell.latent(state)))
    return pyro.sample(f"z_{t + 1}", law).reshape(shape.numel(), -1)


def frame_law(
    prior: DynamicalPrior,
    outputs: list[Tensor],  # of frame t, each (*batch, X)
    frames: Tensor,  # x_{t-1} and x_t, or x_1 alone; shape: (*batch, 1 or 2, X)
    anchor: Anchor | None,
) -> torch.distributions.Distribution:  # batch (*batch), event (X,)
    """Return p(x_t | what the decoder says, x_{t-1})."""
    first = frames.shape[-2] == 1
    if first and anchor is not None:
        return diagonal_normal(anchor.loc, anchor.variance.sqrt())
    both = tuple(v.unsqueeze(-2).expand(*v.shape[:-1], frames.shape[-2], -1) for v in outputs)
    law = prior.emission.conditionals(both, frames, None)
    return law_of_last_frame(law)


def law_of_last_frame(law: torch.distributions.Distribution) -> torch.distributions.Distribution:
    """Return one frame's law from that of several."""
    if hasattr(law, "log_variance"):
        return type(law)(law.log_variance[..., -1, :], validate_args=False)
    return diagonal_normal(law.mean[..., -1, :], law.stddev[..., -1, :])


def feedback(
    encoder: Encoder,
    z: Tensor,  # z_{t-1}, shape: (*batch, L)
    memory: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return what the encoder is fed with of the latents before, shape (*batch, .)."""
    fed = encoder.fed(z)
    if encoder.feedback != "all":
        return fed, None
    memory = lstm_step(encoder.feedback_lstm, fed.reshape(-1, fed.shape[-1]), memory)
    return memory[0].reshape(*fed.shape[:-1], -1), memory
