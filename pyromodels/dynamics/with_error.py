"""A source prior with the detector's own error beside every coordinate."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution, diagonal_normal
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.dynamics.linear import LinearGaussianPath, linear_message
from pyromodels.errors import SpecError, mismatch


class WithError(SourcePrior):
    r"""p(x_{1:T}) p(e_{1:T}): any prior of x, and a stationary error e that is observed with it.

        x ~ the prior,    e_t = rho e_{t-1} + N(0, (1 - rho^2) Var e_1),    P s_t = P x_t + e_t

    Detectors err in the same direction for many frames, and a posterior that takes their errors as
    independent is far too sure of itself. e is independent of x a priori; a smoother that sees
    their sum takes them apart by how fast they change.

    ======  ===========  =========================  ============================================
    symbol  name         shape                      unit
    ======  ===========  =========================  ============================================
    s       s            (*batch, N, T, G (d + 1))  blocks of the prior's d coordinates, then e
    rho     correlation  ()                         1, from one frame to the next
    ======  ===========  =========================  ============================================

    The anchor is the prior's with the stationary law of e; see `anchor`.

    Args:
        prior: of x; its projection, the identity where it has none, reads e along with x.
        correlation: rho.

    Raises:
        SpecError: a prior whose frames are not Gaussian.
        ValueError: a correlation out of its range.

    Example:
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> boxes = {"name": "gaussian", "predicts": "increment"}
        >>> prior = WithError(SRNN(emission=boxes), correlation=0.9)
        >>> box = torch.tensor([[0.1, 0.2, 0.2, 0.5]])
        >>> start = Anchor(box, torch.full_like(box, 1e-5))
        >>> anchor = prior.anchor(start, error_variance=torch.full_like(box, 1e-4))
        >>> prior.sample_sources("s", 60, anchor=anchor).shape
        torch.Size([1, 60, 8])
    """

    def __init__(self, prior: SourcePrior, *, correlation: float) -> None:
        super().__init__()
        if not prior.has_gaussian_message:
            raise SpecError(
                mismatch(
                    "prior of WithError",
                    given=f"{type(prior).__name__}, whose frames are not Gaussian",
                    expected="one that sends a Gaussian message, beside which e has its own",
                )
            )
        if not 0 <= correlation < 1:
            raise ValueError(
                mismatch("correlation", given=correlation, expected="0 <= correlation < 1")
            )
        self.prior, self.correlation = prior, correlation
        self.block_dim = prior.block_dim + 1
        self.num_blocks = prior.source_dim // prior.block_dim
        self.source_dim = self.num_blocks * self.block_dim
        self.message_is_exact = prior.message_is_exact
        self.latent_dim = prior.latent_dim
        own = getattr(prior, "projection", torch.eye(prior.source_dim))
        reads = own.unflatten(-1, (self.num_blocks, -1)).any(-1).to(own)  # (X, G)
        self.register_buffer("projection", self.join(own, reads), persistent=False)

    def join(
        self,
        x: Tensor,  # shape: (*, G d)
        error: Tensor,  # shape: (*, G)
    ) -> Tensor:  # s, shape: (*, G (d + 1))
        """Return blocks of x with their error behind them."""
        blocks = x.unflatten(-1, (self.num_blocks, -1))
        return torch.cat((blocks, error.unsqueeze(-1)), -1).flatten(-2)

    def split(
        self,
        s: Tensor,  # shape: (*, G (d + 1))
    ) -> tuple[Tensor, Tensor]:  # x, shape: (*, G d); e, shape: (*, G)
        """Return what `join` has joined."""
        blocks = s.unflatten(-1, (self.num_blocks, self.block_dim))
        return blocks[..., :-1].flatten(-2), blocks[..., -1]

    def anchor(
        self,
        start: Anchor,  # p(x_1)
        *,
        error_variance: Tensor,  # Var e, shape: (*batch, N, G), squared units of x
    ) -> Anchor:
        """Return p(s_1), the error centred at zero."""
        zero = torch.zeros_like(error_variance)
        return Anchor(self.join(start.loc, zero), self.join(start.variance, error_variance))

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """Sample x and e as the one site `name`, and the prior's own latents."""
        self.check(anchor.loc.unsqueeze(-2), anchor)
        start, error_start = self._anchors(anchor)
        error = LinearGaussianPath(*self._error(error_start), error_start, num_steps, mask)
        whole = []

        def sample_both(site: str, law: PathDistribution) -> Tensor:
            # p(s) = p(x | the prior's latents) p(e)
            whole.append(sample(site, WithErrorPath(self, law, error)))
            return self.split(whole[0])[0]

        self.prior.sample_sources(name, num_steps, anchor=start, mask=mask, sample=sample_both)
        return whole[0]

    def guide_sources(
        self, name: str, s: Tensor, *, anchor: Anchor, mask: Tensor | None = None
    ) -> None:
        """Sample the prior's own latents given x."""
        self.check(s, anchor)
        start, _ = self._anchors(anchor)
        self.prior.guide_sources(name, self.split(s)[0], anchor=start, mask=mask)

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Return the prior's message at x, and beside it the exact one of e."""
        self.check(s, anchor)
        start, error_start = self._anchors(anchor)
        message = self.prior.gaussian_message(self.split(s)[0], anchor=start, z_noise=z_noise)
        error = linear_message(*self._error(error_start), error_start, message.offset.shape[:-2])
        return GaussianMessage(
            _beside(message.transition, error.transition),
            torch.cat((message.offset, error.offset), -1),
            _beside(message.covariance, error.covariance),
        )

    def _anchors(self, anchor: Anchor) -> tuple[Anchor, Anchor]:
        """p(x_1) and p(e_1)."""
        (loc, error_loc), (variance, error_variance) = (self.split(part) for part in anchor)
        return Anchor(loc, variance), Anchor(error_loc, error_variance)

    def _error(self, start: Anchor) -> tuple[Tensor, Tensor]:
        """Return rho, shape (G, 1, 1), and the deviation of the error's noise, (*batch, N, G)."""
        rho = start.variance.new_full((self.num_blocks, 1, 1), self.correlation)
        scale = ((1 - self.correlation**2) * start.variance).sqrt()
        return rho, scale


class WithErrorPath(PathDistribution):
    """p(x) p(e) as one path of s."""

    def __init__(
        self, prior: WithError, source: PathDistribution, error: LinearGaussianPath
    ) -> None:
        batch_shape = torch.broadcast_shapes(source.batch_shape, error.batch_shape)
        size = (source.event_shape[0], prior.source_dim)
        super().__init__(batch_shape, *size, like=error.like, mask=source.time_mask)
        self.prior, self.source, self.error = prior, source, error

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(x_t | x_<t) p(e_t | e_{t-1})."""
        x, error = self.prior.split(value)
        laws = self.source.conditionals(x), self.error.conditionals(error)
        return diagonal_normal(
            self.prior.join(*(law.mean for law in laws)),
            self.prior.join(*(law.stddev for law in laws)),
        )

    def roll_out(self, noise: Tensor) -> Tensor:
        """Return the trajectory that the noise drives."""
        x, error = self.prior.split(noise)
        return self.prior.join(self.source.roll_out(x), self.error.roll_out(error))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw x as its own law does, which may have been rolled out with its latents, and e."""
        x, error = (
            law.expand(self.batch_shape).rsample(sample_shape) for law in (self.source, self.error)
        )
        return self.prior.join(x, error)


def _beside(
    blocks: Tensor,  # shape: (*, d, d)
    corner: Tensor,  # shape: (*, 1, 1)
) -> Tensor:  # block-diagonal, shape: (*, d + 1, d + 1)
    wide = torch.nn.functional.pad(blocks, (0, 1, 0, 1))
    wide[..., -1, -1] = corner[..., 0, 0]
    return wide
