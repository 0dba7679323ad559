"""What MixDVAE asks of the law of an observation given the source that it comes from."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pyro.distributions import Distribution
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.dynamics.base import SourcePrior
from pyromodels.observations.detector import Detector


class ObservationLaw(nn.Module, ABC):
    r"""p(o_tk | w_tk = n, s_tn), written once: the program, the bound and the updates ask this.

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
    """

    num_features: int
    """X."""
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Keyword arguments of the variants that the contract suite checks, beside the prior."""

    @abstractmethod
    def project(
        self,
        s: Tensor,  # shape: (*, D)
    ) -> Tensor:  # shape: (*, K, X), K = 1 where all slots see the same
        """Return what slot k sees of a source."""

    @abstractmethod
    def given(
        self,
        seen: Tensor,  # shape: broadcastable to (*, B, T, K, X)
        variance: Tensor,  # as `self.variance` returns it, shape: broadcastable likewise
    ) -> Distribution:  # event shape (X,)
        """Return p(o | what is seen of its source)."""

    @abstractmethod
    def variance(self, batch: MixtureBatch) -> Tensor:
        """Return the diagonal of Phi, shape (B, T, K, X)."""

    @abstractmethod
    def expected_log_prob(
        self, batch: MixtureBatch, sources: GaussianChain
    ) -> Tensor:  # nats, shape: (B, T, K, N)
        """E_q(s)[log p(o_tk | w_tk = n, s)]."""

    @abstractmethod
    def predictive_log_prob(
        self, batch: MixtureBatch, sources: GaussianChain
    ) -> Tensor:  # nats, shape: (B, T, K, N)
        """log ∫ p(o_tk | s_tn) q(s_tn) ds."""

    @abstractmethod
    def cavity_log_prob(
        self,
        batch: MixtureBatch,
        sources: GaussianChain,
        assigned: Tensor,  # eta, shape: (B, T, K, N)
    ) -> Tensor:  # nats, shape: (B, T, K, N)
        """log ∫ p(o_tk | s_tn) q_without_k(s_tn) ds: how the rest of the data expects o_tk."""

    @abstractmethod
    def expected_square(
        self, batch: MixtureBatch, sources: GaussianChain
    ) -> Tensor:  # shape: (B, T, K, N, X)
        """E_q(s)[(o_tk - what is seen of s_tn)^2]."""

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

    def set_noise(self, ratio: Tensor) -> None:
        """Let Phi be so many times the batch's variance, where the law has such a scale."""
        raise NotImplementedError(f"{type(self).__name__} has no noise scale to learn")

    def detector(self) -> Detector | None:
        """Return what an online pass takes for the detector of a model that has none, if any."""
        return None

    def assigned(
        self,
        batch: MixtureBatch,
        s: Tensor,  # shape: (*, B, 1, N, T, D)
        w: Tensor,  # owners, shape: broadcastable to (*, B, T, K)
    ) -> Distribution:  # batch shape (*, B, T, K), event shape (X,)
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
