"""q(w) by a network that reads the mixture, and q(s) that follows from it in closed form."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.kalman import smooth_and_compare
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.errors import SpecError, mismatch, misshapen
from pyromodels.guides.factorised import FactorisedGuide
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.networks.assigner import Assigner
from pyromodels.observations.spectra import ComplexSpectra
from pyromodels.registry import GUIDES

UNSURE = 1e-12
"""Variance that priors are told of a share of the mixture: none, but for slopes at silence."""


@GUIDES.register("amortised_assignment")
class AmortisedAssignment(FactorisedGuide):
    r"""q(w | o) q(s | o) q(z | s) of complex spectra, amortised over mixtures.

        \eta_tf     = softmax(network(|o|^2)_tf)                                   q(w_tf = n)
        v_n         = what prior n says of its share of the mixture, \eta_n o
        1 / V_n     = \eta_n / \phi + 1 / v_n,    m_n = V_n \eta_n o / \phi            q(s_n)

    q(s) is the best one given q(w) and the message of the priors: the first E-S of variational EM
    that starts from the network (A.34, A.35; a smoother, where the message has transitions). The
    network's parameters are the guide's, and gradients of the bound reach them through either
    factor. Any batch of mixtures will do, minibatches too.

    Args:
        model: the program, of `ComplexSpectra`, without a detector.
        batch: the data, of which numbers of bins and sources are read.
        network: that says q(w); the guide's own from then on. A table: arguments of a new one.

    Raises:
        SpecError: for another law of observations, a detector, or a prior that sends no message.
        ShapeError: for a network of another number of bins or sources.

    Example:
        >>> from pyromodels.dynamics.vae import VAE
        >>> from pyromodels.observations.spectra import spectra_batch
        >>> prior = VAE(source_dim=3, emission="complex")
        >>> batch = spectra_batch(torch.randn(2, 5, 3, dtype=torch.complex64), 2)
        >>> model = MixDVAE(prior, ComplexSpectra(prior))
        >>> guide = AmortisedAssignment(model, batch, network={"num_channels": 4, "hidden_dim": 4})
        >>> guide.of(batch).responsibilities.shape, guide.of(batch).sources.batch_shape
        (torch.Size([2, 5, 3, 2]), torch.Size([2, 2]))
    """

    init_scale = 0.02
    """The size of a weight of the network."""

    def __init__(
        self,
        model: MixDVAE,
        batch: MixtureBatch,
        *,
        network: Assigner | Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model.observation, ComplexSpectra) or model.detector is not None:
            detected = " and a detector" if model.detector is not None else ""
            given = f"{type(model.observation).__name__}{detected}"
            raise SpecError(mismatch("observation", given=given, expected="complex_spectra alone"))
        if not model.prior.has_gaussian_message:
            expected = "one that sends a Gaussian message"
            raise SpecError(mismatch("prior", given=type(model.prior).__name__, expected=expected))
        super().__init__(model)
        sizes = (batch.num_slots, batch.num_sources)
        if not isinstance(network, Assigner):
            network = Assigner(*sizes, **(network or {})).to(batch.observations)
        if (network.num_bins, network.num_sources) != sizes:
            raise misshapen("network", (network.num_bins, network.num_sources), f"{sizes}, F and N")
        # Pyro's store takes a copy of parameters that are laid out otherwise
        self.network = network.to(memory_format=torch.contiguous_format)

    def of(self, batch: MixtureBatch) -> FactorisedGuide:
        """Return q of a batch's mixtures; every call asks the network again."""
        power = batch.observations.square().sum(-1)
        eta = self.network(power).softmax(-1) * batch.mask.unsqueeze(-1)
        share = (eta.movedim(-1, 1).unsqueeze(-1) * batch.observations.unsqueeze(1)).flatten(-2)
        prior = self.model.prior
        seen = prior.iterate(share, torch.full_like(share, UNSURE))
        message = prior.gaussian_message(seen, anchor=batch.anchor)
        evidence = self.model.observation.pseudo_observations(batch, eta)
        sources, _ = smooth_and_compare(message, *evidence, compare=False)
        told = Told(self.model, eta, sources)
        told.check_batch(batch)
        return told

    @property
    def responsibilities(self) -> Tensor:
        """Refused: it is known of a batch."""
        raise self._asked("responsibilities")

    @property
    def sources(self) -> GaussianChain:
        """Refused: likewise."""
        raise self._asked("sources")

    @property
    def visibility(self) -> BinaryChain:
        """Refused: there is no detector."""
        raise self._asked("visibility")

    def _asked(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{what}: those of a batch are guide.of(batch).{what}")


class Told(FactorisedGuide):
    """Factors of one batch, read only.

    Args:
        model: the program.
        responsibilities: q(w).
        sources: q(s).
    """

    def __init__(self, model: MixDVAE, responsibilities: Tensor, sources: GaussianChain) -> None:
        super().__init__(model)
        self._factors = responsibilities, sources

    @property
    def responsibilities(self) -> Tensor:
        """eta, shape (B, T, F, N)."""
        return self._factors[0]

    @property
    def sources(self) -> GaussianChain:
        """q(s), batch (B, N), event (T, 2 F)."""
        return self._factors[1]

    @property
    def visibility(self) -> BinaryChain:
        """Refused: there is no detector."""
        raise NotImplementedError("visibility: a model of spectra has no detector")
