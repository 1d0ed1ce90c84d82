"""Zoneout, the wrapper of recurrent cells: against a loop over the cell, written by hand with the same masks."""

import copy
import inspect
import pickle
import textwrap

import pytest
import torch
from torch import nn

import fused_dropout
from fused_dropout.recurrent import Zoneout
from fused_dropout.reference import kept

CELLS = [
    pytest.param(nn.LSTMCell, id="lstm"),
    pytest.param(nn.GRUCell, id="gru"),
    pytest.param(nn.RNNCell, id="rnn"),
]
STEPS, BATCH, FEATURES, HIDDEN = 4, 5, 3, 32


def states(output):
    return output if isinstance(output, tuple) else (output,)


def zeros_like(cell):
    one = torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
    return (one, one) if isinstance(cell, nn.LSTMCell) else one


def by_hand(cell, x, hx, ps, rngs):
    for step, rng in zip(x, rngs, strict=True):
        new = states(cell(step, hx))
        kept_or_not = []
        for value, previous, p, state in zip(new, states(hx), ps, rng, strict=False):
            keep = fused_dropout.keep_mask(value.shape, p, state)
            kept_or_not.append(torch.where(keep, value, previous))
        hx = tuple(kept_or_not) if len(new) == 2 else kept_or_not[0]
    return hx


@pytest.mark.parametrize("starts", [True, False], ids=["with a state", "from zeros"])
@pytest.mark.parametrize("kind", CELLS)
def test_values_and_gradients_are_those_of_a_loop_over_the_cell(kind, starts):
    cell = kind(FEATURES, HIDDEN, dtype=torch.float64)
    twin, two = copy.deepcopy(cell), kind is nn.LSTMCell
    layer = Zoneout(cell, 0.3, 0.6 if two else None)
    x = torch.randn(STEPS, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    x_twin = x.detach().clone().requires_grad_()
    hx = None
    if starts:
        first = torch.randn(2, BATCH, HIDDEN, dtype=torch.float64, requires_grad=True)
        hx = tuple(first) if two else first[0]
    rngs = [(fused_dropout.draw(), fused_dropout.draw()) for _ in range(STEPS)]
    state = hx
    for step, rng in zip(x, rngs, strict=True):
        state = layer(step, state, rng=rng if two else rng[0])
    expected = by_hand(twin, x_twin, zeros_like(cell) if hx is None else hx, (0.3, 0.6), rngs)
    for value, want in zip(states(state), states(expected), strict=True):
        assert torch.equal(value, want)
    inputs, inputs_twin = ([t] + ([first] if starts else []) for t in (x, x_twin))
    weights = [torch.randn_like(value) for value in states(state)]
    gradients = torch.autograd.grad(states(state), [*inputs, *cell.parameters()], weights)
    wanted = torch.autograd.grad(states(expected), [*inputs_twin, *twin.parameters()], weights)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want)
        assert gradient.any()


@pytest.mark.parametrize("kind", CELLS)
def test_each_step_and_each_state_draws_its_own_mask(kind):
    layer, x = Zoneout(kind(FEATURES, HIDDEN), 0.5), torch.randn(BATCH, FEATURES)
    hx = tuple(torch.full((2, BATCH, HIDDEN), 7.0))
    hx = hx if kind is nn.LSTMCell else hx[0]
    zoned = [value == 7 for _ in range(2) for value in states(layer(x, hx))]
    for index, mask in enumerate(zoned):
        assert 0.3 < mask.float().mean() < 0.7
        assert not any(torch.equal(mask, other) for other in zoned[:index])


def test_evaluation_is_the_expectation_and_draws_nothing():
    cell = nn.LSTMCell(FEATURES, HIDDEN, dtype=torch.float64)
    layer = Zoneout(cell, 0.3, 0.6).eval()
    x, (h, c) = torch.randn(BATCH, FEATURES).double(), torch.randn(2, BATCH, HIDDEN).double()
    before = torch.get_rng_state()
    got = layer(x, (h, c))
    assert torch.equal(torch.get_rng_state(), before)
    for value, new, previous, p in zip(got, cell(x, (h, c)), (h, c), (0.3, 0.6), strict=True):
        torch.testing.assert_close(value, kept(p) * new + (1 - kept(p)) * previous)


def test_p_may_change_at_run_time_and_p_cell_follows_it_unless_given():
    layer, x = Zoneout(nn.LSTMCell(FEATURES, HIDDEN), 0.0), torch.randn(BATCH, FEATURES)
    hx = tuple(torch.full((2, BATCH, HIDDEN), 7.0))
    for p, p_cell, expected in [(0.0, None, (0, 0)), (1.0, None, (1, 1)), (torch.tensor(1.0), 0.0, (1, 0))]:
        layer.p, layer.p_cell = p, p_cell
        assert tuple((value == 7).float().mean().item() for value in layer(x, hx)) == expected


def test_any_cell_of_one_or_two_states_is_taken():
    class Decay(nn.Module):
        def forward(self, input, hx=None):
            return input if hx is None else (input + hx) / 2

    layer = Zoneout(Decay(), 0.5)
    assert set(layer(torch.ones(1000)).tolist()) == {0.0, 1.0}
    assert set(layer(torch.ones(1000), torch.full((1000,), 3.0)).tolist()) == {2.0, 3.0}
    mixed = layer(torch.ones(1000, dtype=torch.bfloat16), torch.full((1000,), 3.0).bfloat16())
    assert mixed.dtype == torch.bfloat16


def test_a_state_of_another_dtype_follows_the_cell_under_autocast():
    class Half(nn.Module):
        def forward(self, input, hx):
            return (input + hx).bfloat16()

    assert Zoneout(Half(), 0.5)(torch.ones(8), torch.ones(8)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", CELLS)
def test_twins_state_dicts_and_training_flags(kind):
    layer, x = Zoneout(kind(FEATURES, HIDDEN), 0.5), torch.randn(BATCH, FEATURES)
    assert list(layer.state_dict()) == [f"cell.{name}" for name in layer.cell.state_dict()]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        outputs = []
        for module in (layer, twin):
            torch.manual_seed(1)
            outputs.append(states(module(x))[0])
        assert torch.equal(*outputs)
    assert not layer.eval().cell.training


def test_compiled_calls_draw_anew():
    layer, x = Zoneout(nn.LSTMCell(FEATURES, HIDDEN), 0.5), torch.randn(BATCH, FEATURES)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    hx = tuple(torch.full((2, BATCH, HIDDEN), 7.0))
    (h, c), (h_again, _) = compiled(x, hx), compiled(x, hx)
    assert not torch.equal(h == 7, c == 7)
    assert not torch.equal(h == 7, h_again == 7)
    rng = (fused_dropout.draw(), fused_dropout.draw())
    for value, want in zip(compiled(x, hx, rng=rng), layer(x, hx, rng=rng), strict=True):
        torch.testing.assert_close(value, want)


def test_docstring_equivalent_runs():
    code = inspect.getdoc(Zoneout).split("Equivalent to::\n")[1]
    cell, x = nn.LSTMCell(FEATURES, HIDDEN), torch.randn(BATCH, FEATURES)
    h0, c0 = torch.randn(2, BATCH, HIDDEN)
    names = {"fused_dropout": fused_dropout, "cell": cell, "input": x, "h0": h0, "c0": c0,
             "p": 0.3, "p_cell": 0.6, "training": True}  # fmt: skip
    torch.manual_seed(2)
    exec(textwrap.dedent(code), names)
    torch.manual_seed(2)
    h, c = Zoneout(cell, 0.3, 0.6)(x, (h0, c0))
    assert torch.equal(h, names["h"])
    assert torch.equal(c, names["c"])


def test_repr_is_complete():
    assert "p=0.1\n" in repr(Zoneout(nn.GRUCell(2, 3)))
    text = repr(Zoneout(nn.LSTMCell(2, 3), 0.2, 0.4))
    assert "p=0.2, p_cell=0.4" in text
    assert "(cell): LSTMCell(2, 3)" in text


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        pytest.param((nn.LSTMCell(2, 3), 1.5), ValueError, r"between 0 and 1, but got 1\.5", id="p"),
        pytest.param((nn.LSTMCell(2, 3), 0.5, float("nan")), ValueError, "between 0 and 1, but got nan", id="p_cell"),
        pytest.param((nn.LSTMCell(2, 3), "x"), TypeError, "'p' must be a number", id="type of p"),
        pytest.param((nn.GRUCell(2, 3), 0.5, 0.5), ValueError, "GRUCell has no cell state", id="p_cell of a gru"),
        pytest.param((torch.tanh, 0.5), TypeError, "'cell' must be a torch.nn.Module", id="a function"),
    ],
)
def test_errors_of_the_constructor(args, error, message):
    with pytest.raises(error, match=message):
        Zoneout(*args)


@pytest.mark.parametrize(
    "rng", [(4, 8), torch.zeros(2, dtype=torch.int64), ((4, 8), (4, 8), (4, 8))], ids=["ints", "one state", "three"]
)
def test_one_rng_for_two_states_is_refused_in_words(rng):
    with pytest.raises(ValueError, match="a pair of states, one for h and one for c"):
        Zoneout(nn.LSTMCell(2, 3))(torch.ones(1, 2), rng=rng)


def test_ints_are_states():
    layer, x = Zoneout(nn.LSTMCell(2, 30), 0.5), torch.ones(1, 2)
    rng = ((4, 8), (5, 8))
    for value, again in zip(layer(x, rng=rng), layer(x, rng=rng), strict=True):
        assert torch.equal(value, again)


def test_tensors_p_follow_the_module_and_keep_their_dtype():
    p = torch.tensor(0.25, dtype=torch.float64)
    module = Zoneout(nn.LSTMCell(3, 2), p, p.clone()).to("meta", torch.bfloat16)
    for tensor in (module.p, module.p_cell):
        assert (tensor.device.type, tensor.dtype) == ("meta", torch.float64)
