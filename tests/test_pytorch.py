"""At home in PyTorch: operations, tags, fake tensors, compilation, generators."""

import threading

import pytest
import torch
from torch.library import opcheck

import fused_dropout
from fused_dropout._extension import NAMES, ops

STATE = torch.tensor([7, 16])
P = torch.tensor(0.3, dtype=torch.float64)


def x_of(*shape, dtype=torch.float32, grad=True):
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


OPCHECKS = {
    "dropout": [((x_of(4, 6), 0.5), {}), ((x_of(4, 6, grad=False), 1.0), {"p_tensor": P, "mask_strides": [1, 0]})],
    "dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "dropout_apply": [((x_of(4, 6), STATE, 0.5), {}), ((x_of(4, 6).t(), STATE, 1.0), {"p_tensor": P, "gain": 1})],
    "dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "alpha_dropout": [((x_of(4, 6), 0.5), {"mask_strides": [1]})],
    "alpha_dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "alpha_dropout_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "alpha_dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "dropout_add": [((x_of(4, 6), x_of(4, 6), 0.5), {})],
    "dropout_add_apply": [((x_of(4, 6), x_of(4, 6), STATE, 0.5), {"mask_strides": [0, 1], "mask_base": 5})],
    "gaussian_dropout": [((x_of(4, 6), 0.5), {"mask_strides": [1, 0]})],
    "gaussian_dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "gaussian_dropout_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "gaussian_dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "zoneout": [((x_of(4, 6), x_of(4, 6), 0.5), {})],
    "zoneout_apply": [((x_of(4, 6), x_of(4, 6), STATE, 0.5), {})],
    "dropped_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "draw": [((torch.empty(0),), {})],
    "make_state": [((torch.empty(0), 5, 8), {})],
    "keep_mask": [((STATE, [4, 6], 0.5), {})],
    "normal_noise": [((STATE, [4, 6]), {"dtype": torch.bfloat16}), ((STATE, [4, 6]), {"mask_strides": [0, 1]})],
}
BLOCKS = {"mask_strides": [50, 25, 5, 1], "block": [3, 4, 5, 5]}  # of a map of 7 by 8
OPCHECKS["dropout"].append(((x_of(2, 2, 7, 8), 0.1), BLOCKS))
OPCHECKS["dropout_"].append(((x_of(2, 2, 7, 8, grad=False), 0.1), BLOCKS))
OPCHECKS["dropout_apply"].append(((x_of(2, 2, 7, 8), STATE, 0.1), BLOCKS))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    for args, kwargs in OPCHECKS[name]:
        opcheck(getattr(ops, name), args, kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_drawing_operations_are_tagged_random(name):
    """Without the tag compiled checkpointing is silently wrong; with it the pure ones could not be recomputed."""
    random = not any(part in name for part in ("apply", "make_state", "keep_mask", "normal_noise"))
    assert (torch.Tag.nondeterministic_seeded in getattr(ops, name).tags) == random


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_meta_and_fake_tensors_have_the_layout_of_real_ones(device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    if device == "meta":
        x = real.to("meta")
        y = fused_dropout.dropout(x, 0.5, noise_shape=(2, 3, 1, 1))
    else:
        with FakeTensorMode() as mode:
            x = mode.from_tensor(real)
            y = fused_dropout.dropout(x, 0.5, noise_shape=(2, 3, 1, 1))
            assert fused_dropout.draw().shape == (2,)
    assert (y.shape, y.stride(), y.dtype) == (real.shape, real.stride(), real.dtype)


def test_a_traced_call_keeps_to_the_inputs_device():
    """On CUDA: a fake tensor needs no GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        x = torch.empty(4, device="cuda")
        assert fused_dropout.dropout(x, 0.5).device == x.device
        assert fused_dropout.dropout(x, 0.5, rng=(1, 0)).device == x.device


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_compiled_calls_with_equal_arguments_keep_different_masks(backend):
    """AOTAutograd of torch 2.13 merges equal random calls of a training graph unless something tells them apart."""

    def both(x):
        return fused_dropout.dropout(x, 0.5), fused_dropout.dropout(x, 0.5), fused_dropout.draw(), fused_dropout.draw()

    a, b, s, t = torch.compile(both, backend=backend, fullgraph=True)(x_of(1000))
    assert not torch.equal(a == 0, b == 0)
    assert not torch.equal(s, t)


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
    from torch._dynamo.testing import CompileCounter

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


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_checkpointing_gives_the_gradient_of_the_run_without_it(use_reentrant, compiled):
    from torch.utils.checkpoint import checkpoint

    if use_reentrant and compiled:
        pytest.skip("torch.compile itself traces only non-re-entrant checkpoints")

    def block(x):
        return fused_dropout.dropout(fused_dropout.dropout(x.sin(), 0.3).exp(), 0.3)

    def run(x):
        return checkpoint(block, x, use_reentrant=use_reentrant)

    x = x_of(1000, dtype=torch.float64)
    with torch._inductor.config.patch(fallback_random=True):
        results = []
        for f in (block, torch.compile(run, backend="aot_eager") if compiled else run):
            torch.manual_seed(9)
            y = f(x)
            x.grad = None
            y.sum().backward()
            results.append((y, x.grad))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other)


def test_manual_seed_state_and_fork():
    x = torch.ones(1000)
    torch.manual_seed(0)
    a = fused_dropout.dropout(x)
    state = torch.get_rng_state()
    b = fused_dropout.dropout(x)
    with torch.random.fork_rng():
        fused_dropout.dropout(x)
    after = torch.rand(1)
    torch.set_rng_state(state)
    assert torch.equal(fused_dropout.dropout(x), b)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(0)
    assert torch.equal(fused_dropout.dropout(x), a)
    assert not torch.equal(a, b)


def test_generator_argument_draws_from_it_alone():
    x = torch.ones(1000)
    before = torch.get_rng_state()
    a, b = (fused_dropout.dropout(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    generator = torch.Generator().manual_seed(5)
    rng = fused_dropout.draw(generator=generator)
    assert torch.equal(a, fused_dropout.dropout(x, rng=rng))
    untouched = generator.get_state()
    fused_dropout.dropout(x, rng=rng)
    assert torch.equal(untouched, generator.get_state())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fused_dropout.dropout(x),
        lambda x: fused_dropout.dropout(x, inplace=True),
        lambda x: fused_dropout.dropout(x[:0]),
        lambda x: fused_dropout.dropout(x, 1.0),
        lambda x: fused_dropout.dropout(x, noise_shape=(1,)),
        lambda x: fused_dropout.alpha_dropout(x, 0.5, True),
        lambda x: fused_dropout.dropout_add(x, x),
        lambda x: fused_dropout.draw(),
    ],
)
def test_every_call_draws_exactly_one_state(call):
    torch.manual_seed(1)
    torch.empty(2, dtype=torch.int64).random_(-(2**63), None)
    want = torch.rand(1)
    torch.manual_seed(1)
    call(torch.ones(100))
    assert torch.equal(torch.rand(1), want)


def test_threads_on_one_generator_lose_no_draw_and_repeat_none():
    generator, drawn = torch.Generator().manual_seed(0), []

    def work():
        drawn.extend(tuple(fused_dropout.draw(generator=generator).tolist()) for _ in range(200))

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    alone = torch.Generator().manual_seed(0)
    assert set(drawn) == {tuple(fused_dropout.draw(generator=alone).tolist()) for _ in range(3200)}
    assert len(drawn) == len(set(drawn)) == 3200


def test_inference_mode_and_autocast():
    with torch.inference_mode():
        x = torch.ones(1000)
        assert set(fused_dropout.dropout(x).tolist()) == {0.0, 2.0}
        assert fused_dropout.dropout(x, inplace=True) is x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert fused_dropout.dropout(torch.ones(10, dtype=dtype)).dtype == dtype


def test_parameter_and_negative_view():
    w = torch.nn.Parameter(torch.ones(100))
    fused_dropout.dropout(w).sum().backward()
    assert set(w.grad.tolist()) == {0.0, 2.0}
    z = torch.randn(100, dtype=torch.cfloat)
    negative = z.conj().imag
    assert negative.is_neg()
    y = fused_dropout.dropout(negative, 0.5, rng=(1, 0))
    assert torch.equal(y, fused_dropout.dropout(-z.imag, 0.5, rng=(1, 0)))
