"""The operations as functions of Python: what they take themselves, and that all else comes to torch.ops unchanged."""

import gc
import sys
import weakref

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fused_dropout._extension import NAMES, OF_STATES, SUMMED, eager, ops

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
    assert outcome(lambda: eager.dropout(*args, **options)) == outcome(lambda: ops.dropout(*args, **options))


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


def test_nothing_is_kept():
    before = sys.getrefcount(X), sys.getrefcount(STATE)
    for _ in range(100):
        eager.dropout_apply(X, STATE, 0.5, mask_strides=[6, 1])
        with pytest.raises(ValueError, match="between 0 and 1"):
            eager.dropout_apply(X, STATE, 2.0)
    assert (sys.getrefcount(X), sys.getrefcount(STATE)) == before
    gc.disable()
    try:
        results = [weakref.ref(x) for x in eager.dropout(X, 0.5)]
        assert [ref() for ref in results] == [None, None]
    finally:
        gc.enable()
