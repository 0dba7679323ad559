"""Summaries of the past: e_t, what a model of frames remembers of x_{<t}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyromodels.errors import SpecError, unknown
from pyromodels.networks.side_by_side import MemberLinear

Kind = Literal["gru", "lstm", "convolution"]


class Past(nn.Module, ABC):
    """e_t = Phi(e_{t-1}, x_{t-1}) with e_1 = 0, for several models side by side.

    Args:
        num_members: M.
        in_dim: D.
        past_dim: N, size of e.
    """

    def __init__(self, num_members: int, in_dim: int, past_dim: int) -> None:
        super().__init__()
        self.num_members, self.in_dim, self.past_dim = num_members, in_dim, past_dim

    def forward(
        self,
        x: Tensor,  # shape: (M, R, T, D)
    ) -> Tensor:  # e, shape: (M, R, T, N)
        """Return every summary; row t knows x_{<t} only, and the last frame is not read."""
        if x.shape[-2] == 1:
            return x.new_zeros(*x.shape[:-1], self.past_dim)
        return pad(self.read(x[..., :-1, :]), (0, 0, 1, 0))

    @abstractmethod
    def read(
        self,
        x: Tensor,  # shape: (M, R, T, D)
    ) -> Tensor:  # shape: (M, R, T, N)
        """Return what is known after each frame."""

    @abstractmethod
    def start(
        self,
        like: Tensor,  # for number of rows, dtype and device; shape: (M, R, *)
    ) -> Any:
        """Return the memory before the first frame."""

    @abstractmethod
    def step(
        self,
        x: Tensor,  # x_t, shape: (M, R, D)
        memory: Any,
    ) -> tuple[Tensor, Any]:  # e_{t+1}, shape: (M, R, N), and the memory after x_t
        """Read one frame."""


class Recurrent(Past):
    """A gated recurrent network of one layer: GRU (the paper's) or LSTM."""

    def __init__(
        self, num_members: int, in_dim: int, past_dim: int, *, kind: Literal["gru", "lstm"]
    ) -> None:
        super().__init__(num_members, in_dim, past_dim)
        self.kind = kind
        gates, reach = (3 if kind == "gru" else 4) * past_dim, 1 / math.sqrt(past_dim)
        shapes = {
            "input_weight": (gates, in_dim), "state_weight": (gates, past_dim),
            "input_bias": (gates,), "state_bias": (gates,),
        }  # fmt: skip
        for name, shape in shapes.items():
            drawn = torch.empty(num_members, *shape).uniform_(-reach, reach)
            self.register_parameter(name, nn.Parameter(drawn))

    def weights(self, member: int) -> list[Tensor]:
        """Return the weights of one member, in the order of torch's networks."""
        return [
            w[member]
            for w in (self.input_weight, self.state_weight, self.input_bias, self.state_bias)
        ]

    def read(self, x: Tensor) -> Tensor:
        """Return every hidden state, by one fused call for each member, or by batched products.

        On a CPU a fused call is itself a loop over frames, and what it spends on starting small
        operations counts: several GRUs share them. On a GPU it is one call of cuDNN.
        """
        if self.kind == "gru" and self.num_members > 1 and x.device.type == "cpu":
            return self._read_together(x)
        zeros = x.new_zeros(1, x.shape[1], self.past_dim)
        hx, run = (zeros, torch.gru) if self.kind == "gru" else ((zeros, zeros), torch.lstm)
        # biases, layers, dropout, train (cuDNN keeps what gradients need), directions, batch first
        options = (True, 1, 0.0, True, False, True)
        return torch.stack([
            run(rows, hx, self.weights(member), *options)[0] for member, rows in enumerate(x)
        ])

    def _read_together(self, x: Tensor) -> Tensor:
        """Return every hidden state of several GRUs, a frame of all members at a time."""
        sizes = (2 * self.past_dim, self.past_dim)  # of the two gates; of the new state
        told = torch.baddbmm(
            self.input_bias.unsqueeze(1), x.flatten(1, 2), self.input_weight.mT
        ).unflatten(1, x.shape[1:3])
        bias, weight = self.state_bias.unsqueeze(1), self.state_weight.mT
        h, states = told.new_zeros(*x.shape[:2], self.past_dim), []
        frames = (part.unbind(2) for part in told.split(sizes, -1))
        for gates_told, new_told in zip(*frames, strict=True):
            gates_known, new_known = torch.baddbmm(bias, h, weight).split(sizes, -1)
            reset, keep = torch.sigmoid(gates_told + gates_known).chunk(2, -1)
            new = torch.tanh(torch.addcmul(new_told, reset, new_known))
            h = torch.lerp(new, h, keep)
            states.append(h)
        return torch.stack(states, 2)

    def start(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return zero states."""
        zeros = like.new_zeros(*like.shape[:2], self.past_dim)
        return (zeros,) if self.kind == "gru" else (zeros, zeros)

    def step(self, x: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read one frame, by one native call for each member."""
        after = []
        for member, (frame, *state) in enumerate(zip(x, *memory, strict=True)):
            if self.kind == "gru":
                after.append((torch.gru_cell(frame, *state, *self.weights(member)),))
            else:
                after.append(torch.lstm_cell(frame, state, *self.weights(member)))
        memory = tuple(torch.stack(parts) for parts in zip(*after, strict=True))
        return memory[0], memory


class Convolution(Past):
    """Causal convolutions of two taps each, dilated by 1, 2, 4, ...: it knows 2^layers frames."""

    def __init__(
        self, num_members: int, in_dim: int, past_dim: int, *, num_layers: int = 5
    ) -> None:
        super().__init__(num_members, in_dim, past_dim)
        self.input = MemberLinear(num_members, in_dim, past_dim)
        self.layers = nn.ModuleList(
            MemberLinear(num_members, 2 * past_dim, past_dim) for _ in range(num_layers)
        )

    def read(self, x: Tensor) -> Tensor:
        """Return every summary, all frames at once."""
        shape = (*x.shape[:-1], self.past_dim)
        h = self.input(x.flatten(1, 2)).view(shape)
        for level, layer in enumerate(self.layers):
            before = pad(h, (0, 0, 2**level, 0))[..., : h.shape[-2], :]
            both = torch.cat((before, h), -1).flatten(1, 2)
            h = h + torch.tanh(layer(both)).view(shape)
        return h

    def start(self, like: Tensor) -> list[Tensor]:
        """Return what each layer read before the first frame: zeros."""
        shape = (*like.shape[:2], self.past_dim)
        return [like.new_zeros(2**level, *shape) for level in range(len(self.layers))]

    def step(self, x: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Read one frame."""
        h, after = self.input(x), []
        for layer, kept in zip(self.layers, memory, strict=True):
            after.append(torch.cat((kept[1:], h.unsqueeze(0))))
            h = h + torch.tanh(layer(torch.cat((kept[0], h), -1)))
        return h, after


def make_past(kind: Kind, num_members: int, in_dim: int, past_dim: int) -> Past:
    """Return a new summary of the past.

    Raises:
        SpecError: unknown kind.
    """
    if kind == "convolution":
        return Convolution(num_members, in_dim, past_dim)
    if kind not in ("gru", "lstm"):
        raise SpecError(unknown("past", given=str(kind), known=("gru", "lstm", "convolution")))
    return Recurrent(num_members, in_dim, past_dim, kind=kind)
