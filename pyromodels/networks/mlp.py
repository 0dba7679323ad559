"""The small networks of the deep priors: tanh layers, linear heads, LSTMs over time."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, Tensor]
"""LSTM hidden and cell state, each of shape (rows, hidden_dim)."""


class MLP(nn.Module):
    """Dense layers, each followed by tanh; the identity where there is none.

    Args:
        in_dim: size of the input.
        dims: sizes of the layers.
    """

    def __init__(self, in_dim: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(*sizes) for sizes in zip([in_dim, *dims], dims, strict=False)
        )
        self.in_dim, self.out_dim = in_dim, dims[-1] if len(dims) else in_dim

    def forward(
        self,
        x: Tensor,  # shape: (*, in_dim)
    ) -> Tensor:  # shape: (*, out_dim)
        """Return the last layer's activation."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Heads(nn.Module):
    """Linear outputs over tanh layers, read from the concatenation of several inputs.

    Args:
        in_dims: size of each input, in the order of concatenation.
        dims: sizes of the tanh layers.
        out_dim: size of each output.
        names: of the outputs; the default is a diagonal Gaussian.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        dims: Sequence[int],
        out_dim: int,
        names: Sequence[str] = ("mean", "log_variance"),
    ) -> None:
        super().__init__()
        self.in_dims, self.names = tuple(in_dims), tuple(names)
        self.body = MLP(sum(in_dims), dims)
        for name in self.names:
            self.add_module(name, nn.Linear(self.body.out_dim, out_dim))

    def forward(
        self,
        *inputs: Tensor,  # shapes: (*, in_dims[i]); the batch dims broadcast
    ) -> tuple[Tensor, ...]:  # the outputs in the order of their names, each (*, out_dim)
        """Return the outputs."""
        body = self.body(join(*inputs))
        return tuple(at_least_single(head(body)) for head in self.heads())

    def heads(self) -> list[nn.Linear]:
        """Return the output layers."""
        return [self.get_submodule(name) for name in self.names]

    def split(self) -> "SplitHeads":
        """Return the same function with its first layer cut by input, for use inside recursions."""
        heads = self.heads()
        outputs = (torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads]))
        (weight, bias), *rest = [*((d.weight, d.bias) for d in self.body.layers), outputs]
        return SplitHeads(tuple(weight.split(self.in_dims, -1)), bias, tuple(rest), len(heads))


class SplitHeads(NamedTuple):
    """`Heads` as pure functions of their weights, for recursions over time.

    The share of the first input, which is known beforehand, is computed for all frames by one
    product (`known`); a step then adds the share of the inputs that recur. Gradients reach the
    module's parameters as usual. Weights are those at the time of `split()`.
    """

    shares: tuple[Tensor, ...]  # first layer, one matrix an input
    bias: Tensor
    rest: tuple[tuple[Tensor, Tensor], ...]
    num_heads: int

    def known(
        self,
        value: Tensor,  # the first input, shape: (*, in_dims[0])
    ) -> Tensor:  # shape: (*, dims[0])
        """Return the first layer before tanh, but for the other inputs."""
        return F.linear(value, self.shares[0], self.bias)

    def step(
        self,
        known: Tensor,  # shape: (rows, dims[0])
        inputs: dict[int, Tensor],  # input position -> (rows, in_dims[position])
    ) -> tuple[Tensor, ...]:  # the outputs, each (rows, out_dim)
        """Return the outputs."""
        x = known
        for position, value in inputs.items():
            x = torch.addmm(x, value, self.shares[position].mT)
        for weight, bias in self.rest:
            x = F.linear(torch.tanh(x), weight, bias)
        return at_least_single(x).chunk(self.num_heads, -1)


def at_least_single(x: Tensor) -> Tensor:
    """Return a tensor in float32 where it is of half precision, else as it is.

    Under autocast matrix products come out in half precision. What is read from them, a density or
    a divergence, must not be computed in it: KL cancels.

    Example:
        >>> at_least_single(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def run_lstm(
    lstm: nn.LSTM,
    inputs: Tensor,  # shape: (*, T, in_dim)
) -> Tensor:  # shape: (*, T, hidden_dim)
    """Return every hidden state from a zero start, by one fused call."""
    h, _ = lstm(rows(inputs))
    return h.reshape(*inputs.shape[:-1], h.shape[-1])


def run_lstm_backward(
    lstm: nn.LSTM,
    inputs: Tensor,  # shape: (*, T, in_dim)
    mask: Tensor | None = None,  # shape: broadcastable to (*, T)
) -> Tensor:  # shape: (*, T, hidden_dim)
    """Return every hidden state, from the last frame that counts to the first.

    Padding goes last in this direction too, where nothing follows that would read it.
    """
    index = _backward_order(inputs.shape[:-1], mask, inputs.device)
    return _reorder(run_lstm(lstm, _reorder(inputs, index)), index)


def lstm_step(
    lstm: nn.LSTM,
    inputs: Tensor,  # shape: (rows, in_dim)
    state: State | None,  # None: zero
) -> State:
    """Return the next state, by one native call."""
    if state is None:
        state = (inputs.new_zeros(len(inputs), lstm.hidden_size),) * 2
    return torch.lstm_cell(
        inputs, state, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0
    )


def join(
    *inputs: Tensor,  # shapes: (*, X_i); the batch dims broadcast
) -> Tensor:  # shape: (*, sum of X_i)
    """Concatenate vectors."""
    batch = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return torch.cat([x.expand(*batch, x.shape[-1]) for x in inputs], -1)


def driven(
    mean: Tensor,  # shape: (*, L)
    log_variance: Tensor,  # shape: (*, L)
    noise: Tensor | None,  # shape: (*, L); None: the mean is taken
) -> Tensor:  # shape: (*, L)
    """Return the draw that the noise drives."""
    return mean if noise is None else mean + (0.5 * log_variance).exp() * noise


def before(
    v: Tensor,  # shape: (*, T, X)
) -> Tensor:  # shape: (*, T, X)
    """Return v_{t-1} for every t, with v_0 = 0."""
    return F.pad(v, (0, 0, 1, 0))[..., :-1, :]


def rows(
    v: Tensor,  # shape: (*batch, T, X)
) -> Tensor:  # shape: (rows, T, X)
    """Flatten the batch dimensions."""
    return v.reshape(-1, *v.shape[-2:])


class Recurrence(nn.Module):
    """h_t = LSTM(MLP(x_{t-1}), h_{t-1}), with x_0 = 0 and h_0 = 0: row t knows x_<t only.

    Args:
        in_dim: size of x.
        input_dims: tanh layers between x and the LSTM.
        hidden_dim: size of h.
    """

    def __init__(self, in_dim: int, input_dims: Sequence[int], hidden_dim: int) -> None:
        super().__init__()
        self.input = MLP(in_dim, input_dims)
        self.lstm = nn.LSTM(self.input.out_dim, hidden_dim, batch_first=True)

    def forward(
        self,
        x: Tensor,  # shape: (*, T, in_dim)
    ) -> Tensor:  # h, shape: (*, T, hidden_dim)
        """Return every hidden state by one fused LSTM call; the last frame of x is not read."""
        return run_lstm(self.lstm, self.input(before(x)))

    def initial_state(
        self,
        like: Tensor,  # shape: (rows, *), for dtype and device
    ) -> State:
        """Return h_0 = 0 and the zero cell."""
        zeros = like.new_zeros(like.shape[0], self.lstm.hidden_size)
        return zeros, zeros

    def step(
        self,
        x: Tensor,  # x_{t-1}, shape: (rows, in_dim)
        state: State,
    ) -> State:
        """Return (h_t, cell); one native call beside the input layers."""
        return lstm_step(self.lstm, self.input(x), state)


def _backward_order(
    shape: torch.Size,  # (*, T)
    mask: Tensor | None,  # shape: broadcastable to (*, T)
    device: torch.device,
) -> Tensor:  # shape: broadcastable to (*, T)
    """Return frames in reverse, padding left behind them; the order is its own inverse."""
    t = torch.arange(shape[-1], device=device)
    if mask is None:
        return t.flip(0)
    length = mask.expand(*mask.shape[:-1], shape[-1]).sum(-1, keepdim=True)
    return torch.where(t < length, length - 1 - t, t)


def _reorder(
    v: Tensor,  # shape: (*, T, X)
    index: Tensor,  # shape: (T,) or broadcastable to (*, T)
) -> Tensor:  # shape: (*, T, X)
    if index.dim() == 1:
        return v.index_select(-2, index)
    batch = torch.broadcast_shapes(v.shape[:-1], index.shape)
    wide = v.expand(*batch, v.shape[-1])
    return wide.gather(-2, index.expand(batch).unsqueeze(-1).expand_as(wide))
