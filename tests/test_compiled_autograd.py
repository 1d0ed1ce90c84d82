"""Compiled autograd: backward passes that are traced, with nodes that PyTorch did not generate."""

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounter

import fused_dropout

STATE = (31, 8)
CALLS = {
    "dropout": lambda x: fused_dropout.dropout(x, 0.4, rng=STATE),
    "dropout, drawn": lambda x: fused_dropout.dropout(x, 0.4),
    "tensor p": lambda x: fused_dropout.dropout(x, torch.tensor(0.4), rng=STATE),
    "noise_shape": lambda x: fused_dropout.dropout(x, 0.4, noise_shape=(None, 1, None, None), rng=STATE),
    "in place": lambda x: fused_dropout.dropout(x * 1, 0.4, inplace=True, rng=STATE),
    "alpha_dropout": lambda x: fused_dropout.alpha_dropout(x, 0.4, True, rng=STATE),
    "dropout_add": lambda x: fused_dropout.dropout_add(x, x.sin(), 0.4, rng=STATE),
    "residual without gradient": lambda x: fused_dropout.dropout_add(x, x.detach(), 0.4, rng=STATE),
    "zoneout": lambda x: fused_dropout.zoneout(x, x.sin(), 0.4, True, rng=STATE),
    "gaussian_dropout": lambda x: fused_dropout.gaussian_dropout(x, 0.4, rng=STATE),
    "drop_block2d": lambda x: fused_dropout.drop_block2d(x, 0.2, 3, rng=STATE),
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


def gradient(call, x, backend=None, dynamic=None):
    x.grad = None
    torch.manual_seed(4)
    y = call(x * 2).sin().sum()
    if backend is None:
        y.backward()
    else:
        with compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True, dynamic=dynamic)):
            y.backward()
    return x.grad


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", CALLS)
def test_a_traced_backward_gives_the_eager_gradient(name, backend):
    x = torch.randn(2, 3, 7, 9, requires_grad=True)
    torch.testing.assert_close(gradient(CALLS[name], x, backend), gradient(CALLS[name], x))


def test_shapes_and_states_change_without_a_new_graph_and_other_arguments_ask_for_one():
    counter = CompileCounter()
    graphs = []
    for rows, p, gain in ((20, 0.4, 1), (31, 0.4, 1), (45, 0.4, 1), (20, 0.3, 1), (20, 0.3, 2)):
        x = torch.randn(rows, 33, requires_grad=True)
        mode = "upscale_in_train" if gain == 1 else "downscale_in_infer"
        got = gradient(lambda x, p=p, mode=mode: fused_dropout.dropout(x, p, mode=mode), x, counter, True)
        assert torch.equal(got, gradient(lambda x, p=p, mode=mode: fused_dropout.dropout(x, p, mode=mode), x))
        graphs.append(counter.frame_count)
    assert graphs == [1, 1, 1, 2, 3]


def test_two_calls_in_one_backward_keep_their_masks():
    def call(x):
        return fused_dropout.dropout(x, 0.5) + fused_dropout.dropout(x.sin(), 0.5)

    x = torch.randn(50, 9, requires_grad=True)
    torch.testing.assert_close(gradient(call, x, "aot_eager"), gradient(call, x))
