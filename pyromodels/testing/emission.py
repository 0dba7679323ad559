"""What every emission must fulfil, ours or yours."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyromodels.distributions.path import noise_of_frames
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.emissions.base import Emission, Head
from pyromodels.errors import ShapeError
from pyromodels.registry import EMISSIONS
from pyromodels.testing.runs import amplified, specs_of
from pyromodels.testing.source_prior import SOURCE_PRIOR_CHECKS

NUM_ROWS, NUM_STEPS, CONTEXT_DIM = 3, 4, 3


def emission_specs() -> list[dict[str, Any]]:
    """Specs of all registered emissions, one for each of their `contract_specs`."""
    return [spec for name in EMISSIONS.names() for spec in specs_of(EMISSIONS, name)]


def check_noise(emission: Emission) -> None:
    """Frames drawn one by one have, taken together, the law that gives their noise back."""
    if not emission.noise_is_unique:
        return
    head, context, s, noise = drawn(emission)
    found, own = noise_of_frames(head.conditionals(context, s, None), s), int(emission.needs_anchor)
    torch.testing.assert_close(found[:, own:], noise[:, own:])


def check_seen(emission: Emission) -> None:
    """What a memory sees of a trajectory is what it sees of its frames."""
    head, _, s, _ = drawn(emission)
    previous = [None, *s.unbind(-2)[:-1]]
    x = [head.relative(*pair) for pair in zip(s.unbind(-2), previous, strict=True)]
    torch.testing.assert_close(head.see(s), torch.stack(x, -2))


def check_mean(emission: Emission) -> None:
    """What is expected of a frame is the mean of its law; neither is there without the other."""
    if not emission.expects_mean:
        return
    head, context, s, _ = drawn(emission)
    last = (context[:, -1].unsqueeze(0), s[:, -2].unsqueeze(0))
    try:
        expected = head.expected(*last).squeeze(0)
    except NotImplementedError:
        return
    torch.testing.assert_close(expected, head.conditionals(context, s, None).mean[:, -1])


def check_context(emission: Emission) -> None:
    """A frame's law is that of its own context, and depends on it."""
    head, context, s, _ = drawn(emission)
    other = torch.cat((context[:, :-1], context[:, -1:] + 1.0), -2)
    here, there = (head.conditionals(c, s, None).log_prob(s) for c in (context, other))
    torch.testing.assert_close(here[:, :-1], there[:, :-1])
    assert not torch.isclose(here[:, -1], there[:, -1]).any(), "no dependence on the context"


def check_on_a_memory(emission: Emission) -> None:
    """On a memory it is a source prior: gradients, particles, padding, anchors, messages."""
    torch.manual_seed(0)
    source_dim = max(2, smallest_dim(emission))
    prior = Autoregressive(source_dim=source_dim, past_dim=CONTEXT_DIM, emission=emission)
    amplified(prior)
    for check in SOURCE_PRIOR_CHECKS:
        check(prior.double())


EMISSION_CHECKS: tuple[Callable[[Emission], None], ...] = (
    check_noise, check_seen, check_mean, check_context, check_on_a_memory,
)  # fmt: skip
"""Every check of the contract of `Emission`."""


def smallest_dim(emission: Emission) -> int:
    """Return the smallest size of a frame that an emission takes."""
    for source_dim in range(1, 5):
        try:
            emission.check_source_dim(source_dim)
        except ShapeError:
            continue
        return source_dim
    raise AssertionError(f"{type(emission).__name__} takes no frame of 1 to 4 coordinates")


def drawn(
    emission: Emission,
) -> tuple[Head, Tensor, Tensor, Tensor]:  # head; context, s and noise, each (rows, T, .)
    """Return a head, contexts, and frames that it draws one after the other from noise."""
    torch.manual_seed(0)
    source_dim = max(2, smallest_dim(emission))
    head = emission.head(source_dim, CONTEXT_DIM).double()
    context = torch.randn(NUM_ROWS, NUM_STEPS, CONTEXT_DIM, dtype=torch.float64)
    noise = torch.randn(NUM_ROWS, NUM_STEPS, head.noise_dim, dtype=torch.float64)
    frames: list[Tensor] = []
    for t in range(NUM_STEPS):
        previous = frames[-1].unsqueeze(0) if frames else None
        if previous is None and emission.needs_anchor:  # any frame before the first
            previous = torch.rand(1, NUM_ROWS, source_dim, dtype=torch.float64).cumsum(-1)
        frame = head.draw(context[:, t].unsqueeze(0), noise[:, t].unsqueeze(0), previous)
        frames.append(frame.squeeze(0))
    return head, context, torch.stack(frames, -2).detach(), noise
