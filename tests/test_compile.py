"""torch.compile: one graph, the eager mask, and two calls are two masks."""

import functorch.compile
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

import fused_dropout


def x_of(*shape, dtype=torch.float32, grad=True):
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


BACKENDS = ["eager", "aot_eager", "inductor"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_equals_eager_forward_and_backward(backend, dynamic):
    def step(x, r, rng):
        y = fused_dropout.dropout(x * 2, 0.3, rng=rng)
        y = fused_dropout.dropout_add(y, r, 0.4, rng=rng)
        return fused_dropout.dropout(y, 0.3, noise_shape=(x.shape[0], 1), rng=rng).sin()

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (5, 12):
        inputs = [x_of(n, 33), x_of(n, 33)]
        rng = fused_dropout.draw()
        results = []
        for f in (step, compiled):
            y = f(*inputs, rng)
            results.append((y, *torch.autograd.grad(y.sum(), inputs)))
        for eager, other in zip(*results, strict=True):
            torch.testing.assert_close(other, eager)
            assert torch.equal(other == 0, eager == 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_compiled_call_draws_the_eager_mask(backend):
    compiled = torch.compile(lambda x: fused_dropout.dropout(x, 0.3), backend=backend, fullgraph=True)
    x = x_of(100)
    results = []
    for f in (lambda x: fused_dropout.dropout(x, 0.3), compiled):
        torch.manual_seed(4)
        y = f(x)
        results.append((y, torch.autograd.grad(y.sum(), x)[0], torch.rand(1)))
    for eager, other in zip(*results, strict=True):
        assert torch.equal(eager, other)


TWICE = {
    "dropout": lambda x: fused_dropout.dropout(x, 0.5),
    "dropout_add_layer_norm": lambda x: fused_dropout.dropout_add_layer_norm(x, x, None, None, 0.5)[1],
    "dropout_add_rms_norm": lambda x: fused_dropout.dropout_add_rms_norm(x, x, None, 0.5)[1],
    "softmax_dropout": lambda x: fused_dropout.softmax_dropout(x, 0.5),
    "draw": lambda x: fused_dropout.draw(),
}


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("backend", [*BACKENDS, "aot_function"])
def test_two_compiled_calls_with_equal_arguments_keep_different_masks(name, backend):
    """AOTAutograd of torch 2.13 merges equal random calls of a training graph unless something tells them apart."""

    def both(x):
        return TWICE[name](x), TWICE[name](x)

    if backend == "aot_function":
        cut = functorch.compile.min_cut_rematerialization_partition
        compiled = functorch.compile.aot_function(both, functorch.compile.nop, partition_fn=cut)
    else:
        compiled = torch.compile(both, backend=backend, fullgraph=True)
    a, b = compiled(x_of(10, 100))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_in_place_and_module(backend):
    layer = fused_dropout.Dropout(0.5, inplace=True)

    def f(x):
        return layer(x * 1)

    compiled = torch.compile(f, backend=backend, fullgraph=True)
    x = x_of(1000)
    y = compiled(x)
    assert set(((y / x).round()).tolist()) == {0.0, 2.0}
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad == 0, y == 0)
    layer.eval()
    assert torch.equal(compiled(x), x)


def test_a_tensor_p_compiles_once():
    counter = CompileCounter()
    compiled = torch.compile(lambda x, p: fused_dropout.dropout(x, p), backend=counter, fullgraph=True)
    rates = []
    for p in torch.linspace(0, 1, 12):
        rates.append((compiled(torch.ones(10_000), p) == 0).float().mean())
    assert counter.frame_count == 1
    torch.testing.assert_close(torch.stack(rates), torch.linspace(0, 1, 12), atol=0.03, rtol=0)


def test_compiled_graph_saves_the_state_and_no_mask():
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    outputs = []

    def forward(graph, inputs):
        outputs.extend(graph.graph.output_node().args[0])
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=forward, bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward))
    torch.compile(lambda x: fused_dropout.dropout(x, 0.5), backend=backend, fullgraph=True)(x_of(64, 64))
    saved = [node.meta["val"] for node in outputs[1:]]
    assert [(v.dtype, tuple(v.shape)) for v in saved] == [(torch.int64, (2,))]


def test_generator_in_a_compiled_graph_points_to_rng():
    generator = torch.Generator()
    compiled = torch.compile(lambda x: fused_dropout.dropout(x, generator=generator), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="pass the state as rng"):
        compiled(torch.ones(4))


def outputs_and_gradients(f, x):
    """Of a run from one seed, and a random number afterwards, which tells how many were drawn."""
    torch.manual_seed(3)
    outputs = f(x)
    (grad,) = torch.autograd.grad(sum(y.sum() for y in outputs), x)
    return [*outputs, grad, torch.rand(1)]


def chain(x):
    for _ in range(4):
        x = fused_dropout.dropout(x.sin(), 0.3)
    return (x,)


def side_by_side(x):
    a, b, c = (fused_dropout.dropout(x + i, 0.3) for i in range(3))
    return c.sin() + a, b * c


def of_several_sizes(x):
    a, b, c = (fused_dropout.dropout(y, 0.3) for y in (x.repeat(4), x[:10], x.repeat(2)))
    return b.sum() + c.sum(), a.sum()


def unused(x):
    fused_dropout.dropout(x, 0.3)
    return (fused_dropout.dropout(x * 2, 0.3),)


def between_random_functions_of_torch(x):
    a = fused_dropout.dropout(x, 0.3)
    c = fused_dropout.dropout(torch.rand_like(x) * x, 0.3)
    return (F.dropout(c, 0.3) + a,)


GRAPHS = [chain, side_by_side, of_several_sizes, unused, between_random_functions_of_torch]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_several_calls_draw_the_eager_masks_under_fallback_random(graph, backend):
    if torch.__version__ < "2.13" and graph is of_several_sizes and backend == "inductor":
        pytest.skip("inductor of torch 2.11 orders independent random calls by itself even so, F.dropout's too")
    x = x_of(1000)
    with torch._inductor.config.patch(fallback_random=True):
        compiled = torch.compile(graph, backend=backend, fullgraph=True)
        for eager, other in zip(outputs_and_gradients(graph, x), outputs_and_gradients(compiled, x), strict=True):
            torch.testing.assert_close(other, eager)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_that_follow_each_other_draw_the_eager_masks(backend):
    x = x_of(1000)
    compiled = torch.compile(chain, backend=backend, fullgraph=True)
    for eager, other in zip(outputs_and_gradients(chain, x), outputs_and_gradients(compiled, x), strict=True):
        torch.testing.assert_close(other, eager)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_limit_an_unused_call_is_not_drawn(backend):
    """A compiler drops what nobody uses, and the next call draws its state: documented, and why rng exists."""
    x = x_of(1000)
    torch.manual_seed(3)
    first = fused_dropout.dropout(x * 2, 0.3)
    (compiled, *_) = outputs_and_gradients(torch.compile(unused, backend=backend, fullgraph=True), x)
    assert torch.equal(compiled, first)


def test_the_limit_inductor_orders_independent_calls_by_itself():
    """The same states, though perhaps not to the same calls; and no more of them."""
    x = x_of(1000)
    compiled = torch.compile(of_several_sizes, fullgraph=True)
    *_, after = outputs_and_gradients(of_several_sizes, x)
    *_, other = outputs_and_gradients(compiled, x)
    assert torch.equal(after, other)


def test_explicit_states_hold_whatever_the_order():
    def f(x, first, second, third):
        a, b, c = (
            fused_dropout.dropout(y, 0.3, rng=rng)
            for y, rng in ((x.repeat(4), first), (x[:10], second), (x.repeat(2), third))
        )
        return b.sum() + c.sum(), a.sin()

    x, states = x_of(1000), [fused_dropout.draw() for _ in range(3)]
    for eager, other in zip(f(x, *states), torch.compile(f, fullgraph=True)(x, *states), strict=True):
        torch.testing.assert_close(other, eager)


@pytest.mark.parametrize(
    "layer", [fused_dropout.Dropout(0.5), fused_dropout.Dropout2d(0.5), fused_dropout.DropPath(0.5)]
)
def test_training_and_evaluation_compile_once_each(layer):
    counter = CompileCounter()
    compiled = torch.compile(lambda x: layer(x), backend=counter, fullgraph=True)
    x = torch.ones(64, 8, 4, 4)
    for train in (True, False, True, False):
        layer.train(train)
        assert torch.equal(compiled(x), x) != train
    assert counter.frame_count == 2
    assert counter.op_count > 0
    layer.train()


def test_a_module_whose_tensor_p_changes_compiles_once():
    counter = CompileCounter()
    layer = fused_dropout.Dropout(torch.tensor(0.0))
    compiled = torch.compile(lambda x: layer(x), backend=counter, fullgraph=True)
    dropped = []
    for p in (0.1, 0.5, 0.9):
        layer.p.fill_(p)
        dropped.append(float((compiled(torch.ones(10_000)) == 0).float().mean()))
    assert counter.frame_count == 1
    assert dropped == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


def test_inductor_keeps_the_layout_that_it_chose():
    """The operations take any layout (Tag.flexible_layout): no copy into the one that was traced."""
    from torch._inductor.utils import run_and_get_code

    compiled = torch.compile(lambda x, rng: fused_dropout.dropout(x.t() + 1, 0.5, rng=rng).sin(), fullgraph=True)
    x, rng = torch.randn(300, 200), fused_dropout.draw()
    with torch._inductor.config.patch(force_disable_caches=True):
        y, (code,) = run_and_get_code(compiled, x, rng)
    torch.testing.assert_close(y, fused_dropout.dropout(x.t() + 1, 0.5, rng=rng).sin())
    (line,) = [line for line in code.splitlines() if "torch.ops.fused_dropout" in line and " = " in line]
    assert "mask_strides" not in line, "nothing but what was given: each argument costs its parsing"


def test_a_bias_of_one_row_asks_nothing_of_a_size_that_only_data_tell():
    def chosen(x, mask, bias):
        return fused_dropout.bias_dropout(x[mask.nonzero().squeeze(1)], bias, 0.5, training=False)

    x, bias, mask = torch.randn(5, 8), torch.randn(1, 8), torch.tensor([True, False, True, True, False])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        y = torch.compile(chosen, backend="aot_eager", fullgraph=True, dynamic=True)(x, mask, bias)
    torch.testing.assert_close(y, x[mask] + bias)
