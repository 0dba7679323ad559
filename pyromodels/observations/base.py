"""The law of an observation given the source it comes from: MixDVAE asks it for all of that."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.base import SourcePrior
from pyromodels.errors import mismatch
from pyromodels.observations.detector import Detector


class ObservationLaw(nn.Module, ABC):
    r"""p(o_tk | w_tk = n, s) = N(o_tk; P_k s_tn, Phi_tk), written once                 (3.3)

    The program, the bound and the updates ask this. Phi_tk is diagonal. A subclass says what P does
    to a path, to a chain's moments and to an observation: as a matrix (`GaussianObservations`), or
    without one.

    =======================  ================================================  ================
    method                   what it is                                        asked by
    =======================  ================================================  ================
    `given`                  p(o_tk | what is seen of s_tn)                    the program
    `log_prob`               log p(o_tk | w_tk = n, s), every n                draws of s
    `expected_log_prob`      E_q(s)[log p(o_tk | w_tk = n, s)]                 E-W, the bound
    `pseudo_observations`    \prod_k p(o_tk | s_tn)^eta as information         E-S
    `predictive_log_prob`    log \int p(o_tk | s_tn) q(s_tn) ds                the online filter
    `cavity_log_prob`        the same, without what o_tk has put into q        E-W by cavities
    `expected_square`        E_q(s)[(o_tk - what is seen of s_tn)^2]           M
    `set_noise`              what Phi is, in units of the batch's              M
    =======================  ================================================  ================

    The first two serve any engine; the others are closed forms under a Gaussian q(s). A law that
    is registered is built for a prior, `law(prior, **keywords)`.

    Args:
        noise_scale: Phi is this squared times the batch's variance; a parameter, 1 where Phi is
            known.
    """

    num_features: int
    """X."""
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Keyword arguments of the variants that the contract suite checks, beside the prior."""

    def __init__(self, *, noise_scale: float = 1.0) -> None:
        super().__init__()
        if not noise_scale > 0:
            raise ValueError(
                mismatch("noise_scale", given=noise_scale, expected="a positive number")
            )
        self.log_noise_scale = nn.Parameter(torch.tensor(float(noise_scale)).log())

    @abstractmethod
    def project(
        self,
        s: Tensor,  # shape: (*, D)
    ) -> Tensor:  # shape: (*, K, X), K = 1 where all slots see the same
        """Return what slot k sees of a source."""

    @abstractmethod
    def moments(
        self, sources: GaussianChain
    ) -> tuple[Tensor, Tensor]:  # each (B, T, K or 1, N, X)
        """Return E[P_k s_tn] and diag Cov[P_k s_tn]."""

    @abstractmethod
    def pseudo_observations(
        self,
        batch: MixtureBatch,
        assigned: Tensor,  # eta, shape: (B, T, K, N)
    ) -> tuple[Tensor, Tensor]:  # precision (B, N, T, G, d, d), information (B, N, T, G, d)
        r"""Return \prod_k p(o_tk | s_tn)^eta_tkn as each source sees it, in blocks of the prior."""

    def of(self, prior: SourcePrior) -> "ObservationLaw":
        """Return this law of the same sources in the coordinates of another prior.

        Raises:
            NotImplementedError: where it has none: an online pass by a linear prior asks for it.
        """
        raise NotImplementedError(f"{type(self).__name__} is of no other prior than its own")

    def detector(self) -> Detector | None:
        """Return what an online pass takes for the detector of a model that has none, if any."""
        return None

    def assigned(
        self,
        batch: MixtureBatch,
        s: Tensor,  # shape: (*, B, 1, N, T, D)
        w: Tensor,  # owners, shape: broadcastable to (*, B, T, K)
    ) -> dist.Distribution:  # batch shape (*, B, T, K), event shape (X,)
        """Return p(o_tk | w_tk, s), the last source in place of owners that are none."""
        seen = self.project(s).squeeze(-5).movedim(-4, -2)  # (*, B, T, K, N, X)
        own = Vindex(seen)[..., w.clamp_max(seen.shape[-2] - 1), :]
        return self.given(own, self.variance(batch))

    def log_prob(
        self,
        batch: MixtureBatch,
        s: Tensor,  # shape: (*, B, N, T, D)
    ) -> Tensor:  # nats, shape: (*, B, T, K, N)
        """log p(o_tk | w_tk = n, s) for every n."""
        law = self.given(self.project(s), self.variance(batch).unsqueeze(1))
        return law.log_prob(batch.observations.unsqueeze(1)).movedim(-3, -1)

    def given(
        self,
        seen: Tensor,  # shape: broadcastable to (*, B, T, K, X)
        variance: Tensor,  # as `self.variance` returns it, shape: broadcastable likewise
    ) -> dist.Distribution:  # event shape (X,)
        """Return p(o | what is seen of its source), N(P s, Phi)."""
        return dist.Normal(seen, variance.sqrt()).to_event(1)

    def variance(self, batch: MixtureBatch) -> Tensor:
        """Return the diagonal of Phi, shape (B, T, K, X)."""
        return batch.variance * (2 * self.log_noise_scale).exp()

    @torch.no_grad()
    def set_noise(self, ratio: Tensor) -> None:
        """Let Phi be so many times the batch's variance."""
        self.log_noise_scale.copy_(0.5 * ratio.log())

    def expected_log_prob(self, batch: MixtureBatch, sources: GaussianChain) -> Tensor:
        """E_q(s)[log N(o_tk; P s_tn, Phi_tk)] (eq. A.21), nats, shape (B, T, K, N)."""
        noise = self.variance(batch).unsqueeze(-2)
        square = self.expected_square(batch, sources)
        return -0.5 * (square / noise + (2 * math.pi * noise).log()).sum(-1)

    def expected_square(self, batch: MixtureBatch, sources: GaussianChain) -> Tensor:
        """diag ((o - P m)(o - P m)' + P V P') (eq. 3.26), shape (B, T, K, N, X)."""
        mean, variance = self.moments(sources)
        return (batch.observations.unsqueeze(-2) - mean).square() + variance

    def predictive_log_prob(self, batch: MixtureBatch, sources: GaussianChain) -> Tensor:
        """log N(o_tk; P m, diag(P V P') + Phi_tk), nats, shape (B, T, K, N)."""
        return self._predictive(batch, *self.moments(sources))

    def cavity_log_prob(
        self,
        batch: MixtureBatch,
        sources: GaussianChain,
        assigned: Tensor,  # eta, shape: (B, T, K, N)
    ) -> Tensor:  # nats, shape: (B, T, K, N)
        """log ∫ N(o_tk; P s, Phi_tk) q_without_k(s_tn) ds: how the rest of the data expects o_tk.

        q_without_k takes the observation's own soft contribution out of q(s_tn). A lone observation
        that has pulled a source towards itself is then judged from where the source would be
        without it. Exact where no two rows of P read the same block, coordinate by coordinate
        otherwise.
        """
        mean, variance = self.moments(sources)
        noise = self.variance(batch).unsqueeze(-2)
        observation, weight = batch.observations.unsqueeze(-2), assigned.unsqueeze(-1)
        # eta / Phi never exceeds 1 / V in exact arithmetic; the floor is for rounding
        precision = (1 / variance - weight / noise).clamp_min(1e-6 / variance)
        mean = (mean / variance - weight * observation / noise) / precision
        return self._predictive(batch, mean, 1 / precision)

    def _predictive(self, batch: MixtureBatch, mean: Tensor, variance: Tensor) -> Tensor:
        total = self.variance(batch).unsqueeze(-2) + variance
        square = (batch.observations.unsqueeze(-2) - mean).square() / total
        return -0.5 * (square + (2 * math.pi * total).log()).sum(-1)
