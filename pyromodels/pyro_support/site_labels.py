"""What a model says of its variables beside their law: names of dimensions, gaps, labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Labels(NamedTuple):
    """Which parts of a model may change places: nothing but their order tells them apart."""

    plate: str
    """The plate of the parts."""
    path: str
    """The site by whose posterior mean two parts are recognised as the same."""
    owners: tuple[str, ...] = ()
    """Sites whose values 0..N-1 are numbers of parts."""


@dataclass(frozen=True)
class Layout:
    """How the variables of a model are labelled and which of their entries exist.

    A model may have a method `layout(batch) -> Layout`; without one, dimensions take the names of
    the model's plates, and event dimensions are numbered.

    Args:
        sequences: the plate of independent sequences: densities are given for each of them.
        event_dims: site -> names of the event's dimensions.
        blocks: site -> size by which its last dimension is split in two.
        coords: dimension -> labels.
        present: site -> which entries exist, shape: its plates'.
        absent: site -> value of draws of the entries that do not exist; 0 without one.
        dtypes: site -> numpy dtype of its draws in a file.
        observed: the observed sites that are data; None: all.
        constants: what else a file keeps: name -> (dimensions, values).
        components: draws -> log p(w | rest) and log p(o | w, rest), last dimension over w: what
            an observation's likelihood is a mixture of, where it is one.
        labels: which parts may change places.
    """

    sequences: str | None = None
    event_dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    coords: Mapping[str, Sequence[object]] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    observed: tuple[str, ...] | None = None
    constants: Mapping[str, tuple[tuple[str, ...], Tensor]] = field(default_factory=dict)
    components: Mapping[str, Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]] = field(
        default_factory=dict
    )
    labels: Labels | None = None


def layout_of(model: Callable[..., Any], batch: Any) -> Layout:  # noqa: ANN401
    """Return what a model's method `layout` says; of any other program, the default."""
    describe = getattr(model, "layout", None)
    return Layout() if describe is None else describe(batch)
