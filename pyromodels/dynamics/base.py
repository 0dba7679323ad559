"""What MixDVAE asks of a prior over one source, and what an emission answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.errors import ShapeError, mismatch

Statement = Callable[[str, TorchDistribution], Tensor]
"""`pyro.sample(name, law)`, or what a prior around another one puts in its place."""


class SourcePrior(nn.Module, ABC):
    """p(s_{1:T}), the prior of one source: any density over a trajectory.

    Sequences and sources are batch dimensions. In MixDVAE the first frame is always the anchor's
    Gaussian, which overrides the prior's own law of s_1; a tiny anchor variance pins it (the
    published method uses 1e-5). A prior opens no plates: the caller has opened those of
    `anchor.loc.shape[:-1]`.
    """

    source_dim: int
    """D."""
    latent_dim: int = 0
    """L: size of the prior's own latents, 0 where it has none."""
    global_dim: int = 0
    """L_w: size of its latent of the whole sequence, 0 where it has none."""
    block_dim: int
    """d: size of the blocks in which the message is dense; 1 for deep priors."""
    needs_anchor: bool = True
    """Whether it has no law of s_1 of its own; `sample_sources` takes a `batch_shape` otherwise."""
    takes_anchor: bool = True
    """Whether a trajectory can start at an anchor, and so be a source of `MixDVAE`."""
    takes_mask: bool = True
    """Whether frames can be left out of a trajectory: not where it is one event as a whole."""
    frame_multiple: int = 1
    """T is a multiple of it."""
    has_gaussian_message: bool = True
    """Whether `gaussian_message` exists, which closed forms need: "vem", "svi_natural", "svi" with
    elbo "closed_form". "svi" with elbo "trace_enum" does without."""
    message_is_exact: bool
    """Whether p(s_t | s_<t) is linear-Gaussian: the message does not depend on the iterate."""

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Keyword arguments of the variants that the contract suite checks; small ones first."""

    @abstractmethod
    def sample_sources(
        self,
        name: str,
        num_steps: int,
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, N, T)
        sample: Statement = pyro.sample,
    ) -> Tensor:  # s, shape: (*batch, N, T, D)
        """Pyro statements: sample the site `name`, and the prior's own latents `name + "_..."`.

        `sample` draws the site `name`; a prior that adds coordinates to this one passes its own.
        """

    def guide_sources(
        self,
        name: str,
        s: Tensor,  # shape: (*batch, N, T, D)
        *,
        anchor: Anchor,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, N, T)
    ) -> None:
        """Pyro statements: sample the prior's own latents, if any, given the s that q(s) sampled.

        A prior without latents has nothing to sample.
        """

    @abstractmethod
    def gaussian_message(
        self,
        s: Tensor,  # the iterate, shape: (*batch, N, T, D)
        *,
        anchor: Anchor,
        z_noise: Tensor | None = None,  # shape: (*batch, N, T, L)
    ) -> GaussianMessage:
        """Return p(s_t | past), the past taken at the iterate.

        Args:
            s: the trajectory the networks are fed with; calls that need no gradient detach it.
            anchor: p(s_1).
            z_noise: standard normal noise for the prior's latents; None puts them at the encoder
                mean.

        Raises:
            NotImplementedError: where `has_gaussian_message` is False.
        """

    def iterate(
        self,
        mean: Tensor,  # of q(s), shape: (*batch, N, T, D)
        variance: Tensor,  # shape: (*batch, N, T, D)
    ) -> Tensor:  # shape: (*batch, N, T, D)
        """Return what stands for s where networks ask for it and q(s) is all that is known."""
        return mean

    @property
    def has_elbo(self) -> bool:
        """Whether `elbo` exists: whether there are networks to train."""
        return type(self).elbo is not SourcePrior.elbo

    def elbo(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        *,
        anchor: Anchor | None = None,
        mask: Tensor | None = None,  # shape: broadcastable to (*batch, T)
    ) -> Tensor:  # nats a sequence, shape: (*batch)
        """Return a bound on log p(s), or log p(s) itself.

        Raises:
            NotImplementedError: where `has_elbo` is False.
        """
        raise NotImplementedError(f"{type(self).__name__} has no bound of its own")

    def check(
        self,
        s: Tensor,  # shape: (*batch, T, D)
        anchor: Anchor | None,
    ) -> None:
        """Raise `ShapeError` where a trajectory and an anchor do not fit this prior."""
        if s.shape[-1] != self.source_dim or s.dim() < 2:
            raise ShapeError(
                mismatch(
                    f"trajectory of {type(self).__name__}",
                    given=f"shape {tuple(s.shape)}",
                    expected=f"(*batch, T, {self.source_dim})",
                )
            )
        if anchor is not None and anchor.loc.shape[-1] != self.source_dim:
            raise ShapeError(
                mismatch(
                    f"anchor of {type(self).__name__}",
                    given=f"loc of shape {tuple(anchor.loc.shape)}",
                    expected=f"(*batch, {self.source_dim})",
                    hint="An anchor has no time dimension.",
                )
            )


class EmittingPrior(SourcePrior):
    """A prior whose frames an emission says, which also says how they start."""

    emission: Any
    """An `Emission`, of the kind that the prior reads."""
    block_dim = 1
    message_is_exact = False

    @property
    def needs_anchor(self) -> bool:
        """Whether its frames are increments."""
        return self.emission.needs_anchor

    @property
    def takes_anchor(self) -> bool:
        """Whether its trajectories can start at a Gaussian: a spectrogram cannot."""
        return self.emission.takes_anchor

    @property
    def has_gaussian_message(self) -> bool:
        """Whether its frames are Gaussian."""
        return self.emission.has_gaussian_message

    def iterate(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return what its frames make of q(s)."""
        return self.emission.iterate(mean, variance)

    def check_start(self, anchor: Anchor | None) -> None:
        """Raise where frames cannot say where a trajectory starts and nobody else does."""
        if anchor is None and self.needs_anchor:
            hint = "A model of increments says how a trajectory moves, not where it starts."
            raise ShapeError(
                mismatch("anchor", given=None, expected="p(s_1), an Anchor", hint=hint)
            )
