"""The modules: drop-ins for torch's, with a p that may be a tensor, and options."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from torch import nn

import fused_dropout


def test_is_an_nn_dropout_with_its_signature_and_repr():
    ours, theirs = fused_dropout.Dropout(0.3, True), nn.Dropout(0.3, True)
    assert isinstance(ours, nn.Dropout)
    assert repr(ours) == repr(theirs) == "Dropout(p=0.3, inplace=True)"
    mine, torchs = (list(inspect.signature(c).parameters.values()) for c in (fused_dropout.Dropout, nn.Dropout))
    assert [(p.name, p.default, p.kind) for p in mine[: len(torchs)]] == [(p.name, p.default, p.kind) for p in torchs]
    assert fused_dropout.Dropout().p == nn.Dropout().p == 0.5
    extended = fused_dropout.Dropout(noise_shape=(None, 1), mode="downscale_in_infer")
    assert repr(extended) == "Dropout(p=0.5, inplace=False, noise_shape=(None, 1), mode='downscale_in_infer')"


# Every layer with its defaults and with all that it takes, as its repr says it.
LAYERS = [
    (fused_dropout.Dropout, {"noise_shape": (None, 1), "mode": "downscale_in_infer"}),
    (fused_dropout.Dropout1d, {"mode": "downscale_in_infer"}),
    (fused_dropout.Dropout2d, {"mode": "downscale_in_infer"}),
    (fused_dropout.Dropout3d, {"mode": "downscale_in_infer"}),
    (fused_dropout.AlphaDropout, {}),
    (fused_dropout.FeatureAlphaDropout, {}),
    (fused_dropout.DropPath, {"scale_by_keep": False, "per": "batch", "mode": "downscale_in_infer"}),
    (fused_dropout.LockedDropout, {"batch_first": True, "mode": "downscale_in_infer"}),
    (fused_dropout.GaussianDropout, {"noise_shape": (None, 1)}),
    (
        fused_dropout.DropBlock2d,
        {
            "block_size": 3,
            "gamma_scale": 0.5,
            "couple_channels": True,
            "clip": True,
            "with_noise": True,
            "scale_by_keep": False,
        },
    ),
]
NAMES = [row[0].__name__ for row in LAYERS]
SIX = [row[0] for row in LAYERS[:6]]
SHAPES = {name: (8, 16) for name in ("Dropout", "GaussianDropout")} | {
    "Dropout1d": (8, 16, 5),
    "LockedDropout": (8, 16, 5),
    "Dropout3d": (4, 4, 2, 3, 4),
}


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_every_layer_says_what_it_is(layer, options):
    assert issubclass(layer, nn.modules.dropout._DropoutNd)
    plain, full = layer(), layer(0.25, inplace=True, **options)
    assert repr(plain) == f"{layer.__name__}(p={plain.p}, inplace=False)"
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    assert repr(full) == f"{layer.__name__}(p=0.25, inplace=True{given})"
    for name, value in options.items():
        assert getattr(full, name) == value
        assert getattr(plain, name) == inspect.signature(layer).parameters[name].default


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_every_layer_survives_copy_pickle_and_an_empty_state_dict(layer, options):
    for module in (layer(0.25, inplace=True, **options).eval(), layer(torch.tensor(0.25))):
        assert not module.state_dict()
        assert not list(module.parameters())
        module.load_state_dict(nn.Dropout().state_dict())
        for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert type(twin) is layer
            assert repr(twin) == repr(module)
            assert twin.training == module.training


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_tensor_p_follows_the_module_and_keeps_its_dtype(layer, options):
    p = torch.tensor(0.3, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(2, 2), layer(p, **options))
    assert model.half()[1].p is p
    assert model.bfloat16()[1].p is p
    moved = model.to("meta", torch.float16)[1].p
    assert moved.device.type == "meta"
    assert moved.dtype == torch.float64
    number = layer(0.3, **options).to("meta").half()
    assert number.p == 0.3


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_tensor_p_on_meta_becomes_an_empty_one_as_parameters_do(layer, options):
    model = nn.Sequential(nn.Linear(2, 2), layer(torch.tensor(0.3, dtype=torch.float64), **options)).to("meta")
    p = model.to_empty(device="cpu")[1].p
    assert (p.device.type, p.dtype, p.shape) == ("cpu", torch.float64, ())
    assert model.to_empty(device="cpu")[1].p is p, "one with a value keeps it"
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        layer(torch.tensor(0.3, device="meta"), **options).to("cpu")


@pytest.mark.parametrize("layer", SIX, ids=NAMES[:6])
def test_every_torch_module_whose_class_is_set_to_ours_works(layer):
    module = getattr(nn, layer.__name__)(0.4, True)
    module.__class__ = layer
    assert repr(module) == repr(layer(0.4, True)), "options have their defaults"
    x = torch.randn(4, 6, 5) if layer is fused_dropout.Dropout1d else torch.randn(4, 6, 5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(module(x.clone(), rng=(1, 0)), layer(0.4)(x, rng=(1, 0)))
        assert module.eval()(x) is x
    module.__class__ = getattr(nn, layer.__name__)
    assert module.train()(x).shape == x.shape


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_p_of_every_layer_may_change_at_run_time(layer, options):
    module, x = layer(0.3), torch.randn(3, 4, 6)
    if layer is not fused_dropout.Dropout1d:
        x = torch.randn(2, 3, 4, 6)
    if layer is fused_dropout.LockedDropout:
        x = torch.randn(3, 4, 6)
    before = module(x, rng=(1, 0))
    module.p = 0.9
    assert not torch.equal(module(x, rng=(1, 0)), before)
    module.p = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(module(x, rng=(1, 0)), before)
    module.p = 0.0
    assert module(x) is x
    module.p = -0.5
    with pytest.raises(ValueError, match=r"between 0 and 1, but got -0\.5"):
        module(x)


@pytest.mark.parametrize(("layer", "options"), LAYERS, ids=NAMES)
def test_a_schedule_of_a_tensor_p_compiles_once(layer, options):
    from torch._dynamo.testing import CompileCounter

    module, counter = layer(torch.tensor(0.0, dtype=torch.float64), **options), CompileCounter()
    shape = SHAPES.get(layer.__name__, (8, 16, 6, 6))
    x = torch.randn(shape)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    outputs = []
    for p in (0.1, 0.5, 0.9):
        module.p.fill_(p)
        outputs.append(compiled(x, rng=(1, 0)))
        assert torch.equal(outputs[-1], layer(p, **options)(x, rng=(1, 0)))
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_state_dict_is_empty_and_loads_both_ways():
    ours, theirs = fused_dropout.Dropout(), nn.Dropout()
    assert not ours.state_dict()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    "module", [fused_dropout.Dropout(0.2), fused_dropout.Dropout(0.2, True, noise_shape=(None, 1))]
)
def test_pickle_and_copy(module):
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert repr(twin) == repr(module)
        assert twin.training == module.training


def test_training_and_evaluation():
    layer, x = fused_dropout.Dropout(0.5), torch.ones(1000)
    assert set(layer(x).tolist()) == {0.0, 2.0}
    layer.eval()
    assert layer(x) is x


def test_p_may_change_at_run_time():
    layer, x = fused_dropout.Dropout(0.5), torch.ones(10_000)
    layer.p = 0.9
    assert 0.85 < (layer(x) == 0).float().mean() < 0.95
    layer.p = 0.0
    assert layer(x) is x
    layer.p = torch.tensor(1.0)
    assert not layer(x).any()
    layer.p = 1.5
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        layer(x)


def test_rng_at_the_call_names_the_mask():
    layer, x = fused_dropout.Dropout(0.5), torch.ones(1000)
    rng = fused_dropout.draw()
    assert torch.equal(layer(x, rng=rng), fused_dropout.dropout(x, 0.5, rng=rng))
    assert torch.equal(layer(x, rng=rng) != 0, fused_dropout.keep_mask(x.shape, 0.5, rng))


def test_inplace_and_noise_shape_and_mode_reach_the_function():
    x = torch.ones(50, 20)
    y = fused_dropout.Dropout(0.5, True, noise_shape=(None, 1))(x)
    assert y is x
    assert all(row.unique().numel() == 1 for row in y)
    y = fused_dropout.Dropout(0.5, mode="downscale_in_infer")(torch.ones(100))
    assert set(y.tolist()) == {0.0, 1.0}


def test_a_torch_module_whose_class_is_set_to_ours_works():
    layer = nn.Dropout(0.5)
    layer.__class__ = fused_dropout.Dropout
    assert set(layer(torch.ones(1000)).tolist()) == {0.0, 2.0}


def test_in_a_model_with_hooks_and_seed():
    model = nn.Sequential(nn.Linear(8, 8), fused_dropout.Dropout(0.3), nn.Linear(8, 2))
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(4, 8)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(model(x))
    assert torch.equal(*outputs)
    assert len(seen) == 2
