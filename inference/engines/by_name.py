"""Inference engines by name: a stepper, and for how long it steps.

An engine is built from a model, a guide that stands where the fit begins, and the batch. Adding one
is a function here, or in any file of this folder.
"""

from collections.abc import Sequence
from typing import Literal

from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyromodels.batch import MixtureBatch
from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.inference.engines import STEPPERS
from pyromodels.inference.engines.ascend import AscentOptions
from pyromodels.inference.engines.coordinate_ascent import VEM
from pyromodels.inference.engines.engine import Engine
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.mixture.bound import has_closed_form
from pyromodels.inference.mixture.natural import NaturalAssignment, NaturalSources
from pyromodels.inference.mixture.updates import (
    AssignmentUpdate,
    ObservationNoiseUpdate,
    ProcessNoiseUpdate,
    SourceUpdate,
    Update,
    VisibilityUpdate,
)
from pyromodels.models.mixdvae import MixDVAE


@STEPPERS.register("vem")
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
    _check_message("inference 'vem'", model)
    _check_free_form("vem", guide)
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


@STEPPERS.register("svi_natural")
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
    _check_message("inference 'svi_natural'", model)
    _check_free_form("svi_natural", guide)
    if not 0 < rate <= 1:
        raise SpecError(mismatch("svi_natural: rate", given=rate, expected="a number in (0, 1]"))
    updates = [NaturalSources(rate, detach_history), VisibilityUpdate(), NaturalAssignment(rate)]
    return Engine(
        VEM(model, guide, updates), AscentOptions(max_steps=steps, tolerance=tolerance)
    )


@STEPPERS.register("svi")
def svi(
    model: nn.Module,
    guide: nn.Module,
    batch: MixtureBatch,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    elbo: Literal["auto", "closed_form", "trace_enum"] = "auto",
    num_particles: int = 1,
    train_model: bool = False,
    max_grad_norm: float | None = None,
) -> Engine:
    """SVI: Adam on the guide's parameters, the rate falling to zero along a half cosine.

    A guide that holds its factors in buffers (`mean_field`) is made `parametrised()`.

    Args:
        model: the program.
        guide: the guide to start from; left as it is where it is made parametrised.
        batch: the data.
        steps: gradient steps.
        learning_rate: of Adam, at the start, in units of the guide's own deviation: of the
            `init_scale` of a guide that has one, else of 1.
        elbo: "closed_form", without noise, of a MixDVAE whose prior sends a Gaussian message and a
            guide with q(w) and q(s) as factors; "trace_enum", Pyro's estimator, which takes any
            prior, and sums w out where the guide leaves it to the model; "auto": the first where it
            exists.
        num_particles: draws of the estimator, "trace_enum" only.
        train_model: also move the model's parameters.
        max_grad_norm: gradients are scaled down to this norm; None leaves them.

    Raises:
        SpecError: where the model has no closed form, or the options contradict each other.
    """
    if hasattr(guide, "parametrised"):
        guide = guide.parametrised()
    closed = has_closed_form(model, guide)
    if elbo == "auto":
        elbo = "closed_form" if closed and num_particles == 1 else "trace_enum"
    if elbo == "closed_form" and not isinstance(model, MixDVAE):
        raise SpecError(
            f"inference 'svi': elbo 'closed_form' is that of a MixDVAE; a {type(model).__name__} "
            "has none. Use elbo = 'trace_enum'"
        )
    if elbo == "closed_form":
        _check_message("inference 'svi' with elbo 'closed_form'", model)
    if elbo == "closed_form" and num_particles != 1:
        raise SpecError(
            mismatch(
                "inference 'svi': num_particles with elbo 'closed_form'",
                given=num_particles,
                expected="1, it draws nothing",
                hint="Draws are for elbo = 'trace_enum'.",
            )
        )
    if elbo == "closed_form" and not closed:
        raise SpecError(
            f"inference 'svi': elbo 'closed_form' needs q(w) and q(s) as factors, which this "
            f"{type(guide).__name__} has not. Use elbo = 'trace_enum'"
        )
    estimator = elbo
    if elbo == "trace_enum":
        estimator = TraceEnum_ELBO(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=model.max_plate_nesting,
        )
    stepper = SVI(
        model,
        guide,
        elbo=estimator,
        learning_rate=learning_rate * getattr(guide, "init_scale", 1.0),
        num_steps=steps,
        train_model=train_model,
        max_grad_norm=max_grad_norm,
    )
    return Engine(stepper, AscentOptions(max_steps=steps))


def _check_message(what: str, model: MixDVAE) -> None:
    if not model.prior.has_gaussian_message:
        raise SpecError(
            mismatch(
                f"{what}: prior",
                given=f"{type(model.prior).__name__}, whose frames are not Gaussian",
                expected="one that sends a Gaussian message, for a closed form",
                hint="Use inference 'svi' with elbo 'trace_enum'",
            )
        )


def _check_free_form(name: str, guide: nn.Module) -> None:
    if not isinstance(guide, MeanField):
        raise SpecError(
            f"inference {name!r} sets factors in closed form, which a {type(guide).__name__} does "
            "not hold; use guide 'mean_field', or inference 'svi'"
        )
