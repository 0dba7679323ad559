"""Data sets, one folder a kind; `DATASETS` is what `[data]` of a spec may name."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pyromodels.errors import SpecError, mismatch
from pyromodels.registry import Registry

DATASETS = Registry("data set", "pyromodels.experiments.datasets")
D = TypeVar("D")


def build_data(table: Mapping[str, Any], kind: type[D], expected: str) -> D:
    """Return the data set that a spec names.

    Args:
        table: `[data]` of the spec.
        kind: what it must be.
        expected: the same in words, for the error.

    Raises:
        SpecError: for a data set of another kind.
    """
    data = DATASETS.build(table)
    if not isinstance(data, kind):
        raise SpecError(mismatch("data", given=table["name"], expected=expected))
    return data
