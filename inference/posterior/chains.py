"""Several fits or samplers of one model as one: each a chain, sources named alike in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyromodels.errors import mismatch
from pyromodels.inference.posterior import arviz_io
from pyromodels.inference.posterior.inference_data import groups_of
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.pyro_support.vectorised_runs import Draws


@dataclass(frozen=True)
class Chains:
    """Posteriors of the same model and data, e.g. of fits from several seeds; one chain each.

    That gives R-hat a meaning for variational fits: chains that disagree have found different
    optima. Fits may differ by the order of the sources alone, which `align` undoes.

    Args:
        posteriors: C of them, each with as many draws as the others.
        permutations: of each posterior, shape (B, N): source i is its source permutations[b, i].
            None leaves the sources as they are.

    Raises:
        ValueError: where there is none, or their latents differ.
    """

    posteriors: tuple[Posterior, ...]
    permutations: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if not self.posteriors:
            raise ValueError("concat: given no posterior; expected at least one")
        first = self.posteriors[0].model_and_guide.latents
        for other in self.posteriors[1:]:
            latents = other.model_and_guide.latents
            shapes = {name: tuple(site.value.shape) for name, site in latents.items()}
            expected = {name: tuple(site.value.shape) for name, site in first.items()}
            if shapes != expected:
                raise ValueError(mismatch("concat", given=shapes, expected=expected))

    @torch.no_grad()
    def align(self, num_samples: int = 100) -> "Chains":
        """Number the sources of every posterior as the first does.

        Their mean trajectories are matched by least squares (Hungarian algorithm), each sequence
        on its own.

        Args:
            num_samples: draws that a mean trajectory is taken over.

        Raises:
            ValueError: where the model's layout does not say what may change places.
        """
        both = self.posteriors[0].model_and_guide
        labels = both.layout.labels
        if labels is None:
            raise ValueError(
                "align: the model's layout has no labels; it has no parts that may change places"
            )
        at = both.sites[labels.path].dim_of(labels.plate)
        draws = (posterior.sample(num_samples)[labels.path] for posterior in self.posteriors)
        paths = [part.mean(0).movedim(at - 1, 1) for part in draws]
        return Chains(self.posteriors, tuple(matching(paths[0], path) for path in paths))

    def sample(self, num_samples: int) -> Draws:  # each (C, n, ...)
        """Draw from every posterior."""
        draws = [
            relabelled(posterior, order, posterior.sample(num_samples))
            for posterior, order in zip(self.posteriors, self._orders, strict=True)
        ]
        return {name: torch.stack([part[name] for part in draws]) for name in draws[0]}

    def to_inference_data(self, num_samples: int | None = None, **options: Any) -> Any:
        """Return the posteriors as the chains of one; arguments as of a Posterior.

        Densities are those of the draws before sources were renamed.
        """
        every = [
            groups_of(
                posterior,
                num_samples,
                relabel=partial(relabelled, posterior, order),
                **options,
            )
            for posterior, order in zip(self.posteriors, self._orders, strict=True)
        ]
        first = every[0]
        groups = {
            group: {name: _joined(every, group, name) for name in variables}
            for group, variables in first["groups"].items()
        }
        return arviz_io.inference_data(
            groups, coords=first["coords"], attrs={**first["attrs"], "chains": "posteriors"}
        )

    def to_netcdf(self, path: Path, num_samples: int | None = None, **options: Any) -> Path:
        """Write `to_inference_data(num_samples, **options)` to a file, whole or not at all."""
        return arviz_io.save(self.to_inference_data(num_samples, **options), path)

    @property
    def _orders(self) -> Sequence[Tensor | None]:
        return self.permutations or (None,) * len(self.posteriors)


def concat(posteriors: Sequence[Posterior]) -> Chains:
    """Return posteriors of the same model and data as the chains of one."""
    return Chains(tuple(posteriors))


def matching(
    reference: Tensor,  # shape: (B, N, *)
    other: Tensor,  # shape: (B, N, *)
) -> Tensor:  # shape: (B, N)
    """Return which part of `other` is nearest each part of `reference`, one to one."""
    flat = reference.flatten(2), other.flatten(2)
    cost = torch.cdist(*flat).square().cpu().numpy()
    orders = np.stack([linear_sum_assignment(part)[1] for part in cost])
    return torch.as_tensor(orders, device=other.device)


def relabelled(posterior: Posterior, order: Tensor | None, draws: Draws) -> Draws:
    """Give the parts of draws other numbers, shape of `order` (B, N); None leaves them."""
    if order is None:
        return draws
    both, result = posterior.model_and_guide, {}
    labels, number = both.layout.labels, order.argsort(-1)  # the new number of an old part
    for name, value in draws.items():
        at = both.sites[name].dim_of(labels.plate)
        if name in labels.owners:
            value = renumbered(value, number)
        elif at is not None:
            shape = [1] * value.dim()
            shape[1], shape[at] = order.shape
            value = value.take_along_dim(order.view(shape), at)
        result[name] = value
    return result


def renumbered(owner: Tensor, number: Tensor) -> Tensor:
    """Owners 0..N-1 by their new numbers; any other value (clutter, absent) stays."""
    num_parts = number.shape[-1]
    known = (owner >= 0) & (owner < num_parts)
    table = number[(None, slice(None), *(None,) * (owner.dim() - 2))]
    renamed = table.expand(*owner.shape, num_parts).gather(
        -1, owner.clamp(0, num_parts - 1).unsqueeze(-1)
    )
    return torch.where(known, renamed.squeeze(-1), owner)


def _joined(every: Sequence[dict[str, Any]], group: str, name: str) -> tuple[tuple, np.ndarray]:
    """A variable of all posteriors, chain after chain; without chains, that of the first."""
    dims, values = every[0]["groups"][group][name]
    if dims[:1] != ("chain",):
        return dims, values
    return dims, np.concatenate([part["groups"][group][name][1] for part in every])
