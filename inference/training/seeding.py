"""Random state: set it once at the edge, save it, restore it."""

import random

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, those of every GPU included.

    Raises:
        ValueError: the seed is not in 0 .. 2^32 - 1, which numpy asks for.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: given {seed}; expected an integer in 0 .. 2^32 - 1")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Tensor]:
    """Return the state of the global generators as tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        for index, gpu in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda_{index}"] = gpu
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Restore what `random_state` returned; a state of more GPUs than there are is an error."""
    torch.set_rng_state(state["torch"])
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    keys, cached = state["numpy"].numpy().astype(np.uint32), state["numpy_gauss"].item()
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))
    for key, value in state.items():
        if key.startswith("cuda_"):
            torch.cuda.set_rng_state(value, int(key.removeprefix("cuda_")))
