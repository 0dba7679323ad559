"""Mixtures of diagonal Gaussians with pathwise gradients, and the choice of a component."""

import math

import torch
from pyro.distributions import TorchDistribution
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import log_softmax

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class DiagonalMixture(TorchDistribution):
    r"""p(x) = \sum_m w_m N(x; mu_m, diag sigma_m^2), batch (*), event (D,).

    A draw picks a component and moves its noise. Its gradient is that of the implicit function
    r(x) = u, where r_d = p(X_d <= x_d | x_{<d}) is the mixture's own distribution function, one
    coordinate after the other: unbiased also for the weights, which picking a component is not.
    Pyro's `MixtureOfDiagNormals` draws its noise itself; a roll-out is given its noise.

    Reference: Figurnov, Mohamed and Mnih, 2018, Implicit reparameterization gradients.

    Args:
        logits: log w up to a constant, shape (*, M).
        loc: mu, shape (*, M, D).
        scale: sigma, shape (*, M, D).

    Example:
        >>> law = DiagonalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
        >>> law.mean, law.variance
        (tensor([0.]), tensor([2.]))
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights, self.loc, self.scale = log_softmax(logits, -1), loc, scale
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[x], shape (*, D)."""
        return (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Variance of every coordinate, shape (*, D)."""
        second = (self.log_weights.exp().unsqueeze(-1) * (self.scale**2 + self.loc**2)).sum(-2)
        return second - self.mean**2

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*, D)
    ) -> Tensor:  # nats, shape: (*)
        """Return log p(x)."""
        return torch.logsumexp(self.log_weights + self._log_densities(value).sum(-1), -1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw with pathwise gradients."""
        shape = (*torch.Size(sample_shape), *self.batch_shape, self.event_shape[0] + 1)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.driven(noise)

    def driven(
        self,
        noise: Tensor,  # standard normal, shape: (*, D + 1): the last one picks the component
    ) -> Tensor:  # x, shape: (*, D)
        """Return the draw that the noise drives."""
        with torch.no_grad():
            reached = self.log_weights.exp().cumsum(-1) < torch.special.ndtr(noise[..., -1:])
            picked = reached.sum(-1).clamp_max(self.loc.shape[-2] - 1)[..., None, None]
            shape = (*noise.shape[:-1], 1, self.loc.shape[-1])

            def of_picked(v: Tensor) -> Tensor:
                wide = v.expand(*noise.shape[:-1], *v.shape[-2:])
                return wide.gather(-2, picked.expand(shape)).squeeze(-2)

            x = of_picked(self.loc) + of_picked(self.scale) * noise[..., :-1]
        if not (torch.is_grad_enabled() and self._has_gradient()):
            return x
        reached, jacobian = self._distribution_function(x)
        moved = (reached - reached.detach()).unsqueeze(-1)
        return x - torch.linalg.solve_triangular(jacobian, moved, upper=False).squeeze(-1)

    def noise_of(
        self,
        value: Tensor,  # x, shape: (*, D)
    ) -> Tensor:
        """Refuse: x does not tell which component it came from.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a mixture's trajectory does not tell the noise that drove it; take one component"
        )

    def _has_gradient(self) -> bool:
        return any(v.requires_grad for v in (self.log_weights, self.loc, self.scale))

    def _log_densities(self, x: Tensor) -> Tensor:  # shape: (*, M, D)
        standardised = (x.unsqueeze(-2) - self.loc) / self.scale
        return -0.5 * standardised**2 - self.scale.log() - LOG_SQRT_2PI

    def _distribution_function(
        self,
        x: Tensor,  # shape: (*, D)
    ) -> tuple[Tensor, Tensor]:  # r, shape: (*, D); dr/dx, lower triangular, shape: (*, D, D)
        """Return r(x), with gradients, and its Jacobian, without."""
        log_density = self._log_densities(x)
        before = log_density.cumsum(-1) - log_density
        weights = torch.softmax(self.log_weights.unsqueeze(-1) + before, -2)  # given x_{<d}
        standardised = (x.unsqueeze(-2) - self.loc) / self.scale
        below = torch.special.ndtr(standardised)
        r = (weights * below).sum(-2)
        with torch.no_grad():
            shift = weights * (below - r.unsqueeze(-2))
            slope = -standardised / self.scale
            jacobian = (shift.mT @ slope).tril(-1)
            density = (weights * log_density.exp()).sum(-2)
            return r, jacobian + torch.diag_embed(density)


class Chosen(TorchDistribution):
    r"""p(x | c), member c of a batch of laws.

    All members are asked about a value at once, and once however many values c has: an enumerated c
    then picks from what is known.

    Args:
        laws: whose last batch dimension counts the members, C.
        choice: c, integers; its shape, broadcast with the batch of the laws less the last
            dimension, is the batch shape.
        sharpness: beta, what log p(x | c) is multiplied by; with another number than 1 this is no
            density any more, but what a tempered posterior is made of.

    Example:
        >>> import pyro.distributions as dist
        >>> laws = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
        >>> Chosen(laws, torch.tensor([1, 0])).log_prob(torch.tensor([1.0, 1.0]))
        tensor([-0.9189, -2.9189])
    """

    arg_constraints = {}
    has_rsample = False

    def __init__(
        self, laws: TorchDistribution, choice: Tensor, sharpness: Tensor | float = 1.0
    ) -> None:
        self.laws, self.choice, self.sharpness = laws, choice, sharpness
        shape = torch.broadcast_shapes(choice.shape, laws.batch_shape[:-1])
        super().__init__(shape, laws.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the members."""
        return self.laws.support

    def log_prob(
        self,
        value: Tensor,  # x, shape: (*batch, *event)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return beta log p(x | c)."""
        scores = self.laws.log_prob(value.unsqueeze(-len(self.event_shape) - 1))
        return self.sharpness * Vindex(scores)[..., self.choice]

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw from the member that was chosen; all draw, one is kept."""
        shape, event = torch.Size(sample_shape) + self.batch_shape, len(self.event_shape)
        inner = self.laws.batch_shape
        drawn = self.laws.expand(shape + inner[-1:]).sample()
        index = self.choice.expand(shape)[(..., None, *[None] * event)]
        return drawn.gather(-event - 1, index.expand(*shape, 1, *self.event_shape)).squeeze(
            -event - 1
        )

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "Chosen":
        """Return this law for a larger batch."""
        return Chosen(self.laws, self.choice.expand(batch_shape), self.sharpness)
