"""Inference engines of a MixDVAE by name: those that set factors in closed form."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.ascend import AscentOptions
from pyromodels.inference.engines.coordinate_ascent import Update
from pyromodels.inference.engines.engine import Engine
from pyromodels.inference.mixture.bound import silent
from pyromodels.inference.mixture.natural import NaturalAssignment, NaturalSources
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    ObservationNoiseUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    VisibilityUpdate,
)
from pyromodels.inference.mixture.vem import VEM
from pyromodels.models.mixdvae import MixDVAE


@ENGINES.register("vem")
def vem(
    model: MixDVAE,
    guide: MeanField,
    batch: MixtureBatch,
    *,
    steps: int = 15,
    damping: float = 1.0,
    tolerance: float | None = None,
    history: Literal["smoothed", "fixed"] = "smoothed",
    likelihood: Literal["expected", "cavity"] = "expected",
    keep_first: bool = True,
    learn: Sequence[Literal["process_noise", "observation_noise"]] = (),
) -> Engine:
    """Variational EM: closed-form updates of q(s), q(v), q(w) in turn.

    Args:
        model: the program.
        guide: the guide, which the updates set.
        batch: the data.
        steps: sweeps over all updates.
        damping: how far an update goes, in (0, 1].
        tolerance: stop once a sweep gains less than this, nats; None makes all sweeps.
        history: see `SourceUpdate`; "fixed" is the update of the thesis.
        likelihood, keep_first: see `AssignmentUpdate`.
        learn: noises to re-estimate in every sweep; "process_noise" of a linear prior only.

    Raises:
        SpecError: where the prior sends no message, the guide has no factors to set, or the prior
            no process noise to learn.
    """
    _check("vem", model, guide)
    updates: list[Update] = [SourceUpdate(history=history), VisibilityUpdate()]
    if "process_noise" in learn:
        if not isinstance(model.prior, LinearGaussian):
            raise SpecError(
                f"inference 'vem': learn 'process_noise' is for linear dynamics; a "
                f"{type(model.prior).__name__} prior predicts its own. Leave it out"
            )
        updates.insert(1, ProcessNoiseUpdate(model.prior.process_std.detach().clone()))
    updates.append(AssignmentUpdate(likelihood=likelihood, keep_first=keep_first))
    if "observation_noise" in learn:
        updates.append(ObservationNoiseUpdate())
    stepper = VEM(model, guide, updates, damping=damping)
    return Engine(stepper, AscentOptions(max_steps=steps, tolerance=tolerance))


@ENGINES.register("svi_natural")
def svi_natural(
    model: MixDVAE,
    guide: MeanField,
    batch: MixtureBatch,
    *,
    steps: int = 30,
    rate: float = 0.5,
    tolerance: float | None = None,
    detach_history: bool = True,
) -> Engine:
    """Natural-gradient SVI: steps of `rate` by automatic differentiation; rate 1 is VEM.

    Args:
        model: the program.
        guide: the guide, which the updates set.
        batch: the data.
        steps: steps over all factors.
        rate: step size of q(s) and q(w), in (0, 1].
        tolerance: stop once a step gains less than this, nats; None makes all steps.
        detach_history: False lets gradients through the networks of a deep prior; see
            `NaturalSources`.

    Raises:
        SpecError: where the prior sends no message, the guide has no factors to set, or the rate
            is out of its range.
    """
    _check("svi_natural", model, guide)
    if not 0 < rate <= 1:
        raise SpecError(mismatch("svi_natural: rate", given=rate, expected="a number in (0, 1]"))
    updates = [NaturalSources(rate, detach_history), VisibilityUpdate(), NaturalAssignment(rate)]
    stepper = VEM(model, guide, updates)
    return Engine(stepper, AscentOptions(max_steps=steps, tolerance=tolerance))


def _check(name: str, model: MixDVAE, guide: nn.Module) -> None:
    if not model.prior.has_gaussian_message:
        raise SpecError(f"inference {name!r}: {silent(model)}")
    if not isinstance(guide, MeanField):
        raise SpecError(
            f"inference {name!r} sets factors in closed form, which a {type(guide).__name__} does "
            "not hold; use guide 'mean_field', or inference 'svi'"
        )
