"""Dropout, a residual and a norm in one pass: the chain's values and gradients, the mask made again, the same bits for
every instruction set and number of threads."""

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, using_instruction_set
from test_values import state

import fused_dropout
from fused_dropout import dropout_add_layer_norm, dropout_add_rms_norm, reference
from fused_dropout._extension import ops

STATE = (2**63 + 12345, 2**40 + 8)
LENGTHS = [1, 2, 7, 63, 64, 65, 129, 1000, 5000]
BUFFER = 2**15  # elements of a row that the CPU keeps, csrc/cpu/row_loops.h
NORMS = ["layer", "rms"]
EPS = {"layer": 1e-5, "rms": 1e-6}


def tensors(norm, shape=(6, 5, 9), dtype=torch.float64, grad=False, seed=0, affine=True):
    """input, residual, weight and, of a layer norm, bias; None of those without `affine`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape, shape, shape[-1:], shape[-1:]][: 4 if norm == "layer" else 3]
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    made[1] = made[1] * 2 + 3  # a mean that is not 0
    made = [t.to(dtype).requires_grad_(grad) for t in made]
    return made if affine else [*made[:2], *[None] * (len(made) - 2)]


def fused(norm, inputs, p=0.4, training=True, **options):
    function = dropout_add_layer_norm if norm == "layer" else dropout_add_rms_norm
    return function(*inputs, p, training, **options)


def chain(norm, inputs, p=0.4, training=True, **options):
    x, r, *affine = inputs
    sum = r + fused_dropout.dropout(x, p, training, **options)
    if norm == "layer":
        return F.layer_norm(sum, sum.shape[-1:], *affine, EPS[norm]), sum
    return F.rms_norm(sum, sum.shape[-1:], *affine, EPS[norm]), sum


def apply(module, norm, inputs, p=0.4, device="cpu", **options):
    name = f"dropout_add_{norm}_norm_apply"
    return getattr(module, name)(*inputs, state(device), p, EPS[norm], **options)


def gradients(function, norm, inputs, which="both", **options):
    normed, sum = function(norm, inputs, **options)
    seeds = torch.Generator().manual_seed(3)
    g, h = (torch.randn(normed.shape, generator=seeds, dtype=torch.float64).to(normed) for _ in range(2))
    outputs, grads = {"both": ((normed, sum), (g, h)), "normed": ((normed,), (g,)), "sum": ((sum,), (h,))}[which]
    given = [t for t in inputs if t is not None]
    found = torch.autograd.grad(outputs, given, grads, allow_unused=True)
    return [torch.zeros_like(t) if f is None else f for t, f in zip(given, found, strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [*LENGTHS, BUFFER + 100])
@pytest.mark.parametrize("norm", NORMS)
def test_values_are_those_of_the_reference(norm, features, dtype, device):
    inputs = tensors(norm, (3, features) if features > 5000 else (7, features), dtype)
    got = apply(ops, norm, [t.to(device) for t in inputs], device=device)
    want = apply(reference, norm, inputs)
    wide = reference.compute(dtype)
    assert torch.equal(got[1].cpu(), want[1]), "the sum bit for bit"
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    if features > 1:  # of a single element the deviation is 0, and its rounding is all there is
        torch.testing.assert_close(got[0].cpu(), want[0], rtol=tolerance, atol=tolerance)
    for a, b in zip(got[2:], want[2:], strict=True):
        assert a.dtype == wide
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 7, 64, 129, 1000, BUFFER + 1])
@pytest.mark.parametrize("norm", NORMS)
def test_every_instruction_set_gives_the_same_bits(norm, features, dtype):
    results = []
    for name in INSTRUCTION_SETS:
        with using_instruction_set(name):
            inputs = tensors(norm, (5, features), dtype, grad=True)
            results.append([*apply(ops, norm, inputs), *gradients(fused, norm, inputs, rng=STATE)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("which", ["both", "normed", "sum"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("p", [0.4, 0.0, 1.0])
@pytest.mark.parametrize("features", LENGTHS)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_those_of_the_chain(norm, features, p, affine, which):
    inputs = tensors(norm, (4, 3, features), torch.float64, grad=True, affine=affine)
    given = [t for t in inputs if t is not None]
    got, want = ([t.clone() for t in gradients(f, norm, inputs, which, p=p, rng=STATE)] for f in (fused, chain))
    for a, b, t in zip(got, want, given, strict=True):
        assert a.shape == t.shape
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 if features > 1 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_narrow_types(norm, dtype, instruction_set):
    got = gradients(fused, norm, tensors(norm, (50, 130), dtype, grad=True), rng=STATE)
    wide = [t.detach().double().requires_grad_() for t in tensors(norm, (50, 130), dtype)]
    want = gradients(chain, norm, wide, rng=STATE)
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 1e-5}[dtype]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("norm", NORMS)
def test_each_gradient_alone(norm):
    """What is not wanted is not computed, and what is does not depend on it."""
    inputs = tensors(norm, (8, 70), torch.float32)
    every = gradients(fused, norm, [t.clone().requires_grad_() for t in inputs], rng=STATE)
    for k in range(len(inputs)):
        some = [t.clone().requires_grad_(i == k) for i, t in enumerate(inputs)]
        normed, sum = fused(norm, some, rng=STATE)
        g, h = (torch.randn(normed.shape, generator=s, dtype=torch.float64).to(normed)
                for s in [torch.Generator().manual_seed(3)] for _ in range(2))  # fmt: skip
        (got,) = torch.autograd.grad((normed, sum) if k < 2 else (normed,), some[k], (g, h) if k < 2 else (g,))
        assert torch.equal(got, every[k])


@pytest.mark.parametrize("threads_now", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_have_the_same_bits_for_any_number_of_threads(norm, threads_now, threads):
    inputs = tensors(norm, (1000, 70), torch.float32, grad=True)
    want = gradients(fused, norm, inputs, rng=STATE)
    threads(threads_now)
    for _ in range(3):
        for a, b in zip(gradients(fused, norm, inputs, rng=STATE), want, strict=True):
            assert torch.equal(a, b)


def test_the_mask_is_that_of_the_logical_index():
    x, r = torch.ones(40, 30, 50), torch.zeros(40, 30, 50)
    for layout in (x, x.transpose(0, 1).contiguous().transpose(0, 1), torch.ones(40, 30, 100)[..., ::2]):
        _, sum = dropout_add_layer_norm(layout, r, None, None, 0.4, rng=STATE)
        assert torch.equal(sum != 0, fused_dropout.keep_mask(x.shape, 0.4, STATE))
    for base in (0, 5, 2**32 - 7, 2**40 + 3):
        for strides in (None, [0, 50, 1], [1, 40, 1200], [100], []):
            mapping = {"mask_base": base, "mask_strides": strides}
            _, sum, *_ = ops.dropout_add_layer_norm_apply(x, r, None, None, state(), 0.4, 1e-5, **mapping)
            assert torch.equal(sum != 0, ops.keep_mask(state(), x.shape, 0.4, **mapping))


@pytest.mark.parametrize("norm", NORMS)
def test_strided_operands(norm):
    inputs = tensors(norm, (6, 5, 9), grad=True)
    wide = [torch.stack([t, -t], -1)[..., 0].detach().requires_grad_() for t in inputs]
    turned = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in inputs]
    want = [*fused(norm, inputs, rng=STATE), *gradients(fused, norm, inputs, rng=STATE)]
    for strided in (wide, turned):
        got = [*fused(norm, strided, rng=STATE), *gradients(fused, norm, strided, rng=STATE)]
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0), (2, 0, 5), (7,), (1, 1)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_empty_and_single_rows(norm, shape):
    results = []
    for f in (fused, chain):
        inputs = tensors(norm, shape, grad=True)
        results.append([*f(norm, inputs, rng=STATE), *gradients(f, norm, inputs, rng=STATE)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("p", [0.4, 0.0])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck_of_both_orders_and_forward_mode(norm, affine, p):
    inputs = tensors(norm, (4, 5), grad=True, affine=affine)
    given = [t for t in inputs if t is not None]

    def call(*given):
        return fused(norm, [*given, *[None] * (len(inputs) - len(given))], p, rng=STATE)

    torch.autograd.gradcheck(call, given, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, given, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_saved(norm):
    """The sum, which is an output, the weight, one or two numbers a row and the state: nothing that has seen a mask."""
    inputs = tensors(norm, (20, 300), torch.bfloat16, grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        _, sum = fused(norm, inputs, rng=STATE)
    shapes = sorted((tuple(t.shape), t.dtype) for t in saved)
    rows = [((20,), torch.float32)] * (2 if norm == "layer" else 1)
    want = [((2,), torch.int64), *rows, ((20, 300), torch.bfloat16), ((300,), torch.bfloat16)]
    assert shapes == sorted(want, key=str) or sorted(shapes, key=str) == sorted(want, key=str)
    assert any(t.data_ptr() == sum.data_ptr() for t in saved)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_kept_alive_by_a_cycle(norm):
    import gc
    import weakref

    gc.disable()
    try:
        inputs = tensors(norm, (20, 30), grad=True)
        _, sum = fused(norm, inputs, rng=STATE)
        alive = weakref.ref(sum.untyped_storage())
        del _, sum
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_and_p_of_zero_draw_nothing(norm):
    inputs = tensors(norm)
    before = torch.get_rng_state()
    for p, training in ((0.4, False), (0.0, True), (torch.tensor(0.4), False)):
        for a, b in zip(fused(norm, inputs, p, training), chain(norm, inputs, 0.0), strict=True):
            torch.testing.assert_close(a, b)
    assert torch.equal(before, torch.get_rng_state())
    fused(norm, inputs, 0.4)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_mask_both_gradients_are_one_tensor(norm):
    inputs = tensors(norm, grad=True)
    grads = gradients(fused, norm, inputs, p=0.0)
    assert grads[0].data_ptr() == grads[1].data_ptr()


@pytest.mark.parametrize("norm", NORMS)
def test_drawing_is_that_of_dropout(norm):
    inputs = tensors(norm)
    for generator in (None, torch.Generator()):
        results = []
        for f in (fused, chain):
            torch.manual_seed(5)
            if generator is not None:
                generator.manual_seed(6)
            results.append(f(norm, inputs, generator=generator)[1])
        assert torch.equal(*results)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_p_as_a_tensor(norm, value):
    inputs = tensors(norm, grad=True)
    for a, b in zip(*(
        [*fused(norm, inputs, p, rng=STATE), *gradients(fused, norm, inputs, p=p, rng=STATE)]
        for p in (value, torch.tensor(value, dtype=torch.float64))
    ), strict=True):  # fmt: skip
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="p is not differentiable"):
        fused(norm, inputs, torch.tensor(0.4, requires_grad=True))


def test_what_is_dropped_does_not_leak():
    x, r = torch.full((10, 50), float("nan")), torch.randn(10, 50)
    x[fused_dropout.keep_mask(x.shape, 0.5, STATE)] = 1.0
    normed, sum = dropout_add_layer_norm(x, r, None, None, 0.5, rng=STATE)
    assert sum.isfinite().all()
    assert normed.isfinite().all()


def test_nan_and_infinity_stay_within_their_row():
    for bad in (float("nan"), float("inf")):
        r = torch.randn(4, 100)
        r[2, 70] = bad
        normed, _ = dropout_add_layer_norm(torch.ones(4, 100), r, None, None, 0.5, rng=STATE)
        assert normed[2].isnan().any()
        assert normed[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_that_are_a_gpus_nan_give_gradients_that_are_nan(dtype, instruction_set):
    gpus_nan = torch.tensor([0x7FFFFFFF] * 3, dtype=torch.int32).view(torch.float32)
    rstd = gpus_nan.double() if dtype == torch.float64 else gpus_nan
    x = torch.randn(3, 100, dtype=dtype)
    gradients = ops.dropout_add_rms_norm_backward(x, None, x, None, rstd, state(), 0.4, EPS["rms"], [True, True, False])
    assert gradients[1].isnan().all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_large_mean_costs_no_precision(norm):
    inputs = tensors(norm, (4, 1000), torch.float32)
    inputs[1] = inputs[1] + 1000
    got = fused(norm, inputs, rng=STATE)[0]
    want = chain(norm, [t.double() for t in inputs], rng=STATE)[0]
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["forward", "backward"])
@pytest.mark.parametrize("norm", NORMS)
def test_opcheck(norm, form):
    inputs = tensors(norm, (6, 9), torch.float32, grad=True)
    op = getattr(torch.ops.fused_dropout, f"dropout_add_{norm}_norm_apply").default
    if form == "forward":
        for p in (0.4, 0.0):
            torch.library.opcheck(op, (*inputs, state(), p, 1e-5))
        return
    normed, sum, *statistics = [t.detach() for t in op(*inputs, state(), 0.4, 1e-5)]
    op = getattr(torch.ops.fused_dropout, f"dropout_add_{norm}_norm_backward").default
    for wanted in ([True] * len(inputs), [True, False, True, False][: len(inputs)]):
        for h in (None, sum):
            torch.library.opcheck(op, (normed, h, sum, inputs[2].detach(), *statistics, state(), 0.4, 1e-5, wanted))


@pytest.mark.parametrize("norm", NORMS)
def test_the_references_backward_is_autograds(norm):
    inputs = tensors(norm, grad=True)
    _, sum, *statistics = [t.detach() for t in apply(reference, norm, inputs)]
    g, h = torch.randn_like(sum), torch.randn_like(sum)
    got = getattr(reference, f"dropout_add_{norm}_norm_backward")(
        g, h, sum, inputs[2].detach(), *statistics, state(), 0.4, EPS[norm], [True] * len(inputs)
    )
    want = torch.autograd.grad(apply(reference, norm, inputs)[:2], inputs, (g, h))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("norm", NORMS)
def test_compiled(norm, backend, dynamic):
    def step(*inputs_and_rng):
        *inputs, rng = inputs_and_rng
        y, s = fused(norm, inputs, rng=rng)
        return fused(norm, [y, s, *inputs[2:]], rng=rng)

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (6, 11):
        inputs, rng = tensors(norm, (n, 9), grad=True), fused_dropout.draw()
        results = []
        for f in (step, compiled):
            y, s = f(*inputs, rng)
            results.append([y, s, *torch.autograd.grad((y.sin() + s).sum(), inputs)])
        torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_draws_as_eager_does(norm):
    inputs = tensors(norm)
    compiled = torch.compile(lambda *i: fused(norm, i), backend="aot_eager", fullgraph=True)
    results = []
    for f in (compiled, lambda *i: fused(norm, i)):
        torch.manual_seed(5)
        results.append(f(*inputs))
    torch.testing.assert_close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_autograd(norm):
    inputs = tensors(norm, grad=True)

    def gradients_of_all():
        y, s = fused(norm, inputs, rng=STATE)
        (y.sin() + s).sum().backward()
        found = [t.grad.clone() for t in inputs]
        for t in inputs:
            t.grad = None
        return found

    want = gradients_of_all()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        got = gradients_of_all()
    torch.testing.assert_close(got, want)
    torch._dynamo.reset()


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("batched", [(0, 0, None, None), (0, 0, 0, 0), (None, 0, None, 0)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_vmap(norm, batched, randomness):
    batched = batched[: 4 if norm == "layer" else 3]
    inputs = [torch.stack([t, t * 2, t - 1]) if dim == 0 else t for t, dim in zip(tensors(norm), batched, strict=True)]
    torch.manual_seed(5)
    y, s = torch.vmap(lambda *i: fused(norm, i), batched, randomness=randomness)(*inputs)
    torch.manual_seed(5)
    rng = fused_dropout.draw()
    for i in range(3):
        sample = [t[i] if dim == 0 else t for t, dim in zip(inputs, batched, strict=True)]
        torch.testing.assert_close((y[i], s[i]), fused(norm, sample, rng=rng))
        rng = fused_dropout.draw() if randomness == "different" else rng


@pytest.mark.parametrize("norm", NORMS)
def test_transforms(norm):
    x, r, *affine = tensors(norm)

    def loss(f, w, x, r):
        y, s = f(norm, [x, r, w, *affine[1:]], rng=STATE)
        return (y.sin() + s * s).sum()

    for argnums in (1, 2, 3):
        for wrap in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
            got, want = (wrap(loss, argnums)(f, affine[0], x, r) for f in (fused, chain))
            torch.testing.assert_close(got, want)
    per_sample = [torch.vmap(torch.func.grad(loss, 1), (None, None, 0, 0))(f, affine[0], x, r) for f in (fused, chain)]
    torch.testing.assert_close(*per_sample)
    hessians = [torch.func.hessian(loss, 1)(f, affine[0], x, r) for f in (fused, chain)]
    torch.testing.assert_close(*hessians)


@pytest.mark.parametrize("norm", NORMS)
def test_checkpointed(norm):
    from torch.utils.checkpoint import checkpoint

    inputs = tensors(norm, grad=True)
    results = []
    for wrap in (lambda f, *i: f(*i), lambda f, *i: checkpoint(f, *i, use_reentrant=False)):
        torch.manual_seed(4)
        y, s = wrap(lambda *i: fused(norm, i), *inputs)
        results.append([y, s, *torch.autograd.grad((y.sin() + s).sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_modules():
    x, r = torch.randn(4, 7), torch.randn(4, 7)
    for ours, theirs in (
        (fused_dropout.DropoutAddLayerNorm(7, 0.3), torch.nn.LayerNorm(7)),
        (fused_dropout.DropoutAddLayerNorm(7, 0.3, bias=False), torch.nn.LayerNorm(7, bias=False)),
        (fused_dropout.DropoutAddLayerNorm(7, 0.3, elementwise_affine=False),
         torch.nn.LayerNorm(7, elementwise_affine=False)),
        (fused_dropout.DropoutAddRMSNorm(7, 0.3, eps=1e-6), torch.nn.RMSNorm(7, eps=1e-6)),
    ):  # fmt: skip
        for parameter in ours.parameters():
            torch.nn.init.normal_(parameter)
        theirs.load_state_dict(ours.state_dict())
        normed, sum = ours(x, r, rng=STATE)
        assert torch.equal(sum, fused_dropout.dropout_add(x, r, 0.3, rng=STATE))
        torch.testing.assert_close(normed, theirs(sum))
        normed, sum = ours.eval()(x, r)
        assert torch.equal(sum, r + x)
        torch.testing.assert_close(normed, theirs(sum))
        assert "7, p=0.3" in repr(ours)
    meta = {"device": "meta", "dtype": torch.bfloat16}
    layer = fused_dropout.DropoutAddLayerNorm(7, 0.5, **meta)
    normed, sum = layer(torch.ones(2, 7, **meta), torch.ones(2, 7, **meta))
    assert normed.shape == sum.shape == (2, 7)
    assert normed.dtype == sum.dtype == layer.weight.dtype == torch.bfloat16


X, R, W = torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(4)
layer, rms = dropout_add_layer_norm, dropout_add_rms_norm
WRONG = [
    (lambda: layer(X, R[0], W, W), ValueError, r"input's shape \[2, 3, 4\], but got .*\[3, 4\]"),
    (lambda: rms(X, R[0], W), ValueError, r"input's shape \[2, 3, 4\], but got .*\[3, 4\]"),
    (lambda: layer(X, R, torch.ones(3), None), ValueError, r"weight of shape \[4\], .* but got one of shape \[3\]"),
    (lambda: layer(X, R, None, torch.ones(3, 4)), ValueError, r"bias of shape \[4\], .* but got one of shape \[3, 4\]"),
    (lambda: rms(X, R, torch.ones(1)), ValueError, r"weight of shape \[4\], .* but got one of shape \[1\]"),
    (lambda: layer(X, R.double(), W, W), RuntimeError, "input's dtype torch.float32, but got one of torch.float64"),
    (lambda: layer(X, R, W.half(), W), RuntimeError, "weight of the input's dtype torch.float32, but got one of"),
    (lambda: layer(X, R, W, W.half()), RuntimeError, "bias of the input's dtype torch.float32, but got one of"),
    (lambda: layer(X, R.to("meta"), W, W), RuntimeError, "expected all tensors to be .* on cpu, .* on meta"),
    (lambda: layer(X, R, W.to("meta"), W), RuntimeError, "weight on the input's device cpu, but got one on meta"),
    (lambda: layer(X[0, 0, 0], R[0, 0, 0], None, None), ValueError, "at least 1 dimension"),
    (lambda: layer(X, R, W, W, 1.5), ValueError, "between 0 and 1, but got 1.5"),
    (lambda: layer(X, R, W, W, 0.5, None), TypeError, "argument 'training' must be bool, not NoneType"),
    (lambda: layer(X, R, W, W, eps="x"), TypeError, "argument 'eps' must be a number, not str"),
    (lambda: rms(X, R, W, eps=None), TypeError, "argument 'eps' must be a number, not NoneType"),
    (lambda: layer(X, R, 1.0, W), TypeError, "argument 'weight' must be a Tensor, not float"),
    (lambda: layer(X, None, W, W), TypeError, "argument 'residual' must be a Tensor, not NoneType"),
    (lambda: layer([1.0], R, W, W), TypeError, "argument 'input' must be a Tensor, not list"),
    (lambda: layer(X.long(), R.long(), None, None), RuntimeError, "of dtype float16, .* but got torch.int64"),
    (lambda: layer(X.cfloat(), R.cfloat(), None, None), RuntimeError, "of dtype float16, .* but got torch.complex64"),
    (lambda: layer(X.to_sparse(), R.to_sparse(), W, W), RuntimeError, "expected dense tensors, but got one of layout"),
    (lambda: layer(X, R, W, W, rng=(0, 0), generator=torch.Generator()), ValueError, "rng or generator, not both"),
    (lambda: layer(X, R, W, W, rng=torch.ones(3)), ValueError, "expected rng to be an int64 tensor of 2"),
    (lambda: ops.dropout_add_layer_norm_apply(X, R[0], W, W, state(), 0.5, 1e-5), ValueError, r"shape \[2, 3, 4\]"),
    (lambda: ops.dropout_add_layer_norm_apply(X, R, W[:3], W, state(), 0.5, 1e-5), ValueError, r"weight of shape \[4"),
    (lambda: ops.dropout_add_layer_norm_apply(X, R, W, W.half(), state(), 0.5, 1e-5), RuntimeError, "bias of the"),
    (lambda: ops.dropout_add_rms_norm_apply(X.long(), R, W, state(), 0.5, 1e-5), RuntimeError, "but got Long"),
    (lambda: fused_dropout.DropoutAddLayerNorm(4, 2.0), ValueError, "between 0 and 1, but got 2.0"),
    (lambda: fused_dropout.DropoutAddRMSNorm((4,), 0.5), TypeError, "'normalized_shape' must be int, not tuple"),
    (lambda: fused_dropout.DropoutAddLayerNorm(4, eps="x"), TypeError, "argument 'eps' must be a number, not str"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_wrong_calls_raise_and_draw_nothing(call, error, text):
    before = torch.get_rng_state()
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(before, torch.get_rng_state())


def test_a_nested_tensor_is_refused_in_words():
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
    with pytest.raises(RuntimeError, match=r"dropout_add_layer_norm: expected dense tensors, .* call it with values"):
        dropout_add_layer_norm(x, x, None, None)
    y, _ = dropout_add_layer_norm(x.values(), x.values(), None, None, rng=STATE)
    assert y.shape == (5, 4)
