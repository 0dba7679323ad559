"""The networks of a deep source prior as matrices over columns, for the cells beside them.

A feature is a row and a cell (frame, source, sequence) a column, so that every product, activation
and gate runs along long contiguous rows. Two rewritings save time and change numbers by rounding
only. A bias is one more column of its matrix, which reads a row of ones. And

    tanh(a) / 2 = sigmoid(2a) - 1/2,

which costs a quarter of torch's tanh on a CPU, is what hidden layers and LSTM outputs hold; LSTM
cells are kept doubled. The factors 2 are absorbed in the matrices. (Absorbing the 1/2 in the biases
too would save one more pass and cost a digit: the published decoder's biases and sums are large.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyromodels.dynamics.deep_ar import DeepAR
from pyromodels.dynamics.srnn import SRNN

Affine = tuple[Tensor, Tensor]
"""Weight, shape (out, in), and bias, shape (out,)."""


class Rows:
    """Where things lie in the ledger, one row a feature, so that every product reads one slice.

        s | 1 | past | fed | now | z | 1 | carry

    `past` is h of the encoder's LSTM, `now` of the decoder's, `fed` what both are fed with (absent
    where that is s itself), `carry` the cells of both. Without latents there is no past and no z.
    """

    def __init__(self, prior: SRNN | DeepAR) -> None:
        hidden_dim = prior.recurrence.lstm.hidden_size
        latent_dim = prior.latent_dim
        fed_dim = prior.recurrence.input.out_dim if len(prior.recurrence.input.layers) else 0
        self.num_lstms = 2 if latent_dim else 1
        past_dim = hidden_dim if latent_dim else 0
        sizes = (prior.source_dim, 1, past_dim, fed_dim, hidden_dim, latent_dim, 1)
        slices = _slices(*sizes, self.num_lstms * hidden_dim)
        self.s, self.one, self.past, self.fed, self.now, self.z, self.last_one, self.carry = slices
        self.count = self.carry.stop
        self.states = (self.past, self.now)[-self.num_lstms :]
        # what the products read
        self.to_gates = slice((self.one if fed_dim else self.s).start, self.now.stop)
        self.to_encoder = slice(0, self.past.stop)
        self.to_decoder = slice(self.now.start, self.last_one.stop)
        self.to_fed = slice(0, self.one.stop)


def _slices(*sizes: int) -> list[slice]:
    stops = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


class ColumnNetworks(NamedTuple):
    """Matrices of one prior; every tuple is a chain of products, tanh / 2 between them."""

    gates: Tensor  # rows i, f, o, g of all LSTMs; g doubled
    fed: tuple[Tensor, ...]  # layers between s and the LSTM, tanh / 2 after each
    encoder: tuple[Tensor, ...]  # rows of the last: mean and log std of z, or the mean alone
    encoder_z: Tensor | None  # the first layer's share of z_{t-1}
    decoder: tuple[Tensor, ...]  # rows of the last: log precision and mean of s
    log_precision_range: tuple[float, float] | None


def column_networks(prior: SRNN | DeepAR, rows: Rows, *, sample_latents: bool) -> ColumnNetworks:
    """Return a prior's networks; weights are those of now."""
    lstm, hidden_dim = prior.recurrence.lstm, prior.recurrence.lstm.hidden_size
    *fed, (weight, bias) = _rescaled(
        prior.recurrence.input.layers, (lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)
    )
    gates = weight.new_zeros(4 * hidden_dim, rows.num_lstms, rows.count)
    gates[:, :, rows.one] = bias[:, None, None]
    gates[:, :, rows.fed if fed else rows.s] = weight[:, None]
    for index, state in enumerate(rows.states):
        gates[:, index, state] = 2 * lstm.weight_hh_l0
    i, f, g, o = gates[..., rows.to_gates].transpose(0, 1).chunk(4, 1)

    encoder, encoder_z = (), None
    if isinstance(prior, SRNN):
        mean, log_std = prior.encoder.head.mean, _scaled(prior.encoder.head.log_variance, 0.5)
        head = _stacked(_affine(mean), log_std) if sample_latents else _affine(mean)
        (weight, bias), *rest = _rescaled(prior.encoder.head.body.layers, head)
        of_h, of_s, encoder_z = weight.split((hidden_dim, prior.source_dim, prior.latent_dim), 1)
        first = torch.cat((of_s, bias[:, None], 2 * of_h), 1)
        encoder = (first, *map(_joined, rest))

    head = _stacked(_scaled(prior.decoder.log_variance, -1.0), _affine(prior.decoder.mean))
    (weight, bias), *rest = _rescaled(prior.decoder.body.layers, head)
    of_h, of_z = weight[:, :hidden_dim], weight[:, hidden_dim:]
    decoder = (torch.cat((2 * of_h, of_z, bias[:, None]), 1), *map(_joined, rest))

    bounds = prior.emission.std_range
    return ColumnNetworks(
        gates=torch.cat([gate.reshape(-1, gate.shape[-1]) for gate in (i, f, o, 2 * g)]),
        fed=tuple(map(_joined, fed)),
        encoder=encoder,
        encoder_z=encoder_z,
        decoder=decoder,
        log_precision_range=bounds and (-2 * math.log(bounds[1]), -2 * math.log(bounds[0])),
    )


def _affine(layer: nn.Linear) -> Affine:
    return layer.weight, layer.bias


def _scaled(layer: nn.Linear, factor: float) -> Affine:
    return factor * layer.weight, factor * layer.bias


def _stacked(upper: Affine, lower: Affine) -> Affine:
    return torch.cat((upper[0], lower[0])), torch.cat((upper[1], lower[1]))


def _joined(layer: Affine) -> Tensor:
    return torch.cat((layer[0], layer[1][:, None]), 1)


def _rescaled(layers: nn.ModuleList, head: Affine) -> list[Affine]:
    """The same function with tanh(a) / 2, given 2a, in place of the tanh(a) between its layers."""
    chain = []
    for index, (weight, bias) in enumerate([*map(_affine, layers), head]):
        if index > 0:
            weight = 2 * weight  # it reads tanh / 2
        chain.append((2 * weight, 2 * bias) if index < len(layers) else (weight, bias))
    return chain
