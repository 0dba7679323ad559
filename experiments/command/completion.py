"""`pyromodels completion SHELL`: a script that completes verbs, names, specs and components.

The words stand in the script, so that a shell completes them without starting Python; a shell that
evaluates the command when it starts always has those of the installed version.
"""

from __future__ import annotations

import argparse

BASH = """\
_pyromodels() {{
    local names
    case $COMP_CWORD in
    1) names="{verbs}" ;;
    2) case ${{COMP_WORDS[1]}} in
{cases}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$names" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _pyromodels pyromodels
"""

ZSH = """\
#compdef pyromodels
_pyromodels() {{
    local -a names
    case $CURRENT in
    2) names=({verbs}) ;;
    3) case $words[2] in
{cases}
        esac ;;
    esac
    compadd -- $names || _files
}}
compdef _pyromodels pyromodels
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: the name is the shell."""


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    from pyromodels.experiments.command.cli import VERBS

    words = {verb: names for verb in VERBS if (names := completions(verb))}
    if args.name == "fish":
        _print_fish(VERBS, words)
        return 0
    template, quoted = (BASH, 'names="{}"') if args.name == "bash" else (ZSH, "names=({})")
    cases = [f"        {verb}) {quoted.format(' '.join(words[verb]))} ;;" for verb in words]
    print(template.format(verbs=" ".join(VERBS), cases="\n".join(cases)), end="")
    return 0


def completions(verb: str) -> list[str]:
    """Return the words that may follow a verb; none where only files and options do."""
    from pyromodels.components import installed
    from pyromodels.experiments.command.cli import SPEC, names
    from pyromodels.experiments.runs.listing import REGISTRIES
    from pyromodels.experiments.runs.shipped import shipped_specs

    words = set(names(verb)) - {SPEC}
    if verb in ("run", "compare", "show", "report"):
        words |= set(shipped_specs())
    if verb == "check":
        words |= {name for registry in REGISTRIES for name in registry.describe()}
        words |= set(installed())
    return sorted(words)


def _print_fish(verbs: dict[str, str], words: dict[str, list[str]]) -> None:
    for verb, line in verbs.items():
        said = line.replace("\\", "\\\\").replace("'", "\\'")
        print(f"complete -c pyromodels -n __fish_use_subcommand -f -a {verb} -d '{said}'")
    for verb, names in words.items():
        seen = f"'__fish_seen_subcommand_from {verb}'"
        print(f"complete -c pyromodels -n {seen} -a '{' '.join(names)}'")
