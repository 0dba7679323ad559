"""`pyromodels bench dvae`: what a training step costs, and generation with and without a cache.

1. Each model's training step, a trajectory in one Pyro site under `PathELBO`, against the same
   networks with one site for every frame under Pyro's `TraceMeanField_ELBO`.
2. The training step of the published SRNN against its bound in plain torch, without Pyro.
3. The training step of the small SRNN by what it is fed with: the data, or its own predictions with
   gradients through none, one or all of them in a row.
4. Generation by HiT-DVAE with keys and values cached, against running the decoders anew over the
   whole past at every frame.
5. Real-time factors, the seconds a second of sound takes: a signal analysed, its latents drawn, and
   rebuilt, with true histories and with the model's own.

Rivals are timed in turn, so that a busy machine slows both.
"""

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.experiments.datasets.speech.audio import SAMPLE_RATE
from pyromodels.experiments.demonstrations.site_a_frame import StepwiseGuide, StepwiseModel
from pyromodels.experiments.harness import timing
from pyromodels.experiments.harness.timing import Row, in_turn, measure, training_step
from pyromodels.experiments.speech.model_spec import SpeechModelSpec
from pyromodels.experiments.speech.resynthesis import modes_of, resynthesise
from pyromodels.experiments.speech.table_models import VARIANTS
from pyromodels.guides.amortised import Amortised
from pyromodels.inference.objectives.path_elbo import PathELBO
from pyromodels.models.dvae import DynamicalVAE
from pyromodels.registry import DYNAMICS

MODELS = ("vae", "dkf", "rvae", "storn", "vrnn", "srnn_tf", "hit", "light")
LENGTHS, QUICK_LENGTHS = (50, 100, 200, 400), (10, 20)
NUM_BINS, NUM_FRAMES = 513, 50
SECONDS, QUICK_SECONDS = 5.0, 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--batch-size", type=int, default=32, help="of the models against one site a frame")
    add("--srnn-batch-size", type=int, default=256, help="of the SRNN against plain torch")
    timing.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Measure, print the rows as they come, write them to `--json`."""
    if args.quick:
        args.batch_size, args.srnn_batch_size = 2, 4
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        measure(args, (site_a_frame, without_pyro, own_history, generation, real_time))
    return 0


def site_a_frame(args: argparse.Namespace) -> Iterator[Row]:
    """Yield two rows for each model: its training step, and that with one site a frame."""
    for name in MODELS:
        model, batch = problem(name, "small", args.batch_size, args.device)
        stepwise = TraceMeanField_ELBO(max_plate_nesting=model.max_plate_nesting)
        rivals = {
            f"{name}, a site a path": (PathELBO(), model, Amortised(model)),
            f"{name}, a site a frame": (stepwise, StepwiseModel(model), StepwiseGuide(model)),
        }
        steps = {
            label: training_step(model, partial(elbo.differentiable_loss, program, guide, batch))
            for label, (elbo, program, guide) in rivals.items()
        }
        sizes = {"batch": args.batch_size, "frames": NUM_FRAMES, "bins": NUM_BINS}
        yield from in_turn(steps, args, sizes)


def without_pyro(args: argparse.Namespace) -> Iterator[Row]:
    """Yield two rows: the published SRNN's training step in plain torch, and as programs."""
    size = "small" if args.quick else "paper"
    model, batch = problem("srnn_tf", size, args.srnn_batch_size, args.device)
    guide, elbo = Amortised(model), PathELBO()
    steps = {
        "srnn, plain torch": training_step(
            model, lambda: -model.prior.elbo(batch.x, mask=batch.mask).sum()
        ),
        "srnn, model and guide": training_step(
            model, lambda: elbo.differentiable_loss(model, guide, batch)
        ),
    }
    sizes = {"batch": args.srnn_batch_size, "frames": NUM_FRAMES, "bins": NUM_BINS}
    yield from in_turn(steps, args, sizes)


def own_history(args: argparse.Namespace) -> Iterator[Row]:
    """Yield four rows: the SRNN's training step by what it is fed with."""
    taught, batch = problem("srnn_ss", "small", args.batch_size, args.device)
    models = {
        "srnn, fed with the data": taught,
        **{
            f"srnn, own history, {hops}": DynamicalVAE(
                taught.prior, use_prediction=1.0, prediction_hops=number
            )
            for hops, number in {"detached": 0, "one hop": 1, "all hops": None}.items()
        },
    }
    loss = PathELBO().differentiable_loss
    steps = {
        label: training_step(model, partial(loss, model, Amortised(model), batch))
        for label, model in models.items()
    }
    yield from in_turn(
        steps, args, {"batch": args.batch_size, "frames": NUM_FRAMES, "bins": NUM_BINS}
    )


def generation(args: argparse.Namespace) -> Iterator[Row]:
    """Yield two rows for every length: generation with the cache, and without."""
    prior = build("hit", "small", args.device).eval()
    for length in QUICK_LENGTHS if args.quick else LENGTHS:
        z, w = torch.randn(1, length, prior.latent_dim), torch.randn(1, prior.global_dim)
        z, w = z.to(args.device), w.to(args.device)
        empty = torch.ones(1, length, NUM_BINS, device=args.device)
        networks = prior.given(w)
        steps = {
            f"hit, T = {length}, cached": partial(networks.own_history, empty, z),
            f"hit, T = {length}, anew every frame": partial(anew, networks, empty, z),
        }
        yield from in_turn(steps, args, {"batch": 1, "frames": length, "bins": NUM_BINS})


def real_time(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each model, size and history: resynthesis of one signal at batch 1."""
    stft, length = STFT(2 * (NUM_BINS - 1), 256), QUICK_SECONDS if args.quick else SECONDS
    signal = 2 * torch.rand(round(length * SAMPLE_RATE)) - 1
    for name, size in itertools.product(MODELS, ("small",) if args.quick else ("small", "paper")):
        prior = build(name, size, args.device).eval()
        steps = {
            f"{name}, {size}, {mode.replace('_', ' ')}":
                partial(resynthesise, prior, signal, stft, mode=mode)
            for mode in modes_of(prior)
        }
        for row in in_turn(steps, args, {"samples": len(signal), "bins": NUM_BINS}):
            yield {**row, "real_time_factor": row["seconds"]["median"] / length}


@torch.no_grad()
def anew(
    networks: Any,  # noqa: ANN401
    empty: Tensor,  # shape: (1, T, F)
    z: Tensor,  # shape: (1, T, L)
) -> Tensor:  # shape: (1, T, F)
    """Generate by a pass over the whole past at every frame."""
    power = empty.clone()
    for t in range(z.shape[1]):
        past = slice(0, t + 1)
        outputs = networks.cell.all_outputs(z[:, past], networks.see(power[:, past]))
        last = tuple(value[:, -1] for value in outputs)
        power[:, t] = networks.emission.expected(last, power[:, t - 1] if t else None)
    return power


def problem(
    name: str, size: str, num_sequences: int, device: str
) -> tuple[DynamicalVAE, SequenceBatch]:
    """Return a model and spectrograms of noise."""
    model = DynamicalVAE(build(name, size, device))
    power = torch.rand(num_sequences, NUM_FRAMES, NUM_BINS, device=device)
    return model, SequenceBatch(power, torch.ones_like(power[..., 0], dtype=torch.bool))


def build(name: str, size: str, device: str) -> DynamicalPrior:
    """Return a model of the speech tables with fresh weights."""
    torch.manual_seed(0)
    prior = {"name": VARIANTS[name].dynamics, **VARIANTS[name].arguments}
    return DYNAMICS.build(SpeechModelSpec(prior, size).prior_table()).to(device)
