"""The small networks of the deep priors: tanh layers, Gaussian heads, one recurrence."""

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
        self.out_dim = dims[-1] if len(dims) else in_dim

    def forward(
        self,
        x: Tensor,  # shape: (*, in_dim)
    ) -> Tensor:  # shape: (*, out_dim)
        """Return the last layer's activation."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class GaussianMLP(nn.Module):
    """Mean and log-variance of a diagonal Gaussian from the concatenation of several inputs.

    Args:
        in_dims: size of each input, in the order of concatenation.
        dims: sizes of the tanh layers.
        out_dim: size of the Gaussian.
    """

    def __init__(self, in_dims: Sequence[int], dims: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.in_dims = tuple(in_dims)
        self.body = MLP(sum(in_dims), dims)
        self.mean = nn.Linear(self.body.out_dim, out_dim)
        self.log_variance = nn.Linear(self.body.out_dim, out_dim)

    def forward(
        self,
        *inputs: Tensor,  # shapes: (*, in_dims[i]); the batch dims broadcast
    ) -> tuple[Tensor, Tensor]:  # mean, log-variance; each (*, out_dim)
        """Return mean and log-variance."""
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        body = self.body(torch.cat([x.expand(*batch, x.shape[-1]) for x in inputs], -1))
        return self.mean(body), self.log_variance(body)

    def split(self) -> "SplitMLP":
        """Return the same function with its first layer cut by input, for use inside recursions."""
        first, *rest = self.body.layers
        return SplitMLP(
            shares=tuple(first.weight.split(self.in_dims, -1)),
            bias=first.bias,
            rest=tuple((layer.weight, layer.bias) for layer in rest),
            mean=(self.mean.weight, self.mean.bias),
            heads=(
                torch.cat((self.mean.weight, self.log_variance.weight)),
                torch.cat((self.mean.bias, self.log_variance.bias)),
            ),
        )


class SplitMLP(NamedTuple):
    """A `GaussianMLP` as pure functions of its weights, for recursions over time.

    The share of every input that is known beforehand is computed for all frames by one product
    (`known`); a step then adds the share of the one input that recurs. Gradients reach the
    module's parameters as usual. Weights are those at the time of `split()`.
    """

    shares: tuple[Tensor, ...]  # first layer, one matrix an input
    bias: Tensor
    rest: tuple[tuple[Tensor, Tensor], ...]
    mean: tuple[Tensor, Tensor]
    heads: tuple[Tensor, Tensor]  # mean and log-variance, joined

    def known(
        self,
        inputs: dict[int, Tensor],  # input position -> (*, in_dims[position])
    ) -> Tensor:  # shape: (*, dims[0])
        """Return the first layer before tanh, but for the inputs left out."""
        (position, value), *others = inputs.items()
        total = F.linear(value, self.shares[position], self.bias)
        for position, value in others:
            total = total + F.linear(value, self.shares[position])
        return total

    def _body(self, known: Tensor, position: int, value: Tensor) -> Tensor:
        x = torch.tanh(torch.addmm(known, value, self.shares[position].mT))
        for weight, bias in self.rest:
            x = torch.tanh(F.linear(x, weight, bias))
        return x

    def step_mean(
        self,
        known: Tensor,  # shape: (rows, dims[0])
        position: int,
        value: Tensor,  # shape: (rows, in_dims[position])
    ) -> Tensor:  # shape: (rows, out_dim)
        """Return the mean alone."""
        return F.linear(self._body(known, position, value), *self.mean)

    def step(
        self,
        known: Tensor,  # shape: (rows, dims[0])
        position: int,
        value: Tensor,  # shape: (rows, in_dims[position])
    ) -> tuple[Tensor, Tensor]:  # mean, log-variance; each (rows, out_dim)
        """Return mean and log-variance."""
        return F.linear(self._body(known, position, value), *self.heads).chunk(2, -1)


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
        return self._run(F.pad(x, (0, 0, 1, 0))[..., :-1, :])[0]

    def summary(
        self,
        x: Tensor,  # shape: (*, T, in_dim)
    ) -> tuple[Tensor, State]:  # h, shape: (*, T, hidden_dim); the state after x_{T-1}, rows flat
        """As `forward`, and the state from which `step(x_T, state)` continues."""
        return self._run(F.pad(x, (0, 0, 1, 0))[..., :-1, :])

    def _run(self, inputs: Tensor) -> tuple[Tensor, State]:
        rows = self.input(inputs).reshape(-1, inputs.shape[-2], self.input.out_dim)
        h, (last, cell) = self.lstm(rows)
        return h.reshape(inputs.shape[:-1] + h.shape[-1:]), (last[0], cell[0])

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
        lstm = self.lstm
        return torch.lstm_cell(
            self.input(x),
            state,
            lstm.weight_ih_l0,
            lstm.weight_hh_l0,
            lstm.bias_ih_l0,
            lstm.bias_hh_l0,
        )
