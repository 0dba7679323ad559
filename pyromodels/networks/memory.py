"""Summaries of the past: e_t, what a model of frames remembers of x_{<t}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.networks.mlp import Recurrence, State
from pyromodels.networks.side_by_side import MemberLinear
from pyromodels.networks.wavenet import GatedStack
from pyromodels.networks.wavenet_queues import Queues, StackSteps

Kind = Literal["gru", "lstm", "convolution", "wavenet"]
KINDS = ("gru", "lstm", "convolution", "wavenet")


class Memory(nn.Module, ABC):
    """e_t = Phi(e_{t-1}, x_{t-1}), mostly with e_1 = 0, for several models side by side.

    Args:
        num_members: M.
        in_dim: D.
        dim: N, size of e.
    """

    def __init__(self, num_members: int, in_dim: int, dim: int) -> None:
        super().__init__()
        self.num_members, self.in_dim, self.dim = num_members, in_dim, dim

    def forward(
        self,
        x: Tensor,  # shape: (M, R, T, D)
    ) -> Tensor:  # e, shape: (M, R, T, N)
        """Return every summary; row t knows x_{<t} only, and the last frame is not read."""
        if x.shape[-2] == 1:
            return x.new_zeros(*x.shape[:-1], self.dim)
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
    ) -> tuple[Tensor, Any]:  # e_1, shape: (M, R, N), and the memory before the first frame
        """Return what is known of nothing."""

    @abstractmethod
    def step(
        self,
        x: Tensor,  # x_t, shape: (M, R, D)
        memory: Any,
    ) -> tuple[Tensor, Any]:  # e_{t+1}, shape: (M, R, N), and the memory after x_t
        """Read one frame."""


class Recurrent(Memory):
    """A gated recurrent network of one layer: GRU (the paper's) or LSTM."""

    def __init__(
        self, num_members: int, in_dim: int, dim: int, *, kind: Literal["gru", "lstm"]
    ) -> None:
        super().__init__(num_members, in_dim, dim)
        self.kind = kind
        gates, reach = (3 if kind == "gru" else 4) * dim, 1 / math.sqrt(dim)
        shapes = {
            "input_weight": (gates, in_dim), "state_weight": (gates, dim),
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
        zeros = x.new_zeros(1, x.shape[1], self.dim)
        hx, run = (zeros, torch.gru) if self.kind == "gru" else ((zeros, zeros), torch.lstm)
        # biases, layers, dropout, train (cuDNN keeps what gradients need), directions, batch first
        options = (True, 1, 0.0, True, False, True)
        return torch.stack([
            run(rows, hx, self.weights(member), *options)[0] for member, rows in enumerate(x)
        ])

    def _read_together(self, x: Tensor) -> Tensor:
        """Return every hidden state of several GRUs, a frame of all members at a time."""
        sizes = (2 * self.dim, self.dim)  # of the two gates; of the new state
        told = torch.baddbmm(
            self.input_bias.unsqueeze(1), x.flatten(1, 2), self.input_weight.mT
        ).unflatten(1, x.shape[1:3])
        bias, weight = self.state_bias.unsqueeze(1), self.state_weight.mT
        h, states = told.new_zeros(*x.shape[:2], self.dim), []
        frames = (part.unbind(2) for part in told.split(sizes, -1))
        for gates_told, new_told in zip(*frames, strict=True):
            gates_known, new_known = torch.baddbmm(bias, h, weight).split(sizes, -1)
            reset, keep = torch.sigmoid(gates_told + gates_known).chunk(2, -1)
            new = torch.tanh(torch.addcmul(new_told, reset, new_known))
            h = torch.lerp(new, h, keep)
            states.append(h)
        return torch.stack(states, 2)

    def start(self, like: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return zero states."""
        zeros = like.new_zeros(*like.shape[:2], self.dim)
        return zeros, (zeros,) if self.kind == "gru" else (zeros, zeros)

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


class Convolution(Memory):
    """Causal convolutions of two taps each, dilated by 1, 2, 4, ...: it knows 2^layers frames."""

    def __init__(
        self, num_members: int, in_dim: int, dim: int, *, num_layers: int = 5
    ) -> None:
        super().__init__(num_members, in_dim, dim)
        self.input = MemberLinear(num_members, in_dim, dim)
        self.layers = nn.ModuleList(
            MemberLinear(num_members, 2 * dim, dim) for _ in range(num_layers)
        )

    def read(self, x: Tensor) -> Tensor:
        """Return every summary, all frames at once."""
        shape = (*x.shape[:-1], self.dim)
        h = self.input(x.flatten(1, 2)).view(shape)
        for level, layer in enumerate(self.layers):
            before = pad(h, (0, 0, 2**level, 0))[..., : h.shape[-2], :]
            both = torch.cat((before, h), -1).flatten(1, 2)
            h = h + torch.tanh(layer(both)).view(shape)
        return h

    def start(self, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what each layer read before the first frame: zeros."""
        shape = (*like.shape[:2], self.dim)
        read = [like.new_zeros(2**level, *shape) for level in range(len(self.layers))]
        return like.new_zeros(shape), read

    def step(self, x: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Read one frame."""
        h, after = self.input(x), []
        for layer, kept in zip(self.layers, memory, strict=True):
            after.append(torch.cat((kept[1:], h.unsqueeze(0))))
            h = h + torch.tanh(layer(torch.cat((kept[0], h), -1)))
        return h, after


class SingleRecurrence(Memory):
    """A `Recurrence` as the memory of one model: it has read x_0 = 0 before the first frame."""

    def __init__(self, recurrence: Recurrence) -> None:
        super().__init__(1, recurrence.input.in_dim, recurrence.lstm.hidden_size)
        self.recurrence = recurrence

    def forward(self, x: Tensor) -> Tensor:
        """Return every hidden state by one fused call."""
        return self.recurrence(x)

    def read(self, x: Tensor) -> Tensor:
        """Return what is known after each frame."""
        return self.recurrence(pad(x, (0, 0, 0, 1)))[..., 1:, :]

    def start(self, like: Tensor) -> tuple[Tensor, State]:
        """Return what is known after x_0 = 0."""
        nothing = like.new_zeros(*like.shape[:2], self.in_dim)
        return self.step(nothing, self.recurrence.initial_state(nothing[0]))

    def step(self, x: Tensor, memory: State) -> tuple[Tensor, State]:
        """Read one frame."""
        memory = self.recurrence.step(x[0], memory)
        return memory[0].unsqueeze(0), memory


class GatedMemory(Memory):
    """A causal WaveNet as the memory of one model; see `GatedStack` for its options."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        width: int | None = None,  # None: dim
        num_layers: int = 6,
        num_blocks: int = 1,
        kernel_size: int = 3,
    ) -> None:
        super().__init__(1, in_dim, dim)
        self.stack = GatedStack(
            in_dim, dim, width=width or dim, num_layers=num_layers, num_blocks=num_blocks,
            kernel_size=kernel_size, causal=True,
        )
        self.steps = StackSteps(self.stack)

    def read(self, x: Tensor) -> Tensor:
        """Return every summary, all frames at once."""
        return self.stack(x.squeeze(0).mT).mT.unsqueeze(0)

    def start(self, like: Tensor) -> tuple[Tensor, Queues]:
        """Return zeros, and queues of nothing."""
        nothing = like.new_zeros(*like.shape[:2], self.dim)
        return nothing, self.steps.start(nothing.squeeze(0))

    def step(self, x: Tensor, memory: Queues) -> tuple[Tensor, Queues]:
        """Read one frame, by the queues of all layers."""
        e, memory = self.steps.step(x.squeeze(0), memory)
        return e.unsqueeze(0), memory


def make_memory(kind: Kind | Memory, num_members: int, in_dim: int, dim: int) -> Memory:
    """Return a new memory, or the one given.

    Raises:
        SpecError: unknown kind, or one that is not for several members.
    """
    if isinstance(kind, Memory):
        return kind
    if kind == "convolution":
        return Convolution(num_members, in_dim, dim)
    if kind == "wavenet":
        if num_members > 1:
            hint = "Only a gru, a lstm or a convolution is several models side by side."
            raise SpecError(mismatch("num_members of a wavenet", given=num_members, expected=1,
                                     hint=hint))
        return GatedMemory(in_dim, dim)
    if kind not in KINDS:
        raise SpecError(unknown("memory", given=str(kind), known=KINDS))
    return Recurrent(num_members, in_dim, dim, kind=kind)
