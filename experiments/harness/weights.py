"""Weights of priors and networks: tensors in safetensors, the spec in JSON beside them.

Some ship with the package, by name; the authors' of the published models are state dicts.
"""

import json
import os
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.published_weights.load import load_published
from pyromodels.registry import DENSITIES, DYNAMICS, MODELS, NETWORKS, Registry

KINDS: dict[str, Registry] = {
    "prior": DYNAMICS, "network": NETWORKS, "program": MODELS, "density": DENSITIES
}
"""What a record is of: the key of its spec, and where that is looked up."""

CENTRES = "centre_size"
"""Trajectories of boxes as (centre x, centre y, width, height) over the image's size, y down."""
PUBLISHED = "published_corners"
"""Of boxes as [left, top, right, 2 top - bottom], what the authors' tracking weights see."""


class PriorWeights(NamedTuple):
    """A prior, or network, with its weights, in evaluation mode, and what came of its training."""

    prior: Any
    record: dict[str, Any]  # the JSON: prior, coordinates of boxes, command, versions, metrics, ...


def load_weights(name_or_path: str | Path, kind: str = "prior") -> PriorWeights:
    """Load a prior of box trajectories, or a network.

    Args:
        name_or_path: the name of weights that ship with the package; a path as `read_prior` takes
            it; or the published tracking SRNN's `.pt` state dict, of which tensors only are read.

        kind: of `KINDS`.

    Raises:
        SpecError: unknown name, or what `read_prior` refuses.
        FileNotFoundError: a path that does not exist, or lacks its other half.

    Example:
        >>> load_weights("srnn_mot").prior.source_dim
        4
    """
    path = Path(name_or_path)
    if path.suffix in (".pt", ".pth"):
        prior = load_published(path, "srnn_tracking")
        return PriorWeights(prior, {"coordinates": PUBLISHED})
    if path.is_dir() or path.suffix in (".safetensors", ".json"):
        return read_prior(path, kind)
    with resources.as_file(resources.files("pyromodels").joinpath("weights")) as folder:
        names = sorted(file.stem for file in folder.glob("*.json"))
        if str(name_or_path) not in names:
            message = unknown("weights", given=str(name_or_path), known=names)
            raise SpecError(f"{message}. A path ends in .safetensors, .json or .pt")
        return read_prior(folder / f"{name_or_path}.json", kind)


def kind_of(record: Mapping[str, Any]) -> str:
    """Return which key of `KINDS` a record has, "prior" where it has none."""
    return next((kind for kind in KINDS if kind in record), "prior")


def save_prior(
    path: Path,  # of the .safetensors; the JSON is written beside it
    prior: nn.Module,
    spec: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Write a prior's tensors and its JSON; each file appears whole or not at all."""
    content = {kind_of(record): dict(spec), **record, "versions": _versions()}
    tensors = {name: t.detach().contiguous().clone() for name, t in prior.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, part)
    os.replace(part, path)
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path.with_suffix(".json"))


def read_prior(path: Path, kind: str = "prior") -> PriorWeights:
    """Return a prior and its JSON, strictly: every tensor has its place.

    Args:
        path: one of the two files, or a folder with `weights.safetensors`.
        kind: of `KINDS`; what it must be of.

    Raises:
        FileNotFoundError: where one of the two files is missing.
        SpecError: for a JSON or tensors that are not those of a component of this kind.
    """
    path = path / "weights.safetensors" if path.is_dir() else path
    tensors, record = path.with_suffix(".safetensors"), path.with_suffix(".json")
    for half in (tensors, record):
        if not half.is_file():
            raise FileNotFoundError(f"{half} is missing; weights are a .safetensors and a .json "
                                    "of the same name")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        prior = KINDS[kind].build(content[kind])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        what = f"is not the JSON of the weights of a {kind}"
        raise SpecError(f"{record} {what} ({error!r})") from None
    if kind == "prior" and not isinstance(prior, SourcePrior):
        raise SpecError(mismatch(str(record), given=content["prior"], expected="a source prior"))
    try:
        prior.load_state_dict(load_file(tensors), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise SpecError(f"{tensors} does not hold the weights of {content[kind]['name']!r} as "
                        f"{record.name} describes it: {error}") from None
    return PriorWeights(prior.eval(), content)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "pyro-ppl", "numpy")}
