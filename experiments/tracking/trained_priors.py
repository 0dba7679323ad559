"""Weights of priors of boxes: those that ship, those in a file, the published ones."""

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.harness.weights import read_prior
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


def load_weights(name_or_path: str | Path) -> PriorWeights:
    """Load a prior in evaluation mode, strictly: every tensor has its place, and the reverse.

    Args:
        name_or_path: the name of weights that ship with the package; a path as `read_prior` takes
            it; or the published tracking SRNN's `.pt` state dict, of which tensors only are read.

    Raises:
        SpecError: unknown name, or a JSON or tensors that are not those of a prior.
        FileNotFoundError: a path that does not exist, or lacks its other half.

    Example:
        >>> load_weights("srnn_mot").prior.source_dim
        4
    """
    path = Path(name_or_path)
    if path.suffix in (".pt", ".pth"):
        return PriorWeights(load_published(path, "srnn_tracking"), PUBLISHED, {})
    if path.is_dir() or path.suffix in (".safetensors", ".json"):
        return _read(path)
    with resources.as_file(resources.files("pyromodels").joinpath("weights")) as folder:
        names = sorted(file.stem for file in folder.glob("*.json"))
        if str(name_or_path) not in names:
            message = unknown("weights", given=str(name_or_path), known=names)
            raise SpecError(f"{message}. A path ends in .safetensors, .json or .pt")
        return _read(folder / f"{name_or_path}.json")


def _read(path: Path) -> PriorWeights:
    prior, content = read_prior(path)
    return PriorWeights(prior, content.get("coordinates", CENTRES), content)
