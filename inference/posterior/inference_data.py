"""The groups of an ArviZ file, as labelled arrays, from the draws of a posterior."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch
from pyromodels.inference.posterior.arviz_io import Variable
from pyromodels.pyro_support.vectorised_runs import Draws

if TYPE_CHECKING:
    from pyromodels.inference.posterior.posterior import Posterior

DEFAULT_DRAWS = 100
DRAWN = ("chain", "draw")


def groups_of(
    posterior: "Posterior",
    num_samples: int | None = None,
    *,
    trace: Mapping[str, Sequence[Tensor]] | None = None,
    weights: Literal["posterior", "prior"] = "posterior",
    prior: int = 0,
    coords: Mapping[str, Sequence[Any]] | None = None,
    feature_names: Sequence[str] | None = None,
    batch_names: Sequence[str] | None = None,
    relabel: Callable[[Draws], Draws] | None = None,
) -> dict[str, Any]:
    """Return `groups`, `coords` and `attrs` for `arviz_io.inference_data`.

    Args:
        posterior: model, guide and batch.
        num_samples: draws; None: 100, or all of a guide that is made of draws.
        trace: the bound after each sweep: phase -> tensors of shape (R * B,), R starts.
        weights: of `Posterior.log_likelihood`.
        prior: draws of the groups `prior` and `prior_predictive`; 0 leaves them out.
        coords: dimension -> labels; a dimension without any is numbered.
        feature_names: labels of the dimension `feature`.
        batch_names: labels of the dimension `batch`.
        relabel: what is done to the draws before they are written, e.g. other numbers of the
            sources. Densities are those of the draws as they were.
    """
    both, dims, num_chains = posterior.model_and_guide, _Dims(posterior), 1
    if num_samples is None:
        num_chains = both.own_guide.num_chains
        num_samples = DEFAULT_DRAWS if both.own_guide.num_stored is None else None
    layout = both.layout
    with torch.no_grad():
        draws, log_q = both.draw(num_samples)
        log_joint = posterior.log_joint(draws)
        likelihood = posterior.log_likelihood(draws, weights=weights)
        replica = posterior.predictive(draws=draws)

    stats = {"lp": log_joint}
    if log_q is not None:
        weight = log_joint if log_q.dim() == log_joint.dim() else log_joint.sum(-1)
        stats |= {"log_q": log_q, "log_weight": weight - log_q}
    sequences = () if layout.sequences is None else (layout.sequences,)
    data = {
        name: site.inward(site.of_one(site.value, both.nesting)[None], both.nesting)
        for name, site in both.observed.items()
    }
    groups: dict[str, dict[str, Variable]] = {
        "posterior": {
            name: dims.drawn(name, value, num_chains)
            for name, value in (relabel(draws) if relabel else draws).items()
        },
        "posterior_predictive": dims.gaps(replica, num_chains),
        "log_likelihood": {
            name: _drawn(dims.leading(name, value.dim() - 1), value, num_chains)
            for name, value in likelihood.items()
        },
        "sample_stats": {
            name: _drawn(sequences[: value.dim() - 1], value, num_chains)
            for name, value in stats.items()
        },
        "observed_data": {
            name: (named[2:], values[0, 0])
            for name, (named, values) in dims.gaps(data, 1).items()
        },
    }
    if layout.constants:
        groups["constant_data"] = {
            name: (named, _array(value)) for name, (named, value) in layout.constants.items()
        }
    if prior:
        latents, imagined = posterior.prior(prior)
        groups["prior"] = {name: dims.drawn(name, value, 1) for name, value in latents.items()}
        groups["prior_predictive"] = dims.gaps(imagined, 1)
    if trace:
        frames = (frame for site in both.sites.values() for frame in site.plates)
        sizes = {frame.name: frame.size for frame in frames}
        groups["bound_trace"] = bound_trace(trace, sizes.get(layout.sequences, 1))
    labels = {**layout.coords, **(coords or {})}
    named = {"feature": feature_names, "batch": batch_names}
    labels |= {dim: names for dim, names in named.items() if names is not None}
    return {
        "groups": {name: group for name, group in groups.items() if group},
        "coords": {dim: list(names) for dim, names in labels.items()},
        "attrs": {"inference_library": "pyromodels", "log_likelihood_weights": weights},
    }


def bound_trace(
    trace: Mapping[str, Sequence[Tensor]],  # phase -> one tensor (R * B,) a sweep
    num_sequences: int,
) -> dict[str, Variable]:
    """Return the bound of every phase as an array (sweep, start, batch), nats.

    Phases differ in their sweeps and starts, and so has each its own dimensions. A phase that ran
    twice, with all starts and then with the best alone, becomes two: `final` and `final_2`.
    """
    group: dict[str, Variable] = {}
    for phase, values in trace.items():
        values = [torch.as_tensor(value).reshape(-1) for value in values]
        sizes = dict.fromkeys(len(value) for value in values)
        for index, size in enumerate(sizes, start=1):
            name = phase if index == 1 else f"{phase}_{index}"
            if size % num_sequences:
                given = f"{size} bounds a sweep"
                expected = f"a multiple of {num_sequences}, one for each start and sequence"
                raise ShapeError(mismatch(f"trace[{phase!r}]", given=given, expected=expected))
            stacked = torch.stack([value for value in values if len(value) == size])
            stacked = stacked.unflatten(-1, (-1, num_sequences))
            group[name] = ((f"{name}_sweep", f"{name}_start", "batch"), _array(stacked))
    return group


class _Dims:
    """Names of the dimensions of every site."""

    def __init__(self, posterior: "Posterior") -> None:
        self.both, self.given = posterior.model_and_guide, posterior.dims
        self.sites, self.layout = self.both.sites, self.both.layout

    def plates(self, name: str) -> tuple[str, ...]:
        """Names of the batch dimensions."""
        site = self.sites[name]
        if name in self.given:
            return tuple(self.given[name][: len(site.kept)])
        plates = {frame.dim: frame.name for frame in site.plates}
        return tuple(plates.get(dim, f"{name}_batch_{-dim}") for dim in site.kept)

    def event(self, name: str) -> tuple[str, ...]:
        """Names of the event's dimensions, after `blocks` has split the last."""
        site = self.sites[name]
        if name in self.given:
            return tuple(self.given[name][len(site.kept) :])
        size = site.event_dim + (name in self.layout.blocks)
        named = self.layout.event_dims.get(name, ())
        return named if len(named) == size else tuple(f"{name}_dim_{i}" for i in range(size))

    def leading(self, name: str, count: int) -> tuple[str, ...]:
        """Names of the first dimensions: plates, then, of a path, its frames."""
        return (*self.plates(name), *self.event(name))[:count]

    def drawn(self, name: str, value: Tensor, num_chains: int) -> Variable:
        """Draws of a site with its dimensions."""
        if name in self.layout.blocks and name not in self.given:
            value = value.unflatten(-1, (-1, self.layout.blocks[name]))
        dims, array = _drawn((*self.plates(name), *self.event(name)), value, num_chains)
        return dims, array.astype(self.layout.dtypes.get(name, array.dtype))

    def gaps(self, values: Draws, num_chains: int) -> dict[str, Variable]:
        """Data or predictions, NaN where nothing is observed."""
        group = {}
        for name, value in values.items():
            if name in self.layout.present and value.is_floating_point():
                value = self.both.mark(name, value, torch.nan)
            group[name] = self.drawn(name, value, num_chains)
        return group


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _drawn(dims: tuple[str, ...], value: Tensor, num_chains: int) -> Variable:
    """Draws, chain after chain, with their two dimensions."""
    array = _array(value)
    return (*DRAWN, *dims), array.reshape(num_chains, -1, *array.shape[1:])
