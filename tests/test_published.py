"""Published weights: what fits is recognised and loaded, and what does not is named."""

import collections
import re

import pytest
import torch

from pyromodels.errors import SpecError
from pyromodels.published_weights.formats import FORMATS
from pyromodels.published_weights.load import from_published, load_published, recognise
from pyromodels.registry import DYNAMICS


def published(name):
    """A state dict of the format with random numbers, and the model it came from."""
    known = FORMATS[name]
    torch.manual_seed(0)
    if name == "srnn_tracking":
        model = DYNAMICS["srnn"]()
    else:
        model = DYNAMICS[known.prior].sized("paper", source_dim=5, emission="spectral")
    modules = {}
    for theirs, ours in known.modules.items():
        for i in range(4 if "{}" in theirs else 1):
            modules.setdefault(ours.format(i), theirs.format(i))
        if "{}" not in theirs:  # names of their own go before numbered ones
            modules[ours] = theirs
    weights = {}
    for key, value in model.state_dict().items():
        ours, _, parameter = key.rpartition(".")
        weights[f"{modules[ours]}.{parameter}"] = value
    return weights, model


@pytest.fixture(params=FORMATS)
def name(request):
    return request.param


def test_every_format_is_recognised_and_every_tensor_finds_its_place(name):
    weights, model = published(name)
    assert recognise(weights) == name
    loaded = from_published(weights)
    assert type(loaded) is type(model) and loaded.emission == model.emission
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    x = torch.rand(2, 6, model.source_dim)
    for ours, theirs in zip(
        loaded.infer(x, noise=None), model.infer(x, noise=None), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_key_that_is_missing_is_named(name):
    weights, _ = published(name)
    for key in weights:
        rest = {k: v for k, v in weights.items() if k != key}
        with pytest.raises(SpecError, match=f"{name} weights lack {re.escape(repr(key))}"):
            from_published(rest, name)


def test_a_key_of_another_shape_is_named(name):
    weights, _ = published(name)
    for key, value in weights.items():
        if "weight" not in key:
            continue  # sizes are those of the biases
        wrong = weights | {key: torch.zeros(value.shape[0], value.shape[1] + 1)}
        expected = f"{re.escape(repr(key))}: given .*{value.shape[1] + 1}.; expected .*"
        with pytest.raises(SpecError, match=expected):
            from_published(wrong, name)


@pytest.mark.parametrize("extra", ["extra.weight", "inf_mean.scale", "x"])
def test_a_key_that_has_no_place_is_named(extra):
    weights, _ = published("srnn")
    with pytest.raises(SpecError, match=f"hold '{extra}', which has no place"):
        from_published(weights | {extra: torch.zeros(3)})


def test_two_keys_for_one_place():
    weights, _ = published("dkf")
    weights["mlp_ztm1_g.linear2.bias"] = weights["mlp_ztm1_g.linear_last.bias"]
    with pytest.raises(SpecError, match="hold 'mlp_ztm1_g.linear_last.bias', which has no place"):
        from_published(weights)


def test_weights_of_nothing_known_are_refused():
    with pytest.raises(SpecError, match="none of the keys, 'a.b' first, is known"):
        from_published({"a.b": torch.zeros(1)})
    with pytest.raises(SpecError, match="none of the keys, None first"):
        from_published({})
    with pytest.raises(SpecError, match="format.*'srn'; did you mean 'srnn'"):
        from_published(published("srnn")[0], "srn")


def test_files(tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(FileNotFoundError, match="weights.pt is missing"):
        load_published(path)
    weights, _ = published("vae")
    torch.save(weights, path)
    assert not load_published(path).training
    torch.save({"mlp_x_z.linear0.weight": weights["mlp_x_z.linear0.weight"]}, path)
    with pytest.raises(SpecError, match="weights.pt: published vae weights lack"):
        load_published(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "given list; expected a state dict"),
        ({"inf_mean.weight": 3.0}, "given float at 'inf_mean.weight'; expected named tensors"),
        ({3: torch.zeros(1)}, "given Tensor at 3; expected named tensors"),
        (collections.Counter("ab"), "given int at 'a'"),
        (torch.nn.Linear(1, 1), "not a state dict of tensors"),
    ],
)
def test_a_file_of_anything_else_is_named_and_nothing_in_it_runs(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(SpecError, match=f"weights.pt.*{words}"):
        load_published(path)


def test_a_file_that_torch_cannot_read(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("not weights")
    with pytest.raises(SpecError, match="weights.pt is not a state dict of tensors"):
        load_published(path)
