"""Published weights of dynamical VAEs: which model they are, its sizes, and every tensor in place.

What the tensors are called is said in `pyromodels.published_weights.formats`; sizes are read from
shapes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.errors import SpecError, mismatch, shown, unknown
from pyromodels.published_weights.formats import FORMATS, SIZES, Format
from pyromodels.registry import DYNAMICS


def load_published(path: str | Path, name: str | None = None) -> DynamicalPrior:
    """Return the model whose published weights a file holds, in evaluation mode.

    Args:
        path: a state dict that torch saved; tensors only are read.
        name: of `FORMATS`; recognised by its keys where it is None.

    Raises:
        FileNotFoundError: naming the path.
        SpecError: naming the path, and the first key that is missing, unknown or of another shape.
    """
    state = read_state_dict(path)
    try:
        return from_published(state, name).eval()
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file that torch saved; nothing else in it is ever run.

    Raises:
        FileNotFoundError: naming the path.
        SpecError: naming the path, where it holds anything but named tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; expected a .pt state dict")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a file that is not what it expects
        raise SpecError(f"{path} is not a state dict of tensors: {error}") from None
    if not isinstance(state, Mapping):
        raise SpecError(mismatch(str(path), given=type(state).__name__, expected="a state dict"))
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            given = f"{type(value).__name__} at {shown(key)}"
            raise SpecError(mismatch(str(path), given=given, expected="named tensors only"))
    return dict(state)


def from_published(state_dict: Mapping[str, Tensor], name: str | None = None) -> DynamicalPrior:
    """Return the model whose published weights these are; every tensor has its place, and back.

    The tracking weights see boxes as [left, top, right, 2 top - bottom]: their fourth coordinate is
    the top minus the height.

    Args:
        state_dict: tensors by the authors' names.
        name: of `FORMATS`; recognised by its keys where it is None.

    Raises:
        SpecError: naming the first key that is missing, else unknown or of another shape.

    Example:
        >>> weights = {"mlp_x_z.linear0.weight": torch.zeros(128, 257)}
        >>> recognise(weights)
        'vae'
        >>> from_published(weights)
        Traceback (most recent call last):
        pyromodels.errors.SpecError: published vae weights lack 'mlp_x_z.linear0.bias'
    """
    if name is None:
        name = recognise(state_dict)
    if name not in FORMATS:
        raise SpecError(unknown("format of published weights", given=name, known=FORMATS))
    known = FORMATS[name]
    places = _places(known.modules, state_dict)
    theirs = {ours: key for key, ours in places.items()}
    tensors = {ours: state_dict[key] for ours, key in theirs.items()}
    spec = {"name": known.prior, "emission": known.emission, **_sizes(tensors, known)}
    model = DYNAMICS.build(spec)
    expected = {ours: tuple(value.shape) for ours, value in model.state_dict().items()}
    for ours in expected:
        if ours not in tensors:
            raise SpecError(f"published {name} weights lack {_their_name(known.modules, ours)!r}")
    for key, value in state_dict.items():
        ours = places.get(key)
        if ours not in expected or theirs[ours] != key:
            raise SpecError(f"published {name} weights hold {key!r}, which has no place in it")
        if tuple(value.shape) != expected[ours]:
            what, given = f"published {name} weights: {key!r}", tuple(value.shape)
            raise SpecError(mismatch(what, given=given, expected=expected[ours]))
    model.load_state_dict(tensors)
    return model


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Return the name in `FORMATS` whose modules are most like those of a state dict.

    Raises:
        SpecError: where none of the keys is known.
    """
    def likeness(name: str) -> int:
        modules = FORMATS[name].modules
        held = {theirs.rpartition(".")[0] for theirs in _places(modules, state_dict)}
        absent = [theirs for theirs in modules if "{}" not in theirs and theirs not in held]
        return len(held) - len(absent) if held else -len(modules)

    best = max(FORMATS, key=likeness)
    if _places(FORMATS[best].modules, state_dict):
        return best
    first = shown(next(iter(state_dict), None))
    raise SpecError(f"no published weights: none of the keys, {first} first, is known")


def _places(modules: Mapping[str, str], keys: Mapping[str, Tensor]) -> dict[str, str]:
    """Return their key -> our key, of every key whose module is known."""
    places = {}
    for key in keys:
        module, _, parameter = key.rpartition(".")
        numbered = re.fullmatch(r"(.*\D)(\d+)", module)
        if module in modules:
            places[key] = f"{modules[module]}.{parameter}"
        elif numbered and f"{numbered[1]}{{}}" in modules:
            places[key] = f"{modules[numbered[1] + '{}'].format(numbered[2])}.{parameter}"
    return places


def _their_name(modules: Mapping[str, str], key: str) -> str:
    module, _, parameter = key.rpartition(".")
    for theirs, ours in sorted(modules.items(), key=lambda pair: "{}" in pair[0]):
        found = re.fullmatch(re.escape(ours).replace(r"\{\}", r"(\d+)"), module)
        if found:
            return f"{theirs.format(*found.groups())}.{parameter}"
    raise AssertionError(f"{key} is in no table")


def _sizes(tensors: Mapping[str, Tensor], known: Format) -> dict[str, Any]:
    """Return the arguments of a model that say how large it is."""
    sizes = {
        "latent_dim": _size(tensors, "encoder.head.mean"),
        "source_dim": _size(tensors, "decoder.log_variance"),
        "encoder": dict(known.encoder),
    }
    held = {key.rpartition(".")[0] for key in tensors}
    for ours in known.modules.values():
        module = ours.removesuffix(".layers.{}")
        if module in SIZES:
            depth = sum(name.startswith(f"{module}.layers.") for name in held)
            layers = tuple(_size(tensors, f"{module}.layers.{i}") for i in range(depth))
            table = sizes["encoder"] if module.startswith("encoder.") else sizes
            table[SIZES[module]] = _size(tensors, module) if module == ours else layers
    return sizes


def _size(tensors: Mapping[str, Tensor], module: str) -> int:
    """Return the number of outputs; any where nothing says it, its absence is found later."""
    for name, gates in (("bias", 1), ("weight", 1), ("bias_hh_l0", 4), ("weight_hh_l0", 4)):
        value = tensors.get(f"{module}.{name}")
        if value is not None and value.dim():
            return max(1, value.shape[0] // gates)
    return 1
