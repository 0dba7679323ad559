"""VAE, the variational autoencoder: frames that know nothing of each other."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pyromodels.dynamics.cell import MarkovCell, standard_normal
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.emissions.base import DecodedEmission, Emission, make_emission
from pyromodels.networks.encoders import make_encoder
from pyromodels.networks.mlp import Heads
from pyromodels.registry import DYNAMICS

SMALL_ENCODER = {"preset": "vae", "dims": (16,)}


@DYNAMICS.register("vae")
class VAE(DynamicalPrior):
    r"""Variational autoencoder of single frames: what a dynamical one has to beat.

        p(s, z) = \prod_t p(z_t) p(s_t | z_t)
        q(z|s)  = \prod_t q(z_t | s_t)                                   encoder "vae"

        z_t          ~ N(0, I)
        s_t | z_t    ~ emission(decoder(z_t))
        z_t | s_t    ~ N(encoder(x_t))

    Symbols and arguments are those of `DynamicalPrior`.

    Reference: Kingma and Welling, 2014, Auto-encoding variational Bayes; Girin et al., 2021,
    Dynamical variational autoencoders: a comprehensive review, section 2.

    Example:
        >>> import torch
        >>> prior = VAE(source_dim=3, emission="spectral")
        >>> prior.sample_sources("s", 20, batch_shape=torch.Size([2])).shape
        torch.Size([2, 20, 3])
    """

    contract_specs = (
        {"source_dim": 1, "latent_dim": 1},
        {"source_dim": 3, "latent_dim": 2, "emission": "spectral"},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "latent_dim": 16, "decoder_dims": (32, 64, 128, 256),
            "encoder": {"preset": "vae", "dims": (256, 128, 64, 32)},
        },
        "small": {
            "latent_dim": 16, "decoder_dims": (128, 128),
            "encoder": {"preset": "vae", "dims": (128, 128)},
        },
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        latent_dim: int = 4,
        decoder_dims: Sequence[int] = (16,),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
        encoder: str | Mapping[str, Any] = SMALL_ENCODER,
    ) -> None:
        emission = make_emission(emission, DecodedEmission)
        sizes = {"source_dim": source_dim, "latent_dim": latent_dim}
        encoder = make_encoder(encoder, **sizes)
        decoder = Heads((latent_dim,), decoder_dims, source_dim, emission.outputs)
        cell = MarkovCell(prior=standard_normal, decoder=decoder, **sizes)
        super().__init__(cell, emission, encoder)
