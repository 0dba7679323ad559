"""Inference engines by name: what steps a guide, and for how long.

An engine is built from a model, a guide that stands where the fit begins, and the batch. Adding one
is a function here, or in `inference/mixture/by_name.py` where it is of a MixDVAE alone.
"""

from typing import Any, Literal

from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyromodels.errors import SpecError, mismatch
from pyromodels.guides.base import Guide
from pyromodels.inference.engines import ENGINES
from pyromodels.inference.engines.ascend import AscentOptions
from pyromodels.inference.engines.engine import Engine
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.objectives.closed_form import closed_form, closed_form_or_none


@ENGINES.register("svi")
def svi(
    model: nn.Module,
    guide: nn.Module,
    batch: Any,  # noqa: ANN401
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
        elbo: "closed_form", without noise, which a MixDVAE has whose prior sends a Gaussian message
            with a guide that has q(w) and q(s) as factors; "trace_enum", Pyro's estimator, which
            takes any model, and sums out what the guide leaves to it; "auto": the first where it
            exists.
        num_particles: draws of the estimator, "trace_enum" only.
        train_model: also move the model's parameters.
        max_grad_norm: gradients are scaled down to this norm; None leaves them.

    Raises:
        SpecError: where the model has no closed form, or the options contradict each other.
    """
    unit = 1.0
    if isinstance(guide, Guide):
        guide = guide.parametrised()
        unit = guide.init_scale
    if elbo == "closed_form" and num_particles != 1:
        what, expected = "num_particles with elbo 'closed_form'", "1, it draws nothing"
        told = mismatch(f"inference 'svi': {what}", given=num_particles, expected=expected)
        raise SpecError(f"{told}. Draws are for elbo = 'trace_enum'.")
    bound = None
    if elbo == "closed_form":
        try:
            bound = closed_form(model, guide)
        except SpecError as error:
            told = f"inference 'svi': no elbo 'closed_form': {error}"
            raise SpecError(f"{told}. Use inference 'svi' with elbo 'trace_enum'") from None
    elif elbo == "auto" and num_particles == 1:
        bound = closed_form_or_none(model, guide)
    if bound is None:
        bound = TraceEnum_ELBO(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=model.max_plate_nesting,
        )
    stepper = SVI(
        model,
        guide,
        elbo=bound,
        learning_rate=learning_rate * unit,
        num_steps=steps,
        train_model=train_model,
        max_grad_norm=max_grad_norm,
    )
    return Engine(stepper, AscentOptions(max_steps=steps))

