"""The published updates of one (iteration, frame), for any set of frames at once, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyromodels.inference.published.column_networks import Rows, column_networks

if TYPE_CHECKING:
    from pyromodels.dynamics.deep_ar import DeepAR
    from pyromodels.dynamics.srnn import SRNN
    from pyromodels.inference.published.options import PublishedOptions

Noise = Callable[[int, int, int], Tensor]
"""noise(diagonal, first, last): N(0, 1) of shape (size, (last - first) N B) for these cells."""


class Evidence(NamedTuple):
    """What is observed in T frames; zero where nothing is."""

    observation: Tensor  # shape: (B, T, K, X)
    precision: Tensor  # diagonal of the inverse of Phi, shape: (B, T, K, X)
    root_determinant: Tensor  # of Phi, shape: (B, T, K)


class Start(NamedTuple):
    """Where the iterations begin."""

    loc: Tensor  # m of iteration 0, shape: (B, N, T, D)
    variance: Tensor  # V of iteration 0, shape: (B, N, T, D)
    anchor: Tensor  # shape: (B, N, D)


class Posterior(NamedTuple):
    """q(w) and q(s) of some frames."""

    responsibilities: Tensor  # eta, anything where nothing is observed, shape: (B, N, T, K)
    loc: Tensor  # m, shape: (B, N, T, D)
    variance: Tensor  # diagonal of V, shape: (B, N, T, D)


class Cells:
    r"""The iterate of a run over T frames and the update of its cells.

    Cell (i, t) is what iteration i does to frame t (thesis, Algorithm 1, lines 7 and 16-23):

        eta_tk  <- normalise_n(beta_tkn(m_t^{i-1}, V_t^{i-1}))                     (3.24-25)
        z_t     ~  q(z_t | s_{<=t}^{i-1}, z_{t-1}^i)                               (3.29)
        h_t     <- LSTM(s_{t-1}^i, h_{t-1}^i)
        1 / V_t <- 1 / v(h_t, z_t) + \sum_k eta_tk / Phi_tk                        (3.18)
        m_t     <- V_t (mu(h_t, z_t) / v(h_t, z_t) + \sum_k eta_tk o_tk / Phi_tk)  (3.19)

    It reads (i, t-1) and (i-1, t) and nothing else. So one buffer of T columns of features holds
    the whole iterate, column t the latest iteration that has reached frame t, and cells are updated
    in place: one after the other, or, since those with the same i + t do not need each other, a
    whole diagonal at once. Memory does not grow with the iterations.

    The LSTM of the encoder in iteration i + 1 and that of the decoder in iteration i read the same
    s^i from different first inputs; both advance here, in one product.

    A column is `N * B` wide. The ledger has one column before the first frame, where z is zero.

    Args:
        prior: the source prior.
        evidence: what is observed.
        start: iteration 0.
        options: the choices of the method.
        latent_noise, source_noise: of z and of s; called where the options ask for samples.
    """

    def __init__(
        self,
        prior: SRNN | DeepAR,
        evidence: Evidence,
        start: Start,
        options: PublishedOptions,
        latent_noise: Noise,
        source_noise: Noise,
    ) -> None:
        self.options, self.latent_noise, self.source_noise = options, latent_noise, source_noise
        self.batch_size, self.num_sources, self.num_frames, self.dim = start.loc.shape
        self.width = self.num_sources * self.batch_size
        self.rows = rows = Rows(prior)
        self.networks = column_networks(prior, rows, sample_latents=options.sample_latents)
        self._take_evidence(evidence)
        self._take_start(start)
        self._fill_ledger(prior, start)
        self._reserve()

    def update(self, diagonal: int, first: int, last: int) -> None:
        """Update the cells (diagonal - t, t) of the frames t in [first, last)."""
        if self.options.order == "assignment_first":
            self._assign(first, last)
        if self.networks.encoder:
            self._infer_latents(diagonal, first, last)
        if last > max(first, 1):  # the state in the first frame never changes
            self._advance(max(first, 1), last)
        self._predict(first, last)
        self._fuse(diagonal, first, last)
        if self.options.order == "sources_first":
            self._assign(first, last)

    # ---- the steps of an update; each reads and writes the columns of its frames

    def _assign(self, first: int, last: int) -> None:
        """E-W: eta from m, V."""
        diff, eta = (self._cut(v, first, last) for v in (self.diff, self.eta))
        before = eta.clone() if self.options.tolerance is not None else None
        loc, variance = (self._cut(v, first, last).unsqueeze(1) for v in (self.loc, self.variance))
        torch.sub(self._cut(self.observation, first, last), loc, out=diff)
        torch.addcmul(variance, diff, diff, out=diff)
        diff.mul_(self._cut(self.exponent, first, last))
        torch.sum(diff, 0, out=eta)
        weight = eta.unflatten(-1, (last - first, self.num_sources, self.batch_size))
        if self.floor is None:
            weight.copy_(weight.softmax(2))
        else:
            eta.exp_().add_(self._cut(self.floor, first, last))
            weight.div_(weight.sum(2, keepdim=True))
        if before is not None:
            change = before.sub_(eta).abs_().unflatten(-1, (last - first, self.width))
            self.change[first:last] = change.amax((0, 2))

    def _infer_latents(self, diagonal: int, first: int, last: int) -> None:
        """E-Z: z from the previous iteration's s and the current one's z."""
        rows, networks = self.rows, self.networks
        ledger = self._cut(self.ledger, first, last)
        last_z = self._cut(self.ledger_before, first, last)[rows.z]
        z = ledger[rows.z]
        hidden = self._cut(self.encoder_hidden[0], first, last)
        torch.mm(networks.encoder[0], ledger[rows.to_encoder], out=hidden[:-1])
        _half_tanh_(hidden[:-1].addmm_(networks.encoder_z, last_z))
        drawn = self._cut(self.latent_head, first, last) if self.options.sample_latents else z
        self._chain(networks.encoder[1:], hidden, self.encoder_hidden[1:], drawn, first, last)
        if self.options.sample_latents:
            mean, log_std = drawn.chunk(2)
            torch.addcmul(mean, log_std.exp_(), self.latent_noise(diagonal, first, last), out=z)

    def _advance(self, first: int, last: int) -> None:
        """Both LSTMs, from the frame before; cells c are kept as 2c, outputs h as h / 2."""
        rows = self.rows
        ledger = self._cut(self.ledger, first, last)
        before = self._cut(self.ledger_before, first, last)
        gates = self._cut(self.gates, first, last)
        torch.mm(self.networks.gates, before[rows.to_gates], out=gates)
        gates.sigmoid_()
        i, f, o, g = gates.chunk(4)
        carry = ledger[rows.carry]
        f.mul_(before[rows.carry])
        torch.addcmul(f, i, g.sub_(0.5), value=4.0, out=carry)
        half_tanh = torch.sigmoid(carry, out=g).sub_(0.5)
        factors = (v.chunk(rows.num_lstms) for v in (half_tanh, o))
        for state, *pair in zip(rows.states, *factors, strict=True):
            torch.mul(*pair, out=ledger[state])

    def _predict(self, first: int, last: int) -> None:
        """The prior's message: rows 1 / v and mu / v of `message`; frame 1 is pinned."""
        ledger = self._cut(self.ledger, first, last)
        message = self._cut(self.message, first, last)
        x = ledger[self.rows.to_decoder]
        self._chain(self.networks.decoder, x, self.decoder_hidden, message, first, last)
        log_precision, mean = message.chunk(2)
        if self.networks.log_precision_range is not None:
            log_precision.clamp_(*self.networks.log_precision_range)
        mean.mul_(log_precision.exp_())
        if first == 0:
            message[:, : self.width] = self.pinned

    def _fuse(self, diagonal: int, first: int, last: int) -> None:
        """E-S: the product of the prior's message and the weighted observations."""
        terms = self._cut(self.terms, first, last)
        eta, evidence = self._cut(self.eta, first, last), self._cut(self.evidence, first, last)
        total, message = self._cut(self.total, first, last), self._cut(self.message, first, last)
        torch.mul(eta, evidence, out=terms)
        torch.sum(terms, 1, out=total).add_(message)
        precision, information = total.chunk(2)
        ledger, loc = self._cut(self.ledger, first, last), self._cut(self.loc, first, last)
        variance = torch.reciprocal(precision, out=self._cut(self.variance, first, last))
        torch.mul(variance, information, out=loc)
        if self.options.sample_sources:
            noise = self.source_noise(diagonal, first, last)
            torch.addcmul(loc, variance.sqrt(), noise, out=ledger[self.rows.s])
        if self.networks.fed:
            x, fed = ledger[self.rows.to_fed], ledger[self.rows.fed]
            self._chain(self.networks.fed, x, self.fed_hidden, fed, first, last)
            _half_tanh_(fed)

    def _chain(
        self,
        matrices: Sequence[Tensor],
        x: Tensor,
        hidden: Sequence[Tensor],
        out: Tensor,
        first: int,
        last: int,
    ) -> None:
        """Products with tanh / 2 between them; hidden layers end in a row of ones."""
        for matrix, layer in zip(matrices[:-1], hidden, strict=True):
            layer = self._cut(layer, first, last)
            _half_tanh_(torch.mm(matrix, x, out=layer[:-1]))
            x = layer
        torch.mm(matrices[-1], x, out=out)

    def _cut(self, columns: Tensor, first: int, last: int) -> Tensor:
        """The columns of the frames in [first, last)."""
        return columns.narrow(-1, first * self.width, (last - first) * self.width)

    # ---- the iterate from outside

    def moved(self) -> float:
        """Return the most that a frame's last update has moved a responsibility; needs a
        tolerance.
        """
        return self.change.max().item()

    def posterior(self, frames: slice = slice(None)) -> Posterior:  # noqa: B008
        """Return q of some frames as it is now, as views of the buffers."""
        return Posterior(*(self._frames(v, frames) for v in (self.eta, self.loc, self.variance)))

    def _frames(self, columns: Tensor, frames: slice) -> Tensor:
        sizes = (self.num_frames, self.num_sources, self.batch_size)
        return columns.unflatten(-1, sizes)[:, frames].permute(3, 2, 1, 0)

    # ---- buffers

    def _take_evidence(self, evidence: Evidence) -> None:
        observation, precision = self._slots(evidence.observation), self._slots(evidence.precision)
        self.observation = observation
        self.exponent = -0.5 * self.options.tempering * precision
        self.evidence = torch.cat((precision, precision * observation))
        self.floor = None
        if self.options.weight_floor is not None:
            floor = self.options.weight_floor * evidence.root_determinant
            self.floor = self._slots(floor.unsqueeze(-1))[0]

    def _slots(self, values: Tensor) -> Tensor:
        """(B, T, K, X) -> (X, K, T N B)."""
        values = values.permute(3, 2, 1, 0).unsqueeze(3)
        return values.expand(*values.shape[:3], self.num_sources, -1).flatten(2).contiguous()

    def _take_start(self, start: Start) -> None:
        self.pinned = _columns(
            torch.cat((torch.ones_like(start.anchor), start.anchor), -1)[:, :, None]
            / self.options.pinned_variance
        )
        self.variance = _columns(start.variance)
        self.eta = torch.full_like(self.evidence[0], 1 / self.num_sources)
        self.change = self.eta.new_full((self.num_frames,), torch.inf)

    def _fill_ledger(self, prior: SRNN | DeepAR, start: Start) -> None:
        """Iteration 0, its trajectory as the encoder sees it, and the state in the first frame."""
        rows, width = self.rows, self.width
        buffer = start.loc.new_zeros(rows.count, (self.num_frames + 1) * width)
        self.ledger, self.ledger_before = buffer[:, width:], buffer[:, :-width]
        buffer[rows.one], buffer[rows.last_one] = 1.0, 1.0
        self.ledger[rows.s] = _columns(start.loc)
        self.loc = self.ledger[rows.s]
        if self.options.sample_sources:
            self.loc = self.loc.clone()

        anchor = _columns(start.anchor[:, :, None]).T
        inputs = [anchor if self.options.decoder_starts_from_anchor else torch.zeros_like(anchor)]
        if rows.num_lstms == 2:
            self.ledger[rows.past] = _columns(prior.recurrence(start.loc)) / 2
            inputs.insert(0, torch.zeros_like(anchor))
        zeros = prior.recurrence.initial_state(anchor)
        states = [prior.recurrence.step(x, zeros) for x in inputs]
        first = self.ledger[:, :width]
        first[rows.carry] = torch.cat([2 * cell for _, cell in states], 1).T
        for state, (h, _) in zip(rows.states, states, strict=True):
            first[state] = h.T / 2

    def _reserve(self) -> None:
        """Room for what lives within an update."""
        like, columns = self.observation, self.num_frames * self.width

        def room(*size: int) -> Tensor:
            return like.new_empty(*size, columns)

        def hidden(matrices: Sequence[Tensor]) -> list[Tensor]:
            return [like.new_ones(m.shape[0] + 1, columns) for m in matrices[:-1]]

        networks = self.networks
        self.diff, self.terms = room(*like.shape[:2]), room(*self.evidence.shape[:2])
        self.total, self.message = room(2 * self.dim), room(2 * self.dim)
        self.gates = room(networks.gates.shape[0])
        self.encoder_hidden, self.latent_head = hidden(networks.encoder), None
        if networks.encoder and self.options.sample_latents:
            self.latent_head = room(networks.encoder[-1].shape[0])
        self.decoder_hidden, self.fed_hidden = hidden(networks.decoder), hidden(networks.fed)


def _half_tanh_(twice: Tensor) -> Tensor:
    """tanh(a) / 2 given 2a, in place."""
    return twice.sigmoid_().sub_(0.5)


def _columns(values: Tensor) -> Tensor:
    """(B, N, T, X) -> (X, T N B)."""
    return values.permute(3, 2, 1, 0).flatten(1).contiguous()
