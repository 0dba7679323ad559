"""Weights of priors: tensors in safetensors, the constructor's spec in JSON beside them."""

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.registry import DYNAMICS


def save_prior(
    path: Path,  # of the .safetensors; the JSON is written beside it
    prior: SourcePrior,
    spec: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Write a prior's tensors and its JSON; each file appears whole or not at all."""
    content = {"prior": dict(spec), **record, "versions": _versions()}
    tensors = {name: t.detach().contiguous().clone() for name, t in prior.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, part)
    os.replace(part, path)
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path.with_suffix(".json"))


def read_prior(path: Path) -> tuple[SourcePrior, dict[str, Any]]:
    """Return a prior in evaluation mode and its JSON, strictly: every tensor has its place.

    Args:
        path: one of the two files, or a folder with `weights.safetensors`.

    Raises:
        FileNotFoundError: where one of the two files is missing.
        SpecError: for a JSON or tensors that are not those of a prior.
    """
    path = path / "weights.safetensors" if path.is_dir() else path
    tensors, record = path.with_suffix(".safetensors"), path.with_suffix(".json")
    for half in (tensors, record):
        if not half.is_file():
            raise FileNotFoundError(f"{half} is missing; weights are a .safetensors and a .json "
                                    "of the same name")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        prior = DYNAMICS.build(content["prior"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SpecError(f"{record} is not the JSON of a prior's weights ({error!r})") from None
    if not isinstance(prior, SourcePrior):
        raise SpecError(mismatch(str(record), given=content["prior"], expected="a source prior"))
    try:
        prior.load_state_dict(load_file(tensors), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise SpecError(f"{tensors} does not hold the weights of {content['prior']['name']!r} as "
                        f"{record.name} describes it: {error}") from None
    return prior.eval(), content


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "pyro-ppl", "numpy")}
