"""q(w) q(v) q(s) q(z | s) of a MixDVAE, whatever holds its factors."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.errors import misshapen
from pyromodels.guides.base import Guide
from pyromodels.models.mixdvae import MixDVAE, owner
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import batch_plate, frame_plate, observation_plate, source_plate


class FactorisedGuide(Guide, ABC):
    r"""q(w) q(v) q(s) q(z | s) (thesis eq. 3.7, 3.15).

        q(w_tk = n)  eta_tkn            `responsibilities`
        q(s_n)       Gaussian chain     `sources`
        q(v_n)       Markov chain       `visibility`
        q(z_n|s_n)   the prior's encoder

    It belongs to a model, whose encoder it runs, and does not own it: the model's parameters are
    not the guide's.
    """

    max_plate_nesting = MixDVAE.max_plate_nesting
    model: MixDVAE
    assignment: Literal["mean_field", "marginal"] = "mean_field"
    """Whether q(w) is a factor of the guide, or w is left to enumeration in the model."""

    def __init__(self, model: MixDVAE) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FactorisedGuide":
        """Copy the factors; the model stays the same, unless it is copied along."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        state = {name: value for name, value in self.__dict__.items() if name != "model"}
        twin.__dict__.update(copy.deepcopy(state, memo))
        object.__setattr__(twin, "model", memo.get(id(self.model), self.model))
        return twin

    @property
    @abstractmethod
    def responsibilities(self) -> Tensor:
        """eta, shape (B, T, K, N [+ 1 for clutter])."""

    @property
    @abstractmethod
    def sources(self) -> GaussianChain:
        """q(s), batch (B, N), event (T, D)."""

    @property
    @abstractmethod
    def visibility(self) -> BinaryChain:
        """q(v), batch (B, N), event (T,)."""

    @property
    def assigned(self) -> Tensor:
        """Responsibilities of the sources alone, shape (B, T, K, N)."""
        components = self.responsibilities.shape[-1]
        return self.responsibilities[..., : components - self.model.num_extra]

    def of(self, batch: MixtureBatch) -> "FactorisedGuide":
        """Return the guide of the batch's sequences: itself, or a part where it is a minibatch.

        Raises:
            ShapeError: where the guide was made for data of another shape.
        """
        guide = self if batch.index is None else Selected(self, batch.index)
        guide.check_batch(batch)
        return guide

    def responsibilities_of(self, batch: MixtureBatch) -> Tensor | None:
        """Return eta of the batch's sequences; None where w is left to the model."""
        return None if self.assignment == "marginal" else self.of(batch).responsibilities

    def check_batch(self, batch: MixtureBatch) -> None:
        """Raise `ShapeError` where the guide was made for data of another shape."""
        sources = self.sources
        given = (*sources.batch_shape, sources.event_shape[0])
        expected = (batch.num_sequences, batch.num_sources, batch.num_frames)
        if self.assignment == "mean_field":
            given = self.responsibilities.shape
            expected = (*batch.mask.shape, batch.num_sources + self.model.num_extra)
        if given != expected:
            name = "responsibilities" if self.assignment == "mean_field" else "sources"
            wanted = f"{expected}, as the batch and the model have it"
            hint = "Was the guide fitted to another batch, or to several starts of it?"
            raise misshapen(f"guide.{name}", given, wanted, hint)

    def forward(self, batch: MixtureBatch) -> None:
        """Run the guide."""
        register(self)
        num_sequences, num_frames, num_slots, _ = batch.observations.shape
        anchor = self.model.start(batch)["anchor"]
        guide = self.of(batch)
        sequences = batch_plate(num_sequences)
        with sequences, source_plate(batch.num_sources):
            # q(s) q(z | s) q(v); dimension -2 is the frames', of which a path has one
            s = pyro.sample("s", guide.sources.map(lambda part: part.unsqueeze(1)))
            self.model.prior.guide_sources("s", s, anchor=anchor)
            if self.model.detector is not None:
                pyro.sample("v", guide.visibility.map(lambda part: part.unsqueeze(1)))
        if self.assignment == "marginal":
            return
        with sequences, frame_plate(num_frames), observation_plate(num_slots):
            # q(w)
            eta = guide.responsibilities
            logits = eta.clamp_min(torch.finfo(eta.dtype).tiny).log()
            pyro.sample("w", owner(logits, batch.mask), infer={"enumerate": "parallel"})


class Selected(FactorisedGuide):
    """The factors of some sequences of a guide, read only.

    Args:
        guide: the guide of all the data.
        index: which sequences, shape (B',).
    """

    def __init__(self, guide: FactorisedGuide, index: Tensor) -> None:
        super().__init__(guide.model)
        object.__setattr__(self, "whole", guide)
        self.index, self.assignment = index, guide.assignment

    @property
    def responsibilities(self) -> Tensor:
        """eta of the selected sequences."""
        return self.whole.responsibilities[self.index]

    @property
    def sources(self) -> GaussianChain:
        """q(s) of the selected sequences."""
        return self.whole.sources.map(lambda part: part[self.index])

    @property
    def visibility(self) -> BinaryChain:
        """q(v) of the selected sequences."""
        return self.whole.visibility.map(lambda part: part[self.index])
