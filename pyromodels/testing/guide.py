"""What every guide must fulfil, ours or yours."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyromodels.guides.base import as_guide
from pyromodels.pyro_support.vectorised_runs import (
    Site,
    latent_sites,
    nesting_of,
    run,
    sites_of,
    total,
)
from pyromodels.testing.runs import cancels

NUM_DRAWS = 7


def check_guide(
    guide: nn.Module,
    model: nn.Module,
    batch: Any,
    *,
    fresh: Callable[[], nn.Module] | None = None,
    draws_differ: bool = True,
) -> None:
    """Check a guide against its model; raise `AssertionError` where the contract is broken.

    * Its sites are the model's latents, but those that Pyro can enumerate in the model.
    * One run under a plate draws many times, each draw in the shape that the model gives the site.
    * Its density is finite, the same when evaluated at draws, and that of each draw alone.
    * Its weights load strictly into a fresh instance, which then draws and evaluates alike.
    * Gradients of the bound reach every parameter.
    * It follows the device and the dtype of `.to`.

    What a guide may say of itself beside its statements, `pyromodels.guides.base.Guide` says.

    Args:
        guide: as a user makes it.
        model: its model.
        batch: their data; with `.to(device, dtype)`, the guide is run in float32 as well.
        fresh: makes an instance like `guide`, with other weights where it has any; None leaves the
            check of weights out.
        draws_differ: False for a guide that is a point.
    """
    for test in guide_checks(fresh, draws_differ).values():
        test(guide, model, batch)


def guide_checks(
    fresh: Callable[[], nn.Module] | None = None, draws_differ: bool = True
) -> dict[str, Callable[[nn.Module, nn.Module, Any], None]]:
    """Return the checks of a guide, its model and a batch by name; arguments as `check_guide`."""
    checks: dict[str, Callable[..., None]] = {
        "sites": check_sites,
        "draws": partial(check_draws, draws_differ=draws_differ),
        "density": check_density,
        "gradients": check_gradients,
        "weights": partial(check_weights, fresh=fresh),
        "dtype": check_dtype,
    }
    return {name: test for name, test in checks.items() if fresh is not None or name != "weights"}


def check_sites(guide: nn.Module, model: nn.Module, batch: Any) -> None:
    """The guide has the model's latents, save discrete ones that Pyro can enumerate."""
    latents, guided = latent_sites(model, batch), sites_of(guide, batch)
    assert set(guided) <= set(latents), f"sites that the model lacks: {set(guided) - set(latents)}"
    for name in set(latents) - set(guided):
        assert latents[name].enumerable, f"{name!r} is in neither guide nor enumeration"
    for name, site in guided.items():
        assert not site.observed, f"{name!r} is observed in the guide"
        assert site.event_dim == latents[name].event_dim, f"event dimensions of {name!r}"


def check_draws(
    guide: nn.Module, model: nn.Module, batch: Any, *, draws_differ: bool = True
) -> None:
    """Under a plate of draws each has the shape of the model's site, and draws differ."""
    latents, nesting, nodes = _drawn(guide, model, batch)
    different = False
    for name, site in latents.items():
        if name not in nodes:
            continue
        value = nodes[name]["value"]
        like = site.value[(None,) * (nesting - site.batch_dim)]
        assert value.shape == (NUM_DRAWS, *like.shape), f"{name!r}: {tuple(value.shape)}"
        different |= bool((value[0] != value[1]).any())
    assert different == draws_differ, "draws differ" if different else "draws are all the same"


def check_density(guide: nn.Module, model: nn.Module, batch: Any) -> None:
    """Densities are finite and the same drawn, evaluated together, and one by one."""
    if not as_guide(guide).has_density:
        return
    latents, nesting, nodes = _drawn(guide, model, batch)
    with torch.no_grad():
        drawn = total(nodes, NUM_DRAWS, nesting)
        assert drawn.isfinite().all(), "log q is not finite"
        values = {name: nodes[name]["value"] for name in latents if name in nodes}
        given = as_guide(guide).auxiliary(values)
        again = total(run(guide, batch, NUM_DRAWS, nesting, given), NUM_DRAWS, nesting)
        close = {"rtol": 1e-4, "atol": 1e-4} if drawn.dtype == torch.float32 else {}
        torch.testing.assert_close(again, drawn, **close)
        for at in range(2):
            one = {name: value[at : at + 1] for name, value in given.items()}
            alone = total(run(guide, batch, 1, nesting, one), 1, nesting)
            torch.testing.assert_close(alone[0], drawn[at], **close)
        # the same through its own methods, in the shapes of the plates
        own, sites = as_guide(guide), sites_of(guide, batch)
        inner = {name: site.inward(values[name], nesting) for name, site in sites.items()}
        torch.testing.assert_close(own.log_prob(batch, inner), drawn, **close)
        shapes = {name: value.shape for name, value in own.sample(batch, NUM_DRAWS).items()}
        assert shapes == {name: value.shape for name, value in inner.items()}


def check_weights(
    guide: nn.Module, model: nn.Module, batch: Any, fresh: Callable[[], nn.Module]
) -> None:
    """A fresh instance loads the weights, strictly, and is then the same guide."""
    other = fresh()
    other.load_state_dict(guide.state_dict(), strict=True)
    results = []
    for instance in (guide, other):
        torch.manual_seed(3)
        latents, nesting, nodes = _drawn(instance, model, batch)
        values = [nodes[name]["value"] for name in latents if name in nodes]
        results.append([*values, total(nodes, NUM_DRAWS, nesting)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=0)


def check_gradients(guide: nn.Module, model: nn.Module, batch: Any) -> None:
    """Gradients of the enumerated bound reach every parameter."""
    parameters = {name: p for name, p in guide.named_parameters() if not cancels(name)}
    if not parameters:
        return
    nesting = _nesting(guide, model, batch)
    elbo = TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
    with pyro.settings.context(module_local_params=True):
        loss = elbo.differentiable_loss(model, guide, batch)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None, f"no gradient reaches {name!r}"
        assert gradient.isfinite().all(), f"the gradient of {name!r} is not finite"
        assert gradient.any(), f"the gradient of {name!r} is zero"


def check_dtype(guide: nn.Module, model: nn.Module, batch: Any) -> None:
    """Numbers follow `.to`: draws and densities are float32 where guide, model and batch are."""
    if not (hasattr(batch, "to") and isinstance(model, nn.Module)):
        return
    before = {module: dict(module.state_dict()) for module in (guide, model)}
    kept = {module: {k: v.clone() for k, v in state.items()} for module, state in before.items()}
    dtype = next((v.dtype for v in before[guide].values() if v.is_floating_point()), None)
    default = torch.get_default_dtype()
    try:
        guide.to(torch.float32)
        model.to(torch.float32)
        torch.set_default_dtype(torch.float32)
        small = batch.to("cpu", torch.float32)
        _, nesting, nodes = _drawn(guide, model, small)
        for name, node in nodes.items():
            if node["value"].is_floating_point():
                assert node["value"].dtype == torch.float32, f"{name!r} is {node['value'].dtype}"
        assert total(nodes, NUM_DRAWS, nesting).dtype == torch.float32, "log q is not float32"
    finally:
        torch.set_default_dtype(default)
        for module, state in kept.items():
            module.to(dtype or default)
            module.load_state_dict(state)


def _drawn(
    guide: nn.Module, model: nn.Module, batch: Any
) -> tuple[dict[str, Site], int, dict[str, dict[str, Any]]]:
    """The model's latents, the nesting and a vectorised run of the guide."""
    latents = latent_sites(model, batch)
    nesting = _nesting(guide, model, batch)
    with torch.no_grad():
        return latents, nesting, run(guide, batch, NUM_DRAWS, nesting)


def _nesting(guide: nn.Module, model: nn.Module, batch: Any) -> int:
    return nesting_of(guide, model, sites=sites_of(model, batch).values())
