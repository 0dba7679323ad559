"""How models of each kind are trained on speech, where nothing else is said."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """How models of one kind are trained."""

    learning_rate: float  # in the first epoch
    num_frames: int  # T of a segment
    batch_size: int
    epochs: int
    warm_up: int = 0  # steps over which the learning rate grows
    shortest: int | None = None  # frames of the last piece of a file; None: whole segments only
    hops: int | None = 0  # through how many predictions gradients pass; None: all


RECURRENT = Recipe(learning_rate=2e-3, num_frames=50, batch_size=16, epochs=90, hops=None)
"""The segments of the published LSTM models; a gradient through predictions is cheap in these."""
TRANSFORMER = Recipe(
    learning_rate=1e-3, num_frames=50, batch_size=16, epochs=60, warm_up=200, hops=1
)
"""The small models attend by distance: they are trained on short pieces and judged on longer.

Each hop of the gradient is one more pass over all frames; all of them would be a pass a frame.
"""
TRANSFORMER_PAPER = Recipe(
    learning_rate=5e-4, num_frames=150, batch_size=6, epochs=50, warm_up=200, shortest=50, hops=1
)
"""Those of the paper's size count frames, and know those they were trained on."""

TRANSFORMERS = ("hit", "light")


def recipe_of(prior: str, size: str) -> Recipe:
    """Return the recipe of a model, by its registry key."""
    if prior not in TRANSFORMERS:
        return RECURRENT
    return TRANSFORMER_PAPER if size == "paper" else TRANSFORMER
