"""convert and revert: modules of known types become ours in place, all else stays, and the way back is exact."""

import copy
import inspect
import pickle
import sys
import textwrap
from types import ModuleType

import pytest
import torch
from torch import nn

import fused_dropout
from fused_dropout import modules
from fused_dropout.conversion import KNOWN, Report, convert, revert
from fused_dropout.recurrent import Zoneout
from fused_dropout.weight_drop import WeightDrop


class StandIn(nn.Module):
    """A layer of another library: its attributes, and no more."""

    def __init__(self, **attributes):
        super().__init__()
        self.__dict__.update(attributes)

    def forward(self, x):
        raise AssertionError("the stand-in was called")


def stand_in(path, name, **attributes):
    return type(name, (StandIn,), {"__module__": path, "__qualname__": name})(**attributes)


@pytest.fixture
def library(monkeypatch):
    """Makes a stand-in's type importable, as pickle and revert ask for."""

    def register(module):
        cls = type(module)
        path = cls.__module__
        for end in [i for i, c in enumerate(path) if c == "."] + [len(path)]:
            if path[:end] not in sys.modules:
                monkeypatch.setitem(sys.modules, path[:end], ModuleType(path[:end]))
        monkeypatch.setattr(sys.modules[path], cls.__name__, cls, raising=False)
        return module

    return register


BLOCK = {"drop_prob": 0.2, "block_size": 3, "gamma_scale": 0.9, "with_noise": True, "inplace": True}
VISION = {"p": 0.2, "block_size": 3, "inplace": True, "eps": 1e-6}
TYPES = [  # their module, our class, our attributes afterwards
    pytest.param(nn.Dropout(0.2, True), modules.Dropout, {"p": 0.2, "inplace": True}, id="Dropout"),
    pytest.param(nn.Dropout1d(0.2), modules.Dropout1d, {"p": 0.2, "inplace": False}, id="Dropout1d"),
    pytest.param(nn.Dropout2d(0.2), modules.Dropout2d, {"p": 0.2, "mode": "upscale_in_train"}, id="Dropout2d"),
    pytest.param(nn.Dropout3d(0.2, True), modules.Dropout3d, {"p": 0.2, "inplace": True}, id="Dropout3d"),
    pytest.param(nn.AlphaDropout(0.2, True), modules.AlphaDropout, {"p": 0.2, "inplace": False}, id="AlphaDropout"),
    pytest.param(
        nn.FeatureAlphaDropout(0.2, True),
        modules.FeatureAlphaDropout,
        {"p": 0.2, "inplace": False},
        id="FeatureAlphaDropout",
    ),
    pytest.param(
        stand_in("timm.layers.drop", "DropPath", drop_prob=0.2, scale_by_keep=False),
        modules.DropPath,
        {"p": 0.2, "scale_by_keep": False, "per": "row", "mode": "upscale_in_train", "drop_prob": 0.2},
        id="timm DropPath",
    ),
    pytest.param(
        stand_in("timm.models.layers.drop", "DropPath", drop_prob=0.2),
        modules.DropPath,
        {"p": 0.2, "scale_by_keep": True, "per": "row"},
        id="timm DropPath, old",
    ),
    pytest.param(
        stand_in("timm.layers.drop", "DropBlock2d", couple_channels=True, scale_by_keep=False, **BLOCK),
        modules.DropBlock2d,
        {"p": 0.2, **BLOCK, "couple_channels": True, "scale_by_keep": False, "clip": True},
        id="timm DropBlock2d",
    ),
    pytest.param(
        stand_in("timm.models.layers.drop", "DropBlock2d", batchwise=False, fast=True, **BLOCK),
        modules.DropBlock2d,
        {"p": 0.2, **BLOCK, "couple_channels": False, "scale_by_keep": True, "clip": True},
        id="timm DropBlock2d, old",
    ),
    pytest.param(
        stand_in("torchvision.ops.stochastic_depth", "StochasticDepth", p=0.2, mode="batch"),
        modules.DropPath,
        {"p": 0.2, "per": "batch", "mode": "upscale_in_train", "scale_by_keep": True, "inplace": False},
        id="torchvision StochasticDepth",
    ),
    pytest.param(
        stand_in("torchvision.ops.drop_block", "DropBlock2d", **VISION),
        modules.DropBlock2d,
        {**VISION, "gamma_scale": 1.0, "couple_channels": False, "clip": False, "with_noise": False,
         "scale_by_keep": True},
        id="torchvision DropBlock2d",
    ),
]  # fmt: skip
INPUTS = {modules.Dropout1d: (2, 8, 9), modules.Dropout3d: (2, 8, 3, 3, 3)}


def entries(report):
    return report.converted, report.left


@pytest.mark.parametrize(("theirs", "ours", "attributes"), TYPES)
def test_known_types_become_ours_with_their_settings_and_come_back(theirs, ours, attributes, library):
    module, before = library(copy.deepcopy(theirs)), dict(vars(theirs))
    report = convert(module)
    assert type(module) is ours
    assert list(report.converted) == [""]
    assert report.converted[""].endswith(f" -> fused_dropout.{ours.__name__}")
    assert report.left == {}
    assert {name: getattr(module, name) for name in attributes} == attributes
    x = torch.randn(INPUTS.get(ours, (2, 8, 9, 9)))
    assert module(x.clone()).shape == x.shape
    back = revert(module)
    assert type(module) is type(theirs)
    assert back.converted[""].startswith(f"fused_dropout.{ours.__name__} -> ")
    assert back.left == {}
    assert vars(module) == before  # nothing stays behind


@pytest.mark.parametrize(("theirs", "ours", "attributes"), TYPES)
def test_converted_modules_come_back_from_a_copy_and_from_pickle(theirs, ours, attributes, library):
    module = library(copy.deepcopy(theirs))
    convert(module)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is ours
        assert {name: getattr(twin, name) for name in attributes} == attributes
        assert revert(twin).left == {}
        assert type(twin) is type(theirs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3, 1, 1.0])
def test_p_and_training_flag_are_kept_both_ways(p, training):
    module = nn.Dropout(p).train(training)
    for change in (convert, revert):
        change(module)
        assert module.p == p
        assert module.training is training


def test_every_row_of_the_table_is_tested():
    tested = {(type(param.values[0]).__module__, type(param.values[0]).__name__) for param in TYPES}
    assert tested == {(path, known.theirs.rpartition(".")[2]) for known in KNOWN for path in known.paths}


@pytest.mark.parametrize("known", [known for known in KNOWN if known.ours.__name__.startswith(("DropPath", "DropB"))],
                         ids=lambda known: known.theirs)  # fmt: skip
def test_a_conversion_settles_every_option_of_our_class(known):
    assert {"p", "inplace", *known.ours._options} == {*known.attributes, *known.fixed}


def test_a_model_keeps_names_references_hooks_and_outputs():
    shared = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Sequential(nn.Dropout(0.1, True), shared), nn.Dropout2d(0.2))
    model.again = shared
    seen = []
    shared.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    names, children = [name for name, _ in model.named_modules(remove_duplicate=False)], list(model.modules())
    report = convert(model)
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    assert all(now is then for now, then in zip(model.modules(), children, strict=True))
    assert entries(report) == (
        {
            "1": "torch.nn.Dropout -> fused_dropout.Dropout (also again, 2.1)",
            "2.0": "torch.nn.Dropout -> fused_dropout.Dropout",
            "3": "torch.nn.Dropout2d -> fused_dropout.Dropout2d",
        },
        {},
    )
    shared(torch.ones(3))
    assert seen == [modules.Dropout]
    assert shared.p == 0.5
    assert model[2][0].inplace


def test_a_root_is_converted():
    root = nn.Dropout(0.5)
    assert convert(root).converted == {"": "torch.nn.Dropout -> fused_dropout.Dropout"}
    assert set(root(torch.ones(100), rng=(4, 8)).tolist()) == {0.0, 2.0}


def test_a_second_call_changes_and_reports_nothing():
    model = nn.Sequential(nn.Dropout(0.5), nn.MultiheadAttention(4, 2, dropout=0.1))
    first = convert(model)
    again = convert(model)
    assert again.converted == {}
    assert again.left == first.left
    assert entries(convert(modules.Dropout(0.5))) == ({}, {})
    revert(model)
    assert entries(revert(model)) == ({}, {})
    assert convert(model).converted == first.converted


def test_modules_of_ours_that_were_not_converted_are_not_reverted():
    model = nn.Sequential(modules.Dropout(0.5), modules.DropPath(0.5))
    assert entries(revert(model)) == ({}, {})
    assert type(model[0]) is modules.Dropout


def test_transformer_encoder_layer_is_converted_and_its_attention_reported():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    x = torch.randn(2, 5, 8)
    expected = copy.deepcopy(layer).eval()(x)
    report = convert(layer)
    assert list(report.converted) == ["dropout", "dropout1", "dropout2"]
    assert report.left == {"self_attn": "dropout=0.1 is a number that torch.nn.MultiheadAttention holds"}
    assert not torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)  # the fused path for evaluation


def test_state_dicts_load_both_ways():
    def model():
        return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.AlphaDropout(0.1))

    plain, converted = model(), model()
    convert(converted)
    assert list(plain.state_dict()) == list(converted.state_dict())
    plain.load_state_dict(converted.state_dict())
    converted.load_state_dict(model().state_dict())


class MyDropout(nn.Dropout):
    pass


class StableDropout(nn.Module):
    pass


class Noise(nn.modules.dropout._DropoutNd):
    pass


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_some, self.dropouts, self.drop_zero, self.attn_drop_p = True, 3, 0.0, 0.25


def patched():
    module = nn.Dropout(0.5)
    module.forward = lambda x: x
    return module


def none_inside():
    return stand_in("timm.layers.drop", "DropPath", drop_prob=None, scale_by_keep=True)


LEFT = [
    pytest.param(MyDropout, f"{__name__}.MyDropout is a subclass of torch.nn.Dropout: its forward may differ",
                 id="subclass"),
    pytest.param(StableDropout, f"{__name__}.StableDropout is of no known type", id="named after dropout"),
    pytest.param(lambda: stand_in("a.b", "BeitDropPath", drop_prob=0.1), "a.b.BeitDropPath is of no known type",
                 id="named after drop path"),
    pytest.param(lambda: stand_in("torchvision.ops.drop_block", "DropBlock3d", p=0.1),
                 "torchvision.ops.drop_block.DropBlock3d is of no known type", id="named after drop block"),
    pytest.param(Noise, f"{__name__}.Noise is of no known type", id="a torch dropout of another name"),
    pytest.param(lambda: nn.MultiheadAttention(4, 2, dropout=0.1),
                 "dropout=0.1 is a number that torch.nn.MultiheadAttention holds", id="attention"),
    pytest.param(lambda: nn.LSTM(4, 2, 2, dropout=0.3), "dropout=0.3 is a number that torch.nn.LSTM holds", id="lstm"),
    pytest.param(lambda: nn.GRU(4, 2, 2, dropout=1), "dropout=1.0 is a number that torch.nn.GRU holds", id="gru"),
    pytest.param(Attention, f"attn_drop_p=0.25 is a number that {__name__}.Attention holds", id="functional dropout"),
    pytest.param(patched, "its forward was replaced", id="replaced forward"),
    pytest.param(none_inside, "timm.layers.DropPath(): argument 'p' must be a number or a 0-d tensor, not NoneType",
                 id="no p"),
    pytest.param(lambda: stand_in("timm.models.layers.drop", "DropBlock2d", **BLOCK, batchwise=True),
                 "batchwise=True has no counterpart", id="one block for the batch"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), LEFT)
def test_what_is_left_is_reported_with_the_reason_and_untouched(make, reason):
    model = nn.ModuleDict({"a": make()})
    kind, before = type(model["a"]), dict(vars(model["a"]))
    assert entries(convert(model)) == ({}, {"a": reason})
    assert type(model["a"]) is kind
    assert dict(vars(model["a"])) == before


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripted_dropout_is_reported():
    report = convert(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))))
    assert entries(report) == ({}, {"1": "scripted: its Dropout is compiled"})


@pytest.mark.parametrize("make", [nn.ReLU, lambda: nn.LSTM(4, 2, 2), lambda: nn.MultiheadAttention(4, 2)],
                         ids=["relu", "lstm without", "attention without"])  # fmt: skip
def test_modules_without_dropout_are_not_reported(make):
    assert entries(convert(nn.Sequential(make()))) == ({}, {})


def test_revert_takes_p_back_as_it_is_now(library):
    model = nn.Sequential(nn.Dropout(0.5), library(stand_in("timm.layers.drop", "DropPath", drop_prob=0.1)))
    convert(model)
    model[0].p, model[1].p = torch.tensor(0.25), 0.75
    assert model[1].drop_prob == 0.1
    assert revert(model).left == {}
    assert model[0].p == 0.25
    assert type(model[0].p) is float
    assert model[1].drop_prob == 0.75
    assert not hasattr(model[1], "p")


@pytest.mark.parametrize(
    ("theirs", "option", "value", "reason"),
    [
        pytest.param(nn.Dropout(0.5), "mode", "downscale_in_infer",
                     "mode='downscale_in_infer' has no counterpart in torch.nn.Dropout", id="mode"),
        pytest.param(nn.Dropout(0.5), "noise_shape", (None, 1),
                     "noise_shape=(None, 1) has no counterpart in torch.nn.Dropout", id="noise shape"),
        pytest.param(stand_in("timm.layers.drop", "DropPath", drop_prob=0.1, scale_by_keep=True), "per", "batch",
                     "per='batch' has no counterpart in timm.layers.DropPath", id="per"),
        pytest.param(stand_in("timm.models.layers.drop", "DropPath", drop_prob=0.1), "scale_by_keep", False,
                     "scale_by_keep=False has no counterpart in timm.layers.DropPath", id="newer option"),
    ],
)  # fmt: skip
def test_revert_leaves_what_their_class_cannot_express(theirs, option, value, reason):
    module = copy.deepcopy(theirs)
    convert(module)
    ours = type(module)
    setattr(module, option, value)
    assert entries(revert(module)) == ({}, {"": reason})
    assert type(module) is ours
    assert getattr(module, option) == value


@pytest.mark.filterwarnings("ignore:Importing from timm.models.layers is deprecated")
def test_revert_leaves_modules_of_a_library_that_is_not_there():
    module = stand_in("timm.models.layers.drop", "DropPath", drop_prob=0.1)
    convert(module)
    report = revert(module)
    assert report.converted == {}
    assert "timm" in report.left[""]
    assert type(module) is modules.DropPath


def test_their_p_given_as_a_tensor_becomes_a_float():
    module = stand_in("timm.layers.drop", "DropPath", drop_prob=torch.tensor(0.25), scale_by_keep=True)
    convert(module)
    assert module.p == 0.25
    assert type(module.p) is float


def test_wrapped_modules_are_converted_and_the_wrappers_not_reported():
    model = nn.Sequential(
        WeightDrop(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), ["0.weight"]), Zoneout(nn.GRUCell(2, 2))
    )
    assert entries(convert(model)) == ({"0.module.1": "torch.nn.Dropout -> fused_dropout.Dropout"}, {})


def test_report_reads_well():
    report = convert(nn.Sequential(nn.Dropout(0.5), nn.LSTM(2, 2, 2, dropout=0.1)))
    assert isinstance(report, Report)
    assert str(report) == (
        "1 converted\n"
        "  0: torch.nn.Dropout -> fused_dropout.Dropout\n"
        "1 left as they are\n"
        "  1: dropout=0.1 is a number that torch.nn.LSTM holds"
    )
    assert "(the model itself): torch.nn.Dropout" in str(convert(nn.Dropout()))


@pytest.mark.parametrize("function", [convert, revert])
@pytest.mark.parametrize("model", [None, nn.Dropout, torch.relu], ids=["None", "a class", "a function"])
def test_a_model_that_is_no_module_is_refused(function, model):
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\): argument 'model' must be a torch.nn.Module"):
        function(model)


def test_compiled_models_follow_a_conversion():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    compiled, x = torch.compile(model, backend="aot_eager", fullgraph=True), torch.randn(4, 8)
    compiled(x)
    convert(compiled)
    compiled(x)
    before = torch.get_rng_state()
    torch.manual_seed(3)
    y = compiled(x)
    torch.manual_seed(3)
    assert torch.equal(y, model(x))
    torch.set_rng_state(before)


def test_docstring_equivalents_do_the_same_to_plain_dropout():
    model, twin = (nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)) for _ in range(2))
    for function, kind in ((convert, modules.Dropout), (revert, nn.Dropout)):
        code = inspect.getdoc(function).split("for nn.Dropout alone::\n")[1]
        exec(textwrap.dedent(code), {"model": model, "torch": torch, "fused_dropout": fused_dropout})
        function(twin)
        assert [type(module) for module in model.modules()] == [type(module) for module in twin.modules()]
        assert type(model[0]) is kind


# Real models: these libraries are not installed everywhere.


def test_timm_models_are_converted_and_come_back():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("convnext_atto", drop_path_rate=0.3, drop_rate=0.2)
    types, x = [type(module) for module in model.modules()], torch.randn(2, 3, 32, 32)
    expected = model.eval()(x)
    report = convert(model.train())
    paths = [name for name, module in model.named_modules() if type(module) is modules.DropPath]
    assert len(paths) > 5
    assert set(paths) < set(report.converted)
    assert all(module.p == module.drop_prob for module in model.modules() if type(module) is modules.DropPath)
    assert model(x).shape == expected.shape
    torch.testing.assert_close(model.eval()(x), expected)
    assert revert(model).left == {}
    assert [type(module) for module in model.modules()] == types


def test_timm_drop_block_is_converted():
    drop = pytest.importorskip("timm.layers.drop", reason="timm is not installed")
    module = drop.DropBlock2d(0.2, 3, with_noise=True)
    convert(module)
    assert repr(module) == repr(modules.DropBlock2d(0.2, 3, couple_channels=True, clip=True, with_noise=True))


def test_torchvision_models_are_converted_and_come_back():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    model = models.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], dropout=0.2, attention_dropout=0.1, stochastic_depth_prob=0.3
    )
    types, x = [type(module) for module in model.modules()], torch.randn(1, 3, 32, 32)
    expected = model.eval()(x)
    report = convert(model.train())
    assert sum("StochasticDepth -> fused_dropout.DropPath" in entry for entry in report.converted.values()) == 4
    assert sum(entry == "torch.nn.Dropout -> fused_dropout.Dropout" for entry in report.converted.values()) == 8
    assert all("ShiftedWindowAttention holds" in reason for reason in report.left.values())
    assert model(x).shape == expected.shape
    torch.testing.assert_close(model.eval()(x), expected)
    assert revert(model).left == {}
    assert [type(module) for module in model.modules()] == types


def test_torchvision_drop_block_is_converted():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    module = ops.DropBlock2d(0.2, 3)
    convert(module)
    assert repr(module) == repr(modules.DropBlock2d(0.2, 3))


def test_transformers_models_are_converted_and_their_own_layers_reported():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model, x = transformers.BertModel(config), torch.arange(12).view(2, 6)
    expected = model.eval()(x).last_hidden_state
    report = convert(model.train())
    assert len(report.converted) == 7
    assert not torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)
    torch.testing.assert_close(model.eval()(x).last_hidden_state, expected)
    beit = transformers.BeitModel(transformers.BeitConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        drop_path_rate=0.1,
    ))  # fmt: skip
    assert any("BeitDropPath is of no known type" in reason for reason in convert(beit).left.values())
