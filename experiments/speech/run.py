"""`pyromodels run resynthesis`: speech through a dynamical VAE and back.

Trains a model, finds it trained or takes the weights it is given, and rebuilds test utterances from
what the encoder says of them, with the phase of the originals. Prints the figures of Table 7.1,
writes wav files to listen to and figures to look at. Without `--data` it runs on speech-like
signals of a synthesiser, a VAE in about a minute of one core: figures on those say that everything
works, nothing about speech.

It is the shipped spec `resynthesis` with options of its own; `show resynthesis` shows what it runs.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pyromodels.experiments.harness.devices import use_device
from pyromodels.experiments.runs.runner import add_results, report_run
from pyromodels.experiments.speech import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_data(parser)
    options.add_training(parser)
    add = parser.add_argument
    add("--weights", type=Path, metavar="PATH",
        help="the folder of `train dvae`, its .safetensors, or published weights (.pt)")
    add("--judged-frames", type=int, metavar="T", dest="judged_frames",
        help="frames of a test utterance that count, from its first (default: 150); 0: all of them")
    add("--num-examples", type=int, help="utterances to write and draw (default: 3)")
    add("--num-draws", type=int, help="draws of z for each of them (default: 3)")
    add_results(parser)


def main(args: argparse.Namespace) -> int:
    """Change the spec, run it; 0 when done."""
    torch.set_num_threads(args.threads)
    use_device(args.device)
    if args.weights is not None:
        options.refuse_training(args)
    spec = options.speech_spec(args, "resynthesis")
    if args.weights is not None:
        spec = replace(spec, model=replace(spec.model, weights=str(args.weights)))
    elif args.data is not None and args.epochs is None:
        spec = replace(spec, inference=replace(spec.inference, epochs=None))  # the model's own
    metrics = options.said(args, ("num_examples", "num_draws"))
    if args.judged_frames is not None:
        metrics["num_frames"] = args.judged_frames
    if args.utterances is not None:
        metrics["utterances"] = str(args.utterances)
    return report_run(replace(spec, metrics=replace(spec.metrics, **metrics)), args)
