"""The experiment "langevin": mixtures taken apart by sampling from densities of their sources."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyromodels.densities.independent import IndependentSources
from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.waveforms.waveforms import WaveformMixtures, Waveforms
from pyromodels.experiments.harness.experiment import EXPERIMENTS, Experiment, Outcome
from pyromodels.experiments.harness.spec_tables import (
    ComponentTable,
    OptionsTable,
    Table,
    seeded,
)
from pyromodels.experiments.priors import figures
from pyromodels.experiments.priors.options import DensitiesSpec, GainMetrics, LangevinInference
from pyromodels.experiments.priors.score_training import ScoreTraining, find_or_train_score
from pyromodels.experiments.priors.separate import (
    Sampled,
    figures_of,
    gains,
    mixture_si_sdr,
    one_line_rule,
    sample_sources,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.runs.spec import Spec

METHODS = {"": "Langevin", "rule/": "one-line rule"}
"""Prefix of the metrics -> what it is called."""


class Taken(NamedTuple):
    """Mixtures, and what became of them."""

    mixtures: WaveformMixtures
    sampled: Sampled
    gain: dict[str, Tensor]  # by prefix of `METHODS`, dB, each (B, N)
    seconds: float  # of sampling, training left out


@EXPERIMENTS.register("langevin")
class LangevinExperiment(Experiment):
    """Separation by posterior sampling under densities of the sources: Frank and Ilse, 2020."""

    tables: ClassVar[dict[str, Table]] = {
        "data": ComponentTable(DATASETS, {"name": "waveforms"}),
        "model": OptionsTable(DensitiesSpec),
        "guide": OptionsTable(ScoreTraining),
        "inference": OptionsTable(LangevinInference),
        "metrics": OptionsTable(GainMetrics),
    }
    columns: ClassVar[dict[str, str]] = {
        "gain_median": "gain dB, median",
        "gain": "mean",
        "above": "share above",
        "rule/gain_median": "rule dB, median",
        "rule/gain": "mean",
        "mixture/si_sdr": "mixture dB",
        "diverged": "diverged",
        "seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds; SI-SDR gained over the mixture, estimates capped, the "
        "mean over sources; a few perfect mixtures carry a mean: read median and share"
    )

    def data(self, spec: Spec) -> Waveforms:
        """Return the waveforms and how they are mixed."""
        table = seeded(DATASETS, spec.data, spec.seed)
        return build_data(table, Waveforms, "waveforms")

    def model(self, spec: Spec, data: Waveforms) -> DensitiesSpec:
        """Return which densities there are; networks are trained, or found, by `fit`."""
        if missing := set(spec.model.priors) - set(data.kinds):
            name = sorted(missing)[0]
            raise SpecError(f"model.priors: {unknown('kind', given=name, known=data.kinds)}")
        spec.inference.check_density(all(map(spec.model.is_evaluable, data.kinds)))
        return spec.model

    def fit(
        self, spec: Spec, data: Waveforms, model: DensitiesSpec, *, folder: Path | None,
        resume: bool,
    ) -> Taken:
        """Train networks that are not trained yet, and sample the sources of all mixtures."""
        learnt = [kind for kind in data.kinds if model.learns(kind)]
        network = None
        if learnt:
            network = find_or_train_score(data.law, learnt, spec.guide, spec.seed,
                                          device=spec.device, resume=resume).prior.eval()
        density = IndependentSources([
            network.of(kind) if kind in learnt else model.build(kind, data) for kind in data.kinds
        ]).to(spec.device)
        mixtures = WaveformMixtures(*(
            part.to(spec.device) for part in data.mixtures(getattr(torch, spec.dtype))
        ))
        generator = torch.Generator(spec.device).manual_seed(spec.seed)
        began = time.perf_counter()
        sampled = sample_sources(mixtures, density, spec.inference, generator)
        found = {"": sampled.estimate}
        rule = one_line_rule(mixtures.mixture, mixtures.weights, data.kinds)
        found |= {} if rule is None else {"rule/": rule}
        gain = {prefix: gains(mixtures, estimate, spec.metrics.cap).cpu()
                for prefix, estimate in found.items()}
        return Taken(mixtures, sampled, gain, time.perf_counter() - began)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return gains over the mixture: mean, median, share above; of the rule beside."""
        taken, options = outcome.fitted, outcome.spec.metrics
        found = {
            "mixture/si_sdr": mixture_si_sdr(taken.mixtures).mean().item(),
            "diverged": taken.sampled.diverged.double().mean().item(),
            "sampling_seconds": taken.seconds,
        }
        for prefix, gain in taken.gain.items():
            found |= figures_of(gain, options, prefix)
            found |= {f"{prefix}{kind}/gain": value for kind, value in
                      zip(outcome.data.kinds, gain.mean(0).tolist(), strict=True)}
        return found

    def summary(self, outcome: Outcome) -> str:
        """Return the gains of sampling and of the rule, and what diverged."""
        metrics, options = outcome.metrics, outcome.spec.metrics
        data, inference = outcome.data, outcome.spec.inference
        lines = [
            f"{data.num_mixtures} mixtures of {' + '.join(data.kinds)}, {data.length} samples; "
            f"start {inference.start}, constraint {inference.constraint}; "
            f"SI-SDR of the mixture {metrics['mixture/si_sdr']:.1f} dB",
            f"gain in dB, estimates capped at {options.cap:g} dB",
            f"{'':16}{'mean':>8}{'median':>8}{f'above +{options.above:g}':>12}",
        ]
        for prefix in outcome.fitted.gain:
            lines.append(f"{METHODS[prefix]:16}{metrics[f'{prefix}gain']:8.1f}"
                         f"{metrics[f'{prefix}gain_median']:8.1f}"
                         f"{metrics[f'{prefix}above']:12.0%}")
        if lost := int(outcome.fitted.sampled.diverged.sum()):
            lines.append(f"{lost} of {data.num_mixtures} mixtures diverged: their estimates are "
                         "where their chains left, and count")
        return "\n".join(lines)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return estimates beside the truth, and the gain of every mixture."""
        taken, kinds = outcome.fitted, outcome.data.kinds
        rows = {METHODS[prefix]: gain for prefix, gain in taken.gain.items()}
        return {
            "estimates": figures.estimates(kinds, taken.mixtures.sources.cpu(),
                                           taken.sampled.estimate.cpu(), taken.gain[""]),
            "gain": figures.gain_by_mixture(rows, outcome.spec.metrics.above),
        }

    def inference(self, spec: Spec, model: DensitiesSpec) -> str:
        """Return how mixtures are taken apart."""
        return f"inference  {spec.inference}"
