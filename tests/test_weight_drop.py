"""WeightDrop: parameters dropped for the length of a call, and nothing else changed."""

import copy
import inspect
import pickle
import textwrap
import threading
import time
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_dropout
from fused_dropout.reference import kept
from fused_dropout.weight_drop import WeightDrop

RNNS = [
    pytest.param(nn.LSTM, {}, id="lstm"),
    pytest.param(nn.GRU, {}, id="gru"),
    pytest.param(nn.RNN, {"nonlinearity": "relu"}, id="rnn"),
    pytest.param(nn.LSTM, {"num_layers": 2, "bidirectional": True}, id="lstm of two layers, both directions"),
    pytest.param(nn.LSTM, {"proj_size": 3}, id="lstm with projection"),
    pytest.param(nn.GRU, {"bias": False, "batch_first": True}, id="gru without bias, batch first"),
]


def seeded(function, seed=0):
    torch.manual_seed(seed)
    return function()


def hand_made(module, names, p):
    """A copy whose parameters hold what the next calls of dropout give, in the order of the names."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name in names:
            twin.get_parameter(name).copy_(fused_dropout.dropout(module.get_parameter(name), p))
    return twin


def first(output):
    output = output[0] if isinstance(output, tuple) and not isinstance(output, PackedSequence) else output
    return output.data if isinstance(output, PackedSequence) else output


MODULES = [
    pytest.param(nn.Linear(6, 5), (torch.randn(4, 6),), ("weight",), id="linear"),
    pytest.param(nn.Conv2d(3, 4, 3), (torch.randn(2, 3, 8, 8),), ("weight",), id="conv"),
    pytest.param(nn.Embedding(9, 5), (torch.arange(9),), ("weight",), id="embedding"),
    pytest.param(
        nn.LSTMCell(6, 5), (torch.randn(4, 6), (torch.randn(4, 5), torch.randn(4, 5))), ("weight_hh",), id="lstm cell"
    ),
    pytest.param(nn.LSTM(6, 5), (torch.randn(3, 4, 6),), ("weight_hh_l0",), id="lstm"),
    pytest.param(
        nn.GRU(6, 5, 2, bidirectional=True),
        (torch.randn(3, 4, 6),),
        ("weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse"),
        id="gru of two layers, both directions",
    ),
]


@pytest.mark.parametrize(("module", "args", "names"), MODULES)
def test_default_names_are_the_weights_of_the_papers(module, args, names):
    assert WeightDrop(module).names == names


@pytest.mark.parametrize(("module", "args", "names"), MODULES)
def test_output_is_that_of_the_module_with_dropped_weights(module, args, names):
    layer = WeightDrop(module, p=0.4)
    expected = first(seeded(lambda: hand_made(module, names, 0.4))(*args))
    assert torch.equal(first(seeded(lambda: layer(*args))), expected)
    assert not torch.equal(first(layer(*args)), first(layer(*args)))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "options"), RNNS)
def test_rnn_takes_one_mask_for_all_time_steps_and_its_gradient_goes_through_it(kind, options):
    rnn = kind(6, 5, **options)
    layer, x = WeightDrop(rnn, p=0.5), torch.randn(7, 4, 6)
    twin = seeded(lambda: hand_made(rnn, layer.names, 0.5))
    output, state = seeded(lambda: layer(x))
    expected, expected_state = twin(x)
    assert torch.equal(output, expected)  # the twin has one weight a layer, so equality over time says one mask
    torch.testing.assert_close(state, expected_state, rtol=0, atol=0)
    output.sum().backward()
    expected.sum().backward()
    for name, parameter in rnn.named_parameters():
        gradient = twin.get_parameter(name).grad
        if name in layer.names:
            keep = twin.get_parameter(name) != 0
            assert 0 < keep.sum() < keep.numel()
            gradient = torch.where(keep, gradient * 2, 0)
        torch.testing.assert_close(parameter.grad, gradient)


def test_rnn_takes_packed_sequences_and_a_state():
    lstm = nn.LSTM(6, 5)
    layer = WeightDrop(lstm, ["weight_hh_l0", "weight_ih_l0"], 0.5)
    packed = pack_sequence([torch.randn(n, 6) for n in (2, 5, 3)], enforce_sorted=False)
    state = (torch.randn(1, 3, 5), torch.randn(1, 3, 5))
    twin = seeded(lambda: hand_made(lstm, layer.names, 0.5))
    output, _ = seeded(lambda: layer(packed, hx=state))
    assert isinstance(output, PackedSequence)
    assert torch.equal(output.data, twin(packed, state)[0].data)


def raises(*args):
    raise RuntimeError("from the module")


@pytest.mark.parametrize(("module", "args", "names"), MODULES)
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_parameters_are_what_they_were_after_a_call(module, args, names, fails, monkeypatch):
    layer = WeightDrop(module, p=0.5)
    before = {name: (id(p), p.detach().clone()) for name, p in layer.named_parameters()}
    attributes, flat = set(vars(module)), list(getattr(module, "_flat_weights", []))
    with monkeypatch.context() as patch:
        if fails:
            patch.setattr(type(module), "forward", raises)
            with pytest.raises(RuntimeError, match="from the module"):
                layer(*args)
        else:
            layer(*args)
    assert list(before) == [f"module.{name}" for name, _ in module.named_parameters()]
    for name, parameter in layer.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert set(vars(module)) == attributes
    assert all(now is then for now, then in zip(getattr(module, "_flat_weights", []), flat, strict=True))


def test_parameters_stay_registered_during_the_call():
    linear, seen = nn.Linear(4, 3), []
    linear.register_forward_pre_hook(lambda module, args: seen.extend(module.parameters()))
    WeightDrop(linear)(torch.ones(1, 4))
    assert seen[0] is linear.weight
    assert seen[1] is linear.bias


def test_state_dict_holds_the_raw_parameters_and_loads_both_ways():
    layer, plain = WeightDrop(nn.LSTM(4, 3)), nn.Sequential()
    plain.add_module("module", nn.LSTM(4, 3))
    assert list(layer.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(plain.module.weight_hh_l0, layer.module.weight_hh_l0)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.LSTM(4, 3)], ids=["linear", "lstm"])
def test_a_twin_drops_its_own_parameters(module, twin_of):
    layer, x = WeightDrop(module, p=0.5), torch.randn(2, 3, 4)
    layer(x)
    twin = twin_of(layer)
    assert repr(twin) == repr(layer)
    assert torch.equal(first(seeded(lambda: twin(x))), first(seeded(lambda: layer(x))))
    first(twin(x)).sum().backward()
    assert all(p.grad is None for p in layer.parameters())
    assert all(p.grad is not None for p in twin.parameters())


def test_evaluation_calls_the_module_as_it_is():
    layer, x = WeightDrop(nn.LSTM(4, 3), p=0.5).eval(), torch.randn(2, 3, 4)
    assert not layer.module.training
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], layer.module(x)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.train().module.training


def test_downscale_in_infer_is_the_bare_mask_in_training_and_the_expected_weight_in_evaluation():
    linear = nn.Linear(6, 6, bias=False)
    layer = WeightDrop(linear, p=0.3, mode="downscale_in_infer")
    seen = layer(torch.eye(6)).T
    assert torch.equal(seen[seen != 0], linear.weight[seen != 0])
    assert (seen == 0).any()
    assert torch.equal(layer.eval()(torch.eye(6)).T, linear.weight * kept(0.3))


def test_p_may_change_at_run_time():
    layer = WeightDrop(nn.Linear(50, 50, bias=False), p=0.5)
    for p in (0.0, 0.9, torch.tensor(0.9), torch.tensor(1.0)):
        layer.p = p
        share = (layer(torch.eye(50)) == 0).float().mean().item()
        assert abs(share - float(p)) < 0.05


def test_dotted_names_reach_parameters_of_submodules():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 3))
    names = ["0.weight", "2.weight_ih_l0", "0.bias"]
    layer, x = WeightDrop(model, names, 0.5), torch.randn(2, 3, 4)
    twin = seeded(lambda: hand_made(model, names, 0.5))
    assert torch.equal(seeded(lambda: layer(x))[0], twin(x)[0])
    layer(x)[0].sum().backward()
    assert (model[2].weight_ih_l0.grad == 0).any()


def test_tied_names_have_one_mask_and_the_tie_holds():
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    layer = WeightDrop(model, ["0.weight", "1.weight"], 0.5)
    dropped = seeded(lambda: fused_dropout.dropout(model[0].weight, 0.5))
    torch.testing.assert_close(seeded(lambda: layer(torch.eye(5))), dropped.T @ dropped.T)
    assert model[1].weight is model[0].weight
    one = WeightDrop(model, ["1.weight"], 0.5)  # a name that is not given is not dropped
    torch.testing.assert_close(seeded(lambda: one(torch.eye(5))), model[0].weight.T @ dropped.T)


def test_a_shared_module_under_two_names_is_dropped_once():
    linear = nn.Linear(5, 5, bias=False)
    layer = WeightDrop(nn.Sequential(linear, linear), ["0.weight", "1.weight"], 0.5)
    dropped = seeded(lambda: fused_dropout.dropout(linear.weight, 0.5))
    torch.testing.assert_close(seeded(lambda: layer(torch.eye(5))), dropped.T @ dropped.T)
    assert "weight" not in vars(linear)


@pytest.mark.parametrize(
    ("module", "inner", "outer"),
    [
        pytest.param(nn.Linear(4, 4), ["weight"], ["module.bias"], id="linear, another parameter"),
        pytest.param(nn.Linear(4, 4), ["weight"], ["module.weight"], id="linear, the same parameter"),
        pytest.param(nn.LSTM(4, 4), ["weight_hh_l0"], ["module.weight_ih_l0"], id="lstm, another parameter"),
        pytest.param(nn.LSTM(4, 4), ["weight_hh_l0"], ["module.weight_hh_l0"], id="lstm, the same parameter"),
    ],
)
def test_nested_weight_drops_compose(module, inner, outer):
    layer, x = WeightDrop(WeightDrop(module, inner, 0.5), outer, 0.25), torch.randn(3, 2, 4)
    outer_names = [name.removeprefix("module.") for name in outer]

    def by_hand():
        return hand_made(hand_made(module, outer_names, 0.25), inner, 0.5)  # the outer one draws first

    assert torch.equal(first(seeded(lambda: layer(x))), first(seeded(by_hand)(x)))
    first(layer(x)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert first(layer.eval()(x)).equal(first(module(x)))


def test_rnn_follows_parameters_that_were_replaced():
    lstm = nn.LSTM(4, 3)
    layer, x = WeightDrop(lstm, p=0.5), torch.randn(2, 3, 4)
    lstm.weight_hh_l0 = nn.Parameter(torch.randn(12, 3))
    output, _ = seeded(lambda: layer(x))  # before the twin is made: copying refreshes the list of weights
    twin = seeded(lambda: hand_made(lstm, layer.names, 0.5))
    assert torch.equal(output, twin(x)[0])
    layer.double()
    assert layer(x.double())[0].dtype == torch.float64
    replaced = {"module.weight_hh_l0": torch.zeros(12, 3, dtype=torch.float64)}
    by_call = torch.func.functional_call(layer, replaced, (x.double(),))[0]
    assert not torch.equal(by_call, torch.func.functional_call(layer.eval(), {}, (x.double(),))[0])
    torch.testing.assert_close(by_call, torch.func.functional_call(lstm, {"weight_hh_l0": replaced.popitem()[1]},
                                                                   (x.double(),))[0])  # fmt: skip


def weight_of(module, name):
    if isinstance(module, nn.RNNBase):
        return module._flat_weights[module._flat_weights_names.index(name)]
    return getattr(module, name)


LINEAR, LSTM, PAIR = nn.Linear(8, 8), nn.LSTM(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
SHARED = [  # what the threads call in turn; the module whose weight they drop; its name; what a one may have become
    pytest.param([WeightDrop(LINEAR)], LINEAR, "weight", {0, 2}, id="one linear"),
    pytest.param([WeightDrop(LSTM)], LSTM, "weight_hh_l0", {0, 2}, id="one lstm"),
    pytest.param([WeightDrop(LINEAR), WeightDrop(LINEAR)], LINEAR, "weight", {0, 2}, id="two around one linear"),
    pytest.param([WeightDrop(WeightDrop(LINEAR), ["module.weight"])], LINEAR, "weight", {0, 4}, id="nested, linear"),
    pytest.param([WeightDrop(WeightDrop(LSTM), ["module.weight_hh_l0"])], LSTM, "weight_hh_l0", {0, 4},
                 id="nested, lstm"),
    pytest.param([WeightDrop(PAIR, ["0.weight", "1.weight"]), WeightDrop(PAIR, ["1.weight", "0.weight"])], PAIR[0],
                 "weight", {0, 2}, id="two owners, named in either order"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "owner", "name", "values"), SHARED)
def test_threads_that_share_a_layer_drop_the_raw_weights_once_and_leave_them(layers, owner, name, values):
    parameter, attributes, seen, failed = owner.get_parameter(name), set(vars(owner)), set(), []
    nn.init.ones_(parameter)
    together = threading.Barrier(4)

    def look(module, args):
        time.sleep(0.001)  # the others have the time to come in between
        seen.update(weight_of(owner, name).unique().tolist())

    def work(layer):
        try:
            together.wait(10)
            for _ in range(5):
                layer(torch.randn(2, 8))
        except Exception as error:
            failed.append(error)

    handle = owner.register_forward_pre_hook(look)
    threads = [threading.Thread(target=work, args=(layers[i % len(layers)],), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    handle.remove()
    assert not failed
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    assert seen == values
    assert weight_of(owner, name) is parameter
    assert set(vars(owner)) == attributes


def test_a_layer_that_was_called_is_not_kept_alive():
    layer = WeightDrop(nn.Linear(4, 4))
    layer(torch.ones(1, 4))
    module = weakref.ref(layer.module)
    del layer
    assert module() is None


def test_checkpointing_recomputes_with_the_same_mask():
    layer, x = WeightDrop(nn.LSTM(4, 3), p=0.5), torch.randn(2, 3, 4)
    seeded(lambda: layer(x)[0]).sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    seeded(lambda: torch.utils.checkpoint.checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)).sum().backward()
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


# Dynamo of torch 2.11 breaks the graph where a module's attribute is taken back.
WHOLE = torch.__version__ >= torch.torch_version.TorchVersion("2.13")


@pytest.mark.parametrize(
    ("module", "fullgraph"), [(nn.Linear(20, 20), WHOLE), (nn.LSTM(20, 20), False)], ids=["linear", "lstm"]
)
def test_compiled_calls_draw_anew_and_have_gradients(module, fullgraph):
    layer, x = WeightDrop(module, p=0.5), torch.randn(3, 2, 20)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=fullgraph)
    with torch.no_grad():
        assert torch.equal(first(seeded(lambda: compiled(x))), first(seeded(lambda: layer(x))))
        assert not torch.equal(first(compiled(x)), first(compiled(x)))
    first(compiled(x)).sum().backward()
    zeros = (module.get_parameter(layer.names[0]).grad == 0).float().mean().item()
    assert 0.3 < zeros < 0.7
    assert torch.equal(first(torch.compile(layer.eval(), backend="aot_eager")(x)), first(module(x)))


def test_docstring_equivalent_gives_the_same_output():
    code = inspect.getdoc(WeightDrop).split("Equivalent to::\n")[1]
    module, x = nn.Linear(6, 5), torch.randn(4, 6)
    names = {"module": module, "input": x, "names": ["weight", "bias"], "p": 0.4, "torch": torch,
             "fused_dropout": fused_dropout}  # fmt: skip
    seeded(lambda: exec(textwrap.dedent(code), names))
    assert torch.equal(seeded(lambda: WeightDrop(module, ["weight", "bias"], 0.4)(x)), names["output"])


def test_repr_is_complete():
    text = repr(WeightDrop(nn.Linear(2, 1), ["weight", "bias"], 0.2, mode="downscale_in_infer"))
    assert "names=('weight', 'bias'), p=0.2, mode='downscale_in_infer'" in text
    assert "(module): Linear(in_features=2, out_features=1, bias=True)" in text
    assert "p=0.5\n" in repr(WeightDrop(nn.Linear(2, 1)))


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        pytest.param((nn.Linear(2, 1), ["wieght"]), {}, ValueError,
                     "of Linear, which has weight, bias, but got wieght", id="unknown name"),
        pytest.param((nn.LSTM(2, 1), ["weight"]), {}, ValueError,
                     "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, but got weight", id="unknown name of an rnn"),
        pytest.param((nn.Sequential(nn.Linear(2, 1)),), {}, ValueError, r"0\.weight, 0\.bias, but got weight",
                     id="no default"),
        pytest.param((nn.ReLU(),), {}, ValueError, "which has none", id="no parameters"),
        pytest.param((nn.Linear(2, 1), []), {}, ValueError, "but got none", id="no names"),
        pytest.param((nn.Linear(2, 1), "weight"), {}, TypeError, "sequence of str, not 'weight'", id="a bare str"),
        pytest.param((nn.Linear(2, 1), [3]), {}, TypeError, r"sequence of str, not \[3\]", id="no str"),
        pytest.param((torch.tanh,), {}, TypeError, "'module' must be a torch.nn.Module", id="a function"),
        pytest.param((nn.Linear(2, 1),), {"p": 1.5}, ValueError, r"between 0 and 1, but got 1\.5", id="p"),
        pytest.param((nn.Linear(2, 1),), {"p": "x"}, TypeError, "'p' must be a number", id="type of p"),
        pytest.param((nn.Linear(2, 1),), {"mode": "up"}, ValueError, "expected mode", id="mode"),
    ],
)  # fmt: skip
def test_errors(args, options, error, message):
    with pytest.raises(error, match=message):
        WeightDrop(*args, **options)


def test_a_tensor_p_follows_the_module_and_keeps_its_dtype():
    module = WeightDrop(nn.Linear(3, 2), p=torch.tensor(0.25, dtype=torch.float64)).to("meta", torch.bfloat16)
    assert (module.p.device.type, module.p.dtype) == ("meta", torch.float64)
    assert "p" not in module.state_dict()
