"""A causal WaveNet frame by frame: every layer keeps a queue of what it has read."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.networks.wavenet import HALF, GatedStack


class StepWeights(NamedTuple):
    """Weights of a causal stack, from rows to rows: what came before is told to all layers at once.

    k taps, L layers, C channels of h.
    """

    front: Tensor  # shape: (k in_dim, C)
    front_bias: Tensor  # shape: (C,)
    before: Tensor  # of W, all taps but the last, shape: (L, (k - 1) C, 2 C)
    before_bias: Tensor  # shape: (L, 1, 2 C)
    now: tuple[Tensor, ...]  # of W, the last tap, each (C, 2 C)
    residual: tuple[Tensor, ...]  # R sqrt(1/2) of all layers but the last, each (C, C)
    skip: Tensor  # S of all layers, shape: (L C, C)
    post: Tensor  # shape: (C, out_dim)
    post_bias: Tensor


class Queues(NamedTuple):
    """What a causal stack keeps of the frames it has read, and its weights as they are applied.

    A state does not change: a layer's frames are appended to one list, of which a state owns the
    first ones.
    """

    inputs: tuple[Tensor, ...]  # x of the last k - 1 frames, oldest first; each (rows, in_dim)
    layers: list[list[Tensor]]  # h_{l-1} of every layer, oldest frame first; (rows, width)
    num_frames: list[int]  # of each list that are its own
    weights: StepWeights


class StackSteps:
    """A causal `GatedStack` frame by frame, by queues of what its layers have read.

    A frame costs one product for every layer and one for all that came before it, whatever the
    reach; without queues it would cost a pass over all of it.

    Args:
        stack: causal, and told nothing.
    """

    def __init__(self, stack: GatedStack) -> None:
        self.stack = stack
        taps = range(stack.kernel_size - 1, 0, -1)
        self.back = [[tap * dilation for tap in taps] for dilation in stack.dilations]
        self.lengths = [back[0] for back in self.back]  # of what layers look back to

    def start(
        self,
        like: Tensor,  # for dtype and device, shape: (rows, *)
    ) -> Queues:
        """Return queues of nothing: zeros, which `GatedStack` reads before the first frame."""
        stack, rows = self.stack, len(like)
        inputs = like.new_zeros(rows, stack.front.in_channels)
        nothing = like.new_zeros(rows, stack.width)
        layers = [[nothing] * length for length in self.lengths]
        kept = (inputs,) * (stack.kernel_size - 1)
        return Queues(kept, layers, list(self.lengths), self._weights())

    def step(
        self,
        x: Tensor,  # x_t, shape: (rows, in_dim)
        queues: Queues,
    ) -> tuple[Tensor, Queues]:  # y_t, shape: (rows, out_dim); the queues after it
        """Read a frame."""
        weights, inputs = queues.weights, (*queues.inputs, x)
        parts = zip(queues.layers, queues.num_frames, self.back, strict=True)
        come = [kept[own - by] for kept, own, back in parts for by in back]
        told = torch.cat(come, -1).view(len(x), len(self.back), -1).transpose(0, 1)
        told = torch.baddbmm(weights.before_bias, told, weights.before).unbind(0)
        h = torch.addmm(weights.front_bias, torch.cat(inputs, -1), weights.front)
        read, said = [h], []
        for number, before in enumerate(told):
            filtered, opened = torch.addmm(before, h, weights.now[number]).chunk(2, -1)
            said.append(torch.tanh(filtered) * torch.sigmoid(opened))
            if number < len(weights.residual):
                h = torch.addmm(h, said[-1], weights.residual[number], beta=HALF)
                read.append(h)
        skip = torch.relu(torch.cat(said, -1) @ weights.skip)
        y = torch.relu(torch.addmm(weights.post_bias, skip, weights.post))
        layers = []
        for kept, own, length, h in zip(
            queues.layers, queues.num_frames, self.lengths, read, strict=True
        ):
            if len(kept) != own or own > 2 * length:  # also another's, or too long
                kept = kept[own - length : own]
            kept.append(h)
            layers.append(kept)
        return y, Queues(inputs[1:], layers, [len(kept) for kept in layers], weights)

    def _weights(self) -> StepWeights:
        stack, width = self.stack, self.stack.width
        gates = torch.stack([gate.weight for gate in stack.gates])  # (L, 2 C, C, k)
        outs = [out.weight.squeeze(-1).mT for out in stack.outs]  # (C, C) or (C, 2 C)
        return StepWeights(
            front=stack.front.weight.permute(2, 1, 0).flatten(0, 1),
            front_bias=stack.front.bias,
            before=gates[..., :-1].permute(0, 3, 2, 1).flatten(1, 2),
            before_bias=torch.stack([gate.bias for gate in stack.gates]).unsqueeze(1),
            now=gates[..., -1].mT.contiguous().unbind(0),
            residual=tuple((HALF * out[:, width:]).contiguous() for out in outs[:-1]),
            skip=torch.cat([out[:, :width] for out in outs]),
            post=stack.post.weight.squeeze(-1).mT,
            post_bias=stack.post.bias,
        )
