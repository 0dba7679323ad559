"""The one file that knows ArviZ: labelled arrays in, InferenceData or DataTree out, and NetCDF.

It takes numpy arrays, not tensors. ArviZ 0.2x has its own `InferenceData`; from 1.0 on that is
`xarray.DataTree`. Both are made of the same xarray datasets, and both read the same file.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyromodels.errors import ShapeError, mismatch, misshapen

Variable = tuple[tuple[str, ...], np.ndarray]
"""Names of the dimensions, and the values."""

ENGINE = "h5netcdf"


def inference_data(
    groups: Mapping[str, Mapping[str, Variable]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> Any:
    """Return labelled groups as `arviz.InferenceData` (ArviZ 0.2x) or `xarray.DataTree` (1.x).

    Args:
        groups: group -> variable -> (dimensions, values). Draws come first: ("chain", "draw", ...).
        coords: labels of dimensions; a dimension without any is numbered from 0.
        attrs: plain text that every group carries.

    Raises:
        ShapeError: where dimensions, labels and values do not fit each other.

    Example:
        >>> data = inference_data({"posterior": {"x": (("chain", "draw"), np.zeros((1, 5)))}})
        >>> data["posterior"]["x"].sizes["draw"]
        5
    """
    arviz, xarray = import_arviz(), _xarray()
    labelled = {
        name: xarray.Dataset(
            {variable: _checked(f"{name}/{variable}", *value) for variable, value in group.items()},
            coords=_labels(name, group, coords or {}),
            attrs=dict(attrs or {}),
        )
        for name, group in groups.items()
    }
    if _has_data_tree(arviz):
        return xarray.DataTree.from_dict(labelled)
    with warnings.catch_warnings():  # groups of our own, such as the bound, are meant
        warnings.filterwarnings("ignore", message=".*not defined in the InferenceData scheme")
        return arviz.InferenceData(**labelled)


def save(data: Any, path: str | Path) -> Path:
    """Write InferenceData or a DataTree to one NetCDF file, whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        for position, (name, group) in enumerate(_groups(data).items()):
            group.to_netcdf(
                part,
                mode="a" if position else "w",
                group=name,
                engine=ENGINE,
                encoding={variable: _encoding(group[variable]) for variable in group.data_vars},
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: str | Path) -> Any:
    """Read what `save` wrote, into memory, as this ArviZ has it.

    Raises:
        FileNotFoundError: where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a NetCDF file that `save` wrote")
    arviz = import_arviz()
    if _has_data_tree(arviz):
        with _xarray().open_datatree(path, engine=ENGINE) as tree:
            return tree.load()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not defined in the InferenceData scheme")
        data = arviz.from_netcdf(str(path), engine=ENGINE)
        data.load()
    data.close()
    return data


def pareto_shape(
    log_weights: np.ndarray,  # nats, the draws last; shape: (*batch, n)
) -> np.ndarray:  # shape: (*batch,)
    """Return the Pareto shape of the largest weights, as this ArviZ estimates it."""
    arviz = import_arviz()
    if _has_data_tree(arviz):  # takes log likelihoods, whose leave-one-out weights are minus them
        from arviz_stats.base import array_stats

        return np.asarray(array_stats.psislw(-log_weights)[1])
    return np.asarray(arviz.psislw(log_weights.copy())[1])


def rank_rhat(
    draws: np.ndarray,  # shape: (chain, draw)
) -> float:
    """Return rank-normalised split R-hat, as this ArviZ computes it.

    Split R-hat where ranks leave no variance to compare, as those of a fair coin, once folded, do.
    """
    arviz = import_arviz()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(arviz.rhat(draws))
        return found if np.isfinite(found) else float(arviz.rhat(draws, method="split"))


def import_arviz() -> ModuleType:
    """Return ArviZ, imported without its announcements."""
    with warnings.catch_warnings():  # 0.2x announces 1.0 on import
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def _xarray() -> ModuleType:
    import xarray  # of ArviZ's own dependencies, and as slow to import as the rest of it

    return xarray


def _has_data_tree(arviz: ModuleType) -> bool:
    return int(arviz.__version__.partition(".")[0]) >= 1


def _groups(data: Any) -> dict[str, Any]:
    """The datasets of either form, by name."""
    if hasattr(data, "children"):
        return {name: node.to_dataset() for name, node in data.children.items()}
    return {name: data[name] for name in data.groups()}


def _checked(name: str, dims: tuple[str, ...], values: np.ndarray) -> Variable:
    if len(dims) != values.ndim:
        raise misshapen(name, values.shape, f"one axis for each of {dims}")
    return dims, values


def _labels(
    group: str, variables: Mapping[str, Variable], coords: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Labels of every dimension that the group has."""
    sizes = {
        dim: size
        for dims, values in variables.values()
        for dim, size in zip(dims, values.shape, strict=False)
    }
    for dim, size in sizes.items():
        if dim in coords and len(coords[dim]) != size:
            given, expected = f"{len(coords[dim])} labels", f"{size}, the size of it in {group}"
            raise ShapeError(mismatch(f"coords[{dim!r}]", given=given, expected=expected))
    return {dim: list(coords.get(dim, range(size))) for dim, size in sizes.items()}


def _encoding(variable: Any) -> dict[str, Any]:
    """Integers compress; draws of continuous variables are noise and do not."""
    return {"zlib": True, "complevel": 4} if variable.dtype.kind in "iub" else {}
