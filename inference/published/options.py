"""The choices of the published method, documented and undocumented, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pyromodels.errors import check_choice, check_positive, mismatch


@dataclass(frozen=True)
class PublishedOptions:
    """The choices of the published method; the defaults are those of its code.

    Departure: the paper (thesis, eq. 3.16-3.25) has `tempering=1`, `weight_floor=None`,
    `sample_sources=True` and `decoder_starts_from_anchor=False`, and does not pin the first frame.
    At `tempering=1` the floor makes nearly all assignments uniform.

    Args:
        tempering: factor of the exponent of eq. 3.25, squared distance and trace alike.
        weight_floor: added to every weight |Phi|^(-1/2) exp(...); None: weights in the log domain.
        pinned_variance: of the anchor, which takes the place of the decoder's output in the first
            frame and is then fused with the observations like it.
        sample_sources: draw s from q(s) to feed the networks; False: feed them m.
        sample_latents: draw z from the encoder; False: z is the encoder's mean.
        decoder_starts_from_anchor: the decoder LSTM's first input is the anchor; False: zero, as in
            the encoder and in pre-training.
        num_iterations: I.
        cascade_piece: frames of a piece of the cascade initialisation; None: no cascade, m starts
            as the anchor in every frame.
        cascade_iterations: I_0, iterations in each piece.
        tolerance: stop once no frame's last update has moved a responsibility by more than this;
            None: never before the last iteration. Departure: the published code has no such rule
            (`bench mot-stopping` says what it saves).
        order: "assignment_first" (E-W, then E-Z and E-S; tracking) or "sources_first" (from uniform
            responsibilities; separation).
    """

    tempering: float = 0.008
    weight_floor: float | None = 1e-10
    pinned_variance: float = 1e-5
    sample_sources: bool = False
    sample_latents: bool = True
    decoder_starts_from_anchor: bool = True
    num_iterations: int = 70
    cascade_piece: int | None = 30
    cascade_iterations: int = 20
    tolerance: float | None = None
    order: Literal["assignment_first", "sources_first"] = "assignment_first"

    REFERENCE: ClassVar[PublishedOptions]
    """The published code."""

    def __post_init__(self) -> None:
        names = ("tempering", "pinned_variance", "weight_floor", "cascade_piece", "tolerance")
        check_positive(self, *names)
        for name in ("num_iterations", "cascade_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(mismatch(name, given=getattr(self, name), expected="0 or more"))
        check_choice("order", self.order, "assignment_first", "sources_first")


PublishedOptions.REFERENCE = PublishedOptions()
