"""The spec loader: what a spec says, what it says where it is wrong, and no other way out."""

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyromodels.dynamics.linear import LinearGaussian
from pyromodels.errors import SpecError
from pyromodels.experiments.harness.devices import default_device
from pyromodels.experiments.harness.plain_tables import override, parse_value, split_values
from pyromodels.experiments.harness.records import to_toml
from pyromodels.experiments.runs.compare import parse_axis
from pyromodels.experiments.runs.spec import (
    Spec,
    load_spec,
    make_spec,
    parse_table,
    read_table,
    shipped_specs,
)
from pyromodels.observations.detector import Detector
from pyromodels.registry import OBSERVATIONS


def tracking(table):
    """The spec of a table that need not say that it is a tracking one."""
    if isinstance(table, dict):
        table = {"experiment": "tracking", **table}
    return Spec.from_table(table)


def one_line(error) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


# ---- what a spec says


@pytest.mark.parametrize("name", shipped_specs())
def test_shipped_specs_load_by_name_and_resolve_to_themselves(name):
    spec = load_spec(name)
    assert spec == load_spec(f"{name}.toml")
    assert spec.name == name
    resolved = spec.to_table()
    again = make_spec(tomllib.loads(to_toml(resolved)), [])
    assert again.to_table() == resolved
    assert shipped_specs()[name]


def test_an_experiment_stands_for_its_spec():
    for name in ("tracking",):
        assert load_spec(name).experiment == name


def test_an_empty_spec_is_the_default_one():
    assert tracking({}) == Spec("tracking")
    assert tracking({}).model.detector == Detector()


def test_a_string_is_short_for_a_component():
    short = {"model": {"prior": {"dynamics": "srnn"}}, "inference": "svi", "guide": "mean_field"}
    long = {
        "model": {"prior": {"dynamics": {"name": "srnn"}}},
        "inference": {"name": "svi"},
        "guide": {"name": "mean_field"},
    }
    assert tracking(short) == tracking(long)
    assert tracking({"model": {"prior": "srnn"}}).model.prior.trained == "srnn_mot"


def test_a_path_is_data_from_files():
    assert tracking({"data": {"path": "a.npz"}}).data == {"name": "files", "path": "a.npz"}


def test_a_detector_is_a_table_or_yes_or_no():
    detectors = [
        tracking({"model": {"detector": value}}).model.detector
        for value in (False, True, {"hide": 0.5})
    ]
    assert detectors == [None, Detector(), Detector(hide=0.5)]


def test_the_resolved_spec_has_the_defaults_and_the_seed():
    table = tracking({"seed": 3}).to_table()
    assert table["data"]["seed"] == 3
    assert table["inference"]["damping"] == 1.0
    assert table["model"]["prior"]["dynamics"]["scale"] == "centre_box"


def test_a_spec_says_its_experiment():
    with pytest.raises(SpecError, match="missing a required argument: 'experiment'"):
        Spec.from_table({"seed": 3})


def test_a_spec_is_on_the_default_device_until_it_says_otherwise():
    assert tracking({}).to_table()["device"] == default_device()
    assert make_spec({"experiment": "tracking"}, [], device="cuda:1").device == "cuda:1"


def test_a_seed_of_the_data_stays():
    spec = tracking({"data": {"name": "scene", "seed": 7}})
    assert dataclasses.replace(spec, seed=2).to_table()["data"]["seed"] == 7


@pytest.mark.parametrize("order", [1, 2])
def test_linear_dynamics_have_defaults_for_boxes(order):
    spec = tracking({"model": {"prior": {"dynamics": {"name": "linear", "order": order}}}})
    assert spec.model.prior.complete_dynamics["scale"] == "centre_box"


def test_a_spec_is_read_from_a_file_and_named_for_it(tmp_path):
    lines = ["experiment = 'tracking'", "seed = 4", "[inference]", "name = 'vem'", "steps = 2"]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    spec = load_spec(tmp_path / "mine.toml")
    assert (spec.name, spec.seed, spec.inference["steps"]) == ("mine", 4, 2)


# ---- settings


def test_settings_change_a_spec_in_order():
    spec = load_spec(
        "mot_srnn",
        settings=["model.prior.dynamics.name=linear", "inference.steps=3", "model.noise_scale=2"],
        seed=5,
    )
    assert spec.model.prior.dynamics == {"name": "linear"}
    assert (spec.inference["steps"], spec.model.noise_scale, spec.seed) == (3, 2, 5)


def test_an_observation_law_is_a_component_of_the_model():
    spec = load_spec("mot_linear", settings=["model.observation=gaussian", "model.noise_scale=2"])
    assert spec.model.law == {"name": "gaussian", "noise_scale": 2}
    assert spec.model.to_table()["observation"] == {"name": "gaussian"}
    assert "observation" not in load_spec("mot_linear").model.to_table()
    prior = LinearGaussian(num_coordinates=4)
    assert OBSERVATIONS.build(spec.model.law, prior).log_noise_scale.exp().item() == 2


def test_a_new_name_drops_the_options_of_the_old_one():
    table = {"inference": {"name": "svi", "learning_rate": 0.1}}
    assert override(table, "inference.name=vem") == {"inference": {"name": "vem"}}
    assert override(table, "inference.name=svi") == table
    assert table["inference"]["learning_rate"] == 0.1
    assert override({"data": {"name": "scene"}}, "data.path=a.npz") == {"data": {"path": "a.npz"}}
    named = override({"data": {"name": "files"}}, "data.path=a.npz", ["data.name=files"])
    assert named == {"data": {"name": "files", "path": "a.npz"}}


def test_a_setting_goes_into_a_component_given_by_name():
    assert override({"guide": "a"}, "guide.b.c=1") == {"guide": {"name": "a", "b": {"c": 1}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("srnn", "srnn"),
        ("2", 2),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('{name = "vem"}', {"name": "vem"}),
        ("1\nb = 2", "1\nb = 2"),
        ("", ""),
        ("a b", "a b"),
    ],
)
def test_a_value_is_toml_or_text(text, value):
    assert parse_value(text) == value


def test_values_are_split_outside_brackets_and_quotes():
    assert split_values("a, 'b,c' ,[1,2],{x = [1, 2], y = 3},") == [
        "a", "'b,c'", "[1,2]", "{x = [1, 2], y = 3}"
    ]
    assert parse_axis("a.b=1,2") == ("a.b", ["1", "2"])


@pytest.mark.parametrize("text", ["inference", "=vem", "a..b=1", "a.=1"])
def test_a_setting_without_key_or_value_is_told(text):
    with pytest.raises(SpecError, match="setting: given .*expected key=value") as caught:
        override({}, text)
    one_line(caught)


def test_an_axis_needs_values():
    with pytest.raises(SpecError, match="one value at least"):
        parse_axis("inference=,")


def test_a_setting_cannot_go_into_a_number():
    with pytest.raises(SpecError, match="seed: given 3; expected a name or a table"):
        override({"seed": 3}, "seed.x=1")


# ---- what it says where it is wrong


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean 'model'\\? Known: data, device, dtype"),
        ({"model": {"prior": {"dinamics": "srnn"}}}, "model.prior: unknown key 'dinamics'; did"),
        ({"model": {"detector": {"hid": 1}}}, "model.detector: unknown key 'hid'; did.*'hide'"),
        ({"model": {"detector": {"hide": 2}}}, "model.detector: hide: given 2; expected"),
        ({"model": {"detector": "yes"}}, "model.detector: given 'yes'; expected a table, or true"),
        ({"model": {"name": "mixdave"}}, "unknown model 'mixdave'; did you mean 'mixdvae'"),
        ({"model": {"noise_ratio": [0.1]}}, "noise_ratio: given .*tuple"),
        ({"model": {"noise_ratio": [0.1, -1]}}, "noise_ratio: given -1; expected a positive"),
        ({"model": {"start_std": [0.1, float("nan")]}}, "start_std: given nan"),
        ({"model": {"num_sources": 0}}, "num_sources: given 0; expected at least 1"),
        ({"model": {"noise_scale": "big"}}, "noise_scale: given 'big' \\(str\\); expected float"),
        ({"model": {"observation": "gausian"}}, "unknown observation law 'gausian'; did you mean"),
        ({"model": {"observation": {"name": "gaussian", "nois": 1}}}, "unknown key 'nois'"),
        ({"model": 3}, "model: given 3; expected a name or a table"),
        ({"model": {"prior": "srn"}}, "unknown dynamics 'srn'; did you mean 'srnn'"),
        ({"model": {"prior": {"dynamics": {"order": 1}}}}, 'dynamics: given .*expected a "name"'),
        ({"model": {"prior": {"dynamics": "linear", "weights": "srnn_mot"}}}, "no networks"),
        (
            {"model": {"prior": {"dynamics": {"name": "srnn", "hidden_dim": 4}}}},
            "hidden_dim: the weights 'srnn_mot' fix.*\"none\"",
        ),
        ({"guide": "meanfield"}, "unknown guide 'meanfield'; did you mean 'mean_field'"),
        ({"guide": ["mean_field"]}, "guide: given .*expected a name or a table"),
        ({"inference": {"name": 3}}, "inference.name: given 3; expected one of svi"),
        ({"inference": {"name": "vem", "stepz": 3}}, "'vem': unknown key 'stepz'; did.*'steps'"),
        ({"inference": {"name": "vem", "steps": 2.5}}, "steps: given 2.5 \\(float\\); expected"),
        ({"inference": {"name": "svi", "steps": True}}, "steps: given True"),
        ({"data": {"shuffle": True}}, 'data: given .*expected a "name"; known: files, .*scene'),
        ({"data": {"name": "files"}}, "missing a required.*'path'"),
        ({"data": {"name": "scene", "model": 1}}, "unknown key 'model'"),
        ({"data": "scenes"}, "unknown data set 'scenes'; did you mean 'scene'"),
        ({"experiment": "trakcing"}, "unknown experiment 'trakcing'; did you mean 'tracking'"),
        ({"dtype": "float16"}, "dtype: given 'float16'"),
        ({"seed": -1}, "seed: given -1"),
        ({"name": "../up"}, "name: given '../up'; expected letters"),
        ({"seed": 2**70}, "seed: given 11805.*64 bits"),
        ({1: 2}, "key 1: given no text"),
        ([], r"spec: given \[\]; expected a table"),
    ],
)
def test_a_wrong_spec_is_one_line(table, message):
    with pytest.raises(SpecError, match=message) as caught:
        tracking(table)
    one_line(caught)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"seed = ", "not TOML: 'Invalid"),
        (b"\xff\xfe", "not TOML: .*utf-8"),
        (b"a = " + b"[" * 5000, "nested too deeply|not TOML"),
        (b"a = " + b"[" * 50 + b"]" * 50, "nested too deeply"),
        (b"seed = " + b"9" * 5000, "not TOML"),
        (b"seed = 0x" + b"f" * 9000, "64 bits"),
        (b"seed = 1979-05-27", "given datetime.date.*expected a table"),
        (b"a = 1\na = 2", "not TOML: 'Cannot overwrite"),
        (b"", None),
    ],
)
def test_what_is_no_toml_is_one_line(text, message):
    if message is None:
        assert parse_table(text) == {}
        return
    with pytest.raises(SpecError, match=message) as caught:
        parse_table(text)
    assert len(one_line(caught)) < 500


def test_a_long_value_is_cut():
    with pytest.raises(SpecError) as caught:
        tracking({"inference": {"name": "x" * 10**6}})
    assert len(one_line(caught)) < 300


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mot_lineer", "unknown spec 'mot_lineer'; did you mean 'mot_linear'.*path of a file"),
        ("no/such.toml", "no/such.toml is not a file; shipped are: .*mot_deep_ar"),
    ],
)
def test_a_spec_that_is_nowhere_is_told(name, message):
    with pytest.raises(SpecError, match=message):
        load_spec(name)


# ---- no other way out

words = st.sampled_from(
    "name experiment tracking device seed data model guide inference prior dynamics weights path "
    "detector steps noise_ratio num_sources linear srnn vem svi mean_field mixdvae "
    "scene files hide none".split()
)
text = words | st.text(max_size=8)
scalars = (
    text | st.booleans() | st.integers() | st.floats() | st.none() | st.dates() | st.binary()
)
trees = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(text, v, max_size=6), max_leaves=20
)


def spec_or_spec_error(make):
    try:
        spec = make()
    except SpecError as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < 2000
        return
    assert tracking(spec.to_table()).to_table() == spec.to_table()


patient = settings(deadline=None)  # the machine may be busy with other tests


@given(trees | st.dictionaries(text, trees, max_size=6))
@patient
def test_arbitrary_data_is_a_spec_or_a_spec_error(tree):
    spec_or_spec_error(lambda: tracking(tree))


@given(st.data())
@settings(patient, max_examples=200)
def test_a_damaged_spec_is_a_spec_or_a_spec_error(data):
    """One place of a resolved spec replaced by anything, which goes deeper than random trees."""
    table = here = load_spec("mot_linear").to_table()
    keys = [data.draw(st.sampled_from(sorted(here)))]
    while isinstance(here[keys[-1]], dict) and data.draw(st.booleans()):
        here = here[keys[-1]]
        keys.append(data.draw(st.sampled_from(sorted(here))))
    if data.draw(st.booleans()):
        here[data.draw(text)] = here.pop(keys[-1])
    else:
        here[keys[-1]] = data.draw(trees)
    spec_or_spec_error(lambda: tracking(table))


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 40))
@patient
def test_truncated_and_overwritten_toml_is_a_spec_or_a_spec_error(junk, at, cut):
    whole = to_toml(read_table("mot_srnn")).encode()
    broken = whole[:at] + junk + whole[at + cut :]
    for damaged in (broken, whole[:at]):
        spec_or_spec_error(lambda damaged=damaged: tracking(parse_table(damaged)))


@given(st.text(max_size=30), st.text(max_size=30))
@patient
def test_hostile_settings_are_a_spec_or_a_spec_error(key, value):
    table = {"experiment": "tracking"}
    spec_or_spec_error(lambda: make_spec(table, [f"{key}={value}"]))
    spec_or_spec_error(lambda: make_spec(table, [f"inference.{key}={value}"]))
