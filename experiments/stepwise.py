"""An SRNN written as Pyro programs usually are: one site for every frame."""

import pyro
import torch
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.path import diagonal_normal
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.parameters import register
from pyromodels.plates import MAX_PLATE_NESTING, batch_plate, source_plate


class StepwiseModel(nn.Module):
    """p(x, z) of a `DynamicalVAE` over an SRNN, sites "z_1", "x_1", "z_2", ...

    Its parameters are those of the model it is given.
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(self, model: DynamicalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SequenceBatch) -> None:
        """Run the program."""
        register(self)
        prior, coordinates = self.model.prior, self.model.prior.coordinates
        x, anchor, mask = self.model.trajectories(batch)
        h, _ = prior.hidden(x)
        z = x.new_zeros(*x.shape[:-2], prior.latent_dim)
        with batch_plate(batch.num_sequences), source_plate(1):
            for t in range(batch.num_frames):
                with pyro.poutine.mask(mask=mask[..., t]):
                    # p(z_t | x_<t, z_{t-1})
                    z = pyro.sample(f"z_{t + 1}", gaussian(*prior.prior(h[..., t, :], z)))
                    # p(x_t | x_<t, z_t)
                    law = diagonal_normal(anchor.loc, anchor.variance.sqrt())
                    if t > 0:
                        mean, log_variance = prior.decoder(h[..., t, :], z)
                        origin, unit = coordinates.origin_and_unit(x[..., t - 1, :])
                        scale = unit * coordinates.scale_of(log_variance)
                        law = diagonal_normal(origin + unit * mean, scale)
                    pyro.sample(f"x_{t + 1}", law, obs=x[..., t, :])


class StepwiseGuide(nn.Module):
    """q(z | x) of the same SRNN's encoder, sites "z_1", "z_2", ..."""

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(self, model: DynamicalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SequenceBatch) -> None:
        """Run the guide."""
        register(self)
        prior = self.model.prior
        x, _, mask = self.model.trajectories(batch)
        h, seen = prior.hidden(x)
        z = x.new_zeros(*x.shape[:-2], prior.latent_dim)
        with batch_plate(batch.num_sequences), source_plate(1):
            for t in range(batch.num_frames):
                with pyro.poutine.mask(mask=mask[..., t]):
                    # q(z_t | x_<=t, z_{t-1})
                    law = gaussian(*prior.encoder(h[..., t, :], seen[..., t, :], z))
                    z = pyro.sample(f"z_{t + 1}", law)


def gaussian(mean: Tensor, log_variance: Tensor) -> torch.distributions.Distribution:
    """N(mean, exp(log_variance)), independent over the last dimension."""
    return diagonal_normal(mean, (0.5 * log_variance).exp())
