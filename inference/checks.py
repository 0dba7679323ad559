"""Whether a model and a guide can be used together, and for many draws at once."""

import torch
from pyro import poutine

from inference.pair import Pair
from pyromodels.programs import quietly, run, total

BROADCAST = (
    "it does not run for many draws at once; count dimensions from the right (`x[..., 0]`, not "
    "`x[0]`; sum(-1), not sum()), as Pyro's vectorised particles need it too"
)


def check_sites(pair: Pair) -> None:
    """Raise `ValueError` where the guide has a site too many, or one too few."""
    if unknown := sorted(set(pair.guided) - set(pair.latents)):
        known = ", ".join(sorted(pair.latents)) or "none"
        raise ValueError(f"guide: samples {unknown}, which the model has not; it has: {known}")
    for name in pair.enumerated:
        if not pair.sites[name].enumerable:
            raise ValueError(
                f"guide: does not sample {name!r}, which Pyro cannot enumerate in the model; "
                f"the guide samples: {', '.join(sorted(pair.guided)) or 'none'}"
            )


def check_broadcast(pair: Pair) -> None:
    """Raise `ValueError` where the model, run for two draws at once, is not itself twice.

    `x[0]` is the first part of one draw, and the first of many draws: nothing else would say.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), quietly():
        alone = [poutine.trace(pair.model).get_trace(pair.batch) for _ in range(2)]
        expected = torch.stack([torch.as_tensor(one.log_prob_sum()) for one in alone])
        given = {
            name: torch.stack(
                [
                    one.nodes[name]["value"][(None,) * (pair.nesting - site.batch_dim)]
                    for one in alone
                ]
            )
            for name, site in pair.latents.items()
        }
        try:
            nodes = run(pair.model, pair.batch, 2, pair.nesting, given)
            together = total(nodes, 2, pair.nesting)
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(f"model: {BROADCAST}; it raised: {error}") from error
    close = {"rtol": 1e-3, "atol": 1e-3, "equal_nan": True}
    if not torch.allclose(together, expected.to(together), **close):
        raise ValueError(
            f"model: {BROADCAST}; log p of two draws is {together.tolist()} together and "
            f"{expected.tolist()} one by one"
        )
