"""The guide of sources that add up: jointly Gaussian over sources, given their variances."""

import pyro
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.wiener import WienerPaths
from pyromodels.errors import mismatch
from pyromodels.guides.free_form import FreeForm
from pyromodels.models.additive import Additive
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import batch_plate, source_plate


class Wiener(FreeForm):
    r"""q(s) q(z | s) of an `Additive` model: q(s) = p(s | o, v), exact for the variances it holds.

    Args:
        model: the program; its encoders are q(z | s).
        batch: the data. The variances start at equal shares of the observed power.

    Raises:
        ValueError: where bins are missing: their sum would be taken to be zero.
    """

    max_plate_nesting = Additive.max_plate_nesting
    factors = {"variances": "_variances"}

    def __init__(self, model: Additive, batch: MixtureBatch) -> None:
        super().__init__()
        if not batch.mask.all():
            given = f"{int((~batch.mask).sum())} bins masked out"
            raise ValueError(mismatch("batch", given=given, expected="every bin of every frame"))
        object.__setattr__(self, "model", model)
        power = batch.observations.square().sum(-1, keepdim=True) / 2 + batch.variance
        share = power.flatten(-2).unsqueeze(1) / batch.num_sources
        self.register_buffer("_variances", share.expand(-1, batch.num_sources, -1, -1).clone())

    @property
    def variances(self) -> Tensor:
        """v, of either part of every bin, shape (B, N, T, 2 F)."""
        return self._variances

    @variances.setter
    def variances(self, value: Tensor) -> None:
        self._variances = value

    def sources(self, batch: MixtureBatch) -> WienerPaths:
        """Return q(s), batch (B, N), event (T, 2 F)."""
        return WienerPaths(
            batch.observations.flatten(-2), self.variances, batch.variance.flatten(-2)
        )

    def between(self, factor: str, old: Tensor, new: Tensor, rate: float) -> Tensor:
        """Return the geometric mean of two variances."""
        return old ** (1 - rate) * new**rate

    def forward(self, batch: MixtureBatch) -> None:
        """Run the guide."""
        register(self)
        guide = self if batch.index is None else self.rows(batch.index)
        paths = WienerPaths(
            batch.observations.flatten(-2).unsqueeze(1), guide.variances.unsqueeze(1),
            batch.variance.flatten(-2).unsqueeze(1),
        )
        with batch_plate(batch.num_sequences), source_plate(batch.num_sources):
            s = pyro.sample("s", paths)  # q(s)
            self.model.prior.guide_sources("s", s, anchor=None)  # q(z | s)
