"""Priors with latents of their own: networks that step, an emission, an encoder."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from pyromodels.dynamics.base import SourcePrior
from pyromodels.emissions.base import DecodedEmission, Emission, Outputs, make_emission
from pyromodels.errors import SpecError, unknown
from pyromodels.networks.encoders import Encoder, make_encoder
from pyromodels.pyro_support.shared_work import once


class EncodedPrior(SourcePrior):
    r"""What dynamical VAEs have in common, with a latent of the whole sequence or without.

    Args:
        source_dim: D.
        latent_dim: L.
        emission: what becomes of the decoder's outputs; an object, a name or a table.

    A subclass builds `self.encoder` once its networks are there.
    """

    block_dim = 1
    message_is_exact = False
    context_dim: int = 0
    """H: size of what an encoder may share; 0 where there is nothing to share."""
    context_needs_latents: bool = False
    """Whether h_t depends on z_{<t}."""
    feeds_back: bool = False
    """Whether anything depends on s_{<t}: then generation differs from teacher forcing."""
    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    """Keyword arguments by the name of a size: "paper" as published, "small" for two CPU cores."""

    def __init__(
        self,
        *,
        source_dim: int,
        latent_dim: int,
        emission: str | Mapping[str, Any] | Emission,
    ) -> None:
        super().__init__()
        self.source_dim, self.latent_dim = source_dim, latent_dim
        self.emission = make_emission(emission, DecodedEmission)
        self.emission.check_source_dim(source_dim)

    @classmethod
    def sized(cls, size: str, **keywords: Any) -> Self:
        """Return a model of one of the sizes it knows; keywords are added, or override.

        Raises:
            SpecError: unknown size.

        Example:
            >>> from pyromodels.dynamics.srnn import SRNN
            >>> SRNN.sized("small", source_dim=513, emission="spectral", latent_dim=8).latent_dim
            8
        """
        if size not in cls.sizes:
            raise SpecError(unknown(f"size of {cls.__name__}", given=size, known=cls.sizes))
        return cls(**{**cls.sizes[size], **keywords})

    def build_encoder(self, spec: str | Mapping[str, Any]) -> Encoder:
        """Return a new encoder of z for these networks, see `make_encoder`."""
        return make_encoder(self, spec, source_dim=self.source_dim, latent_dim=self.latent_dim)

    @property
    def needs_anchor(self) -> bool:
        """Whether its frames are increments."""
        return self.emission.needs_anchor

    @property
    def reads_history(self) -> bool:
        """Whether a frame's law, or the unit it is in, depends on s_{<t}."""
        return self.feeds_back or self.needs_anchor

    @property
    def takes_anchor(self) -> bool:
        """Whether its frames are Gaussian: a spectrogram starts wherever its model says."""
        return self.emission.has_gaussian_message

    @property
    def has_gaussian_message(self) -> bool:
        """Whether its frames are Gaussian."""
        return self.emission.has_gaussian_message

    def see(
        self,
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # x, shape: (*, T, D)
        """Return what the networks see of a trajectory."""
        return once(self, "see", (s,), lambda: self.emission.see(s))

    # ---- frame by frame, rows flat

    @abstractmethod
    def latent_step(self, state: Any) -> tuple[Tensor, Tensor]:  # mean, log variance; (rows, L)
        """Return p(z_t | state)."""

    @abstractmethod
    def emission_step(
        self,
        state: Any,
        z: Tensor,  # z_t, shape: (rows, L)
    ) -> Outputs:  # each (rows, D)
        """Return the decoder's outputs, p(s_t | state, z_t)."""

    @abstractmethod
    def advance(
        self,
        state: Any,
        z: Tensor,  # z_t, shape: (rows, L)
        x: Tensor,  # x_t, shape: (rows, D)
    ) -> Any:
        """Return the state after frame t."""
