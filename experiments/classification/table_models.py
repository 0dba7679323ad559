"""The models of the tables: what each is, how it is trained, what the paper measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.runs.spec import Spec
from pyromodels.inference.classes.options import ClassOptions


@dataclass(frozen=True)
class Variant:
    """One model of the tables.

    Args:
        label: as the tables name it.
        dynamics: the registry key of the density.
        arguments: of it, beside D and the number of classes.
        options: how it is trained, where the options of the command do not say.
        quoted: accuracy on TIMIT in the paper, per cent: of the test data (Table IV), or, for a
            configuration of Tables I to III, of the validation data.
    """

    label: str
    dynamics: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: ClassOptions = ClassOptions()
    quoted: float | None = None

    def of(self, spec: Spec) -> Spec:
        """Return a spec with this model in place of its own, and its way of training."""
        prior = {"name": self.dynamics, **self.arguments}
        return replace(spec, model=replace(spec.model, prior=prior), inference=self.options)


PLAIN = ClassOptions(updates=300, batch_size=64, decay=0.5, decay_every=0.2)
"""Maximum likelihood, the best parameters by the likelihood of the validation data."""
SMOOTHED = replace(PLAIN, input_noise=0.3, chosen_by="posterior")
HYBRID = replace(SMOOTHED, discriminative=1.0, updates=120, batch_size=16, patience=4)
"""Few updates of small batches: every sequence is scored under every class."""


def gaussian(past: int, hidden: int, quoted: float) -> Variant:
    """Return a configuration of Table I."""
    arguments = {"past_dim": past, "hidden_dim": hidden}
    return Variant(f"N = {past}, l = {hidden}", "tvgmm", arguments, PLAIN, quoted)


def mixture(past: int, hidden: int, components: int, quoted: float) -> Variant:
    """Return a configuration of Table II."""
    arguments = {"past_dim": past, "hidden_dim": hidden, "num_components": components}
    label = f"N = {past}, l = {hidden}, M = {components}"
    return Variant(label, "tvgmm", arguments, PLAIN, quoted)


def flow(past: int, hidden: int, num_hidden: int, layers: int, quoted: float) -> Variant:
    """Return a configuration of Table III."""
    arguments = {"past_dim": past, "hidden_dim": hidden, "num_hidden": num_hidden,
                 "num_layers": layers}
    label = f"N = {past}, l = {hidden}, n_H = {num_hidden}, L = {layers}"
    return Variant(label, "tvnf", arguments, PLAIN, quoted)


CONFIGURATIONS: dict[str, tuple[Variant, ...]] = {
    "tvnf-1": tuple(gaussian(*row) for row in (
        (30, 8, 78.47), (30, 15, 80.37), (64, 8, 88.39), (64, 15, 73.50), (80, 8, 84.41),
        (80, 15, 78.31), (128, 8, 83.69), (128, 15, 75.75),
    )),
    "tvnf-2": tuple(mixture(*row) for row in (
        (64, 8, 3, 88.86), (64, 8, 5, 87.96), (64, 8, 10, 88.33), (80, 8, 3, 81.32),
        (80, 8, 5, 79.09), (80, 8, 10, 81.82),
    )),
    "tvnf-3": tuple(flow(*row) for row in (
        (64, 8, 2, 4, 91.03), (64, 30, 2, 4, 92.16), (80, 8, 2, 4, 91.1), (80, 30, 1, 4, 85.05),
        (80, 30, 2, 4, 92.12),
    )),
}
"""Tables I to III: accuracy on the validation data, plus or minus 2 % (flows 1 %)."""

VARIANTS: dict[str, Variant] = {
    "tvgmm1": replace(gaussian(64, 8, 89.17), label="TVGMM, M = 1"),
    "tvgmm3": replace(mixture(64, 8, 3, 89.72), label="TVGMM, M = 3"),
    "tvnf": replace(flow(64, 30, 2, 4, 91.89), label="TVNF"),
    "tvnf_smoothed": Variant("TVNF, smoothed", "tvnf", options=SMOOTHED),
    "tvnf_narrow": Variant(
        "TVNF, narrow, smoothed", "tvnf", {"past_dim": 12, "hidden_dim": 16, "num_hidden": 1},
        replace(SMOOTHED, updates=160, batch_size=32),
    ),
    "tvnf_hybrid": Variant("TVNF, hybrid", "tvnf", options=HYBRID),
    "tvnf_tied": Variant("TVNF, tied, hybrid", "tvnf", {"tied_dim": 8},
                         replace(HYBRID, updates=500, batch_size=32)),
}
"""The models of Table IV in the configurations it chose, and ours."""


def variant(name: str) -> Variant:
    """Return a model by its name.

    Raises:
        SpecError: unknown name.
    """
    if name not in VARIANTS:
        raise SpecError(unknown("model", given=name, known=VARIANTS))
    return VARIANTS[name]
