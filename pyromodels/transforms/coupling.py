"""Coupling flows whose layers are told something: z = f(x; e) with an exact Jacobian."""

from typing import Literal

import torch
from torch import Tensor, nn
from zuko.transforms import MonotonicRQSTransform

from pyromodels.errors import ShapeError, SpecError, mismatch, unknown
from pyromodels.networks.side_by_side import MemberLinear, from_members, to_members
from pyromodels.transforms.affine_coupling import affine as move
from pyromodels.transforms.affine_coupling import affine_inverse as move_back
from pyromodels.transforms.base import FlowTransform, Invertible
from pyromodels.transforms.mixing import Mixing

Coupling = Literal["affine", "spline"]

NUM_BINS = 8
"""Of a spline; outside [-5, 5] it is the identity."""


class CouplingFlow(Invertible):
    r"""f(x; e) = z, the composition of L layers told by one e, for several models side by side.

        q     = ReLU(W_q e + L_q kept + c_q)                                          (10)
        s, mu = tanh(V_s q + c_s), V_mu q + c_mu                                      (8), (10)
        moved = (moved - mu) exp(-s)                                                  (9)

    A layer moves one half of the coordinates given the other, then the other given the first.
    Halves have even and odd numbers, or are the first d coordinates and the rest. What W_q says of
    e is computed for all layers by one product. The one coordinate of D = 1 moves given e alone.

    Departure: a layer of the paper (eq. 7) moves one half. Like its published code, ours moves
    both; each half has networks of its own here, where the code puts two masks on one network.

    Args:
        num_members: M.
        dim: D.
        context_dim: N, size of e.
        num_layers: L.
        hidden_dim: l, size of q.
        num_hidden: n_H, further ReLU layers on top of q.
        coupling: "affine" as above, or "spline", monotonic rational-quadratic.
        mixing: whether an invertible linear map of all coordinates follows every layer but the
            last, in the direction of sampling.
        split: d; None: even and odd coordinates.

    Raises:
        ShapeError: dim below 1.
        SpecError: unknown coupling, no layer, or a split that leaves a half empty.
    """

    def __init__(
        self,
        num_members: int,
        dim: int,
        context_dim: int,
        *,
        num_layers: int,
        hidden_dim: int,
        num_hidden: int,
        coupling: Coupling = "affine",
        mixing: bool = False,
        split: int | None = None,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ShapeError(mismatch("dim", given=dim, expected="1 or more"))
        if coupling not in ("affine", "spline"):
            raise SpecError(unknown("coupling", given=str(coupling), known=("affine", "spline")))
        if num_layers < 1:
            raise SpecError(mismatch("num_layers", given=num_layers, expected="1 or more"))
        if split is not None and not 0 < split < dim:
            raise SpecError(mismatch("split", given=split, expected=f"1 to {dim - 1}, or None"))
        numbers = torch.arange(dim)
        second = numbers % 2 == 1 if split is None else numbers >= split
        order = torch.cat((numbers[~second], numbers[second]))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        sizes = (int((~second).sum()), int(second.sum()))
        self.sizes, self.hidden_dim = sizes, hidden_dim
        self.dim, self.num_members, self.event_dim = dim, num_members, 1
        outputs = 2 if coupling == "affine" else 3 * NUM_BINS - 1
        self.maps = {"affine": (affine, affine_inverse), "spline": (spline, spline_inverse)}[
            coupling
        ]
        moves = [(1 - moved, moved) for _ in range(num_layers) for moved in (1, 0) if sizes[moved]]
        self.moves = tuple(moves)  # (kept, moved) halves, in the order of sampling
        self.told = MemberLinear(num_members, context_dim, len(moves) * hidden_dim)
        self.networks = nn.ModuleList(
            Conditioner(num_members, sizes[kept], hidden_dim, num_hidden, outputs * sizes[moved])
            for kept, moved in moves
        )
        between = num_layers - 1 if mixing and dim > 1 else 0
        self.mixings = nn.ModuleList(Mixing(num_members, dim) for _ in range(between))

    def to_noise(
        self,
        x: Tensor,  # shape: (M, R, D)
        e: Tensor,  # shape: (M, R, N)
    ) -> tuple[Tensor, Tensor]:  # z, shape: (M, R, D); log |det dz/dx|, nats, shape: (M, R)
        """Return z = f(x; e)."""
        told = self._told(e)
        halves = self._halves(x)
        log_det = x.new_zeros(x.shape[:-1])
        for number in reversed(range(len(self.moves))):
            kept, moved = self.moves[number]
            parameters = self.networks[number](halves[kept], told[number])
            halves[moved], change = self.maps[0](halves[moved], parameters)
            log_det = log_det + change
            if (mixing := self._mixing_before(number)) is not None:
                mixed, change = mixing.inverse(torch.cat(halves, -1))
                halves, log_det = list(mixed.split(self.sizes, -1)), log_det + change
        return torch.cat(halves, -1).index_select(-1, self.place), log_det

    def from_noise(
        self,
        z: Tensor,  # shape: (M, R, D)
        e: Tensor,  # shape: (M, R, N)
    ) -> Tensor:  # shape: (M, R, D)
        """Return x = g(z; e), the inverse of f."""
        told = self._told(e)
        halves = self._halves(z)
        for number, (kept, moved) in enumerate(self.moves):
            if (mixing := self._mixing_before(number)) is not None:
                halves = list(mixing(torch.cat(halves, -1)).split(self.sizes, -1))
            parameters = self.networks[number](halves[kept], told[number])
            halves[moved] = self.maps[1](halves[moved], parameters)
        return torch.cat(halves, -1).index_select(-1, self.place)

    def given(
        self,
        e: Tensor,  # shape: (*batch, N), or (*batch, T, N) with `frames`
        *,
        frames: bool = False,
    ) -> "CouplingTransform":
        """Return g(.; e), from noise to x, as a transform of torch."""
        return CouplingTransform(self, e, frames=frames)

    def _told(self, e: Tensor) -> tuple[Tensor, ...]:
        return self.told(e).split(self.hidden_dim, -1)

    def _halves(self, v: Tensor) -> list[Tensor]:
        return list(v.index_select(-1, self.order).split(self.sizes, -1))

    def _mixing_before(self, number: int) -> Mixing | None:
        """Return the map that precedes a move in the direction of sampling."""
        layer, second = divmod(number, 2)
        return None if second or not layer or not self.mixings else self.mixings[layer - 1]


class CouplingTransform(FlowTransform):
    """x = g(z; e) of a `CouplingFlow`, whatever batch z has: its members, its frames.

    Members of the flow, if several, are the last batch dimension of e, before the frames.

    Args:
        flow: the networks.
        e: what they are told, shape (*batch, N); a batch of z or x may have more dims on the left.
        frames: whether the last batch dimension counts frames.
        cache_size: see `FlowTransform`.

    Example:
        >>> flow = CouplingFlow(1, 2, 3, num_layers=2, hidden_dim=4, num_hidden=0)
        >>> base = torch.distributions.Normal(torch.zeros(5, 2), 1.0)
        >>> law = torch.distributions.TransformedDistribution(base, [flow.given(torch.zeros(5, 3))])
        >>> law.log_prob(law.sample()).shape
        torch.Size([5])
    """

    flow: CouplingFlow
    e: Tensor

    def __init__(
        self, flow: CouplingFlow, e: Tensor, *, frames: bool = False, cache_size: int = 0
    ) -> None:
        super().__init__(flow, e, cache_size=cache_size)
        self.frames = frames

    def to_noise(
        self,
        x: Tensor,  # shape: (*, D)
    ) -> tuple[Tensor, Tensor]:  # z, shape: (*, D); log |det dz/dx|, nats, shape: (*)
        """Return z with its log-determinant, by one pass."""
        rows, e, batch = self._rows(x)
        z, log_det = self.flow.to_noise(rows, e)
        return self._back(z, batch), self._back(log_det.unsqueeze(-1), batch).squeeze(-1)

    def from_noise(
        self,
        z: Tensor,  # shape: (*, D)
    ) -> Tensor:  # shape: (*, D)
        """Return x."""
        rows, e, batch = self._rows(z)
        return self._back(self.flow.from_noise(rows, e), batch)

    def _rows(self, v: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Return v and e with members first and rows flat, and the shape they came with."""
        batch = torch.broadcast_shapes(v.shape[:-1], self.e.shape[:-1])
        v, e = (
            to_members(w.expand(*batch, w.shape[-1]), self.flow.num_members, 1 + self.frames)
            for w in (v, self.e)
        )
        return (v.flatten(1, 2), e.flatten(1, 2), batch) if self.frames else (v, e, batch)

    def _back(
        self,
        v: Tensor,  # shape: (M, R, X)
        batch: torch.Size,
    ) -> Tensor:  # shape: (*batch, X)
        if self.frames:
            return from_members(v.unflatten(1, (-1, batch[-1])), batch[:-1])
        return from_members(v, batch)


class Conditioner(nn.Module):
    """What a half that is kept, and e, say of the half that moves."""

    def __init__(
        self, num_members: int, kept_dim: int, hidden_dim: int, num_hidden: int, out_dim: int
    ) -> None:
        super().__init__()
        self.kept = MemberLinear(num_members, kept_dim, hidden_dim, bias=False)
        self.hidden = nn.ModuleList(
            MemberLinear(num_members, hidden_dim, hidden_dim) for _ in range(num_hidden)
        )
        self.out = MemberLinear(num_members, hidden_dim, out_dim)

    def forward(
        self,
        kept: Tensor,  # shape: (M, R, kept_dim)
        told: Tensor,  # W_q e + c_q, shape: (M, R, hidden_dim)
    ) -> Tensor:  # shape: (M, R, out_dim)
        """Return the parameters of the move."""
        q = torch.relu(self.kept(kept, told))
        for layer in self.hidden:
            q = torch.relu(layer(q))
        return self.out(q)


def affine(
    x: Tensor,  # shape: (M, R, d)
    parameters: Tensor,  # shape: (M, R, 2 d)
) -> tuple[Tensor, Tensor]:  # z; log |det dz/dx|, shape: (M, R)
    """z = (x - mu) exp(-s), eq. 9."""
    slope, shift = parameters.chunk(2, -1)
    slope = torch.tanh(slope)
    return move(x, slope, shift), -slope.sum(-1)


def affine_inverse(z: Tensor, parameters: Tensor) -> Tensor:
    """x = z exp(s) + mu, eq. 7."""
    slope, shift = parameters.chunk(2, -1)
    return move_back(z, torch.tanh(slope), shift)


def spline(
    x: Tensor,  # shape: (M, R, d)
    parameters: Tensor,  # shape: (M, R, (3 K - 1) d)
) -> tuple[Tensor, Tensor]:  # z; log |det dz/dx|, shape: (M, R)
    """z = spline(x)."""
    z, log_slope = _spline(parameters).call_and_ladj(x)
    return z, log_slope.sum(-1)


def spline_inverse(z: Tensor, parameters: Tensor) -> Tensor:
    """Invert `spline`."""
    return _spline(parameters).inv(z)


def _spline(parameters: Tensor) -> MonotonicRQSTransform:
    table = parameters.unflatten(-1, (-1, 3 * NUM_BINS - 1))
    return MonotonicRQSTransform(*table.split((NUM_BINS, NUM_BINS, NUM_BINS - 1), -1))
