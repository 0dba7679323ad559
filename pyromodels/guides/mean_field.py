"""The free-form mean-field guide q(w) q(v) q(s) q(z | s)."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.plates import batch_plate, frame_plate, observation_plate, source_plate
from pyromodels.registry import GUIDES


@GUIDES.register("mean_field")
class MeanField(nn.Module):
    r"""q(w) q(v) q(s) q(z | s), free in every factor but the last (thesis eq. 3.7, 3.15).

        q(w_tk = n)  eta_tkn            responsibilities (B, T, K, N [+ 1 for clutter])
        q(s_n)       Gaussian chain     loc, covariance, gain (B, N, T, G, d [, d])
        q(v_n)       Markov chain       visible_first (B, N), visible_step (B, N, T - 1, 2)
        q(z_n|s_n)   the prior's encoder

    The buffers hold the answer; `inference.vem` fills them.

    Args:
        model: the program it is a guide of.
        batch: the data it is fitted to. q(s) starts constant, at the anchors, with their variances.
    """

    max_plate_nesting = MixDVAE.max_plate_nesting

    def __init__(self, model: MixDVAE, batch: MixtureBatch) -> None:
        super().__init__()
        self.model = model
        num_sequences, num_frames, num_slots, _ = batch.observations.shape
        loc = batch.anchor.loc.unflatten(-1, (-1, model.prior.block_dim)).unsqueeze(2)
        variance = batch.anchor.variance.unflatten(-1, (-1, model.prior.block_dim)).unsqueeze(2)
        loc = loc.expand(-1, -1, num_frames, -1, -1).clone()
        covariance = torch.diag_embed(variance).expand(-1, -1, num_frames, -1, -1, -1).clone()
        components = batch.num_sources + model.num_extra
        uniform = batch.mask[..., None].to(loc).expand(-1, -1, -1, components) / components
        self.register_buffer("responsibilities", uniform.clone())
        self.register_buffer("loc", loc)
        self.register_buffer("covariance", covariance)
        self.register_buffer("gain", torch.zeros_like(covariance))
        if model.detector is not None:
            prior = model.detector.visibility(num_frames, loc)
            shape = (num_sequences, batch.num_sources)
            self.register_buffer("visible_first", prior.initial.expand(shape).clone())
            self.register_buffer("visible_step", prior.transition.expand(*shape, -1, -1).clone())

    @property
    def sources(self) -> GaussianChain:
        """q(s), batch (B, N), event (T, D)."""
        return GaussianChain(self.loc, self.covariance, self.gain, validate_args=False)

    @sources.setter
    def sources(self, chain: GaussianChain) -> None:
        self.loc, self.covariance = chain.loc_blocks, chain.covariance
        self.gain = torch.zeros_like(chain.covariance) if chain.gain is None else chain.gain

    @property
    def visibility(self) -> BinaryChain:
        """q(v), batch (B, N), event (T,)."""
        return BinaryChain(self.visible_first, self.visible_step, validate_args=False)

    @visibility.setter
    def visibility(self, chain: BinaryChain) -> None:
        self.visible_first, self.visible_step = chain.initial, chain.transition

    @property
    def assigned(self) -> Tensor:
        """Responsibilities of the sources alone, shape (B, T, K, N)."""
        return self.responsibilities[..., : self.loc.shape[1]]

    def forward(self, batch: MixtureBatch) -> None:
        """Run the guide."""
        num_sequences, num_frames, num_slots, _ = batch.observations.shape
        anchor = type(batch.anchor)(*(part.unsqueeze(1) for part in batch.anchor))
        sequences = batch_plate(num_sequences)
        with sequences, source_plate(batch.num_sources):
            # q(s) q(z | s) q(v)
            chain = (self.loc, self.covariance, self.gain)
            s = pyro.sample("s", GaussianChain(*(part.unsqueeze(1) for part in chain)))
            self.model.prior.guide_sources("s", s, anchor=anchor)
            if self.model.detector is not None:
                chain = (self.visible_first, self.visible_step)
                pyro.sample("v", BinaryChain(*(part.unsqueeze(1) for part in chain)))
        with (
            sequences,
            frame_plate(num_frames),
            observation_plate(num_slots),
            pyro.poutine.mask(mask=batch.mask),
        ):
            # q(w)
            probabilities = torch.where(
                batch.mask[..., None], self.responsibilities, torch.ones_like(self.responsibilities)
            )
            pyro.sample("w", dist.Categorical(probabilities), infer={"enumerate": "parallel"})
