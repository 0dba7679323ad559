"""The free-form mean-field guide, whose factors closed-form updates set."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.guides.damping import damped
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.guides.free_form import FreeForm
from pyromodels.guides.parametrised import ParametrisedMeanField
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.registry import GUIDES


@GUIDES.register("mean_field")
class MeanField(FreeForm, FactorisedGuide):
    r"""q(w) q(v) q(s) q(z | s), free in every factor but the last, held in buffers.

    `pyromodels.inference.engines.coordinate_ascent` and `pyromodels.inference.mixture.natural` set
    `responsibilities`, `sources` and `visibility`; `parametrised` gives the same family to gradient
    methods.

    Args:
        model: the program it is a guide of.
        batch: the data it is fitted to. q(s) starts constant, at the anchors, with their variances
            (without anchors: standard normal); q(w) uniform; q(v) as the prior.
    """

    factors: ClassVar = {
        "responsibilities": "_responsibilities",
        "sources": "loc",
        "visibility": "visible_step",
    }

    def __init__(self, model: MixDVAE, batch: MixtureBatch) -> None:
        super().__init__(model)
        model.start(batch)  # a batch that the program would refuse is refused here
        if (anchor := batch.anchor) is None:
            shape = (batch.num_sequences, batch.num_sources, model.prior.source_dim)
            anchor = Anchor(batch.variance.new_zeros(shape), batch.variance.new_ones(shape))
        loc, variance = (
            part.unflatten(-1, (-1, model.prior.block_dim)).unsqueeze(2) for part in anchor
        )
        loc = loc.expand(-1, -1, batch.num_frames, -1, -1).clone()
        covariance = torch.diag_embed(variance).expand(-1, -1, batch.num_frames, -1, -1, -1)
        components = batch.num_sources + model.num_extra
        uniform = batch.mask[..., None].to(loc).expand(-1, -1, -1, components) / components
        self.register_buffer("_responsibilities", uniform.clone())
        self.register_buffer("loc", loc)
        self.register_buffer("innovation", covariance.clone())
        self.register_buffer("gain", torch.zeros_like(covariance))
        self.register_buffer("covariance", covariance.clone())
        if model.detector is not None:
            prior = model.detector.visibility(batch.num_frames, loc)
            shape = (batch.num_sequences, batch.num_sources)
            self.register_buffer("visible_first", prior.initial.expand(shape).clone())
            self.register_buffer("visible_step", prior.transition.expand(*shape, -1, -1).clone())
            self.register_buffer("visible_mean", prior.mean.expand(*shape, -1).clone())

    @property
    def responsibilities(self) -> Tensor:
        """eta, shape (B, T, K, N [+ 1 for clutter])."""
        return self._responsibilities

    @responsibilities.setter
    def responsibilities(self, value: Tensor) -> None:
        self._responsibilities = value

    @property
    def sources(self) -> GaussianChain:
        """q(s), batch (B, N), event (T, D)."""
        return GaussianChain(
            self.loc, self.innovation, self.gain, covariance=self.covariance, validate_args=False
        )

    @sources.setter
    def sources(self, chain: GaussianChain) -> None:
        self.loc, self.innovation = chain.loc_blocks, chain.innovation
        self.gain = torch.zeros_like(chain.innovation) if chain.gain is None else chain.gain
        self.covariance = chain.covariance

    @property
    def visibility(self) -> BinaryChain:
        """q(v), batch (B, N), event (T,)."""
        return BinaryChain(
            self.visible_first, self.visible_step, mean=self.visible_mean, validate_args=False
        )

    @visibility.setter
    def visibility(self, chain: BinaryChain) -> None:
        self.visible_first, self.visible_step = chain.initial, chain.transition
        self.visible_mean = chain.mean

    def between(self, factor: str, old: Any, new: Any, rate: float) -> Any:
        """Return old^(1 - rate) new^rate of a factor, normalised."""
        return damped(old, new, rate)

    def distance(self, other: "MeanField") -> Tensor:
        """Return the largest difference of responsibilities."""
        return (self.responsibilities - other.responsibilities).abs().max()

    def parametrised(
        self, assignment: Literal["mean_field", "marginal"] = "mean_field"
    ) -> ParametrisedMeanField:
        """Return the same distribution with parameters in place of buffers.

        With `assignment="marginal"` it is q(s) q(v) q(z | s) alone, w left to the model.
        """
        return ParametrisedMeanField(self, assignment=assignment)


@GUIDES.register("parametrised_mean_field")
def parametrised_mean_field(model: MixDVAE, batch: MixtureBatch) -> ParametrisedMeanField:
    """The mean-field family with parameters, for gradient methods."""
    return MeanField(model, batch).parametrised()


@GUIDES.register("chain")
def chain(model: MixDVAE, batch: MixtureBatch) -> ParametrisedMeanField:
    """A Gaussian chain over time for q(s), with parameters; w left to enumeration in the model."""
    return MeanField(model, batch).parametrised("marginal")
