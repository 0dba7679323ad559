"""`pyromodels run swap`: the latent of the whole sequence, exchanged between two speakers.

Two utterances are analysed into (z, w) each; each z is decoded with either w, and fast Griffin-Lim
finds the phase, since the phase of the original would keep its F0. If w holds the speaker, the
median F0 goes with w (thesis, Figure 7.3). With `--history true` the decoder is fed with the
utterance of z, whose F0 it sees then: for models that make no speech of their own histories.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyromodels.audio.griffin_lim import griffin_lim
from pyromodels.errors import SpecError, mismatch
from pyromodels.experiments.datasets.speech.audio import peak_normalise, write_wav
from pyromodels.experiments.datasets.speech.recordings import Utterance
from pyromodels.experiments.harness.devices import add_device_argument, use_device
from pyromodels.experiments.harness.figures import save
from pyromodels.experiments.harness.records import open_run, spec_of
from pyromodels.experiments.metrics.audio.pitch import median_f0
from pyromodels.experiments.speech import figures, options
from pyromodels.experiments.speech.resynthesis import Mode, analyse, decode, prepared
from pyromodels.experiments.speech.trained_models import SpeechModel, load_model

APART = 1.3
"""Least ratio of the median F0 of the two speakers of a pair, as recorded."""
STILL_APART = 1.1
"""Least ratio of the two as rebuilt; parts of a shorter way would be noise."""


class Swapped(NamedTuple):
    """Median F0 of an utterance rebuilt, with its own w and with the other's; hertz."""

    own: float
    swapped: float
    other: float  # of the other utterance, rebuilt with its own w

    @property
    def moved(self) -> float:
        """How far F0 went to the other speaker's, in parts of the way, on a logarithmic scale.

        Raises:
            ValueError: where there is hardly a way between the two.
        """
        way = math.log(self.other / self.own)
        if abs(way) < math.log(STILL_APART):
            raise ValueError(
                f"both are rebuilt with one F0: {self.own:.0f} and {self.other:.0f} Hz"
            )
        return math.log(self.swapped / self.own) / way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_data(parser)
    add = parser.add_argument
    add("--weights", type=Path, metavar="PATH", required=True,
        help="of a hit or light model: the folder of `train dvae`, or its .safetensors")
    add("--num-pairs", type=int, default=8)
    add("--num-frames", type=int, default=150, metavar="T", help="of an utterance that count")
    add("--history", choices=("own", "true"), default="own", help="what the decoder is fed with")
    add("--iterations", type=int, default=100, help="of Griffin-Lim")
    add("--seed", type=int, default=0, help="of the draws of z and w")
    add_device_argument(parser)
    add("--out", type=Path, metavar="DIR", default=None, help="default: runs/swap-<hash>")


def main(args: argparse.Namespace) -> int:
    """Swap, measure, write; 0 when done."""
    torch.set_num_threads(1)
    device = use_device(args.device)
    model = load_model(args.weights)
    if not model.prior.global_dim:
        raise SpecError(mismatch(f"weights {args.weights}", given=type(model.prior).__name__,
                                 expected="a model with a w to swap: hit or light"))
    model.prior.to(device)
    run = open_run(args.out, "swap", spec_of(args))
    utterances = list(options.chosen_data(args).utterances("test"))
    pairs = pairs_apart(utterances, model, args.num_frames)[: args.num_pairs]
    if not pairs:
        raise ValueError(f"data: no two test utterances whose median F0 differs by {APART:g} times")
    print(f"{'median F0, Hz':44}{'own w':>8}{'other w':>9}{'other':>8}{'moved':>8}")
    torch.manual_seed(args.seed)
    mode: Mode = "generation" if args.history == "own" else "teacher_forced"
    results: list[float] = []
    for first, second in pairs:
        rebuilt = swap(model, first, second, args.num_frames, args.iterations, mode)
        names = (first.name, second.name)
        for i, j in ((0, 1), (1, 0)):
            try:
                result = Swapped(*(median_f0(rebuilt[key]) for key in ((i, i), (i, j), (j, j))))
                moved = result.moved
            except ValueError as error:
                print(f"{names[i][:42]:44}{error}")
                continue
            results.append(moved)
            print(f"{names[i][:42]:44}{result.own:>8.0f}{result.swapped:>9.0f}{result.other:>8.0f}"
                  f"{100 * moved:>7.0f}%")
        if (first, second) == pairs[0]:
            for (i, j), signal in rebuilt.items():
                write_wav(run.path / f"z-{names[i]}-w-{names[j]}.wav", peak_normalise(signal))
            save(figures.swap(rebuilt, names, model.stft), run.path / "swap.png")
    if not results:
        hint = "; try --history true" if args.history == "own" else ""
        raise ValueError(f"weights {args.weights}: no pair that they rebuild with {args.history} "
                         f"histories is voiced and of two F0, so w moves none; listen to "
                         f"{run.path}{hint}")
    moved = torch.tensor(results)
    error = moved.std() / len(moved) ** 0.5 if len(moved) > 1 else torch.tensor(math.nan)
    print(f"F0 goes {100 * moved.mean():.0f} ± {100 * error:.0f} % of the way to the other's "
          f"({len(moved)} of {2 * len(pairs)} utterances measured)")
    run.write_metrics({"moved": moved.mean(), "moved_se": error, "pairs": len(pairs),
                       "measured": len(moved)})
    print(f"\nsounds and figure: {run.path}")
    return 0


def pairs_apart(
    utterances: Sequence[Utterance], model: SpeechModel, num_frames: int
) -> list[tuple[Utterance, Utterance]]:
    """Return disjoint pairs of a low and a high voice, those furthest apart first."""
    pitched = []
    for utterance in utterances:
        try:
            pitched.append((median_f0(prepared(utterance, model.stft, num_frames)), utterance))
        except ValueError:  # nothing voiced in it
            continue
    pitched.sort(key=lambda pair: pair[0])
    both_ends = itertools.takewhile(
        lambda ends: ends[1][0] > APART * ends[0][0],
        zip(pitched[: len(pitched) // 2], reversed(pitched), strict=False),
    )
    return [(low[1], high[1]) for low, high in both_ends]


@torch.no_grad()
def swap(
    model: SpeechModel,
    first: Utterance,
    second: Utterance,
    num_frames: int,
    iterations: int,
    mode: Mode,
) -> dict[tuple[int, int], Tensor]:  # (whose z, whose w) -> signal, shape: (n,)
    """Rebuild two utterances with either's w."""
    prior, stft = model.prior, model.stft
    parameter = next(prior.parameters())
    signals = [prepared(u, stft, num_frames).to(parameter) for u in (first, second)]
    powers = [stft.analyse(signal).abs().square()[None] for signal in signals]
    analysed = [analyse(prior, power) for power in powers]
    rebuilt = {}
    for i, j in itertools.product(range(2), repeat=2):
        power = decode(prior.given(analysed[j].w), analysed[i].z, powers[i], mode=mode)
        generator = torch.Generator().manual_seed(0)
        signal = griffin_lim(power[0].sqrt(), stft, iterations=iterations, generator=generator)
        rebuilt[i, j] = signal.cpu()
    return rebuilt
