"""Categories: raw audio as mu-law classes, one softmax for every sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor

from pyromodels.audio.mu_law import encode
from pyromodels.distributions.message import Anchor
from pyromodels.distributions.quantised import Quantised
from pyromodels.emissions.base import Emission, Head
from pyromodels.emissions.spectral import refuse_anchor
from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.mlp import MLP
from pyromodels.networks.side_by_side import MemberLinear, from_members, to_members
from pyromodels.registry import EMISSIONS


@EMISSIONS.register("categorical")
@dataclass(frozen=True)
class Categorical(Emission):
    r"""Mu-law classes, P(class of s_t) = softmax(W e_t + b), of samples in [-1, 1].

    Densities are log-probabilities of classes. Networks see the class of a sample, as a number in
    [-1, 1] of equal steps, and a sample by nothing else: there is no gradient with respect to s.

    Reference: van den Oord et al., 2016, WaveNet, section 2.2.

    Departure: published code of deep priors puts a sigmoid before the softmax, whose largest
    probability is then 1.05 %.

    Args:
        num_classes: 256 of eight bits.

    Example:
        >>> import torch
        >>> head = Categorical().head(1, 5)
        >>> head.conditionals(torch.zeros(7, 5), torch.zeros(7, 1), None).sample().shape
        torch.Size([7, 1])
    """

    takes_anchor: ClassVar[bool] = False
    has_rsample: ClassVar[bool] = False
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({"num_classes": 6},)

    num_classes: int = 256

    @property
    def noise_is_unique(self) -> bool:
        """Whether a frame tells its noise: all of a class is one."""
        return False

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise SpecError(mismatch("num_classes", given=self.num_classes, expected="2 or more"))

    def head(
        self, source_dim: int, context_dim: int, *, dims: Sequence[int] = (), num_members: int = 1
    ) -> "CategoricalHead":
        """Return new networks from a context to logits."""
        if dims and num_members > 1:
            raise SpecError(mismatch("layers of several members", given=dims, expected=()))
        return CategoricalHead(self.num_classes, source_dim, context_dim, dims, num_members)


class CategoricalHead(Head):
    """P(class of s_t | e_t)."""

    def __init__(
        self,
        num_classes: int,
        source_dim: int,
        context_dim: int,
        dims: Sequence[int],
        num_members: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_members, self.noise_dim = num_classes, num_members, source_dim
        self.body = MLP(context_dim, dims)
        self.logits = MemberLinear(num_members, self.body.out_dim, source_dim * num_classes)

    def law(
        self,
        e: Tensor,  # shape: (M, R, context_dim)
    ) -> Quantised:  # batch (M, R), event (D,)
        """Return the law of frames."""
        return Quantised(self.logits(self.body(e)).unflatten(-1, (-1, self.num_classes)))

    def see(self, s: Tensor) -> Tensor:
        """Return the class of every sample as a number in [-1, 1]."""
        return encode(s, self.num_classes).to(s.dtype) * (2 / (self.num_classes - 1)) - 1

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return the class of a sample as a number in [-1, 1]."""
        return self.see(s)

    def conditionals(
        self, said: Tensor, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return P(class of s_t | e_t) of every frame."""
        refuse_anchor(anchor)
        rows = to_members(said, self.num_members, 2)
        logits = self.law(rows.flatten(1, 2)).logits.unflatten(1, rows.shape[1:3])
        return Quantised(from_members(logits, said.shape[:-2]))

    def draw(self, said: Tensor, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return the level that the noise picks."""
        return self.law(said).driven(noise)

    def expected(self, said: Tensor, previous: Tensor | None) -> Tensor:
        """Return the mean of s_t."""
        return self.law(said).mean
