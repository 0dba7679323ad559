"""Weights of priors of boxes: those that ship, those in a file, the published ones."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.harness import weights
from pyromodels.published_weights.load import load_published

CENTRES = "centre_size"
"""Boxes as (centre x, centre y, width, height) over the image's size, y down."""
PUBLISHED = "published_corners"
"""Boxes as [left, top, right, 2 top - bottom], what the authors' weights see."""


class PriorWeights(NamedTuple):
    """A prior with its weights, and where they come from."""

    prior: SourcePrior
    coordinates: str  # of its trajectories: CENTRES or PUBLISHED
    record: dict[str, Any]  # the JSON: spec, command, seed, statistics, versions, metrics


def load_prior(name_or_path: str | Path) -> SourcePrior:
    """Return a source prior with trained weights, in evaluation mode; see `load_weights`.

    Example:
        >>> load_prior("srnn_mot").source_dim
        4
    """
    return load_weights(name_or_path).prior


def load_weights(name_or_path: str | Path) -> PriorWeights:
    """Load a prior, strictly: every tensor has its place and every place its tensor.

    Args:
        name_or_path: the name of weights that ship with the package; a `.safetensors` or `.json`
            file, of which the other lies beside it; a folder with `weights.safetensors`; or the
            published tracking SRNN's `.pt` state dict, of which tensors only are read.

    Raises:
        SpecError: unknown name, or a JSON or tensors that are not those of a prior.
        FileNotFoundError: a path that does not exist, or lacks its other half.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "weights.safetensors"
    if path.suffix in (".pt", ".pth"):
        return _published(path)
    if path.suffix in (".safetensors", ".json"):
        return _read(path.with_suffix(".safetensors"), path.with_suffix(".json"))
    folder = resources.files("pyromodels").joinpath("weights")
    names = [f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")]
    if str(name_or_path) not in names:
        message = unknown("weights", given=str(name_or_path), known=names)
        raise SpecError(f"{message}. A path ends in .safetensors, .json or .pt")
    with (
        resources.as_file(folder.joinpath(f"{name_or_path}.safetensors")) as tensors,
        resources.as_file(folder.joinpath(f"{name_or_path}.json")) as record,
    ):
        return _read(tensors, record)


def save_prior(
    path: Path,  # of the .safetensors; the JSON is written beside it
    prior: SourcePrior,
    spec: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Write the weights of a prior of boxes in centre-size coordinates."""
    weights.save_prior(path, prior, spec, {"coordinates": CENTRES, **record})


def _read(tensors: Path, record: Path) -> PriorWeights:
    prior, content = weights.read_prior(tensors, record)
    return PriorWeights(prior, content.get("coordinates", CENTRES), content)


def _published(path: Path) -> PriorWeights:
    return PriorWeights(load_published(path, "srnn_tracking"), PUBLISHED, {})
