"""The amortised guide: a prior's own encoder."""

from torch import nn

from pyromodels.batch import SequenceBatch
from pyromodels.errors import SpecError, mismatch
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.parameters import register
from pyromodels.plates import batch_plate, source_plate
from pyromodels.registry import GUIDES


@GUIDES.register("amortised")
class Amortised(nn.Module):
    r"""q(z | x) = \prod_t q(z_t | x, z_{<t}), computed from the data by the prior's encoder.

    It has no parameters of its own: the encoder, which shares networks with the prior, is the
    model's.

    Args:
        model: the program it is a guide of.

    Raises:
        SpecError: for a model that has unknowns beside the latents of its prior, or none.

    Example:
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> Amortised(DynamicalVAE(SRNN())).max_plate_nesting
        3
    """

    max_plate_nesting = DynamicalVAE.max_plate_nesting

    def __init__(self, model: DynamicalVAE) -> None:
        super().__init__()
        if not isinstance(model, DynamicalVAE):
            hint = (
                'Its trajectories s are unknown and need a q(s) too: use the guide "mean_field".'
                if isinstance(model, MixDVAE)
                else ""
            )
            raise SpecError(
                mismatch(
                    "model of the guide amortised",
                    given=type(model).__name__,
                    expected="DynamicalVAE",
                    hint=hint,
                )
            )
        if model.prior.latent_dim == 0:
            raise SpecError(
                mismatch(
                    "prior for the guide amortised",
                    given=f"{type(model.prior).__name__}, which has no latents",
                    expected="one with latents, e.g. srnn",
                    hint="Without latents log p(x) is known: nothing is left to infer.",
                )
            )
        self.model = model

    def forward(self, batch: SequenceBatch) -> None:
        """Run the guide."""
        register(self)
        x, anchor, mask = self.model.trajectories(batch)
        with batch_plate(batch.num_sequences), source_plate(1):
            # q(z_t | x, z_<t), all t
            self.model.prior.guide_sources("x", x, anchor=anchor, mask=mask)
