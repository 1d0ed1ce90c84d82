"""Dropout, the module: a drop-in for torch.nn.Dropout."""

import copy
import inspect
import pickle

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
