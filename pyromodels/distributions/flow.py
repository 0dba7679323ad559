"""The law of frames that a conditional flow makes of noise."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyromodels.networks.side_by_side import from_members, to_members
from pyromodels.transforms.coupling import CouplingFlow

LOG_2PI = math.log(2 * math.pi)


class FlowFrames(TorchDistribution):
    r"""p(x_t | e_t) = N(f(x_t; e_t); 0, I) |det df/dx|, eq. 3; batch (*, T), event (D,).

    Args:
        flow: f.
        e: what the flow is told, shape (*, T, N); before T, the members of the flow, if several.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, flow: CouplingFlow, e: Tensor, num_members: int) -> None:
        self.flow, self.e, self.num_members = flow, e, num_members
        super().__init__(e.shape[:-1], torch.Size([flow.dim]), validate_args=False)

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # nats, shape: (*, T)
        """Return log p(x_t | e_t)."""
        z, log_det = self._inverse(value)
        return log_det - 0.5 * (z.square().sum(-1) + self.flow.dim * LOG_2PI)

    def noise_of(
        self,
        value: Tensor,  # x, shape: (*, T, D)
    ) -> Tensor:  # z, shape: (*, T, D)
        """Return the noise that drives x."""
        return self._inverse(value)[0]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw frames, each on its own, with pathwise gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.e.dtype, device=self.e.device)
        rows, e, batch = self._rows(noise)
        return self._back(self.flow.from_noise(rows, e), batch)

    def _inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        rows, e, batch = self._rows(value)
        z, log_det = self.flow.to_noise(rows, e)
        return self._back(z, batch), self._back(log_det.unsqueeze(-1), batch).squeeze(-1)

    def _rows(self, v: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Return v and e with members first and rows flat, and the shape they came with."""
        batch = torch.broadcast_shapes(v.shape[:-1], self.batch_shape)
        v, e = (
            to_members(w.expand(*batch, w.shape[-1]), self.num_members, 2).flatten(1, 2)
            for w in (v, self.e)
        )
        return v, e, batch

    def _back(
        self,
        v: Tensor,  # shape: (M, R, X)
        batch: torch.Size,
    ) -> Tensor:  # shape: (*batch, X)
        return from_members(v.unflatten(1, (-1, batch[-1])), batch[:-1])
