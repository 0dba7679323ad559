"""What the report can do with any program; a family of models may know how to do more."""

from torch import Tensor

from pyromodels.batch import SequenceBatch
from pyromodels.inference.adequacy.protocols import Draws, Fit, PosteriorLike, Simulate
from pyromodels.inference.adequacy.simulation import Forecast, sequence_simulator
from pyromodels.inference.adequacy.verdict import Advice
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.registry import Registry

LogWeights = dict[tuple[str, ...], Tensor]
"""The sites of a block -> log p - log q of n draws, nats, (n, B). The joint one comes first."""

FAMILIES = Registry("model family", "pyromodels.inference.mixture", module="adequacy")
"""Name -> a class of `Family`."""

AT_ONCE = 50
"""Simulated sequences, each of which costs a run of an encoder on every draw, at a time."""


class Family:
    """Posteriors of any program.

    Args:
        posterior: the fitted one that is examined.
    """

    blocks_are_exact = False
    """Whether `blocks` are integrated out exactly, and so may see more than the joint ratio."""
    narrow: str = Advice.NARROW
    """What to try where the guide is too narrow."""

    def __init__(self, posterior: PosteriorLike) -> None:
        self.posterior = posterior

    @classmethod
    def holds(cls, posterior: PosteriorLike) -> bool:
        """Whether a posterior is one of the family."""
        return True

    def blocks(self, draws: Draws, joint: Tensor) -> LogWeights | None:
        """Return log p - log q of parts of the latents, the rest integrated out; None: by draws.

        Args:
            draws: of the posterior.
            joint: log p - log q of all latents, nats, (n, B).
        """
        return None

    def simulator(self, number: int) -> Simulate | None:
        """Return what draws data of so many sequences and the latents they came from, if known."""
        posterior = self.posterior
        if not isinstance(posterior, Posterior) or not isinstance(posterior.batch, SequenceBatch):
            return None
        if set(posterior.model_and_guide.observed) != {"x"} or not posterior.batch.mask.all():
            return None
        return sequence_simulator(posterior.model, posterior.batch, min(number, AT_ONCE))

    def forecasts(
        self, fit: Fit, horizons: tuple[int, ...], seed: int
    ) -> dict[int, Forecast] | None:
        """Return forecasts of data that were held back, by frames ahead, if it knows how."""
        return None


def family_of(posterior: PosteriorLike) -> Family:
    """Return what is known of the family of a posterior's model."""
    families = (FAMILIES[name] for name in FAMILIES)
    return next((family for family in families if family.holds(posterior)), Family)(posterior)
