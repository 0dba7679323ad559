"""The `pyromodels` command: `pyromodels VERB [NAME] [options]`.

Only the module that was asked for is imported. It has `add_arguments(parser)` and
`main(args) -> int | None`, and reads `args.verb` and `args.name`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from pyromodels import __version__
from pyromodels.experiments.runs.shipped import shipped_specs


class Command(NamedTuple):
    """Where a command lives and what it does, in one line."""

    module: str
    help: str


VERBS = {
    "doctor": "say what is installed, on which device, what is missing and how to get it",
    "list": "list the commands with a name and the registered components",
    "check": "hold a registered component against its contract: `check NAME`",
    "completion": "print a script that completes words of this command in a shell",
    "run": "run an experiment, or a spec: `run SPEC.toml`",
    "compare": "run a spec in every combination of --vary, over seeds, into one table",
    "show": "print the graph of a spec's model as text, or the spec as Python",
    "train": "train the weights that an experiment uses",
    "estimate": "estimate the parameters of a data generator from data",
    "table": "print a table of the papers beside our figures",
    "plot": "draw a figure of the papers",
    "results": "make the runs of a page of docs/results and write it",
    "report": "say whether a guide is to be trusted, and why",
    "bench": "measure speed",
}

FLOOR = "pyromodels.experiments"
"""The package that the modules of commands are in."""

SPEC = "spec"
"""The name of `run` and of `report` that `run FILE.toml` is short for."""

# (verb, name); the name is "" where the verb stands alone.
COMMANDS: dict[tuple[str, str], Command] = {
    ("doctor", ""): Command("command.doctor", VERBS["doctor"]),
    ("list", ""): Command("runs.listing", VERBS["list"]),
    ("check", ""): Command("command.check", VERBS["check"]),
    **{
        ("completion", shell): Command("command.completion", f"for {shell}: {how}")
        for shell, how in {
            "bash": "put `eval \"$(pyromodels completion bash)\"` into ~/.bashrc",
            "zsh": "put `eval \"$(pyromodels completion zsh)\"` into ~/.zshrc, after compinit",
            "fish": "write it to ~/.config/fish/completions/pyromodels.fish",
        }.items()
    },
    ("run", "mot"): Command(
        "tracking.run", "track moving objects with MixDVAE, on a made scene or on --data DIR"
    ),
    ("run", "resynthesis"): Command(
        "speech.run", "speech through a dynamical VAE and back: figures, sounds"
    ),
    ("run", "separation"): Command(
        "separation.run", "take a mixture of sounds apart, a made one or --mix FILE"
    ),
    ("run", "enhancement"): Command(
        "enhancement.run", "make noisy speech clean, a made one or --noisy FILE"
    ),
    ("run", "swap"): Command(
        "speech.swap", "exchange the speakers' w: thesis, Figure 7.3"
    ),
    ("run", "phones"): Command(
        "classification.run", "tell sequences apart by the density of each class"
    ),
    ("run", SPEC): Command(
        "runs.runner", "run a spec, by file or by name; the word `spec` may be left out"
    ),
    ("compare", ""): Command("runs.compare", VERBS["compare"]),
    ("show", ""): Command("runs.show", VERBS["show"]),
    ("results", ""): Command("results.write", VERBS["results"]),
    ("train", "dvae"): Command("speech.train", "train a dynamical VAE on speech"),
    ("train", "srnn-mot"): Command(
        "tracking.training.train", "train the SRNN prior of a box trajectory"
    ),
    ("estimate", "trajectories"): Command(
        "tracking.training.estimate", "fit the synthetic trajectory generator to given detections"
    ),
    **{
        ("table", f"mot-{i}"): Command("tracking.tables.thesis", f"thesis, Table 4.{i}")
        for i in range(1, 6)
    },
    **{
        ("table", f"speech-{i}"): Command("speech.tables", f"thesis, Table 7.{i}")
        for i in (1, 2)
    },
    ("table", "speech-3"): Command(
        "generation.table", "generation, by a distance of ours; cf. thesis, Table 7.3"
    ),
    **{
        ("table", f"tvnf-{i}"): Command(
            "classification.tables", f"time-varying normalizing flows, Table {'I' * i}"
        )
        for i in (1, 2, 3)
    },
    ("table", "tvnf-4"): Command(
        "classification.tables", "time-varying normalizing flows, Table IV, and ours"
    ),
    **{
        ("table", f"scass-{i}"): Command(
            "separation.tables.thesis", f"thesis, Table 5.{i}: sounds"
        )
        for i in range(1, 7)
    },
    **{
        ("table", f"se-{i}"): Command(
            "enhancement.tables.thesis", f"thesis, Table 6.{i}: noisy speech"
        )
        for i in range(1, 5)
    },
    ("table", "inference"): Command(
        "demonstrations.equivalence", "VEM, natural gradients and SVI: how far apart they end"
    ),
    ("plot", "mot-iterations"): Command("tracking.tables.iterations", "thesis, Figure 4.3"),
    ("plot", "scass-1"): Command(
        "separation.tables.spectrograms", "thesis, Figure 5.1: a mixture, by method"
    ),
    ("plot", "scass-2"): Command(
        "separation.tables.sweeps", "thesis, Figure 5.2: SI-SDR over sweeps"
    ),
    **{
        ("plot", f"se-{i}"): Command(
            "enhancement.tables.spectrograms", f"thesis, Figure 6.{i}: noisy speech"
        )
        for i in (2, 3)
    },
    **{
        ("report", name): Command("harness.adequacy_report", f"the report on {what}")
        for name, what in {
            "exact": "a guide that holds the exact posterior",
            "crossing": "mean field where two sources cross",
            "ambiguous": "mean field where labels can be exchanged",
            "narrow": "a guide that factorises over frames: too narrow",
        }.items()
    },
    ("report", "speech"): Command(
        "speech.adequacy_report", "the report on the encoder of a trained speech model"
    ),
    ("report", "spec"): Command("runs.report_spec", "the report on the run of a spec"),
    ("bench", "elbo"): Command(
        "demonstrations.bench_elbo", "a gradient of PathELBO against one Pyro site for every frame"
    ),
    ("bench", "gpu"): Command(
        "demonstrations.bench_gpu", "whether a GPU gives the numbers of the CPU, and how fast"
    ),
    ("bench", "dvae"): Command(
        "speech.bench", "training steps with and without Pyro; cached generation"
    ),
    ("bench", "tvnf"): Command(
        "classification.bench", "training steps of TVNF beside zuko, by length, and of a bank"
    ),
    ("bench", "flows"): Command(
        "demonstrations.bench_flows", "FloWaveNet, WaveNet and Glow: steps, densities and draws"
    ),
    ("bench", "mot"): Command(
        "tracking.benchmarks.mot", "seconds a sequence by batch size, and growth in T, N and K"
    ),
    ("bench", "vem"): Command("tracking.benchmarks.vem", "VEM.step beside the bare updates"),
    ("bench", "mot-stopping"): Command(
        "tracking.benchmarks.stopping", "seconds to the same MOTA, with a stopping rule"
    ),
}


def names(verb: str) -> dict[str, Command]:
    """The names that may follow a verb; empty where it stands alone."""
    return {name: command for (v, name), command in COMMANDS.items() if v == verb and name}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 not as asked, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(argv)
        return args.main(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"pyromodels: error: {_sentence(error)}", file=sys.stderr)
        return 2


def parse(argv: list[str]) -> argparse.Namespace:
    """Return what the words of a command say; argparse exits where it refuses them."""
    argv = _with_spec_word(argv)
    chosen = _choose([word for word in argv if not word.startswith("-")])
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="print a traceback with an error")

    parser = argparse.ArgumentParser(
        "pyromodels", description="Deep generative models of dynamical signals, in Pyro."
    )
    parser.add_argument("--version", action="version", version=f"pyromodels {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, verb_help in VERBS.items():
        stands_alone = (verb, "") in COMMANDS
        verb_parser = verbs.add_parser(
            verb, help=verb_help, description=verb_help, parents=[debug] if stands_alone else [],
            allow_abbrev=False,  # or `--seed 1` were `--seeds 1`
        )
        if stands_alone:
            leaves = {"": verb_parser}
        else:
            choices = verb_parser.add_subparsers(dest="name", required=True)
            leaves = {
                name: choices.add_parser(
                    name, help=c.help, description=c.help, parents=[debug], allow_abbrev=False
                )
                for name, c in names(verb).items()
            }
        for name, leaf in leaves.items():
            if (verb, name) == chosen:
                module = importlib.import_module(f"{FLOOR}.{COMMANDS[chosen].module}")
                module.add_arguments(leaf)
                leaf.set_defaults(main=module.main, verb=verb, name=name)
    return parser.parse_args(argv)


def _with_spec_word(argv: list[str]) -> list[str]:
    """`run x.toml` and `run NAME-OF-A-SHIPPED-SPEC` in full: `run spec x.toml`; `report` too."""
    words = [(i, word) for i, word in enumerate(argv) if not word.startswith("-")]
    if len(words) < 2 or words[0][1] not in ("run", "report"):
        return argv
    at, word = words[1]
    known = word in names(words[0][1])
    if known or not (word.endswith(".toml") or word in shipped_specs()):
        return argv
    return [*argv[:at], SPEC, *argv[at:]]


def _choose(words: list[str]) -> tuple[str, str] | None:
    """The command that the leading words name, or None for argparse to ask for more."""
    if not words:
        return None
    verb = words[0]
    if verb not in VERBS:
        raise ValueError(_unknown("command", verb, VERBS))
    if (verb, "") in COMMANDS:
        return verb, ""
    if len(words) == 1:
        return None
    if words[1] not in names(verb):
        specs = shipped_specs() if verb in ("run", "report") else ()
        known = dict.fromkeys([*names(verb), *specs])
        raise ValueError(_unknown(f"'{verb}' name", words[1], known))
    return verb, words[1]


def _unknown(what: str, given: str, known: dict) -> str:
    from pyromodels.errors import unknown  # only here: --help must not import the library

    return unknown(what, given=given, known=known)


def _sentence(error: Exception) -> str:
    """One line for a person, whatever the error carries."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. To see what is missing: pyromodels doctor"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
