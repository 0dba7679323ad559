"""The experiment "separation": a mixture of sounds, and whose is what."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.dynamics.by_source import BySource
from pyromodels.errors import SpecError, unknown
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.mixtures.mixtures import Mixture, MixtureData
from pyromodels.experiments.datasets.speech.audio import peak_normalise, write_wav
from pyromodels.experiments.harness.experiment import EXPERIMENTS, Experiment, Outcome, Program
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, Table
from pyromodels.experiments.metrics.audio.distortion import si_sdr
from pyromodels.experiments.separation import figures
from pyromodels.experiments.separation.assigner import (
    AssignerOptions,
    find_or_train_assigner,
)
from pyromodels.experiments.separation.calibration import (
    LEVELS,
    ErrorLaw,
    coverage,
    fit_error_law,
    gaussian_law,
    measured_radii,
)
from pyromodels.experiments.separation.model_spec import SeparationModelSpec, of_spectra
from pyromodels.experiments.separation.scores import (
    BASELINES,
    ESTIMATE,
    Group,
    Scores,
    scores_of,
)
from pyromodels.experiments.separation.separate import Separated, SeparationInference, separate
from pyromodels.experiments.separation.simulate import Simulation, simulated
from pyromodels.networks.assigner import Assigner
from pyromodels.registry import DYNAMICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.harness.records import RunFolder
    from pyromodels.experiments.runs.spec import Spec

@dataclass(frozen=True)
class SeparationMetrics:
    """What is measured of a separation.

    Args:
        baselines: of `BASELINES`.
        num_examples: mixtures that are written as sounds and drawn.
        num_draws: posterior draws of each of them.
        checked: mixtures of the validation recordings that the law of errors is fitted to.
    """

    baselines: tuple[str, ...] = ("mixture", "ideal_binary_mask")
    num_examples: int = 2
    num_draws: int = 2
    checked: int = 64

    def __post_init__(self) -> None:
        """Refuse a baseline that is none."""
        for name in self.baselines:
            if name not in BASELINES:
                raise SpecError(unknown("baseline", given=name, known=BASELINES))


class Parts(NamedTuple):
    """What is fitted: the priors' spec, and how the network of the start is trained."""

    model: SeparationModelSpec
    inference: SeparationInference
    assigner: AssignerOptions


class Regions(NamedTuple):
    """A law of errors, and discs that were measured to hold what they say."""

    law: ErrorLaw
    radii: Tensor  # shape: (levels, N)


class Fitted(NamedTuple):
    """Mixtures of every length, taken apart."""

    groups: list[Group]
    regions: Regions | None  # of the errors of the start, where a network says it
    scores: Scores
    seconds: float  # that taking them apart took, training left out


@EXPERIMENTS.register("separation")
class SeparationExperiment(Experiment):
    """Take a mixture apart into sources of known kinds: thesis, chapter 5."""

    tables: ClassVar[dict[str, Table]] = {
        "data": ComponentTable(
            DATASETS, {"name": "synthetic_mixtures"}, path_means="mixture_list"
        ),
        "model": OptionsTable(SeparationModelSpec),
        "guide": OptionsTable(AssignerOptions),
        "inference": OptionsTable(SeparationInference),
        "metrics": OptionsTable(SeparationMetrics),
    }
    columns: ClassVar[dict[str, str]] = {
        "si_sdr": "SI-SDR dB",
        "start/si_sdr": "start dB",
        "mixture/si_sdr": "mixture dB",
        "seconds_each": "s/mixture",
        "seconds": "seconds",
    }
    footnote: ClassVar[str] = (
        "mean ± standard error over seeds; SI-SDR in the mean over mixtures and sources; start: "
        "what inference began with"
    )

    def data(self, spec: Spec) -> MixtureData:
        """Return the mixtures and the recordings of each kind."""
        expected = "mixtures, e.g. synthetic_mixtures or mixture_list"
        return build_data(spec.data, MixtureData, expected)

    def model(self, spec: Spec, data: MixtureData) -> Parts:
        """Return what is to be trained and run."""
        if missing := set(spec.model.priors) - set(data.kinds):
            name = sorted(missing)[0]
            raise SpecError(f"model.priors: {unknown('kind', given=name, known=data.kinds)}")
        return Parts(spec.model, spec.inference, spec.guide)

    def fit(
        self, spec: Spec, data: MixtureData, model: Parts, *, folder: Path | None, resume: bool
    ) -> Fitted:
        """Train what is not trained yet, and take all mixtures apart, equal lengths at once."""
        prior = None
        if model.inference.steps or model.inference.start == "encoders":
            models = model.model.trained(data, spec.seed, spec.device, resume=resume)
            prior = of_spectra(models).to(spec.device)
        assigner = None
        if model.inference.start == "assigner":
            assigner = find_or_train_assigner(
                data, model.assigner, spec.seed, model.model.stft, device=spec.device,
                resume=resume,
            ).prior
        groups: dict[int, list[Mixture]] = {}
        for mixture in data.mixtures:
            groups.setdefault(mixture.sources.shape[-1], []).append(mixture)
        stft, made, began = model.model.stft, [], time.perf_counter()
        for mixtures in groups.values():
            signals = torch.stack([m.signal for m in mixtures]).to(spec.device)
            made.append((tuple(mixtures), separate(
                stft.analyse(signals), prior, model.inference, assigner=assigner,
                num_draws=spec.metrics.num_draws,
            )))
        seconds = time.perf_counter() - began
        scores = scores_of(data, stft, made, spec.metrics.baselines)
        return Fitted(made, regions_of(spec, data, stft, assigner), scores, seconds)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return SI-SDR and RMSE by kind, of the estimate, its start and the baselines."""
        kinds, found = outcome.data.kinds, {}
        for method, row in outcome.fitted.scores.items():
            prefix = "" if method == ESTIMATE else f"{method}/"
            for key in ("si_sdr", "rmse"):
                for kind in kinds:
                    values = row[f"{kind}/{key}"]
                    found[f"{prefix}{kind}/{key}"] = sum(values) / len(values)
                    if key == "si_sdr":
                        found[f"{prefix}{kind}/si_sdr_median"] = statistics.median(values)
                each = [found[f"{prefix}{kind}/{key}"] for kind in kinds]
                found[f"{prefix}{key}"] = sum(each) / len(each)
        found["sum/si_sdr"] = sum_fidelity(outcome)
        found["seconds_each"] = outcome.fitted.seconds / len(outcome.data.mixtures)
        for name, held in calibrations(outcome).items():
            for level, row in zip(LEVELS, held, strict=True):
                for kind, share in zip(kinds, row.tolist(), strict=True):
                    found[f"{name}/{kind}/held_{round(100 * level)}"] = share
        return found

    def summary(self, outcome: Outcome) -> str:
        """Return a table of methods, and what the regions hold."""
        kinds, metrics = outcome.data.kinds, outcome.metrics
        lines = [f"{len(outcome.data.mixtures)} mixtures of {outcome.data.name}, SI-SDR in dB, "
                 "mean (median)", f"{'':22}" + "".join(f"{kind:>18}" for kind in kinds)]
        for method in outcome.fitted.scores:
            prefix = "" if method == ESTIMATE else f"{method}/"
            cells = "".join(
                f"{metrics[f'{prefix}{kind}/si_sdr']:10.2f} "
                f"({metrics[f'{prefix}{kind}/si_sdr_median']:5.1f})" for kind in kinds
            )
            lines.append(f"{method.replace('_', ' '):22}{cells}")
        lines.append(f"sum of the estimates against the mixture: {metrics['sum/si_sdr']:.1f} dB")
        for name in calibrations(outcome):
            said = "   ".join(
                kind + " " + " / ".join(
                    f"{100 * metrics[f'{name}/{kind}/held_{round(100 * level)}']:.1f}"
                    for level in LEVELS
                ) for kind in kinds
            )
            stated = " / ".join(f"{100 * level:g}" for level in LEVELS)
            lines.append(f"{name.replace('_', ' ')}, regions of {stated} % hold: {said}")
        return "\n".join(lines)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write sounds: mixtures, estimates, and draws of the posterior."""
        stft = outcome.model.model.stft
        for example in examples(outcome):
            write_wav(folder.path / f"{example.mixture.name}.wav", example.mixture.signal)
            signals = {"": example.estimate}
            signals |= {f"-draw{n}": draw for n, draw in enumerate(example.draws, 1)}
            for suffix, spectra in signals.items():
                heard = stft.synthesise(spectra)
                for kind, signal in zip(outcome.data.kinds, heard.cpu(), strict=True):
                    write_wav(
                        folder.path / f"{example.mixture.name}-{kind}{suffix}.wav",
                        peak_normalise(signal),
                    )

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return scores, bounds, calibration, and spectrograms of the examples."""
        kinds, stft = outcome.data.kinds, outcome.model.model.stft
        by_kind = {
            method.replace("_", " "): {kind: row[f"{kind}/si_sdr"] for kind in kinds}
            for method, row in outcome.fitted.scores.items()
        }
        drawn = {"scores": figures.scores(by_kind, kinds)}
        risen = [
            made.bounds.cpu() / made.start.shape[2] for _, made in outcome.fitted.groups
            if len(made.bounds)
        ]
        if risen:
            drawn["bound"] = figures.bounds(torch.cat(risen, 1))
        if covered := calibrations(outcome):
            drawn["calibration"] = figures.calibration(
                {name.replace("_", " "): held for name, held in covered.items()}, kinds
            )
        for example in examples(outcome):
            truth = stft.analyse(example.mixture.sources)
            drawn[example.mixture.name] = figures.separation(
                example.mixture.name, kinds, truth, example.estimate, example.deviation, stft
            )
        return drawn

    def programs(self, spec: Spec, data: MixtureData, model: Parts) -> list[Program]:
        """Return the model and the guide, on a short mixture, the priors untrained."""
        made = untrained(spec, data)
        return [Program(f"model  {type(made.program).__name__}", made.program, (made.batch,)),
                Program(f"guide  {type(made.guide).__name__}", made.guide, (made.batch,), "q")]

    def inference(self, spec: Spec, model: Parts) -> str:
        """Return how mixtures are taken apart."""
        return f"inference  {model.inference}"


def sum_fidelity(outcome: Outcome) -> float:
    """Return the SI-SDR of the estimates' sum against the mixture, in the mean over mixtures."""
    stft, values = outcome.model.model.stft, []
    for mixtures, made in outcome.fitted.groups:
        signal = torch.stack([m.signal for m in mixtures])
        total = stft.synthesise(made.estimate.cpu().sum(1), signal.shape[-1])
        values += si_sdr(signal, total).tolist()
    return sum(values) / len(values)


class Example(NamedTuple):
    """A mixture, what was made of it, and how sure that is: q(s), or the law of errors."""

    mixture: Mixture
    estimate: Tensor  # complex, shape: (N, T, F)
    deviation: Tensor  # shape: (N, T, F)
    draws: Tensor  # complex, shape: (draws, N, T, F)


def examples(outcome: Outcome) -> list[Example]:
    """Return the first mixtures."""
    asked, found = outcome.spec.metrics, []
    for mixtures, made in outcome.fitted.groups:
        for row, mixture in enumerate(mixtures[: asked.num_examples - len(found)]):
            estimate = made.estimate[row].cpu()
            if made.variance is not None:
                deviation, draws = made.variance[row].cpu().sqrt(), made.draws[:, row].cpu()
            else:
                law = _law(outcome)
                power = estimate.sum(0).abs().square()
                scale = law.scale(share_of(estimate[None]), power[None])
                torch.manual_seed(outcome.spec.seed)
                draws = estimate + law.draw(scale.expand(asked.num_draws, -1, -1, -1))
                deviation = scale[0].sqrt()
            found.append(Example(mixture, estimate, deviation, draws))
    return found


def _law(outcome: Outcome) -> ErrorLaw:
    """Return the law of the start's errors, as it was fitted or as the start would say it."""
    if outcome.fitted.regions is not None:
        return outcome.fitted.regions.law
    return gaussian_law(len(outcome.data.kinds), torch.zeros(()))


def share_of(start: Tensor) -> Tensor:
    """Return what each source has of a mixture's magnitude, (B, N, T, F)."""
    magnitude = start.abs()
    return magnitude / magnitude.sum(1, keepdim=True).clamp_min(1e-20)


def regions_of(
    spec: Spec, data: MixtureData, stft: STFT, assigner: Assigner | None
) -> Regions | None:
    """Return the law of the start's errors, fitted on mixtures of validation recordings."""
    if assigner is None or not spec.metrics.checked:
        return None
    torch.manual_seed(spec.seed)
    options = Simulation(num_frames=50, level_db=(-5.0, 10.0), speed=1.0, equalisation_db=0.0)
    sources = simulated(data.recorded("valid"), spec.metrics.checked, stft, options)
    power = sources.sum(1).abs().square()
    with torch.no_grad():
        mask = assigner(power.to(spec.device)).softmax(-1).movedim(-1, 1).cpu()
    law = fit_error_law(sources, mask)
    return Regions(law, measured_radii(law, sources, mask))


def calibrations(outcome: Outcome) -> dict[str, Tensor]:
    """Return law -> how often its regions hold the truth of the test mixtures, (levels, N).

    The law is that of the start's errors: of the mask, before variational EM.
    """
    if outcome.fitted.regions is None:
        return {}
    law, radii = outcome.fitted.regions
    plain = gaussian_law(len(outcome.data.kinds), law.log_nu)
    laws = {"recalibrated": (law, radii), "student": (law, law.radii()),
            "gaussian": (plain, plain.radii())}
    stft, weights = outcome.model.model.stft, []
    held: dict[str, list[Tensor]] = {name: [] for name in laws}
    for mixtures, made in outcome.fitted.groups:
        sources = stft.analyse(torch.stack([m.sources for m in mixtures]))
        mask = share_of(made.start.cpu())
        weights.append(float(sources[:, 0].numel()))
        for name, each in laws.items():
            held[name].append(coverage(*each, sources, mask))
    share = torch.tensor(weights) / sum(weights)
    return {name: (torch.stack(parts) * share[:, None, None]).sum(0)
            for name, parts in held.items()}


def untrained(spec: Spec, data: MixtureData) -> Separated:
    """Return model and guide of a short piece of a mixture, with priors as they are made."""
    stft = spec.model.stft
    tables = [spec.model.of(kind).prior_table() for kind in data.kinds]
    priors = [DYNAMICS.build(table | {"emission": {"name": "complex"}}) for table in tables]
    piece = stft.analyse(data.mixtures[0].signal[: stft.num_samples(8)])[None]
    options = replace(spec.inference, start="encoders", steps=1)
    return separate(piece, BySource(priors).eval(), options, assigner=None)
