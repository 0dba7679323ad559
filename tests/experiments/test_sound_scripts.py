"""`show --python` of separation and enhancement: the script makes the same run."""

import json

import pytest

from pyromodels.experiments.command.cli import main

LITTLE = ["data.num_mixtures=2", "data.num_frames=20", "model.epochs=1", "metrics.num_examples=0"]
FEW = {
    "separation": [*LITTLE, "inference.steps=2", "guide.steps=2", "guide.steps_per_epoch=1",
                   "guide.batch_size=2", "guide.num_frames=10", "guide.hidden_dim=8",
                   "metrics.checked=2"],
    "enhancement": [*LITTLE, "model.prior=vae", "inference.steps=2", "inference.num_draws=2",
                    "metrics.checked=0"],
}
TRAINED = ["model.noise={name='lv',hidden_dim=8}", "guide.steps=1", "guide.steps_per_epoch=1",
           "guide.batch_size=2", "guide.num_frames=10", "inference.average=false",
           "inference.starts=['subtracted']"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYROMODELS_RUNS", str(folder))
        yield folder


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("separation", []),
        ("separation", ["inference.program=additive", "inference.start=encoders", "seed=3"]),
        ("separation", ["model.prior=linear", "inference.start=oracle"]),
        ("separation", ["model.prior=linear", "model.start_prior=vae",
                        "inference.start=encoders"]),
        ("separation", ["inference.steps=0"]),
        ("enhancement", []),
        ("enhancement", TRAINED),
    ],
    ids=["mixture", "additive", "walks", "heard-walks", "assigner", "average", "network"],
)
def test_the_script_makes_the_same_run(task, more, store, tmp_path, capsys):
    said = [word for setting in (*FEW[task], *more) for word in ("--set", setting)]
    said += ["--device", "cpu"]
    assert main(["show", task, *said, "--python"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    names: dict = {}
    exec(compile(text, "script", "exec"), names)
    assert main(["run", task, *said, "--out", str(tmp_path), "--no-plots"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    figures = names["figures"]
    assert len(figures) == (1 if task == "enhancement" else 4)
    assert {name: metrics[name] for name in figures} == pytest.approx(figures, rel=1e-6)


def test_sounds_without_a_truth_have_no_figures(capsys):
    for task, kind in (("separation", "flute"), ("enhancement", "noise")):
        data = f"data={{name='mixture_files',path='a.wav',kinds=['speech','{kind}']}}"
        assert main(["show", task, "--set", data, "--python"]) == 0
        text = capsys.readouterr().out
        assert '"a.wav"' in text and "made" in text and "scores_of" not in text
        compile(text, "script", "exec")


def test_show_draws_the_programs_of_separation(store, capsys):
    for more in ([], ["inference.program=additive"]):
        words = [w for setting in (*FEW["separation"], *more) for w in ("--set", setting)]
        assert main(["show", "separation", *words, "--device", "cpu"]) == 0
    drawn = capsys.readouterr().out
    assert "model  MixDVAE" in drawn and "guide  MeanField" in drawn
    assert "model  Additive" in drawn and "guide  Wiener" in drawn and "s_z" in drawn
