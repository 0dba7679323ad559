"""The experiment "separation": a mixture of sounds, and whose is what."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from pyromodels.dynamics.by_source import BySource
from pyromodels.errors import SpecError, mismatch, unknown
from pyromodels.experiments.datasets import DATASETS, build_data
from pyromodels.experiments.datasets.mixtures.mixtures import MixtureData, of_one_length
from pyromodels.experiments.harness.experiment import (
    EXPERIMENTS,
    Experiment,
    Judged,
    Outcome,
    Program,
)
from pyromodels.experiments.harness.spec_tables import ComponentTable, OptionsTable, Table
from pyromodels.experiments.harness.weights import load_weights
from pyromodels.experiments.separation import figures
from pyromodels.experiments.separation.adequacy import Networks, check_judged, judged
from pyromodels.experiments.separation.assigner import (
    AssignerOptions,
    find_or_train_assigner,
    kinds_of,
)
from pyromodels.experiments.separation.measures import check_packages
from pyromodels.experiments.separation.model_spec import (
    SeparationModelSpec,
    of_sources,
    training_figures,
)
from pyromodels.experiments.separation.outcome import Fitted, Parts
from pyromodels.experiments.separation.regions import calibrations, regions_of
from pyromodels.experiments.separation.report import metrics_of, summary_of
from pyromodels.experiments.separation.scores import SeparationMetrics, scores_of
from pyromodels.experiments.separation.separate import Separated, SeparationInference, separate
from pyromodels.experiments.separation.sounds import SHOWN_FRAMES, examples, write_sounds
from pyromodels.networks.assigner import Assigner
from pyromodels.registry import DYNAMICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyromodels.experiments.harness.records import RunFolder
    from pyromodels.experiments.runs.spec import Spec


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
        if spec.model.walks is not None and spec.inference.program == "additive":
            expected = "mixture: with model.prior=linear frames depend on each other"
            raise SpecError(mismatch("inference.program", given="additive", expected=expected))
        if spec.model.walks is not None and spec.inference.engine == "svi":
            expected = "vem: with model.prior=linear E-S is a smoother and M learns the noise"
            raise SpecError(mismatch("inference.engine", given="svi", expected=expected))
        if spec.model.walks is not None and spec.inference.fine_tune:
            expected = "0: with model.prior=linear no network is there to move"
            given = spec.inference.fine_tune
            raise SpecError(mismatch("inference.fine_tune", given=given, expected=expected))
        expected = "mixtures, e.g. synthetic_mixtures or mixture_list"
        data = build_data(spec.data, MixtureData, expected)
        _check_start(spec, data)
        _check_recordings(spec, data)
        if spec.inference.start == "assigner" and spec.guide.weights is not None:
            _check_order(spec.guide.weights, data)
        return data

    def model(self, spec: Spec, data: MixtureData) -> Parts:
        """Return what is to be trained and run."""
        if missing := set(spec.model.priors) - set(data.kinds):
            name = sorted(missing)[0]
            raise SpecError(f"model.priors: {unknown('kind', given=name, known=data.kinds)}")
        check_packages(spec.metrics.figures)
        return Parts(spec.model, spec.inference, spec.guide)

    def fit(
        self, spec: Spec, data: MixtureData, model: Parts, *, folder: Path | None, resume: bool
    ) -> Fitted:
        """Train what is not trained yet, and take all mixtures apart, equal lengths at once."""
        prior, encoders, assigner, training = networks_of(spec, data, resume=resume)
        stft, made, began = model.model.stft, [], time.perf_counter()
        for mixtures in of_one_length(data.mixtures):
            signals = torch.stack([m.signal for m in mixtures]).to(spec.device)
            truth = None
            if model.inference.start == "oracle":
                truth = stft.analyse(torch.stack([m.sources for m in mixtures])).to(spec.device)
            made.append((mixtures, separate(
                stft.analyse(signals), prior, model.inference, assigner=assigner,
                encoders=encoders, truth=truth, num_draws=spec.metrics.num_draws,
                after=spec.metrics.after,
            )))
        seconds = time.perf_counter() - began
        scores = scores_of(data, stft, made, spec.metrics)
        return Fitted(made, regions_of(spec, data, stft, assigner), scores, seconds, training)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return figures by kind, of the estimate, its start and the baselines."""
        return metrics_of(outcome)

    def summary(self, outcome: Outcome) -> str:
        """Return tables of methods, and what the regions hold; or of levels, without a truth."""
        return summary_of(outcome)

    def keep(self, folder: RunFolder, outcome: Outcome) -> None:
        """Write sounds: mixtures, estimates, and draws of the posterior."""
        write_sounds(folder.path, outcome)

    def figures(self, outcome: Outcome) -> dict[str, Figure]:
        """Return scores, bounds, calibration, and spectrograms of the examples."""
        kinds, stft = outcome.data.kinds, outcome.model.model.stft
        drawn = {}
        if outcome.fitted.scores and "si_sdr" in outcome.spec.metrics.figures:
            drawn["scores"] = figures.scores({
                method.replace("_", " "): {kind: row[f"{kind}/si_sdr"] for kind in kinds}
                for method, row in outcome.fitted.scores.items()
            }, kinds)
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
            name, sources, shown = example.mixture.name, example.mixture.sources, SHOWN_FRAMES
            drawn[name] = figures.separation(
                name, kinds, stft.analyse(example.mixture.signal)[:shown],
                None if sources is None else stft.analyse(sources)[:, :shown],
                example.estimate[:, :shown], example.deviation, stft,
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

    def python(self, spec: Spec) -> str:
        """Return the script that takes the same mixtures apart."""
        from pyromodels.experiments.separation.script import to_python  # is for `show` alone

        return to_python(spec, networks=_has_networks(spec))

    def judged(self, spec: Spec, data: MixtureData, model: Parts) -> Judged:
        """Return the fit of the programs, on loud pieces of the first mixtures."""
        check_judged(model.inference)
        networks = networks_of(spec, data)
        spectra = [model.model.stft.analyse(m.signal.to(spec.device)) for m in data.mixtures]
        return judged(spectra, len(data.kinds), networks, model.inference)


def networks_of(spec: Spec, data: MixtureData, *, resume: bool = False) -> Networks:
    """Train what is not trained yet."""
    prior = spec.model.walks if spec.inference.steps else None
    encoders, assigner, training = None, None, {}
    if _has_networks(spec):
        models = spec.model.trained(data, spec.seed, spec.device, resume=resume)
        encoders, training = of_sources(models).to(spec.device), training_figures(models)
        prior = encoders if prior is None else prior
    if spec.inference.start == "assigner":
        assigner = find_or_train_assigner(
            data, spec.guide, spec.seed, spec.model.stft, device=spec.device, resume=resume
        ).prior
    return Networks(prior, encoders, assigner, training)


def _has_networks(spec: Spec) -> bool:
    """Whether sources have models that are trained."""
    sweeps = spec.inference.steps > 0 and spec.model.walks is None
    return sweeps or spec.inference.start == "encoders"


def _check_start(spec: Spec, data: MixtureData) -> None:
    """Refuse a start that needs what is not there."""
    if spec.inference.start == "oracle" and not data.has_truth:
        expected = f"assigner or encoders: the sources of {data.name} are not known"
        raise SpecError(mismatch("inference.start", given="oracle", expected=expected))
    if spec.inference.start == "encoders":
        for kind in data.kinds:
            spec.model.of(kind)


def _check_recordings(spec: Spec, data: MixtureData) -> None:
    """Refuse to train on recordings that are not there."""
    wanted = []
    if spec.inference.start == "assigner" and spec.guide.weights is None:
        wanted.append("the network (or take one: guide.weights)")
    if _has_networks(spec):
        wanted += [f"the prior of {kind} (or take one: model.priors.{kind}.weights)"
                   for kind in data.unheard if spec.model.of(kind).weights is None]
    if data.unheard and wanted:
        expected = f"a folder with a folder for each kind, to train {', '.join(wanted)}"
        given = f"none of {', '.join(data.unheard)}"
        raise SpecError(mismatch("data.recordings", given=given, expected=expected))


def _check_order(weights: str, data: MixtureData) -> None:
    """Refuse kinds in another order than that of the network's training."""
    known = kinds_of(load_weights(weights, "network").record)
    if set(known) == set(data.kinds) and known != data.kinds:
        expected = f"{', '.join(known)}, the order of {weights}"
        raise SpecError(mismatch("data.kinds", given=", ".join(data.kinds), expected=expected))


def untrained(spec: Spec, data: MixtureData) -> Separated:
    """Return model and guide of a short piece of a mixture, with priors as they are made."""
    stft, prior = spec.model.stft, spec.model.walks
    if prior is None:
        tables = [spec.model.of(kind).prior_table() for kind in data.kinds]
        priors = [DYNAMICS.build(table | {"emission": {"name": "complex"}}) for table in tables]
        prior = BySource(priors).eval()
    piece = stft.analyse(data.mixtures[0].signal[: stft.num_samples(8)])[None]
    network, start = None, "oracle"
    if spec.inference.engine == "svi":
        network = Assigner(
            stft.num_bins, len(data.kinds), num_channels=spec.guide.num_channels,
            hidden_dim=spec.guide.hidden_dim,
        )
        start = "assigner"
    options = replace(spec.inference, start=start, steps=1)
    parts = piece.unsqueeze(1).expand(-1, len(data.kinds), -1, -1)
    return separate(piece, prior, options, assigner=network, truth=parts)
