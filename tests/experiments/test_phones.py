"""The classification commands end to end on small problems, and the parts they are made of."""

import argparse
import dataclasses
import json
import math

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.experiments.classification import options as options_of
from pyromodels.experiments.classification import table_rows as rows
from pyromodels.experiments.classification.experiment import ClassificationModelSpec
from pyromodels.experiments.classification.scores import judge
from pyromodels.experiments.classification.table_models import CONFIGURATIONS, VARIANTS, variant
from pyromodels.experiments.classification.training import ClassTraining
from pyromodels.experiments.command.cli import main
from pyromodels.experiments.datasets import DATASETS
from pyromodels.experiments.datasets.labelled.hidden_markov import (
    bayes_accuracy,
    hidden_markov_problem,
)
from pyromodels.experiments.datasets.labelled.problems import (
    PHONES,
    Problem,
    default_classes,
    hidden_markov_sources,
)
from pyromodels.experiments.harness.store import find
from pyromodels.experiments.harness.table_rows import over_seeds
from pyromodels.inference.classes.calibrate import fit_posterior
from pyromodels.inference.classes.fit import ClassOptions
from pyromodels.inference.posterior.arviz_io import load
from pyromodels.registry import DYNAMICS

SIZES = {"num_train": 20, "num_valid": 10, "num_test": 12}
QUICK = ["--updates", "2", "--batch-size", "8",
         *(word for key, value in SIZES.items() for word in ("--set", f"data.{key}={value}"))]


@pytest.fixture
def problem():
    return hidden_markov_sources(**SIZES)


@pytest.fixture
def small(problem):
    """A training of two updates."""
    prior = ClassificationModelSpec({"name": "tvgmm"}).prior_table(2, 5)
    return ClassTraining(prior, ClassOptions(updates=2, batch_size=2, check_every=1))


def load_problem(**said):
    asked = {"data": None, "classes": None, "split": None, **said}
    return DATASETS.build(options_of.data_of(argparse.Namespace(**asked)))


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_run_writes_figures_numbers_and_likelihoods(tmp_path, capsys):
    assert main(["run", "phones", "--models", "tvgmm1,tvnf_tied", *QUICK,
                 "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "the sources themselves" in said and "TVGMM, M = 1" in said
    for name in ("confusion.png", "reliability.png", "tvgmm1/samples.png", "tvgmm1/one_step.png",
                 "tvnf_tied/weights.safetensors", "spec.toml", "environment.json"):
        assert (tmp_path / name).is_file(), name
    found = numbers(tmp_path)
    best = hidden_markov_sources(**SIZES).bayes
    assert found["the sources themselves/accuracy"] == best.accuracy
    assert found["the sources themselves/nats_per_frame_recorded"] == best.nats_per_frame
    assert found["hidden Markov, 3 states/accuracy"] > 80
    assert 0 <= found["TVGMM, M = 1/strangers"] <= 1
    data = load(tmp_path / "tvgmm1" / "likelihoods.nc")
    probability = data["posterior"]["probability"]
    assert probability.sizes == {"chain": 1, "draw": 1, "sequence": 60, "class": 5}
    assert probability.coords["class"].values.tolist()[0] == "source 1"
    said_class = probability.values[0, 0].argmax(-1)
    right = 100 * (said_class == data["observed_data"]["label"].values).mean()
    assert right == pytest.approx(found["TVGMM, M = 1/accuracy"])
    own = data["log_likelihood"]["x"].values[0, 0][range(60), data["observed_data"]["label"].values]
    frames = data["observed_data"]["num_frames"].values.sum()
    assert own.sum() / frames == pytest.approx(found["TVGMM, M = 1/nats_per_frame"], rel=1e-4)


def test_table_finds_what_it_has_trained_and_gives_errors_over_seeds(tmp_path, capsys, runs):
    command = ["table", "tvnf-4", "--models", "tvgmm1", "--seeds", "2", *QUICK,
               "--out", str(tmp_path)]
    assert main(command) == 0
    record = tmp_path / "tvnf-4-hidden-Markov-sources"
    first = numbers(record)
    assert first["tvgmm1/nats_per_frame_se"] > 0 and "hidden Markov, 1 state/accuracy" in first
    weights = sorted(runs.glob("weights/tvgmm-*/weights.safetensors"))
    made = [path.stat().st_mtime_ns for path in weights]
    assert len(made) == 2
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in weights] == made and numbers(record) == first
    assert main([*command, "--input-noise", "0.5"]) == 0  # another training
    assert [path.stat().st_mtime_ns for path in weights] == made
    assert len(list(runs.glob("weights/tvgmm-*"))) == 4
    assert "the paper, on TIMIT: 89.17 %" in capsys.readouterr().out


@pytest.mark.parametrize("table", CONFIGURATIONS)
def test_tables_of_configurations_have_the_papers_rows(tmp_path, capsys, table):
    assert main(["table", table, "--seeds", "1", "--updates", "1", "--batch-size", "2",
                 "--classes", "source 1,source 2", *QUICK[4:], "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for row in CONFIGURATIONS[table]:
        assert f"\n{row.label} " in said and f"the paper, on TIMIT: {row.quoted:.2f} %" in said
    found = numbers(tmp_path / f"{table}-hidden-Markov-sources")
    assert len({name.split("/")[0] for name in found}) == len(CONFIGURATIONS[table])
    assert main(["table", table, "--models", "tvnf"]) == 2


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_bank(name):
    found = variant(name)
    spec = ClassificationModelSpec({"name": found.dynamics, **found.arguments})
    bank = DYNAMICS.build(spec.prior_table(3, 4))
    assert bank.num_members == 4 and bank.source_dim == 3


def true_scores(problem):
    """log p(x | c) of the sources themselves, of standardised sequences."""
    raw, sources = hidden_markov_problem(**SIZES)
    frames = raw.train.x[raw.train.mask]
    mean, deviation = frames.mean(0), frames.std(0, correction=0)

    def scores(data):
        before = (data.x * deviation + mean).masked_fill(~data.mask.unsqueeze(-1), 0.0)
        per_frame = deviation.log().sum()  # what scaling adds to every log density
        return sources.log_prob(before, data.mask) + (per_frame * data.lengths).unsqueeze(-1)

    return scores


def test_nats_as_recorded_are_those_of_the_data_before_scaling(problem):
    found = judge(true_scores(problem), problem).figures
    assert found["accuracy"] == pytest.approx(problem.bayes.accuracy)
    expected = problem.bayes.nats_per_frame
    assert found["nats_per_frame_recorded"] == pytest.approx(expected, abs=1e-4)
    assert found["nats_per_frame"] != pytest.approx(expected, abs=0.1)


def test_calibration_sees_the_validation_data_and_counting_the_test_data(problem):
    scores = true_scores(problem)
    found = judge(scores, problem)
    data = problem.data
    sharpness, log_prior = fit_posterior(scores(data.valid), data.valid.labels)
    assert found.figures["sharpness"] == pytest.approx(sharpness.item(), rel=1e-4)
    logits = (sharpness * scores(data.test) + log_prior).log_softmax(-1)
    torch.testing.assert_close(found.logits.double(), logits, rtol=1e-4, atol=1e-4)
    said = scores(data.valid).argmax(-1)
    right = 100 * (said == data.valid.labels).double().mean().item()
    assert found.figures["valid_accuracy"] == pytest.approx(right)


def test_strangers_are_scaled_like_the_data_and_are_the_stranger_ones(problem):
    raw, _ = hidden_markov_problem(**SIZES)
    outside, _ = hidden_markov_problem(num_train=1, num_valid=1, num_test=100, seed=1)
    frames = raw.train.x[raw.train.mask]
    expected = (outside.test.x - frames.mean(0)) / frames.std(0, correction=0)
    expected = expected.masked_fill(~outside.test.mask.unsqueeze(-1), 0.0)
    torch.testing.assert_close(problem.strangers.x, expected)
    assert judge(true_scores(problem), problem).figures["strangers"] > 0.7


def test_bayes_figures_are_those_of_the_classes_asked_for():
    raw, sources = hidden_markov_problem(**SIZES)
    found = hidden_markov_sources(["source 4", "source 2"], **SIZES).bayes
    two = raw.only(("source 4", "source 2"))
    assert found == bayes_accuracy(sources[torch.tensor([3, 1])], two.test)


def test_an_interrupted_training_goes_on_where_it_was(problem, small):
    looks = []

    def interrupt(record):
        looks.append(record["update"])
        if len(looks) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.find_or_train(problem.data, on_look=interrupt)
    made = small.find_or_train(problem.data, resume=True, on_look=interrupt)
    assert looks == [1, 2] and not list((made.folder / "checkpoints").iterdir())
    assert [record["update"] for record in made.history] == [1, 2]


def test_the_sources_themselves_are_judged_as_bayes_says(problem):
    _, sources = hidden_markov_problem(**SIZES)
    raw, _ = hidden_markov_problem(**SIZES)
    unscaled = Problem(raw, None, problem.bayes)
    found = judge(lambda data: sources.log_prob(data.x, data.mask), unscaled).figures
    assert found["accuracy"] == pytest.approx(problem.bayes.accuracy)
    assert found["nats_per_frame"] == pytest.approx(problem.bayes.nats_per_frame)
    assert "strangers" not in found
    assert "-" in rows.row("x", found).split()


def test_a_finished_training_is_told_by_what_it_was(problem, small):
    small.find_or_train(problem.data)
    assert find(small.made_by(problem.data)) is not None
    longer = small._replace(options=dataclasses.replace(small.options, updates=3))
    wider = small._replace(prior={**small.prior, "past_dim": 3})
    for other in (longer, wider):
        assert find(other.made_by(problem.data)) is None
    fewer = dataclasses.replace(problem.data, train=problem.data.train[torch.arange(90)])
    assert find(small.made_by(fewer)) is None


def test_phones_of_a_corpus_are_the_papers_or_stand_for_them(tvnf_data):
    path = tvnf_data / "phones_asterisk.npz"
    found = load_problem(data=path)
    assert found.data.classes == PHONES and found.bayes is None
    assert [len(getattr(found.data, split)) for split in ("train", "valid", "test")] == [
        1189, 206, 286]
    assert len(found.strangers) > 1000
    frames = found.data.train.x[found.data.train.mask]
    assert frames.mean(0).abs().max() < 1e-4
    two = load_problem(data=path, classes="S,T")
    assert two.data.classes == ("S", "T")


def test_digits_of_a_new_speaker_are_told_by_the_split(tvnf_data):
    path = tvnf_data / "fsdd_mfcc40.npz"
    found = load_problem(data=path, split="theo")
    assert found.data.name == "digits-theo" and len(found.data.test) == 500
    assert found.strangers is None
    assert default_classes(found.data) == found.data.classes


def test_means_and_standard_errors():
    found = over_seeds([{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 3.0}, {"a": 6.0, "c": None}])
    assert found == {"a": 3.0, "a_se": pytest.approx(math.sqrt(7 / 3)), "b": 3.0}


def test_bad_input_is_named(tmp_path, capsys):
    assert main(["run", "phones", "--models", "tvfn", "--out", str(tmp_path)]) == 2
    assert "did you mean 'tvnf'" in capsys.readouterr().err.lower()
    assert main(["run", "phones", "--data", str(tmp_path / "no.npz"), "--out", str(tmp_path)]) == 2
    assert "no.npz" in capsys.readouterr().err
    assert main(["run", "phones", "--classes", "source 1,source 9", "--out", str(tmp_path)]) == 2
    assert "source 9" in capsys.readouterr().err
    for wrong, word in (["--seeds", "0"], "--seeds"), (["--updates", "0"], "updates"), (
            ["--classes", "source 1"], "two or more"), (["--models", ""], "unknown model"):
        assert main(["table", "tvnf-4", *wrong, "--out", str(tmp_path)]) == 2
        assert word in capsys.readouterr().err
    with pytest.raises(SpecError, match="model"):
        variant("nothing")
    with pytest.raises(SpecError, match="model.prior: given srnn; expected a density of classes"):
        ClassificationModelSpec({"name": "srnn"})
