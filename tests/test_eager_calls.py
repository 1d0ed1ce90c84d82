"""The operations as functions of Python: what they take themselves, and that all else comes to torch.ops unchanged."""

import gc
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import fused_dropout
from fused_dropout._calls import together
from fused_dropout._extension import NAMES, OF_STATES, SUMMED, eager, extension, ops

X = torch.randn(4, 6)
STATE = torch.tensor([3, 8])
DERIVATIVES = {name for name in NAMES if name.endswith("_backward")} | {*SUMMED, "dropped_apply"}


def outcome(call):
    """What a call returns, or the error that it raises."""
    torch.manual_seed(0)
    try:
        results = call()
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error), str(error)
    return [x.tolist() for x in (results if isinstance(results, tuple) else (results,)) if x is not None]


def test_every_operation_that_functions_call_is_there():
    own = {name for name in NAMES if getattr(eager, name) is not getattr(ops, name)}
    assert own == {*NAMES} - {*OF_STATES} - DERIVATIVES
    assert {*vars(eager)} == {*vars(ops)}


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((X, 0.5), {}),
        ((X, 0.5), {"p_tensor": torch.tensor(0.2), "gain": 1}),
        ((X, 0.5), {"mask_base": 16, "mask_strides": [1]}),
        ((X, 0.5), {"mask_strides": [1, 4]}),
        ((X, 0.5), {"mask_strides": []}),
        ((X, 0.5), {"mask_strides": None, "p_tensor": None, "generator": None, "call_id": torch.empty(0)}),
        ((X, 0.5), {"gain": 2**40}),
        ((X, 0.5), {"mask_base": -(2**63)}),
        ((X.T, 0.5), {}),
        ((X.int(), 0.5), {}),
        ((X, 1.5), {}),
    ],
)
def test_what_is_read_here_is_what_torch_reads(args, options):
    """And torch.ops is not asked for it."""

    def refused(*args, **options):
        raise AssertionError("it went to torch.ops")

    call = extension.eager_calls(dict.fromkeys(vars(ops), refused))["dropout"]
    assert outcome(lambda: call(*args, **options)) == outcome(lambda: ops.dropout(*args, **options))


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        ((X,), {}),
        ((X, 0.5, None), {}),
        ((X, "half"), {}),
        ((X, 1), {}),
        ((X, True), {}),
        ((X, torch.tensor(0.5)), {}),
        ((X, None), {}),
        ((None, 0.5), {}),
        (([1.0], 0.5), {}),
        ((X,), {"p": 0.5}),
        ((), {"input": X, "p": 0.5}),
        ((X, 0.5), {"input": X}),
        ((X, 0.5), {"probability": 0.5}),
        ((X, 0.5), {"gain": 1.0}),
        ((X, 0.5), {"gain": True}),
        ((X, 0.5), {"gain": 2**64}),
        ((X, 0.5), {"gain": None}),
        ((X, 0.5), {"mask_strides": (1,)}),
        ((X, 0.5), {"mask_strides": [1.0]}),
        ((X, 0.5), {"mask_strides": [2**64]}),
        ((X, 0.5), {"mask_strides": torch.Size([1])}),
        ((X, 0.5), {"mask_base": "0"}),
        ((X, 0.5), {"generator": 0}),
        ((X, 0.5), {"p_tensor": 0.5}),
    ],
)
def test_all_else_is_as_if_torch_ops_had_been_called(args, options):
    assert outcome(lambda: eager.dropout(*args, **options)) == outcome(lambda: ops.dropout(*args, **options))


def test_a_generator_is_read():
    draws = [
        namespace.dropout(X, 0.5, generator=torch.Generator().manual_seed(7))[1].tolist() for namespace in (eager, ops)
    ]
    assert draws[0] == draws[1]


def test_in_place_and_of_a_given_state():
    x, y = X.clone(), X.clone()
    assert eager.dropout_apply_(x, STATE, 0.5) is None
    ops.dropout_apply_(y, STATE, 0.5)
    assert x.equal(y)
    assert x.equal(eager.dropout_apply(X, STATE, 0.5))
    torch.manual_seed(1)
    state = eager.dropout_(x.copy_(X), 0.5)
    assert x.equal(ops.dropout_apply(X, state, 0.5))


def test_missing_tensors_are_none():
    results = eager.dropout_add_layer_norm_apply(X, X, None, None, STATE, 0.5, 1e-5)
    for one, other in zip(results, ops.dropout_add_layer_norm_apply(X, X, None, None, STATE, 0.5, 1e-5), strict=True):
        assert one.equal(other)


def test_a_function_mode_sees_the_overload():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        eager.dropout(X, 0.5)
    assert seen == [ops.dropout]


def test_a_subclass_sees_the_overload():
    seen = []

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    assert type(eager.dropout(X.as_subclass(Own), 0.5)[0]) is Own
    assert seen == [ops.dropout]


def test_an_error_of_python_is_not_replaced():
    """Not by a warning that C++ gave before it either."""

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            torch.ops.aten.add.out(X, X, out=torch.empty(1))  # warns that it resizes
            raise KeyError("own")

    with Mode(), pytest.warns(UserWarning, match="resize"), pytest.raises(KeyError, match="own"):
        eager.dropout(X, 0.5)


def test_nothing_is_kept():
    """What C++ still held would keep its object in Python."""
    x, state, p = torch.randn(4, 6), torch.tensor([3, 8]), torch.tensor(0.5)
    eager.dropout(x, 0.5, p_tensor=p)
    with pytest.raises(ValueError, match="between 0 and 1"):
        eager.dropout_apply(x, state, 2.0, mask_strides=[6, 1])
    gc.disable()
    try:
        there = [weakref.ref(t) for t in (x, state, p, *eager.dropout(x, 0.5), eager.dropout_apply(x, state, 0.5))]
        del x, state, p
        assert [ref() for ref in there] == [None] * 6
    finally:
        gc.enable()


ROW = torch.randn(6)


@pytest.mark.parametrize(
    ("input", "others"),
    [
        (X, {}),
        (X, {"up": X}),
        (X, {"bias": ROW}),
        (X, {"bias": X}),
        (X, {"bias": torch.randn(4, 1)}),
        (X, {"bias": torch.tensor(1.0)}),
        (X, {"bias": ROW, "residual": X}),
        (torch.randn(0, 6), {"bias": ROW, "residual": torch.randn(0, 6)}),
        (X, {"residual": X.to_sparse()}),
        (torch.nn.Parameter(X), {"residual": X.T.contiguous().T}),
    ],
)
def test_tensors_that_agree(input, others):
    assert extension.agree(input, **others)
    assert together("f", input, **others) == (input, *others.values())


@pytest.mark.parametrize(
    ("input", "others", "error"),
    [
        (X, {"up": ROW}, ValueError),
        (X, {"up": X.T}, ValueError),
        (X, {"bias": torch.randn(4)}, ValueError),
        (X, {"bias": torch.randn(1, 4, 6)}, ValueError),
        (torch.randn(1, 6), {"bias": X}, ValueError),
        (X, {"bias": ROW, "residual": ROW}, ValueError),
        (X, {"bias": ROW, "residual": X.double()}, RuntimeError),
        (X, {"bias": ROW.double(), "residual": X}, RuntimeError),
        (X, {"residual": None}, TypeError),
        (X, {"bias": [1.0] * 6}, TypeError),
    ],
)
def test_tensors_that_do_not_agree(input, others, error):
    assert not extension.agree(input, **others)
    with pytest.raises(error):
        together("f", input, **others)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_do_not_agree():
    """Those of strided layout are plain, and have no sizes."""
    nested = torch.nested.nested_tensor([torch.randn(2, 6)])
    assert not extension.agree(nested, residual=nested)
    assert not extension.agree(X, residual=nested)
    with pytest.raises(RuntimeError, match="dense tensor"):
        together("f", X, residual=nested)


def test_a_subclass_does_not_agree_by_itself():
    """What it makes of its sizes and dtype is asked in Python."""
    own = X.as_subclass(type("Own", (torch.Tensor,), {}))
    assert not extension.agree(own, residual=X)
    assert not extension.agree(X, residual=own)
    assert not extension.agree(X, X)


def test_symbolic_sizes_do_not_agree_by_themselves():
    """Of plain tensors too, which a trace by C++ functionalization has: their sizes are not known here."""
    seen = []

    def look(x):
        functional = torch._to_functional_tensor(x)
        seen.append((type(functional), extension.agree(functional, residual=functional)))
        return x + 1

    torch.fx.experimental.proxy_tensor.make_fx(look, tracing_mode="symbolic")(torch.randn(4, 6))
    assert seen == [(torch.Tensor, False)]


def test_evaluation_shares_a_state_that_nobody_writes():
    x, bias = X.clone().requires_grad_(), torch.randn(6, requires_grad=True)
    with torch.inference_mode():
        fused_dropout.bias_dropout_add(x, bias, x, 0.5, training=False)
    y = fused_dropout.bias_dropout_add(x, bias, x, 0.5, training=False)
    z = fused_dropout.softmax_dropout(y, 0.5, training=False)
    z.square().sum().backward()
    want = torch.autograd.grad(torch.softmax(2 * x + bias, -1).square().sum(), (x, bias))
    torch.testing.assert_close((x.grad, bias.grad), want)
    assert extension.UNREAD_STATE.tolist() == [0, 0]


def test_evaluation_in_a_mode_has_a_state_of_its_own():
    with FakeTensorMode():
        y = fused_dropout.relu_dropout(torch.empty(4, 6, requires_grad=True), 0.5, training=False)
        y.sum().backward()
    assert y.shape == (4, 6)
