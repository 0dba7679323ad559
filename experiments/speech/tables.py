"""`pyromodels table speech-1`, `speech-2`: analysis-resynthesis, thesis Tables 7.1 and 7.2.

Every model is trained for every seed on the speech of `--data`, or found in the store of trained
weights (`train dvae` puts it there, so that two cores can share the work), and judged on the test
utterances with true histories and with its own. The thesis' figures, from other corpora, stand
beside ours for the order, not for the level.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from pyromodels.experiments.datasets.speech.corpora import with_tests
from pyromodels.experiments.datasets.speech.recordings import SpeechData, Utterance
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.records import open_run, replacing, runs_folder, spec_of
from pyromodels.experiments.harness.table_rows import over_seeds
from pyromodels.experiments.runs.spec import Spec
from pyromodels.experiments.speech import options
from pyromodels.experiments.speech.experiment import num_parameters, training_of
from pyromodels.experiments.speech.resynthesis import Mode, judge, mean_figures, modes_of
from pyromodels.experiments.speech.table_models import COLUMNS, Variant, variant
from pyromodels.experiments.speech.trained_models import SpeechModel, find_model, trained_model

TABLES: dict[str, tuple[str, ...]] = {
    "speech-1": ("vae", "dkf", "rvae", "rvae_noncausal", "storn", "vrnn", "srnn_ss", "srnn_tf",
                 "hit", "light", "hit_ss", "light_ss"),
    "speech-2": ("hit", "hit_inv", "hit_inv_nrc", "light", "light_inv", "light_inv_nrc"),
}
"""Models of each table."""


class Judged(NamedTuple):
    """A trained model and its mean figures over the test utterances."""

    name: str
    seed: int
    num_parameters: int
    figures: dict[Mode, dict[str, float]]
    cut_short: bool  # whether --max-seconds ended its training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_data(parser)
    options.add_training(parser, several=True)
    options.add_resume(parser)
    add = parser.add_argument
    add("--models", metavar="NAMES", help="comma-separated; default: those of the table")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every model")
    add("--judged-frames", type=int, default=150, metavar="T",
        help="frames of a test utterance that count, from its first; 0: all of them")
    add("--out", type=Path, metavar="DIR", help="default: runs/speech")
    add("--trained-only", action="store_true", help="leave out what is not trained yet")


def main(args: argparse.Namespace) -> int:
    """Train what is missing, judge, print; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    names = args.models.split(",") if args.models else TABLES[args.name]
    for name in names:
        variant(name)  # a wrong name fails before anything is trained
    spec = options.speech_spec(args)
    run = open_run((args.out or runs_folder() / "speech") / args.name, args.name, spec_of(args))
    data = experiment(spec.experiment).data(spec)
    utterances = list(with_tests(data, args.utterances).utterances("test"))
    metrics: dict[str, float] = {}
    lines = []
    for name in names:
        judged = list(judged_seeds(name, spec, args, data, utterances))
        if judged:
            lines += list(describe(variant(name), judged))
            metrics |= flat(name, judged)
    print(f"\n{len(utterances)} test utterances of {data.name}; means ± standard errors over seeds"
          f"\n{COLUMNS.header()}")
    print("\n".join(lines))
    run.write_metrics(metrics)
    print(f"\nresults: {run.path}")
    return 0


def judged_seeds(
    name: str,
    spec: Spec,
    args: argparse.Namespace,
    data: SpeechData,
    utterances: Sequence[Utterance],
) -> Iterator[Judged]:
    """Yield one judged training for every seed."""
    for seed in range(args.seeds):
        training = training_of(replace(variant(name).of(spec), seed=seed))
        model = find_model(training, data, spec.device)
        if model is None and args.trained_only:
            continue
        if model is None or (args.resume and cut_short(model)):
            print(f"\n{name}, seed {seed}: training", flush=True)
            model = trained_model(training, data, device=spec.device, resume=args.resume)
        figures = judged_figures(model, utterances, args.judged_frames or None)
        yield Judged(name, seed, num_parameters(model), figures, cut_short(model))


def cut_short(model: SpeechModel) -> bool:
    """Whether `--max-seconds` ended the training of a model."""
    return model.record.get("stopped") == "time"


def judged_figures(
    model: SpeechModel, utterances: Sequence[Utterance], num_frames: int | None
) -> dict[Mode, dict[str, float]]:
    """Return mean figures by mode; kept beside the weights, and found there again."""
    question = {"num_frames": num_frames, "utterances": [u.name for u in utterances],
                "pesq": find_spec("pesq") is not None}
    path = model.folder / "judged.json"
    made = (model.folder / "weights.safetensors").stat().st_mtime
    if path.is_file() and path.stat().st_mtime > made:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["question"] == question:
            return known["figures"]
    figures = {
        mode: mean_figures(list(
            judge(model.prior, utterances, model.stft, mode=mode, num_frames=num_frames)
        ))
        for mode in modes_of(model.prior)
    }
    with replacing(path) as part:
        content = {"question": question, "figures": figures}
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return figures


def describe(chosen: Variant, judged: Sequence[Judged]) -> Iterator[str]:
    """Yield the lines of one model: ours by mode, then the thesis'."""
    millions = judged[0].num_parameters / 1e6
    unfinished = sum(j.cut_short for j in judged)
    yield (f"{chosen.label}, {millions:.2f} M parameters, seeds: {len(judged)}"
           + (f", {unfinished} of them cut short" if unfinished else ""))
    for mode in judged[0].figures:
        label = "  " + {"generation": "own history"}.get(mode, "true history")
        if len(judged[0].figures) == 1:
            label = "  no history"
        yield COLUMNS.row(label, over_seeds([j.figures[mode] for j in judged]))
    for corpus_name, quoted in (
        ("VoiceBank", chosen.quoted),
        ("VoiceBank, true history", chosen.quoted_teacher_forced),
        ("WSJ0", chosen.quoted_wsj0),
    ):
        if quoted is not None:
            yield COLUMNS.row(f"  thesis, {corpus_name}", quoted._asdict())


def flat(name: str, judged: Sequence[Judged]) -> dict[str, float]:
    """Return the metrics of one model: means, and `_se` for standard errors."""
    metrics: dict[str, float] = {f"{name}/parameters": judged[0].num_parameters}
    for mode in judged[0].figures:
        found = over_seeds([j.figures[mode] for j in judged])
        metrics |= {f"{name}/{mode}/{key}": value for key, value in found.items()}
    return metrics
