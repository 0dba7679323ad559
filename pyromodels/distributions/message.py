"""Where a trajectory starts, and the Gaussian message of how it goes on."""

from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.distributions.path import diagonal_normal, noise_of_frames


class Anchor(NamedTuple):
    """p(s_1) = N(loc, diag(variance)): where a trajectory starts, before any observation.

    Tracking sets ``loc`` to the boxes of the first frame; a tiny ``variance`` pins them there.
    """

    loc: Tensor  # shape: (*batch, N, D)
    variance: Tensor  # shape: (*batch, N, D), squared units of loc

    def driven(
        self,
        noise: Tensor,  # standard normal, shape: (*, D)
    ) -> Tensor:  # s_1, shape: (*, D)
        """Return the start that the noise drives."""
        return self.loc + self.variance.sqrt() * noise


class GaussianMessage(NamedTuple):
    """The message of a prior to q(s): its next-step law, linearised where need be.

    p(s_t | s_<t) ~ N(A_t s_{t-1} + b_t, Q_t), block-diagonal: D = G blocks of d coordinates.

    ``transition = 0`` gives the frame-by-frame update of thesis eq. 3.18-3.19; any other transition
    makes q(s) a chain, updated by a Kalman filter and smoother. ``transition[..., 0, :, :, :]`` is
    zero: the first offset and covariance are those of p(s_1).
    """

    transition: Tensor  # A_t, shape: (*batch, N, T, G, d, d)
    offset: Tensor  # b_t, shape: (*batch, N, T, G, d)
    covariance: Tensor  # Q_t, shape: (*batch, N, T, G, d, d)

    def at(
        self,
        s: Tensor,  # the past, shape: (*batch, N, T, D)
    ) -> "GaussianMessage":
        """Return N(A_t s_{t-1} + b_t, Q_t) with s_{t-1} a number: no transition is left."""
        blocks = s.unflatten(-1, self.offset.shape[-2:])
        before = torch.cat((torch.zeros_like(blocks[..., :1, :, :]), blocks[..., :-1, :, :]), -3)
        moved = (self.transition @ before.unsqueeze(-1)).squeeze(-1)
        return GaussianMessage(
            torch.zeros_like(self.transition), self.offset + moved, self.covariance
        )


class FrameMessage(GaussianMessage):
    """A message that is known to have no transition: A = 0, so that no smoother need run."""

    __slots__ = ()

    @classmethod
    def of(
        cls,
        loc: Tensor,  # shape: (*batch, N, T, D)
        variance: Tensor,  # shape: (*batch, N, T, D)
    ) -> "FrameMessage":
        """Return the message N(loc, diag(variance)) of every frame, in blocks of one."""
        covariance = variance[..., None, None]
        return cls(covariance.new_zeros(()).expand_as(covariance), loc[..., None], covariance)


class AnchoredFrames(TorchDistribution):
    r"""p(s_1) = N(anchor), p(s_t | s_{<t}) as given for t > 1; batch (*, T), event (D,).

    Mean and variance are there where the given law has them.

    Args:
        frames: the law of every frame given its past, batch (*, T); that of the first is dropped.
        anchor: p(s_1), fields of a shape that broadcasts to (*, D).

    Example:
        >>> frames = diagonal_normal(torch.zeros(5, 2), torch.ones(5, 2))
        >>> law = AnchoredFrames(frames, Anchor(torch.ones(2), torch.full((2,), 1e-4)))
        >>> law.mean[:2], law.log_prob(law.sample()).shape
        (tensor([[1., 1.],
                [0., 0.]]), torch.Size([5]))
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, frames: TorchDistribution, anchor: Anchor) -> None:
        start = (anchor.loc, anchor.variance.sqrt())
        self.first = diagonal_normal(*(v.expand(*frames.batch_shape[:-1], -1) for v in start))
        self.frames = frames
        super().__init__(frames.batch_shape, frames.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[s_t | s_<t], shape (*, T, D)."""
        return _joined(self.first.mean, self.frames.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of every coordinate, shape (*, T, D)."""
        return _joined(self.first.variance, self.frames.variance)

    def log_prob(
        self,
        value: Tensor,  # s, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*, T)
        """Return log p(s_t | s_<t)."""
        first = self.first.log_prob(value[..., 0, :]).unsqueeze(-1)
        return torch.cat((first, self.frames.log_prob(value)[..., 1:]), -1)

    def noise_of(
        self,
        value: Tensor,  # s, shape: (*, T, D)
    ) -> Tensor:  # shape: (*, T, D)
        """Return the noise that drives s."""
        first = noise_of_frames(self.first, value[..., 0, :])
        return _joined(first, noise_of_frames(self.frames, value))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw frames, each on its own, with pathwise gradients."""
        return _joined(self.first.rsample(sample_shape), self.frames.rsample(sample_shape))


def anchored(
    frames: TorchDistribution,  # batch (*, T), event (D,)
    anchor: Anchor | None,
) -> TorchDistribution:  # batch (*, T), event (D,)
    """Return the law of frames that start at an anchor, where there is one."""
    return frames if anchor is None else AnchoredFrames(frames, anchor)


def _joined(
    first: Tensor,  # shape: (*, D)
    frames: Tensor,  # shape: (*, T, D)
) -> Tensor:  # shape: (*, T, D)
    return torch.cat((first.unsqueeze(-2), frames[..., 1:, :]), -2)
