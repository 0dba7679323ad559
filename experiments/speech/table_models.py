"""The models of the speech tables: what of a spec makes each, and what the thesis measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.harness.table_rows import Columns
from pyromodels.experiments.runs.spec import Spec

COLUMNS = Columns(
    {"rmse": ("RMSE", 3), "si_sdr": ("SI-SDR", 2), "pesq_raw": ("PESQ", 2),
     "pesq_wb": ("PESQ wb", 2), "estoi": ("ESTOI", 3)},
    label_width=40, width=16,
)
"""Of the figures of `speech_metrics`."""


class Quoted(NamedTuple):
    """A row of Table 7.1 or 7.2; PESQ on the raw scale of P.862."""

    rmse: float
    si_sdr: float  # decibels
    pesq_raw: float
    estoi: float


@dataclass(frozen=True)
class Variant:
    """One model of the tables.

    Args:
        label: as the tables name it.
        dynamics: the registry key of its prior.
        arguments: of the prior, beside its sizes.
        scheduled_sampling: whether it learns from its own predictions; else it is teacher-forced.
        quoted: what the thesis measured on VoiceBank in generation mode, where it has the model.
        quoted_teacher_forced: the same with true histories (Table 7.2).
        quoted_wsj0: generation mode on WSJ0.
    """

    label: str
    dynamics: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scheduled_sampling: bool = False
    quoted: Quoted | None = None
    quoted_teacher_forced: Quoted | None = None
    quoted_wsj0: Quoted | None = None

    def of(self, spec: Spec) -> Spec:
        """Return a spec with this model in place of its own."""
        prior = {"name": self.dynamics, **self.arguments}
        inference = replace(spec.inference, scheduled_sampling=self.scheduled_sampling)
        return replace(spec, model=replace(spec.model, prior=prior), inference=inference)


VARIANTS: dict[str, Variant] = {
    "vae": Variant(
        "VAE", "vae",
        quoted=Quoted(0.052, 8.4, 3.24, 0.89), quoted_wsj0=Quoted(0.040, 7.4, 3.28, 0.88),
    ),
    "dkf": Variant(
        "DKF", "dkf",
        quoted=Quoted(0.048, 9.3, 3.44, 0.91), quoted_wsj0=Quoted(0.037, 8.3, 3.51, 0.91),
    ),
    "rvae": Variant(
        "RVAE", "rvae",
        quoted=Quoted(0.050, 8.9, 3.39, 0.90), quoted_wsj0=Quoted(0.034, 8.9, 3.53, 0.91),
    ),
    "rvae_noncausal": Variant("RVAE, non-causal", "rvae", {"causal": False}),
    "storn": Variant("STORN", "storn", scheduled_sampling=True),
    "vrnn": Variant("VRNN", "vrnn", scheduled_sampling=True),
    "srnn_ss": Variant(
        "SRNN (SS)", "srnn", scheduled_sampling=True,
        quoted=Quoted(0.044, 10.1, 3.42, 0.91), quoted_wsj0=Quoted(0.036, 8.7, 3.57, 0.91),
    ),
    "srnn_tf": Variant(
        "SRNN (TF)", "srnn",
        quoted=Quoted(0.102, -0.1, 2.15, 0.75), quoted_wsj0=Quoted(0.061, 2.6, 2.53, 0.76),
    ),
    "hit": Variant(
        "HiT-DVAE", "hit",
        quoted=Quoted(0.039, 11.4, 3.60, 0.93),
        quoted_teacher_forced=Quoted(0.038, 11.5, 3.60, 0.93),
        quoted_wsj0=Quoted(0.031, 10.0, 3.52, 0.91),
    ),
    "light": Variant(
        "LigHT-DVAE", "light",
        quoted=Quoted(0.038, 11.6, 3.58, 0.93),
        quoted_teacher_forced=Quoted(0.038, 11.7, 3.59, 0.93),
        quoted_wsj0=Quoted(0.030, 10.1, 3.55, 0.91),
    ),
    "hit_ss": Variant("HiT-DVAE (SS)", "hit", scheduled_sampling=True),
    "light_ss": Variant("LigHT-DVAE (SS)", "light", scheduled_sampling=True),
    "hit_inv": Variant(
        "HiT-DVAE-Inv-s", "hit", {"inverted": True},
        quoted=Quoted(0.079, 3.8, 2.61, 0.75),
        quoted_teacher_forced=Quoted(0.038, 11.4, 3.32, 0.90),
    ),
    "hit_inv_nrc": Variant(
        "HiT-DVAE-Inv-s-NRC", "hit", {"inverted": True, "residual": False},
        quoted=Quoted(0.067, 5.8, 2.68, 0.78),
        quoted_teacher_forced=Quoted(0.067, 5.8, 2.68, 0.78),
    ),
    "light_inv": Variant(
        "LigHT-DVAE-Inv-s", "light", {"inverted": True},
        quoted=Quoted(0.079, 3.9, 2.58, 0.75),
        quoted_teacher_forced=Quoted(0.040, 10.9, 3.29, 0.89),
    ),
    "light_inv_nrc": Variant(
        "LigHT-DVAE-Inv-s-NRC", "light", {"inverted": True, "residual": False},
        quoted=Quoted(0.068, 5.7, 2.63, 0.78),
        quoted_teacher_forced=Quoted(0.068, 5.7, 2.63, 0.78),
    ),
}


def variant(name: str) -> Variant:
    """Return a variant by name.

    Raises:
        SpecError: unknown name, with the nearest one.
    """
    if name not in VARIANTS:
        raise SpecError(unknown("speech model", given=name, known=VARIANTS))
    return VARIANTS[name]
