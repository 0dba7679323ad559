"""The amortised guide: q(z | x) computed from the data by an encoder."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pyromodels.batch import SequenceBatch
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.base import Guide
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import batch_plate, source_plate
from pyromodels.registry import GUIDES


@GUIDES.register("amortised")
class Amortised(Guide):
    r"""q(z | x) = \prod_t q(z_t | x, z_{<t}), by an encoder of any direction and feedback.

    By default the encoder is the model's own, and this guide's parameters are the model's. Another
    one, named by its preset or described by a table, is this guide's, and its parameters are the
    guide's only ones; what it shares with the generative networks belongs to the model.

    Args:
        model: the program it is a guide of.
        encoder: see `networks.encoders`: which frames q(z_t) looks at and which z it is fed with.
            None: the prior's own.

    Raises:
        SpecError: for a model that has unknowns beside the latents of its prior, or none.

    Example:
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> model = DynamicalVAE(SRNN())
        >>> Amortised(model).encoder.direction
        'frame'
        >>> Amortised(model, encoder={"direction": "both", "feedback": "all"}).encoder.recurs
        True
    """

    max_plate_nesting = DynamicalVAE.max_plate_nesting

    def __init__(self, model: DynamicalVAE, encoder: str | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(model, DynamicalVAE):
            more = 'Its trajectories s are unknown and need a q(s) too: use the guide "mean_field".'
            hint = more if isinstance(model, MixDVAE) else ""
            what, given = "model of the guide amortised", type(model).__name__
            raise SpecError(mismatch(what, given=given, expected="DynamicalVAE", hint=hint))
        prior = model.prior
        if prior.latent_dim == 0:
            what, expected = "prior for the guide amortised", "one with latents, e.g. srnn"
            given = f"{type(prior).__name__}, which has no latents"
            hint = "Without latents log p(x) is known: nothing is left to infer."
            raise SpecError(mismatch(what, given=given, expected=expected, hint=hint))
        if encoder is None:
            self.model, self.own_encoder = model, None
        else:
            self.own_encoder = prior.build_encoder(encoder)
            self.__dict__["model"] = model  # no submodule: its own encoder is not in use

    @property
    def encoder(self) -> nn.Module:
        """The encoder in use."""
        return self.model.prior.encoder if self.own_encoder is None else self.own_encoder

    def forward(self, batch: SequenceBatch) -> None:
        """Run the guide."""
        register(self)
        x, anchor, mask = self.model.trajectories(batch)
        with batch_plate(batch.num_sequences), source_plate(1):
            # q(z_t | x, z_<t), all t
            other = {} if self.own_encoder is None else {"encoder": self.own_encoder}
            self.model.prior.guide_sources("x", x, anchor=anchor, mask=mask, **other)
