"""`pyromodels train dvae`: train a dynamical VAE on speech.

The weights go into the store, where every command finds them, or into `--out`. Progress is a line
an epoch. With several processes, `torchrun --nproc-per-node N -m pyromodels train dvae ...`, every
minibatch is cut over them.
"""

import argparse
from pathlib import Path

import torch

from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.harness.experiment import experiment
from pyromodels.experiments.harness.store import place_of
from pyromodels.experiments.speech import options
from pyromodels.experiments.speech.experiment import num_parameters, training_of
from pyromodels.experiments.speech.trained_models import trained_model
from pyromodels.inference.training import distributed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    options.add_data(parser)
    options.add_training(parser)
    options.add_resume(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the store, runs/weights")


def main(args: argparse.Namespace) -> int:
    """Train, or find trained; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    spec = options.speech_spec(args)
    with distributed.start(spec.device) as device:
        data = experiment(spec.experiment).data(spec)
        training = training_of(spec)
        folder = args.out or place_of(training.made_by(data))
        if distributed.is_first():
            prior = spec.model.prior["name"]
            print(f"{prior} ({spec.model.size}) on {data.name}; record in {folder}", flush=True)
        model = trained_model(training, data, device=device, resume=args.resume, folder=folder)
        if distributed.is_first():
            record = model.record
            print(f"{num_parameters(model):,} parameters; stopped by {record['stopped']}; best "
                  f"epoch {record['best_epoch']}, {record['loss_nats_per_frame']:.2f} nats a frame")
            print(f"weights: {folder / 'weights.safetensors'}")
    return 0
