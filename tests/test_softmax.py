"""Softmax and dropout in one pass: the chain's values and gradients, probabilities made again, masks of both kinds."""

import pytest
import torch
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, using_instruction_set
from test_values import state

import fused_dropout
from fused_dropout import reference, softmax_dropout
from fused_dropout._extension import ops

STATE = (2**63 + 12345, 2**40 + 8)
LENGTHS = [1, 2, 7, 63, 64, 65, 129, 1000, 5000]
BUFFER = 2**15  # elements of a row that the CPU keeps, csrc/cpu/row_loops.h
INF, NAN = float("inf"), float("nan")
# Of scores (2, 3, 5, F): bools or numbers, of which shape.
MASKS = {
    "none": None,
    "bools": (2, 3, 5, -1),
    "bools of keys": (2, 1, 1, -1),
    "bools of queries": (5, 1),
    "added": (2, 3, 5, -1),
    "added to heads": (3, 1, -1),
    "added row": (-1,),
    "added number": (),
    "added to queries": (2, 1, 5, 1),
}


def scores(features=9, dtype=torch.float64, grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, 3, 5, features), generator=generator, dtype=torch.float64) * 3
    return x.to(dtype).requires_grad_(grad)


def mask_of(kind, features=9, dtype=torch.float64, grad=False):
    if MASKS[kind] is None:
        return None
    shape = [features if size == -1 else size for size in MASKS[kind]]
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind.startswith("bools"):
        mask = mask > -0.5
        mask[..., :1] = True
        return mask
    return mask.to(dtype).requires_grad_(grad)


def chain(x, p=0.4, training=True, *, attn_mask=None, softmax_scale=1.0, **options):
    z = x * softmax_scale
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        z = z.masked_fill(~attn_mask, -INF)
    elif attn_mask is not None:
        z = z + attn_mask
    return fused_dropout.dropout(torch.softmax(z, -1), p, training, **options)


def gradients(f, x, mask, p=0.4, **options):
    y = f(x, p, attn_mask=mask, rng=STATE, **options)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(y)
    given = [t for t in (x, mask) if t is not None and t.requires_grad]
    return [y, *torch.autograd.grad(y, given, g)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [*LENGTHS, BUFFER + 100])
@pytest.mark.parametrize("kind", ["none", "bools", "added"])
def test_values_are_those_of_the_reference(kind, features, dtype, device):
    x, mask = scores(features, dtype), mask_of(kind, features, dtype)
    here = [x.to(device), None if mask is None else mask.to(device), state(device), 0.4, 0.7]
    got = [t.cpu() for t in ops.softmax_dropout_apply(*here)]
    want = reference.softmax_dropout_apply(x, mask, state(), 0.4, 0.7)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-6, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(got[0], want[0], rtol=tolerance, atol=1e-7)
    keep = fused_dropout.keep_mask(x.shape, 0.4, STATE)
    assert not got[0][~keep].any()
    assert torch.equal(got[1], want[1]), "the maximum bit for bit"
    torch.testing.assert_close(got[2], want[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 7, 64, 129, 1000, BUFFER + 1])
def test_every_instruction_set_gives_the_same_bits(features, dtype):
    results = []
    for name in INSTRUCTION_SETS:
        with using_instruction_set(name):
            x, mask = scores(features, dtype, grad=True), mask_of("added", features, dtype, grad=True)
            results.append(
                [*ops.softmax_dropout_apply(x, mask, state(), 0.4, 0.7), *gradients(softmax_dropout, x, mask)]
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("p", [0.4, 0.0, 1.0])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("features", [1, 7, 64, 129])
def test_values_and_gradients_are_those_of_the_chain(features, kind, p):
    results = []
    for f in (softmax_dropout, chain):
        x, mask = scores(features, grad=True), mask_of(kind, features, grad=True)
        results.append(gradients(f, x, mask, p, softmax_scale=0.7))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["none", "bools", "added"])
@pytest.mark.parametrize("features", [1000, 5000, BUFFER + 100])
def test_long_rows(features, kind):
    results = []
    for f in (softmax_dropout, chain):
        x, mask = scores(features, grad=True), mask_of(kind, features, grad=True)
        results.append(gradients(f, x, mask))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_of_narrow_types(dtype, instruction_set):
    got = gradients(softmax_dropout, scores(70, dtype, True), mask_of("added", 70, dtype, True))
    x, mask = (t.detach().double().requires_grad_() for t in (scores(70, dtype), mask_of("added", 70, dtype)))
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}[dtype]
    for a, b in zip(got, gradients(chain, x, mask), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def test_large_scores_cost_no_precision():
    """The backward pass has the forward's probabilities, bit for bit, not e^(z - log sum) of a rounded logarithm."""
    x = (scores(500, torch.float32) * 100 + 20000).requires_grad_()
    got = gradients(softmax_dropout, x, None)
    want = gradients(chain, x.detach().double().requires_grad_(), None)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bools", "added", "all infinite"])
def test_a_row_in_which_nothing_takes_part_gives_zeros_and_zero_gradients(kind):
    x = scores(70, torch.float32)
    mask = torch.ones(5, 70, dtype=torch.bool) if kind == "bools" else torch.zeros(5, 70)
    if kind == "all infinite":
        x[:, :, 2], mask = -INF, None
    else:
        mask[2] = False if kind == "bools" else -INF
    x.requires_grad_()
    y, grad = gradients(softmax_dropout, x, mask)
    others = [0, 1, 3, 4]
    assert not y[:, :, 2].any()
    assert not grad[:, :, 2].any()
    results = []
    for f in (softmax_dropout, chain):
        results.append([t[:, :, others] for t in gradients(f, x, mask)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize("bad", [INF, NAN])
def test_nan_and_infinity_as_in_the_chain(bad):
    x = scores(70, torch.float32)
    x[0, 0, 0, 5] = bad
    x[0, 0, 1] = -INF
    x[0, 0, 1, 6] = bad
    for p in (0.0, 0.4):
        got, want = softmax_dropout(x, p, rng=STATE), chain(x, p, rng=STATE)
        torch.testing.assert_close(got, want, equal_nan=True)
        assert torch.equal(got.isnan(), want.isnan())
    hidden = torch.ones(70, dtype=torch.bool)
    hidden[[5, 6]] = False
    y = softmax_dropout(x, 0.4, attn_mask=hidden, rng=STATE)
    assert y.isfinite().all(), "what takes no part does not leak"
    assert not y[0, 0, 1].any()


@pytest.mark.parametrize("kind", ["none", "bools", "added", "added row"])
@pytest.mark.parametrize("p", [0.4, 0.0])
def test_gradcheck_of_both_orders_and_forward_mode(kind, p):
    x, mask = scores(4, grad=True)[:, 0, :2].detach().requires_grad_(), mask_of(kind, 4, grad=True)
    if mask is not None and mask.dim() == 4:
        mask = mask[:, 0, :2].detach()
        mask = mask if mask.dtype == torch.bool else mask.requires_grad_()
    given = [t for t in (x, mask) if t is not None and t.dtype != torch.bool]

    def call(x, attn_mask=mask):
        return softmax_dropout(x, p, attn_mask=attn_mask, softmax_scale=0.7, rng=STATE)

    torch.autograd.gradcheck(call, given, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, given, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("bad", ["maximum", "inverse"])
def test_statistics_that_are_a_gpus_nan_give_gradients_that_are_nan(bad, instruction_set):
    gpus_nan = torch.tensor([0x7FFFFFFF] * 3, dtype=torch.int32).view(torch.float32)
    statistics = [gpus_nan if name == bad else torch.ones(3) for name in ("maximum", "inverse")]
    x = torch.randn(3, 100, dtype=torch.bfloat16)
    gradient, _ = ops.softmax_dropout_backward(x, x, None, *statistics, state(), 0.4, 1.0, [True, False])
    assert gradient.isnan().all()


def test_second_derivatives_of_a_row_in_which_nothing_takes_part():
    x, mask = scores(4, grad=True), torch.ones(5, 4, dtype=torch.bool)
    mask[1] = False
    (grad,) = torch.autograd.grad(softmax_dropout(x, attn_mask=mask, rng=STATE).sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sin().sum(), x)
    assert second.isfinite().all()
    assert not second[:, :, 1].any()


@pytest.mark.parametrize("kind", MASKS)
def test_what_is_saved(kind):
    x, mask = scores(300, torch.bfloat16, True), mask_of(kind, 300, torch.bfloat16, True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        softmax_dropout(x, 0.4, attn_mask=mask, rng=STATE)
    given = {x.data_ptr()} if mask is None else {x.data_ptr(), mask.data_ptr()}
    others = sorted(tuple(t.shape) for t in saved if t.data_ptr() not in given)
    assert others == [(2,), (2, 3, 5), (2, 3, 5)]
    assert all(t.dtype in (torch.int64, torch.float32) for t in saved if t.data_ptr() not in given)


def test_evaluation_and_p_of_zero_draw_nothing():
    x = scores()
    before = torch.get_rng_state()
    for p, training in ((0.4, False), (0.0, True), (torch.tensor(0.4), False)):
        torch.testing.assert_close(softmax_dropout(x, p, training), torch.softmax(x, -1))
    assert torch.equal(before, torch.get_rng_state())
    softmax_dropout(x, 0.4)
    assert not torch.equal(before, torch.get_rng_state())


def test_drawing_is_that_of_dropout():
    results = []
    for f in (softmax_dropout, chain):
        torch.manual_seed(5)
        results.append(f(scores(), 0.4))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_p_as_a_tensor(value):
    x = scores(70, grad=True)
    results = [gradients(softmax_dropout, x, None, p) for p in (value, torch.tensor(value, dtype=torch.float64))]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="p is not differentiable"):
        softmax_dropout(x, torch.tensor(0.4, requires_grad=True))


@pytest.mark.parametrize("threads_now", [2, 4])
def test_the_same_bits_for_any_number_of_threads(threads_now, threads):
    x = torch.randn(500, 130, requires_grad=True)
    want = gradients(softmax_dropout, x, None)
    threads(threads_now)
    for a, b in zip(gradients(softmax_dropout, x, None), want, strict=True):
        assert torch.equal(a, b)


def test_strided_operands():
    x, mask = scores(9, grad=True), mask_of("added")
    want = gradients(softmax_dropout, x, mask)
    for turned in (
        lambda t: t.detach().transpose(0, 3).contiguous().transpose(0, 3),
        lambda t: torch.stack([t, -t], -1)[..., 0].detach(),
        lambda t: t.detach().flip(-1).contiguous().flip(-1),
    ):
        got = gradients(softmax_dropout, turned(x).requires_grad_(), turned(mask))
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (7,), (2, 0, 5)], ids=str)
def test_empty_and_single_rows(shape):
    results = []
    for f in (softmax_dropout, chain):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
        results.append(gradients(f, x, None))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_mask_maps():
    x = torch.zeros(6, 4, 33)
    for base in (0, 5, 2**40 + 3):
        for strides in (None, [0, 33, 1], [1, 6, 24], [33]):
            mapping = {"mask_base": base, "mask_strides": strides}
            y = ops.softmax_dropout_apply(x, None, state(), 0.4, 1.0, **mapping)[0]
            assert torch.equal(y != 0, ops.keep_mask(state(), x.shape, 0.4, **mapping))


@pytest.mark.parametrize("kind", ["none", "bools of keys", "added to heads"])
def test_opcheck(kind):
    x, mask = scores(9, torch.float32, True), mask_of(kind, 9, torch.float32, True)
    op = torch.ops.fused_dropout.softmax_dropout_apply.default
    for p in (0.4, 0.0):
        torch.library.opcheck(op, (x, mask, state(), p, 0.7))
    y, *statistics = [t.detach() for t in op(x, mask, state(), 0.4, 0.7)]
    op = torch.ops.fused_dropout.softmax_dropout_backward.default
    for wanted in ([True, True], [True, False]):
        torch.library.opcheck(op, (y, x.detach(), mask, *statistics, state(), 0.4, 0.7, wanted))


@pytest.mark.parametrize("kind", ["none", "bools", "added"])
def test_the_references_backward_is_autograds(kind):
    x, mask = scores(grad=True), mask_of(kind)
    y, *statistics = reference.softmax_dropout_apply(x, mask, state(), 0.4, 0.7)
    g = torch.randn_like(y)
    (want,) = torch.autograd.grad(y, x, g)
    got, s = reference.softmax_dropout_backward(g, x, mask, *statistics, state(), 0.4, 0.7, [True, True])
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(s * 0.7, want)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("kind", ["none", "bools of keys", "added"])
def test_compiled(kind, backend, dynamic):
    def step(x, mask, rng):
        y = softmax_dropout(x, 0.4, attn_mask=mask, softmax_scale=0.7, rng=rng)
        return softmax_dropout(y.sin(), 0.4, rng=rng)

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (9, 13):
        x, mask, rng = scores(n, grad=True), mask_of(kind, n, grad=True), fused_dropout.draw()
        given = [t for t in (x, mask) if t is not None and t.requires_grad]
        results = []
        for f in (step, compiled):
            y = f(x, mask, rng)
            results.append([y, *torch.autograd.grad(y.sin().sum(), given)])
        torch.testing.assert_close(*results)
    torch._dynamo.reset()


def test_compiled_autograd():
    x, mask = scores(grad=True), mask_of("added", grad=True)

    def gradients_of_both():
        softmax_dropout(x, 0.4, attn_mask=mask, rng=STATE).sin().sum().backward()
        found = [t.grad.clone() for t in (x, mask)]
        x.grad = mask.grad = None
        return found

    want = gradients_of_both()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        got = gradients_of_both()
    torch.testing.assert_close(got, want)
    torch._dynamo.reset()


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("batched", [(0, None), (0, 0), (None, 0)], ids=str)
def test_vmap(batched, randomness):
    given = [scores(), mask_of("added")]
    given = [torch.stack([t, t * 2, t - 1]) if dim == 0 else t for t, dim in zip(given, batched, strict=True)]
    torch.manual_seed(5)
    y = torch.vmap(lambda x, m: softmax_dropout(x, 0.4, attn_mask=m), batched, randomness=randomness)(*given)
    torch.manual_seed(5)
    rng = fused_dropout.draw()
    for i in range(3):
        x, mask = (t[i] if dim == 0 else t for t, dim in zip(given, batched, strict=True))
        torch.testing.assert_close(y[i], softmax_dropout(x, 0.4, attn_mask=mask, rng=rng))
        rng = fused_dropout.draw() if randomness == "different" else rng


def test_transforms():
    x, mask = scores(4)[0, 0], mask_of("added row", 4)

    def loss(f, x, mask):
        return f(x, 0.4, attn_mask=mask, rng=STATE).sin().sum()

    for argnums in (1, 2):
        for wrap in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
            torch.testing.assert_close(*(wrap(loss, argnums)(f, x, mask) for f in (softmax_dropout, chain)))


def test_module():
    x = scores()
    layer = fused_dropout.SoftmaxDropout(0.3, softmax_scale=0.5)
    assert torch.equal(layer(x, rng=STATE), softmax_dropout(x, 0.3, softmax_scale=0.5, rng=STATE))
    mask = mask_of("bools")
    assert torch.equal(layer(x, mask, rng=STATE), softmax_dropout(x, 0.3, attn_mask=mask, softmax_scale=0.5, rng=STATE))
    torch.testing.assert_close(layer.eval()(x), torch.softmax(x * 0.5, -1))
    assert "p=0.3" in repr(layer)
    assert "softmax_scale=0.5" in repr(layer)


X = torch.ones(2, 3, 4)
WRONG = [
    (lambda: softmax_dropout(X, attn_mask=torch.ones(3)), ValueError, r"attn_mask that broad.*\[2, 3, 4\].*\[3\]"),
    (lambda: softmax_dropout(X, attn_mask=torch.ones(1, 2, 3, 4)), ValueError, "attn_mask that broadcasts"),
    (lambda: softmax_dropout(X, attn_mask=torch.ones(4).long()), RuntimeError, "attn_mask of bools or of the input's"),
    (lambda: softmax_dropout(X, attn_mask=torch.ones(4).half()), RuntimeError, "attn_mask of bools or of the input's"),
    (lambda: softmax_dropout(X, attn_mask=torch.ones(4, device="meta")), RuntimeError, "cpu, but got one on meta"),
    (lambda: softmax_dropout(X, attn_mask=[True]), TypeError, "argument 'attn_mask' must be a Tensor, not list"),
    (lambda: softmax_dropout(X, softmax_scale="x"), TypeError, "'softmax_scale' must be a number, not str"),
    (lambda: softmax_dropout(X, softmax_scale=None), TypeError, "'softmax_scale' must be a number, not NoneType"),
    (lambda: softmax_dropout(X, 1.5), ValueError, "between 0 and 1, but got 1.5"),
    (lambda: softmax_dropout(X, 0.5, 1), TypeError, "argument 'training' must be bool, not int"),
    (lambda: softmax_dropout(X[0, 0, 0]), ValueError, "at least 1 dimension"),
    (lambda: softmax_dropout(X.long()), RuntimeError, "of dtype float16, .* but got torch.int64"),
    (lambda: softmax_dropout(X.cfloat()), RuntimeError, "of dtype float16, .* but got torch.complex64"),
    (lambda: softmax_dropout(X.to_sparse()), RuntimeError, "expected dense tensors, but got one of layout"),
    (lambda: softmax_dropout(None), TypeError, "argument 'input' must be a Tensor, not NoneType"),
    (lambda: softmax_dropout(X, rng=(0, 0), generator=torch.Generator()), ValueError, "rng or generator, not both"),
    (lambda: ops.softmax_dropout_apply(X, torch.ones(3), state(), 0.5, 1.0), ValueError, "attn_mask that broadcasts"),
    (lambda: ops.softmax_dropout_apply(X, torch.ones(4).long(), state(), 0.5, 1.0), RuntimeError, "of bools or of the"),
    (lambda: ops.softmax_dropout_apply(X.long(), None, state(), 0.5, 1.0), RuntimeError, "but got Long"),
    (lambda: fused_dropout.SoftmaxDropout(2.0), ValueError, "between 0 and 1, but got 2.0"),
    (lambda: fused_dropout.SoftmaxDropout(0.5, "x"), TypeError, "'softmax_scale' must be a number, not str"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_wrong_calls_raise_and_draw_nothing(call, error, text):
    before = torch.get_rng_state()
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(before, torch.get_rng_state())


def test_a_nested_tensor_is_refused_in_words():
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
    with pytest.raises(RuntimeError, match=r"softmax_dropout: expected dense tensors, .* call it with values"):
        softmax_dropout(x)
