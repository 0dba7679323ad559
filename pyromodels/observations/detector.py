"""What a detector adds to MixDVAE: sources that hide, and observations that come from none."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.errors import ShapeError, check_positive, mismatch
from pyromodels.observations.clutter import BOX, BoxClutter


@dataclass(frozen=True)
class Detector:
    r"""How often a detector of boxes fires: on a source it sees, on one it does not, on nothing.

        v_n   ~ Markov chain over {hidden, visible}
        K_t   ~ Poisson(sum_n rate(v_tn) + clutter_rate)
        w_tk  = n with probability proportional to rate(v_tn), or N to clutter_rate
        o_tk | w_tk = N ~ clutter

    Rates are expected detections a frame. A source is hidden and seen again as a Markov chain,
    because misses come in bursts; with `hide = 0` every source is visible throughout. A detector of
    something else is a subclass with a `clutter` of its own.

    Args:
        visible_rate: detections a frame of a visible source.
        hidden_rate: detections a frame of a hidden source.
        clutter_rate: false detections a frame.
        hide: probability a frame that a visible source hides.
        reappear: probability a frame that a hidden source is seen again.
    """

    visible_rate: float = 0.95
    hidden_rate: float = 0.02
    clutter_rate: float = 0.3
    hide: float = 0.02
    reappear: float = 0.1

    feature_names: ClassVar[tuple[str, ...]] = BOX

    def __post_init__(self) -> None:
        rates = ("visible_rate", "hidden_rate", "clutter_rate")
        check_positive(self, *rates, expected="a positive rate")
        for name in ("hide", "reappear"):
            if not 0 <= (given := getattr(self, name)) < 1:
                raise ValueError(mismatch(name, given=given, expected="a probability below 1"))

    def check(self, num_features: int) -> None:
        """Raise `ShapeError` where observations are not what its clutter is."""
        if num_features != len(self.feature_names):
            what, given = "observations with a detector", f"{num_features} coordinates"
            expected = ", ".join(self.feature_names)
            hint = "Give detector=None, or a Detector with a clutter of its own."
            raise ShapeError(mismatch(what, given=given, expected=expected, hint=hint))

    def clutter(
        self,
        start: Tensor,  # what is seen of the sources at their anchors, shape: (B, N, X)
    ) -> dist.Distribution:  # event shape (X,)
        """Return p(o | clutter), its sizes those of the anchors."""
        return BoxClutter(start[..., 2:].mean((0, 1)).detach())

    def log_rates(self, visible: Tensor) -> Tensor:
        """Return the log rate of sources of the given visibility (0, 1, or its probability)."""
        high, low = math.log(self.visible_rate), math.log(self.hidden_rate)
        return low + (high - low) * visible

    def rates(self, visible: Tensor) -> Tensor:
        """Return the rate of sources of the given visibility (0, 1, or its probability)."""
        return self.hidden_rate + (self.visible_rate - self.hidden_rate) * visible

    def log_weights(
        self,
        visible: Tensor,  # shape: (*, N, T)
    ) -> Tensor:  # shape: (*, T, 1, N + 1)
        """Log rates of the sources and, last, of clutter: p(w_tk | v) up to a constant."""
        rates = self.log_rates(visible).mT.unsqueeze(-2)
        clutter = rates.new_full((*rates.shape[:-1], 1), math.log(self.clutter_rate))
        return torch.cat((rates, clutter), -1)

    def visibility(self, num_steps: int, like: Tensor) -> BinaryChain:
        """Return p(v_{1:T}): every source starts visible."""
        # filled there, not copied there: on a GPU a copy from the host could not be captured
        rates = [like.new_full((), rate) for rate in (self.reappear, 1 - self.hide)]
        transition = torch.stack(rates).expand(num_steps - 1, 2)
        return BinaryChain(like.new_ones(()), transition, validate_args=False)

    def sample(
        self,
        batch: MixtureBatch,
        sequences: pyro.plate,
        sources: pyro.plate,
        frames: pyro.plate,
        *,
        generate: bool,
    ) -> Tensor:  # v, shape: (*, B, N, T)
        """Pyro statements: who is seen, and how many observations there are."""
        with sequences, sources:
            # p(v_n)
            chain = self.visibility(batch.num_frames, batch.observations)
            visible = pyro.sample("v", chain).squeeze(-3)  # no frames' dimension: it is the event's
        with sequences, frames:
            # p(K_t | v)
            rate = self.log_weights(visible).exp().sum(-1)
            count = batch.mask.sum(-1, keepdim=True).to(rate)
            pyro.sample("count", dist.Poisson(rate), obs=None if generate else count)
        return visible
