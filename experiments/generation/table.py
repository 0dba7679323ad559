"""`pyromodels table speech-3`: unconditional generation, after thesis Table 7.3.

Every trained model of the store generates power spectrograms; fast Griffin-Lim finds the phase. A
model that feeds back is run twice: told of what it drew, which is its law where it was taught by
true frames, and told of what it expected, which is its law where it was taught by its own
predictions. The distance to half of the training utterances is `frechet_log_mel`, whose features
are of our own: a number to compare models by, on another scale than the thesis' FDSD. The other
half says what the least to expect is.
"""

import argparse
import itertools
import math
from dataclasses import replace
from pathlib import Path

import torch

from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.generation.generate import distance, generated, recorded, write_sounds
from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.records import open_run, runs_folder, spec_of
from pyromodels.experiments.harness.table_rows import Columns, over_seeds
from pyromodels.experiments.speech import options
from pyromodels.experiments.speech.experiment import training_of
from pyromodels.experiments.speech.table_models import VARIANTS
from pyromodels.experiments.speech.trained_models import SpeechModel, find_model

FDSD = {
    "VAE": 70.92, "DKF": 32.78, "RVAE": 45.75, "SRNN (SS)": 25.28, "SRNN (TF)": 25.53,
    "HiT-DVAE": 22.50, "LigHT-DVAE": 29.22,
}
"""Table 7.3, for the order of the models."""
COLUMNS = Columns(
    {"drawn": ("told of draws", 0), "expected": ("of expectations", 0), "FDSD": ("FDSD", 2)},
    label_width=32, width=18,
)
"""A model that feeds nothing back is told of nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_data(parser)
    options.add_training(parser, several=True)
    add = parser.add_argument
    add("--num-samples", type=int, default=128, metavar="N",
        help="utterances of every model and of the recordings, at most as many as there are")
    add("--seconds", type=float, default=1.6, help="of an utterance")
    add("--iterations", type=int, default=60, help="of Griffin-Lim")
    add("--out", type=Path, metavar="DIR", default=None, help="default: runs/speech")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of every model, where found")
    add("--seed", type=int, default=0, help="of the draws")


def main(args: argparse.Namespace) -> int:
    """Generate, measure, print; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    run = open_run((args.out or runs_folder() / "speech") / "speech-3", "speech-3", spec_of(args))
    spec = options.speech_spec(args)
    data = experiment(spec.experiment).data(spec)
    found: dict[str, list[SpeechModel]] = {}
    for chosen, seed in itertools.product(VARIANTS.values(), range(args.seeds)):
        training = training_of(replace(chosen.of(spec), seed=seed))
        if model := find_model(training, data, spec.device):
            found.setdefault(chosen.label, []).append(model)
    if not found:
        raise FileNotFoundError(f"{runs_folder()} has no model trained with these options on "
                                f"{data.name}; run `pyromodels table speech-1` with them first")
    stft = spec.model.stft
    num_frames = stft.num_frames(round(args.seconds * SAMPLE_RATE))
    recordings = recorded(data, stft, num_frames, args.num_samples)
    count = len(recordings.reference)
    words = ("train, the other half", "test, exact phase", "test, Griffin-Lim")
    between = recordings.distances(stft, args.iterations, args.seed).values()
    rows = {label: {"drawn": value} for label, value in zip(words, between, strict=True)}
    for label, models in found.items():
        seeds = []
        for number, model in enumerate(models):
            made = generated(model, count, num_frames, args.iterations, seed=args.seed)
            seeds.append({told: distance(recordings.reference, s) for told, s in made.items()})
            write_sounds(run.path, label, made, count=0 if number else 3)
        silent = sum(not math.isfinite(value) for figures in seeds for value in figures.values())
        said = f"{label}, seeds: {len(models)}" + (f", {silent} without sound" if silent else "")
        rows[said] = over_seeds(seeds) | ({"FDSD": FDSD[label]} if label in FDSD else {})
    print(f"{count} utterances each; frechet_log_mel, means ± standard errors over seeds; FDSD of "
          f"the thesis\n{COLUMNS.header()}")
    for label, figures in rows.items():
        print(COLUMNS.row(label, figures))
    run.write_metrics({f"{label.partition(', seeds')[0]}/{key}": value
                       for label, figures in rows.items() for key, value in figures.items()})
    print(f"\nsounds and results: {run.path}")
    return 0
