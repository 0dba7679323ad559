"""Which MixDVAE and which of its guides have a bound in closed form."""

from torch import nn

from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.inference.mixture.bound import closed_form_elbo
from pyromodels.inference.objectives.closed_form import BOUNDS, Bound
from pyromodels.models.mixdvae import MixDVAE


@BOUNDS.register("mixdvae")
def mixdvae_bound(model: nn.Module, guide: nn.Module) -> Bound | None:
    """The bound of a MixDVAE whose prior sends a message, and a guide with q(w), q(s) as factors.

    Raises:
        SpecError: where the prior sends none, or the guide has no such factors.
    """
    if not isinstance(model, MixDVAE):
        return None
    if not model.prior.has_gaussian_message:
        raise SpecError(silent(model))
    if not isinstance(guide, FactorisedGuide) or guide.assignment == "marginal":
        raise SpecError(
            f"it needs q(w) and q(s) as factors, which this {type(guide).__name__} has not"
        )
    return closed_form_elbo


def silent(model: MixDVAE) -> str:
    """Say that a model's prior sends no Gaussian message, and what to use instead."""
    given = f"{type(model.prior).__name__}, whose frames are not Gaussian"
    expected = "one that sends a Gaussian message, for a closed form"
    hint = "Use inference 'svi' with elbo 'trace_enum'"
    return mismatch("prior", given=given, expected=expected, hint=hint)
