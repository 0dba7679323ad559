"""`pyromodels report speech`: may the posterior of a trained speech model be trusted?

The guide is the model's encoder q(z | x) or, with `--guide normal`, independent normals fitted to
every sequence by SVI, which start at the encoder's means: what they gain is what the encoder loses
by answering all data with one network. Either is weighed on pieces of test utterances (k-hat,
importance gap) and calibrated on speech that the model itself draws, whose latents are known.

The model is the one that was trained: told of true frames, or of its own expectations.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyro
import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.batch import SequenceBatch
from pyromodels.errors import mismatch
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.harness.adequacy_report import add_options, check_options, write_report
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.records import spec_of
from pyromodels.experiments.speech import options
from pyromodels.experiments.speech.resynthesis import prepared
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model
from pyromodels.experiments.speech.training import POWER_FLOOR
from pyromodels.guides.amortised import Amortised
from pyromodels.guides.auto import AutoGuide
from pyromodels.inference.adequacy.protocols import Draws, Fit
from pyromodels.inference.adequacy.report import guide_report
from pyromodels.inference.adequacy.simulation import scalar_summaries
from pyromodels.inference.engines.ascend import AscentOptions, ascend
from pyromodels.inference.engines.svi import SVI
from pyromodels.inference.posterior.posterior import Posterior
from pyromodels.models.dvae import DynamicalVAE

ACTIVE = 0.01
"""Least variance, over frames, of the posterior mean of a latent in use."""
NUM_PARTICLES, LEARNING_RATE = 4, 0.02
"""Of the fit of normals."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_data(parser)
    add = parser.add_argument
    add("--weights", type=Path, metavar="PATH", required=True,
        help="the folder of `train dvae`, its .safetensors, or published weights (.pt)")
    add("--guide", choices=("encoder", "normal"), default="encoder",
        help="the model's encoder, or normals fitted to every sequence from there")
    add("--history", choices=("true", "own"),
        help="what the model is told of earlier frames; default: what it was taught by")
    add("--num-steps", type=int, default=500, help="of SVI, for normals")
    add("--num-pieces", type=int, default=8, help="pieces of test utterances")
    add("--num-frames", type=int, default=20, metavar="T", help="of a piece")
    add_device_argument(parser)
    add_options(parser)
    parser.set_defaults(num_draws=400)


def main(args: argparse.Namespace) -> None:
    """Examine the guide, print the verdict, write the page."""
    check_options(args)
    if args.num_steps < 1:
        raise ValueError(mismatch("--num-steps", given=args.num_steps, expected="1 or more"))
    torch.set_num_threads(1)
    device = use_device(args.device)
    model = load_model(args.weights)
    data = options.chosen_data(args)
    utterances = list(data.utterances("test"))
    x = loudest_pieces(utterances, model.stft, args.num_pieces, args.num_frames).to(device)
    batch = SequenceBatch(x, torch.ones_like(x[..., 0], dtype=torch.bool))
    model.prior.to(device)
    program = program_of(model, args.history)
    fits = {"encoder": encoder_fit(program)}
    if args.guide == "normal":
        fits["normal"] = normal_fit(program, args.num_steps)

    told = "own" if program.use_prediction else "true"
    print(f"{len(x)} pieces of {args.num_frames} frames of {data.name}"
          + (f"; {told} history" if model.prior.feeds_back else ""))
    for name, fit in fits.items():
        torch.manual_seed(args.seed)
        print(f"{name}: {in_words(fit(batch, args.seed), args.num_draws)}", flush=True)
    print()
    write_report(
        args,
        "report-speech",
        spec_of(args),
        lambda: guide_report(
            fits[args.guide],
            batch,
            summaries=middle_frame,
            num_draws=args.num_draws,
            num_fits=1 if args.guide == "encoder" else 4,  # an encoder has no starts
            num_simulations=args.num_simulations,
            seed=args.seed,
            title=f"{args.weights.name}: may its posterior be trusted?",
        ),
    )


def program_of(model: SpeechModel, history: Literal["true", "own"] | None) -> DynamicalVAE:
    """Return the program of a model, told of what it was taught by where nothing is said."""
    if history is None:
        history = "own" if model.own_history else "true"
    return DynamicalVAE(
        model.prior, use_prediction=float(history == "own"), prediction_hops=None
    )


def encoder_fit(program: DynamicalVAE) -> Fit:
    """Return the fit of the model's own encoder: it was fitted once for all data."""
    guide = Amortised(program)
    return lambda batch, seed: Posterior(program, guide, batch)


def normal_fit(program: DynamicalVAE, num_steps: int) -> Fit:
    """Return the fit of independent normals by SVI, from the encoder's means."""
    from_encoder = encoder_fit(program)

    def fit(batch: SequenceBatch, seed: int) -> Posterior:
        torch.manual_seed(seed)
        draws = from_encoder(batch, seed).sample(50)
        start = {name: value.mean(0).unsqueeze(1) for name, value in draws.items()}
        guide = AutoGuide(program, batch, init=start)
        elbo = pyro.infer.Trace_ELBO(
            num_particles=NUM_PARTICLES, vectorize_particles=True,
            max_plate_nesting=program.max_plate_nesting,
        )
        svi = SVI(program, guide, elbo=elbo, learning_rate=LEARNING_RATE, num_steps=num_steps)
        ascend(svi, batch, AscentOptions(max_steps=num_steps, seed=seed))
        return Posterior(program, guide, batch)

    return fit


def loudest_pieces(
    utterances: Sequence[Utterance], stft: STFT, num_pieces: int, num_frames: int
) -> Tensor:  # power, shape: (num_pieces, num_frames, F)
    """Return the loudest piece of utterances that are spread evenly over the list.

    Raises:
        ValueError: where there are too few utterances, or one of them is too short.
    """
    if not 0 < num_pieces <= len(utterances):
        expected = f"1 to {len(utterances)}, the test utterances"
        raise ValueError(mismatch("--num-pieces", given=num_pieces, expected=expected))
    chosen = torch.linspace(0, len(utterances) - 1, num_pieces).round().int().tolist()
    pieces = []
    for utterance in (utterances[i] for i in chosen):
        power = stft.analyse(prepared(utterance, stft, None)).abs().square()
        if not 2 <= num_frames <= len(power):
            expected = f"2 to {len(power)}, the length of {utterance.name}"
            raise ValueError(mismatch("--num-frames", given=num_frames, expected=expected))
        begin = int(power.sum(-1).unfold(0, num_frames, 1).sum(-1).argmax())
        pieces.append(power[begin : begin + num_frames].clamp_min(POWER_FLOOR))
    return torch.stack(pieces)


def middle_frame(draws: Draws) -> dict[str, Tensor]:
    """Return scalars of the latents of the middle frame, and of that of the whole sequence."""
    return scalar_summaries({
        name: value[:, :, :, value.shape[3] // 2] if value.dim() == 5 else value
        for name, value in draws.items()
    })


def in_words(posterior: Posterior, num_draws: int) -> str:
    """Say how tight the bound is, and how many latents are in use."""
    draws = posterior.sample(num_draws)
    ratio = posterior.log_joint(draws) - posterior.log_prob(draws)  # nats, (n, B)
    frames = posterior.batch.num_frames
    bound = float(ratio.mean()) / frames
    weighted = float(ratio.logsumexp(0).mean() - math.log(num_draws)) / frames
    used = active(draws["x_z"])
    return (f"bound {bound:.2f} nats a frame, importance-weighted over {num_draws} draws "
            f"{weighted:.2f}; {int(used.sum())} of {len(used)} latents in use")


def active(
    z: Tensor,  # draws, shape: (n, B, 1, T, L)
) -> Tensor:  # bool, shape: (L,)
    """Return which latents' posterior means vary from frame to frame, by more than chance.

    Reference: Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders, section 5.2.
    """
    moved = z.mean(0).flatten(0, 2).var(0)
    by_chance = z.var(0).flatten(0, 2).mean(0) / len(z)  # means of so many draws
    return moved - by_chance > ACTIVE
