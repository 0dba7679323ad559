"""The Python of README and docs runs as it stands there, and their commands and links exist."""

import re
import shlex
from pathlib import Path

import pyro
import pytest
import torch

from pyromodels.experiments.command import cli
from pyromodels.experiments.runs.compare import parse_axis
from pyromodels.experiments.runs.spec import make_spec, read_table

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
PROGRAMS = [(name, number, code) for name, text in PAGES.items()
            for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))]
SPANS = re.compile(r"```bash\n(.*?)```|`(pyromodels [^`]*)`", re.DOTALL)


def two_that_cross(names, shown):
    where = names["vem"].guide.sources.loc[0, ..., 0]
    torch.testing.assert_close(where, names["walks"].T, atol=0.3, rtol=0.0)
    assert "tensor([[" in shown


def several_sources(names, shown):
    assert names["losses"][-1] < names["losses"][0]
    assert {"posterior", "log_likelihood", "observed_data"} <= set(names["data"].groups())


def a_speech_model_learns(names, shown):
    assert names["losses"][-1] < 0.7 * names["losses"][0]
    assert names["new"].shape == (8, 1, 1, 20, 65)
    other = names["PathELBO"]()(names["model"], names["other"])
    assert torch.isfinite(other(names["batch"]))


def noise_is_told_from_nothing(names, shown):
    assert (names["vem"].elbo(names["batch"]) > names["before"]).all()
    spectra = names["model"].noise.spectra
    torch.testing.assert_close(spectra.sum(-1), torch.ones(2, 3))
    assert "tensor([" in shown


def five_classes_are_one_batch(names, shown):
    assert names["x"].shape == (8, 5, 12, 2)
    torch.testing.assert_close(names["posterior"].sum(-1), torch.ones(8))


def a_bank_decides(names, shown):
    labels, decision = names["data"].test.labels, names["decision"]
    made = decision.label >= 0
    assert 0.5 < made.double().mean() < 1
    right = (decision.label == labels)[made].double().mean()
    everyone = (names["posterior"].probs.argmax(-1) == labels).double().mean()
    assert right > max(everyone, 0.95)


def your_own_program_is_judged(names, shown):
    draws, x = names["posterior"].sample(2000)["mean"], names["x"]
    assert draws.mean().item() == pytest.approx(x.sum().item() / 12.25, abs=0.1)
    assert names["report"].overall == "trust"


def sources_share_a_mixture(names, shown):
    shares = torch.tensor([[0.8], [0.2]])
    torch.testing.assert_close(names["state"].position.mean((0, 1)), shares * names["mixture"],
                               atol=0.06, rtol=0.0)  # five standard errors of 0.01
    torch.testing.assert_close(names["state"].position.sum(-2), names["mixture"].expand(2000, 1, 3))
    assert "tensor([[" in shown


CHECKS = {
    ("README.md", 0): two_that_cross,
    ("docs/models.md", 0): several_sources,
    ("docs/speech.md", 0): a_speech_model_learns,
    ("docs/enhancement.md", 0): noise_is_told_from_nothing,
    ("docs/classification.md", 0): five_classes_are_one_batch,
    ("docs/classification.md", 1): a_bank_decides,
    ("docs/priors.md", 0): sources_share_a_mixture,
    ("docs/posteriors.md", 0): your_own_program_is_judged,
}


@pytest.mark.parametrize(("page", "number", "code"), PROGRAMS,
                         ids=[f"{page}-{number}" for page, number, _ in PROGRAMS])
def test_a_program_does_what_its_page_says(page, number, code, capsys):
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(code, names)
    CHECKS[page, number](names, capsys.readouterr().out)
    pyro.clear_param_store()


def test_every_check_has_its_program():
    assert CHECKS.keys() == {(page, number) for page, number, _ in PROGRAMS}


def test_the_readme_is_short_and_its_program_has_twelve_lines():
    assert len(PAGES["README.md"].splitlines()) <= 150
    (program,) = [code for page, _, code in PROGRAMS if page == "README.md"]
    assert len([line for line in program.splitlines() if line]) == 12


def commands(text):
    """What follows `pyromodels` in a page's shell blocks and code spans."""
    for block, span in SPANS.findall(text):
        lines = block.replace("\\\n", " ") if block else span.replace("\n", " ")
        for line in lines.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                at = [i for i, w in enumerate(words) if w.rpartition("/")[2] == "pyromodels"]
                if at and len(words) > at[0] + 1:
                    yield words[at[0] + 1 :]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page):
    for words in commands(PAGES[page]):
        if not {"NAME", "PAGE"} & set(words):
            args = cli.parse(words)
            assert callable(args.main), words
            if args.verb in ("compare", "show") or args.name == cli.SPEC:
                make_spec(read_table(args.spec), args.settings)
                for key, values in map(parse_axis, getattr(args, "vary", [])):
                    for value in values:
                        make_spec(read_table(args.spec), [*args.settings, f"{key}={value}"])


def test_commands_are_found_in_the_pages():
    found = [words for text in PAGES.values() for words in commands(text)]
    assert len(found) > 40 and ["run", "mot"] in found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", PAGES[page]):
        assert (folder / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_place_on_a_machine(page):
    assert not re.search(r"/(tmp|home|work|root|Users)/", PAGES[page])
