"""Discrete sites that a guide leaves to enumeration: exact draws and exact probabilities.

Given the continuous draws x and the data y, sites w that Pyro can enumerate have the law
p(w | x, y) = p(w, x, y) / sum_w p(w, x, y), by sum-product over the model's plates.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from pyro.infer.inspect import site_is_deterministic
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from torch import Tensor

from pyromodels.pyro_support.vectorised_runs import (
    DRAW_PLATE,
    Program,
    Site,
    draw_plate,
    quietly,
    random_nodes,
)


def draw_discrete(
    model: Program,
    batch: Any,
    num_draws: int,
    nesting: int,
    given: Mapping[str, Tensor],  # the continuous draws, in the program's shapes
    sites: Iterable[Site],
) -> dict[str, Tensor]:  # in the program's shapes
    """Draw w ~ p(w | x, y), one for each draw of x."""

    def program(batch: Any) -> None:  # infer_discrete blocks the handlers around it
        with draw_plate(num_draws, nesting), poutine.condition(data=dict(given)):
            config_enumerate(model)(batch)

    with quietly():
        exact = infer_discrete(
            program, first_available_dim=-nesting - 2, strict_enumeration_warning=False
        )
        nodes = random_nodes(poutine.trace(exact).get_trace(batch))
    drawn = {}
    for site in sites:
        shape = site.of_one(site.value, nesting).shape
        value = nodes[site.name]["value"]
        # a value that could be only one keeps its enumeration dimension, and has no other
        value = value.reshape(value.shape[value.dim() - min(value.dim(), 1 + len(shape)) :])
        drawn[site.name] = value.expand(num_draws, *shape)
    return drawn


def log_marginal(
    model: Program,
    batch: Any,
    num_draws: int,
    nesting: int,
    given: Mapping[str, Tensor],  # the continuous draws, in the program's shapes
    sequences: str | None = None,
) -> Tensor:  # nats, shape: (n, B), or (n,) without `sequences`
    """Return log sum_w p(w, x, y)."""
    with quietly(), draw_plate(num_draws, nesting), poutine.condition(data=dict(given)):
        enumerated = poutine.enum(config_enumerate(model), first_available_dim=-nesting - 2)
        trace = poutine.trace(enumerated).get_trace(batch)
    trace = poutine.util.prune_subsample_sites(trace)
    for name in [name for name, node in trace.nodes.items() if site_is_deterministic(node)]:
        trace.remove_node(name)
    trace.compute_log_prob()
    trace.pack_tensors()
    symbols = trace.plate_to_symbol
    kept = [DRAW_PLATE] + ([sequences] if sequences is not None else [])
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    sum_dims: set[str] = set()
    sizes = {DRAW_PLATE: num_draws}
    for node in trace.nodes.values():
        if node["type"] != "sample":
            continue
        frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
        sizes |= {frame.name: frame.size for frame in frames}
        plates = frozenset(symbols[frame.name] for frame in frames if frame.size > 1)
        term = node["packed"]["log_prob"]
        sum_dims |= set(term._pyro_dims) - plates
        tree.setdefault(plates, []).append(_with_plates(term, frames, symbols))
    wanted = [name for name in kept if sizes[name] > 1]  # a plate of one has no symbol
    ring = LogRing(dim_to_size={symbols[name]: sizes[name] for name in wanted})
    ordinal = frozenset(symbols[name] for name in wanted)
    result = contract_to_tensor(tree, sum_dims, ordinal, ring=ring)
    order = [result._pyro_dims.index(symbols[name]) for name in wanted]
    return result.permute(order).reshape([sizes[name] for name in kept])


def _with_plates(term: Tensor, frames: list[Any], symbols: Mapping[str, str]) -> Tensor:
    """Give a packed term every plate it lies in: a product over a plate must see its size."""
    for frame in frames:
        symbol = symbols.get(frame.name)
        if frame.size > 1 and symbol not in term._pyro_dims:
            dims = symbol + term._pyro_dims
            term = packed.pack(
                term.expand(frame.size, *term.shape),
                {at - len(dims): name for at, name in enumerate(dims)},
            )
    return term
