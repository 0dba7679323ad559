"""One law of several, chosen by a discrete variable that may be enumerated."""

import torch
from pyro.distributions import TorchDistribution
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints


class Chosen(TorchDistribution):
    r"""p(x | c), member c of a batch of laws.

    All members are asked about a value at once, and once however many values c has: an enumerated c
    then picks from what is known.

    Args:
        laws: whose last batch dimension counts the members, C.
        choice: c, integers; its shape, broadcast with the batch of the laws less the last
            dimension, is the batch shape.
        sharpness: beta, what log p(x | c) is multiplied by; with another number than 1 this is no
            density any more, but what a tempered posterior is made of.

    Example:
        >>> import pyro.distributions as dist
        >>> laws = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
        >>> Chosen(laws, torch.tensor([1, 0])).log_prob(torch.tensor([1.0, 1.0]))
        tensor([-0.9189, -2.9189])
    """

    arg_constraints = {}
    has_rsample = False

    def __init__(
        self, laws: TorchDistribution, choice: Tensor, sharpness: Tensor | float = 1.0
    ) -> None:
        self.laws, self.choice, self.sharpness = laws, choice, sharpness
        shape = torch.broadcast_shapes(choice.shape, laws.batch_shape[:-1])
        super().__init__(shape, laws.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the members."""
        return self.laws.support

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*batch, *event)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return beta log p(x | c)."""
        scores = self.laws.log_prob(value.unsqueeze(-len(self.event_shape) - 1))
        return self.sharpness * Vindex(scores)[..., self.choice]

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw from the member that was chosen; all draw, one is kept."""
        shape, event = torch.Size(sample_shape) + self.batch_shape, len(self.event_shape)
        inner = self.laws.batch_shape
        drawn = self.laws.expand(shape + inner[-1:]).sample()
        index = self.choice.expand(shape)[(..., None, *[None] * event)]
        return drawn.gather(-event - 1, index.expand(*shape, 1, *self.event_shape)).squeeze(
            -event - 1
        )

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Chosen":
        """Return this law for a larger batch."""
        return Chosen(self.laws, self.choice.expand(batch_shape), self.sharpness)
