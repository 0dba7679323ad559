"""Priors without latents: every frame has a law that a summary of the past says."""

from abc import abstractmethod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.distributions.anchored import AnchoredFrames
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import SourcePrior, Statement
from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.memory import Kind, make_past
from pyromodels.networks.side_by_side import check_members, from_members, to_members


class Autoregressive(SourcePrior):
    r"""p(x) = \prod_t p(x_t | e_t), e_t = Phi(e_{t-1}, x_{t-1}), e_1 = 0.

    With several members it is several models at once, e.g. one for every class: the last batch
    dimension of a trajectory then counts them, as a batch of normals has a mean for each. Members
    have networks of their own, or are tied: they share all networks, and each has a vector that
    joins e and is all that tells it from the others. What classes have in common is then learned
    from all of them, and cancels in a ratio of likelihoods.

    Args:
        source_dim: D.
        past_dim: N, size of e.
        past: what e is made by: "gru" (the paper's), "lstm" or "convolution".
        num_members: M.
        tied_dim: size of the vector of each member where they are tied; 0: they are not.

    Raises:
        SpecError: a size below 1.
    """

    needs_anchor = False
    block_dim = 1
    message_is_exact = False
    noise_is_unique = True
    """Whether a trajectory tells the noise that drove it."""

    def __init__(
        self, *, source_dim: int, past_dim: int, past: Kind, num_members: int, tied_dim: int
    ) -> None:
        super().__init__()
        sizes = {"source_dim": source_dim, "past_dim": past_dim, "num_members": num_members}
        for name, size in sizes.items():
            if size < 1:
                raise SpecError(mismatch(name, given=size, expected="1 or more"))
        if tied_dim < 0:
            raise SpecError(mismatch("tied_dim", given=tied_dim, expected="0 or more"))
        self.source_dim, self.num_members = source_dim, num_members
        self.num_networks = 1 if tied_dim else num_members
        self.context_dim = past_dim + tied_dim
        self.past = make_past(past, self.num_networks, source_dim, past_dim)
        names = torch.randn(1, num_members, tied_dim) if tied_dim else None
        self.names = None if names is None else nn.Parameter(names)

    @property
    def noise_dim(self) -> int:
        """Size of the noise that drives a frame."""
        return self.source_dim

    @abstractmethod
    def frames(
        self,
        e: Tensor,  # shape: (*batch, T, context_dim)
    ) -> dist.TorchDistribution:  # batch (*batch, T), event (D,)
        """Return p(x_t | e_t) of every frame."""

    @abstractmethod
    def driven(
        self,
        noise: Tensor,  # shape: (M, R, noise_dim)
        e: Tensor,  # shape: (M, R, context_dim)
    ) -> Tensor:  # x_t, shape: (M, R, D)
        """Return the frame that the noise drives."""

    def summary(
        self,
        x: Tensor,  # shape: (*, T, D), broadcastable to batch_shape + (T, D)
        batch_shape: torch.Size | None = None,  # (*batch); None: that of x
    ) -> Tensor:  # e, shape: (*batch, T, context_dim)
        """Return what is known of the past at every frame, and, if tied, whose frame it is."""
        batch_shape = x.shape[:-2] if batch_shape is None else batch_shape
        check_members(batch_shape, self.num_members)
        if self.num_networks > 1:
            x = x.expand(*batch_shape, *x.shape[-2:])
        e = from_members(self.past(to_members(x, self.num_networks, 2)), x.shape[:-2])
        e = e.expand(*batch_shape, *e.shape[-2:])
        return e if self.names is None else self._named(e, self.names.squeeze(0).unsqueeze(-2))

    @staticmethod
    def _named(e: Tensor, names: Tensor) -> Tensor:
        return torch.cat((e, names.expand(*e.shape[:-1], -1)), -1)

    def path(
        self,
        num_steps: int,
        *,
        batch_shape: torch.Size | None = None,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> "AutoregressivePath":
        """Return p(x_{1:T}), a distribution of batch shape (*batch) and event (T, D).

        Args:
            num_steps: T.
            batch_shape: of the trajectories; None: the anchor's, or that of the members.
            anchor: p(x_1) in place of the model's.
            mask: True where a frame counts.
        """
        if batch_shape is None:
            several = torch.Size([self.num_members] if self.num_members > 1 else [])
            batch_shape = several if anchor is None else anchor.loc.shape[:-1]
        check_members(torch.Size(batch_shape), self.num_members)
        return AutoregressivePath(self, num_steps, torch.Size(batch_shape), anchor, mask)

    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        sample: Statement = pyro.sample,
    ) -> Tensor:
        """x ~ p(x)."""
        return sample(
            name, self.path(num_steps, batch_shape=batch_shape, anchor=anchor, mask=mask)
        )

    def guide_sources(
        self, name: str, s: Tensor, *, anchor: Anchor | None = None, mask: Tensor | None = None
    ) -> None:
        """No latents of its own: nothing to sample."""

    def gaussian_message(
        self, s: Tensor, *, anchor: Anchor, z_noise: Tensor | None = None
    ) -> GaussianMessage:
        """Raise: frames are not Gaussian, unless a subclass says that they are.

        Raises:
            NotImplementedError: with the inference that fits.
        """
        raise NotImplementedError(
            f"frames of this {type(self).__name__} are not Gaussian, so it sends no message; fit "
            "programs that hold it by SVI with a reparametrised guide (inference 'svi' with elbo "
            "'trace_enum'), or by NUTS"
        )

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        """Return log p(s): exact, there is nothing to bound."""
        self.check(s, anchor)
        shape = s.shape[:-2]
        return self.path(s.shape[-2], batch_shape=shape, anchor=anchor, mask=mask).log_prob(s)


class AutoregressivePath(PathDistribution):
    """p(x_{1:T}) of an `Autoregressive` prior."""

    def __init__(
        self,
        prior: Autoregressive,
        num_steps: int,
        batch_shape: torch.Size,
        anchor: Anchor | None,
        mask: Tensor | None,
    ) -> None:
        like = next(prior.parameters())
        super().__init__(batch_shape, num_steps, prior.source_dim, like=like, mask=mask)
        self.prior, self.anchor, self.noise_is_unique = prior, anchor, prior.noise_is_unique

    def conditionals(self, value: Tensor) -> dist.TorchDistribution:
        """Return p(x_t | x_<t) of every frame."""
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        frames = self.prior.frames(self.prior.summary(value, shape))
        return frames if self.anchor is None else AnchoredFrames(frames, self.anchor)

    def noise(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the noise of `rsample`."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-1] + (self.prior.noise_dim,)
        return torch.randn(shape, dtype=self._like.dtype, device=self._like.device)

    def noise_of(self, value: Tensor) -> Tensor:
        """Return the noise that drives x.

        Raises:
            NotImplementedError: where x does not tell which component of a mixture it came from.
        """
        if not self.noise_is_unique:
            raise NotImplementedError(
                "a mixture's trajectory does not tell the noise that drove it; take one component"
            )
        return super().noise_of(value)

    def roll_out(self, noise: Tensor) -> Tensor:
        """Feed the model with what it draws."""
        prior, batch = self.prior, noise.shape[:-2]
        rows = to_members(noise, prior.num_networks, 2)
        e = rows.new_zeros(*rows.shape[:2], prior.past.past_dim)
        names = None
        if prior.names is not None:
            names = prior.names.expand(*batch, -1).reshape(*rows.shape[:2], -1)
        memory, path = prior.past.start(rows), []
        for t in range(rows.shape[-2]):
            if t == 0 and self.anchor is not None:
                loc, variance = (v.expand(*batch, -1) for v in self.anchor)
                first = loc + variance.sqrt() * noise[..., 0, : prior.source_dim]
                x = to_members(first, prior.num_networks, 1)
            else:
                x = prior.driven(rows[:, :, t], e if names is None else prior._named(e, names))
            if t + 1 < rows.shape[-2]:
                e, memory = prior.past.step(x, memory)
            path.append(x)
        return from_members(torch.stack(path, 2), batch)
