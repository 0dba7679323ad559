"""What a network sees of a frame, and how its outputs become the law of the next one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.errors import ShapeError, mismatch
from pyromodels.registry import EMISSIONS

Outputs = tuple[Tensor, ...]
"""What a decoder says of frames, in the order of `Emission.outputs`; each (*, D)."""


class Emission(ABC):
    """p(s_t | what the decoder says, s_{t-1}): the last step of every deep model of a signal.

    It has no parameters. Networks live in the coordinates x: `see` shows them x of a trajectory s,
    and `conditionals` reads their outputs as laws of s. An anchor, where there is one, is the law
    of s_1 in place of the network's.
    """

    outputs: ClassVar[tuple[str, ...]]
    """Names of what a decoder must say."""
    needs_anchor: bool = False
    """Whether the first frame has no law but the anchor's."""
    has_gaussian_message: ClassVar[bool] = False
    """Whether a frame is Gaussian given the outputs, so that `message` exists."""

    def check_source_dim(self, source_dim: int) -> None:
        """Raise `ShapeError` where frames of this size mean nothing here."""
        if source_dim < 1:
            raise ShapeError(mismatch("source_dim", given=source_dim, expected="1 or more"))

    @abstractmethod
    def see(
        self,
        s: Tensor,  # shape: (*, T, D)
        history: Tensor | None = None,  # what s_t is seen relative to, if not s itself; (*, T, D)
    ) -> Tensor:  # x, shape: (*, T, D)
        """Return x of a whole trajectory."""

    @abstractmethod
    def relative(
        self,
        s: Tensor,  # s_t, shape: (*, D)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # x_t, shape: (*, D)
        """Return what the networks see of one frame."""

    @abstractmethod
    def conditionals(
        self,
        outputs: Outputs,  # each (*, T, D)
        history: Tensor,  # s, shape: (*, T, D)
        anchor: Anchor | None,
    ) -> dist.TorchDistribution:  # batch (*, T), event (D,)
        """Return p(s_t | past) of every frame."""

    @abstractmethod
    def expected(
        self,
        outputs: Outputs,  # each (*, D)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # E[s_t], shape: (*, D)
        """Return the mean of one frame: what a model fed with its own predictions is fed with."""

    @abstractmethod
    def draw(
        self,
        outputs: Outputs,  # each (*, D)
        noise: Tensor,  # standard normal, shape: (*, D)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # s_t, shape: (*, D)
        """Return one frame driven by the noise, with pathwise gradients."""

    @abstractmethod
    def noise_of(
        self,
        law: dist.TorchDistribution,  # of `conditionals`, batch (*, T)
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # shape: (*, T, D)
        """Return the noise that would have driven s: the inverse of `draw`."""

    def message(
        self,
        outputs: Outputs,  # each (*, T, D)
        history: Tensor,  # s, shape: (*, T, D)
        anchor: Anchor,
    ) -> GaussianMessage:
        """Return the law of every frame as a linear-Gaussian message.

        Raises:
            NotImplementedError: where frames are not Gaussian.
        """
        raise NotImplementedError(f"frames of the emission {type(self).__name__} are not Gaussian")


def make_emission(given: str | Mapping[str, Any] | Emission) -> Emission:
    """Return an emission from an object, a registered name, or a table with a name.

    Raises:
        SpecError: unknown name or keyword.

    Example:
        >>> make_emission("gaussian").outputs
        ('mean', 'log_variance')
    """
    if isinstance(given, Emission):
        return given
    return EMISSIONS.build({"name": given} if isinstance(given, str) else given)


def at_anchor(
    anchor: Anchor | None,
    *parameters: Tensor,  # mean and deviation of a Gaussian, each (*, T, D)
) -> tuple[Tensor, ...]:  # the same, the anchor's in the first frame
    """Put the anchor's law in the place of the first frame's."""
    if anchor is None:
        return parameters
    firsts = (anchor.loc.unsqueeze(-2), anchor.variance.sqrt().unsqueeze(-2))
    shape = torch.broadcast_shapes(*(p.shape for p in parameters), firsts[0].shape)
    return tuple(
        torch.cat((first.expand(*shape[:-2], 1, shape[-1]), p.expand(shape)[..., 1:, :]), -2)
        for first, p in zip(firsts, parameters, strict=True)
    )


def refuse_no_anchor(emission: Emission, anchor: Anchor | None) -> None:
    """Raise where an emission cannot say where a trajectory starts and nobody else does."""
    if anchor is None and emission.needs_anchor:
        raise ShapeError(
            mismatch(
                "anchor",
                given=None,
                expected="p(s_1), an Anchor",
                hint="A model of increments says how a trajectory moves, not where it starts.",
            )
        )
