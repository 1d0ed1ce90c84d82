"""Activations with dropout: exact functions with the same bits everywhere, and derivatives that need no mask."""

import math
import re
from pathlib import Path

import mpmath
import pytest
import torch
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, moved, using_instruction_set
from test_values import LAYOUTS, assert_same_bits, state

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

STATE = (2**63 + 12345, 2**40 + 8)
CHAINS = list(reference.CHAINS)
BACKWARD = [name for name in CHAINS if hasattr(reference, f"{name}_backward")]


def inputs_for(name, x):
    """x, and what else the operation takes; of an operation on halves x alone."""
    generator = torch.Generator().manual_seed(1)
    _, count = reference.CHAINS[name]
    shape = x.shape[-1:] if name.startswith("bias_") else x.shape
    return [x, *(torch.randn(shape, generator=generator).to(x) for _ in range(count - 1))]


def spread(numel, dtype):
    """Values of every magnitude up to 2^6: the activations' tails too."""
    generator = torch.Generator().manual_seed(2)
    scale = 2.0 ** torch.randint(-30, 5, (numel,), generator=generator).double()
    return (torch.randn(numel, generator=generator, dtype=torch.float64) * scale).to(dtype)


def backward_of(name, inputs, y):
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    return (grad, y) if name == "relu_dropout" else (grad, *inputs)


def exact(name, tensors, p=0.3):
    """The reference in float64, and its outputs."""
    wide = [t.double() for t in tensors]
    output = getattr(reference, name)(*wide, state(), p)
    return output if isinstance(output, tuple) else (output,)


def assert_rounded(got, want, dtype):
    """To a few ulp of the type computed in, and then one rounding to the dtype; dropped elements are exactly 0."""
    eps = torch.finfo(dtype).eps
    slack = torch.finfo(reference.compute(dtype)).eps * 64
    tiny = torch.finfo(dtype).smallest_normal * eps * 2
    torch.testing.assert_close(got.double(), want, rtol=eps / 2 + slack, atol=tiny + slack / 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_values_and_derivatives_are_the_references(name, dtype, device):
    shape = (5, 3, 70, 10)
    for layout in LAYOUTS:
        x = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
        inputs = inputs_for(name, x)
        got = getattr(ops, f"{name}_apply")(*(moved(t, device) for t in inputs), state(device), 0.3).cpu()
        assert got.dtype == dtype
        (want,) = exact(f"{name}_apply", inputs)
        assert_rounded(got, want, dtype)
        assert not got[want == 0].any(), "what is dropped is exactly 0"
        if name not in BACKWARD:
            continue
        tensors = backward_of(name, inputs, got)
        got = getattr(ops, f"{name}_backward")(*(moved(t, device) for t in tensors), state(device), 0.3)
        for ours, theirs in zip(
            got if isinstance(got, tuple) else (got,), exact(f"{name}_backward", tensors), strict=True
        ):
            torch.testing.assert_close(ours.cpu().double(), theirs, rtol=torch.finfo(dtype).eps * 8, atol=1e-5)
            assert not ours.cpu()[theirs == 0].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_instruction_sets_give_the_same_bits(name, dtype):
    results = []
    for instruction_set in INSTRUCTION_SETS:
        with using_instruction_set(instruction_set):
            outputs = []
            for x in (spread(10008, dtype), LAYOUTS["transposed"](spread(9900, dtype).view(99, 100))):
                inputs = inputs_for(name, x)
                outputs.append(getattr(ops, f"{name}_apply")(*inputs, state(), 0.1))
                if name in BACKWARD:
                    tensors = backward_of(name, inputs, outputs[-1])
                    grads = getattr(ops, f"{name}_backward")(*tensors, state(), 0.1)
                    outputs.extend(grads if isinstance(grads, tuple) else [grads])
            results.append(outputs)
    for outputs in results[1:]:
        for ours, theirs in zip(outputs, results[0], strict=True):
            assert_same_bits(ours, theirs)


# The functions themselves, seen through p = 0 ------------------------------------------------------------------------


def value(name, x):
    return getattr(fused_dropout, f"{name}_dropout")(x, 0.0)


def derivative(name, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(value(name, x).sum(), x)[0]


def ulps(got, want):
    """The distance in units of the last place of `want`, which is float64 or mpmath's."""
    rounded = want.to(got.dtype)
    unit = (torch.nextafter(rounded.abs(), torch.tensor(math.inf, dtype=got.dtype)) - rounded.abs()).double()
    return ((got.double() - want) / unit).abs().max().item()


def normal_probability(x):
    """In float64 to its own rounding, far into the tail."""
    return torch.erfc(x.double() * -math.sqrt(0.5)) / 2


def test_gelu_is_the_normal_distribution_to_a_few_ulp():
    """Also where 1 + erf would have cancelled."""
    x = torch.cat((torch.linspace(-12.9, 8, 2_000_001), torch.linspace(-1, 1, 500_001)))
    want = x.double() * normal_probability(x)
    assert ulps(value("gelu", x), want) < 7
    assert ((value("gelu", x).double() - want).abs() <= 2**-22 * x.abs()).all()
    double = torch.linspace(-30, 8, 20_001, dtype=torch.float64)
    sample = [mpmath.mpf(v) * mpmath.ncdf(mpmath.mpf(v)) for v in double[::100].tolist()]
    got = value("gelu", double)[::100].tolist()
    assert max(abs(mpmath.mpf(g) / s - 1) for g, s in zip(got, sample, strict=True) if s != 0) < 2e-15


def test_silu_and_its_exponential_to_a_few_ulp():
    x = torch.linspace(-80, 80, 200_001)
    assert ulps(value("silu", x), x.double() * torch.sigmoid(x.double())) < 4
    want = torch.nn.functional.gelu(x.double(), approximate="tanh")
    assert ((fused_dropout.gelu_dropout(x, 0.0, approximate="tanh").double() - want).abs() <= 2e-7 * x.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["relu", "squared_relu", "gelu", "silu"])
def test_infinities_nans_and_zeros_come_out_as_pytorchs(name, dtype):
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 3e38, -3e38, 200.0, -200.0, 1e-40], dtype=dtype)
    y = x.double().requires_grad_()  # in float32 torch's gelu of infinity is nan, on some processors
    want = reference.ACTIVATIONS[name](y)
    torch.testing.assert_close(value(name, x), want.detach().to(dtype), equal_nan=True)
    (grad,) = torch.autograd.grad(want.sum(), y)
    torch.testing.assert_close(derivative(name, x), grad.to(dtype), equal_nan=True)


@pytest.mark.parametrize("name", CHAINS)
def test_a_dropped_element_is_zero_whatever_it_was(name):
    keep = fused_dropout.keep_mask((40, 50), 0.5, STATE)
    wide = torch.cat((keep, keep), -1) if "halves" in name else keep
    for bad in (math.nan, math.inf, -math.inf):
        inputs = [torch.where(wide, 1.0, bad), *(t for t in inputs_for(name, torch.ones(40, 50))[1:])]
        y = getattr(ops, f"{name}_apply")(*inputs, state(), 0.5)
        assert not y[~keep].any()
        if name in BACKWARD:
            grads = getattr(ops, f"{name}_backward")(*backward_of(name, inputs, y), state(), 0.5)
            for grad in grads if isinstance(grads, tuple) else (grads,):
                assert not grad[~(wide if grad.shape == wide.shape else keep)].any()


@pytest.mark.parametrize(("dtype", "digits"), [("float", 8), ("double", 16)])
def test_the_normal_tails_coefficients_are_the_interpolating_polynomials(dtype, digits):
    """csrc/core/normal_distribution.h: q in Phi(-a) = e^(-a^2/2) t q(kSlope t - kMiddle), at the Chebyshev points."""
    text = (Path(__file__).parent.parent / "csrc" / "core" / "normal_distribution.h").read_text()
    (terms,) = re.findall(rf"struct NormalTailTerms<{dtype}> {{(.*?)\n}};", text, re.S)
    (written,) = re.findall(r"table\[\] = \{(.*?)\}", terms, re.S)
    with mpmath.workdps(50):
        near, slope, middle = (
            mpmath.mpf(re.search(rf"{name} = ([\d.]+)", terms)[1]) for name in ("kNear", "kSlope", "kMiddle")
        )
        table = [mpmath.mpf(c.strip().rstrip("f")) for c in written.split(",")]
        points = [mpmath.cos(mpmath.pi * (2 * j + 1) / (2 * len(table))) for j in range(len(table))]

        def q(s):
            t = (s + middle) / slope
            a = 1 / t - near
            return mpmath.exp(a * a / 2) * mpmath.erfc(a / mpmath.sqrt(2)) / 2 / t

        matrix = mpmath.matrix(len(table), len(table))
        for row, s in enumerate(points):
            for column in range(len(table)):
                matrix[row, column] = s**column
        want = mpmath.lu_solve(matrix, mpmath.matrix([q(s) for s in points]))
        assert max(abs(a - b) for a, b in zip(table, want, strict=True)) < mpmath.mpf(10) ** -(digits + 1)


# What is kept, and refused -------------------------------------------------------------------------------------------


def test_relu_keeps_its_output_alone_and_its_backward_makes_no_mask():
    x = torch.randn(50, 60, requires_grad=True)
    y = fused_dropout.relu_dropout(x, 0.3, rng=STATE)
    other = torch.tensor([1, 4])  # of another mask: the derivative does not look at it
    grad = torch.randn(50, 60)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], ops.relu_dropout_backward(grad, y.detach(), other, 0.3))


def test_writing_to_what_is_kept_is_noticed():
    for name in ("relu_dropout", "gelu_dropout"):
        x = torch.randn(50, 60, requires_grad=True)
        z = x * 1
        y = getattr(fused_dropout, name)(z, 0.3)
        (y if name == "relu_dropout" else z).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_the_halves_are_two_tensors(name):
    x = torch.randn(3, 5, 14, requires_grad=True)
    call = getattr(fused_dropout, f"{name}_dropout")
    results = []
    for y in (call(x, p=0.3, rng=STATE), call(*x.chunk(2, -1), 0.3, rng=STATE)):
        results.append((y, *torch.autograd.grad(y, x, y.detach())))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert results[0][1].is_contiguous()


@pytest.mark.parametrize("name", ["gelu_dropout", "relu_dropout", "swiglu_dropout"])
def test_jagged_tensors_go_by_their_values(name):
    rows = [torch.randn(n, 6) for n in (3, 5, 1)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    y = getattr(fused_dropout, name)(nested, p=0.3, rng=STATE)
    values = torch.cat(rows).requires_grad_()
    want = getattr(fused_dropout, name)(values, p=0.3, rng=STATE)
    assert torch.equal(y.values(), want)
    (grad,) = torch.autograd.grad(y.values().sum(), nested)
    assert torch.equal(grad.values(), torch.autograd.grad(want.sum(), values)[0])


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap(name, randomness):
    op = getattr(ops, name)
    x = torch.randn(3, 4, 10)
    inputs = [x, *(torch.randn(3, *t.shape) for t in inputs_for(name, x[0])[1:])]

    def call(*tensors):
        return op(*tensors, 0.4)[0]

    torch.manual_seed(5)
    y = torch.vmap(call, randomness=randomness)(*inputs)
    torch.manual_seed(5)
    drawn = fused_dropout.draw()
    for i in range(3):
        want = getattr(ops, f"{name}_apply")(*(t[i] for t in inputs), drawn, 0.4)
        torch.testing.assert_close(y[i], want)
        drawn = fused_dropout.draw() if randomness == "different" else drawn


@pytest.mark.parametrize("name", CHAINS)
def test_per_sample_gradients(name):
    x = torch.randn(3, 4, 10)
    others = inputs_for(name, x[0])[1:]

    def loss(x):
        return getattr(ops, f"{name}_apply")(x, *others, state(), 0.4).sin().sum()

    got = torch.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(got, torch.stack([torch.func.grad(loss)(each) for each in x]))
    torch.testing.assert_close(got[0], torch.autograd.functional.jacobian(loss, x[0]))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled(backend, dynamic):
    def step(x, b, rng):
        y = fused_dropout.bias_gelu_dropout(x, b, 0.4, rng=rng)
        y = fused_dropout.swiglu_dropout(fused_dropout.relu_dropout(y, 0.3, rng=rng), None, 0.2, rng=rng)
        return fused_dropout.geglu_dropout(y, y.sin(), 0.3, False)

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (6, 11):
        inputs, rng = (
            [torch.randn(n, 12, requires_grad=True), torch.randn(12, requires_grad=True)],
            fused_dropout.draw(),
        )
        results = [(y := f(*inputs, rng), *torch.autograd.grad(y.sum(), inputs)) for f in (step, compiled)]
        torch.testing.assert_close(*results)
    torch._dynamo.reset()


X, B = torch.ones(2, 3, 4), torch.ones(4)
WRONG = [
    (
        lambda: fused_dropout.gelu_dropout(X, approximate="erf"),
        ValueError,
        "gelu_dropout: expected approximate to be 'n",
    ),
    (lambda: fused_dropout.geglu_dropout(X, approximate=None), ValueError, "'none' or 'tanh', but got None"),
    (
        lambda: fused_dropout.bias_silu_dropout(X, torch.ones(3)),
        ValueError,
        r"bias that broadcasts .*\[2, 3, 4\].*\[3\]",
    ),
    (lambda: fused_dropout.bias_relu_dropout(X, 1.0), TypeError, "argument 'bias' must be a Tensor, not float"),
    (lambda: fused_dropout.swiglu_dropout(X[..., :3]), ValueError, r"swiglu_dropout: expected up, or .*\[2, 3, 3\]"),
    (lambda: fused_dropout.swiglu_dropout(torch.tensor(1.0)), ValueError, r"last dimension has two halves.*\[\]"),
    (lambda: fused_dropout.swiglu_dropout(X, 0.1), TypeError, "argument 'up' must be a Tensor, not float"),
    (lambda: fused_dropout.swiglu_dropout(X, X[0]), ValueError, r"input's shape \[2, 3, 4\], but got .*\[3, 4\]"),
    (lambda: fused_dropout.geglu_dropout(X, X.half()), RuntimeError, "input's dtype"),
    (lambda: ops.swiglu_dropout_halves(X[..., :3], 0.5), ValueError, r"two halves, but got one of shape \[2, 3, 3\]"),
    (lambda: fused_dropout.relu_dropout(X.long()), RuntimeError, "relu_dropout: expected a tensor of dtype float16"),
    (
        lambda: fused_dropout.gelu_dropout(X.to(torch.complex64)),
        RuntimeError,
        "float32 or float64, but got ComplexFloat",
    ),
    (lambda: fused_dropout.silu_dropout(X, 1.5), ValueError, "between 0 and 1, but got 1.5"),
    (lambda: fused_dropout.silu_dropout(X, 0.5, None), TypeError, "argument 'training' must be bool"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_wrong_calls_raise_and_draw_nothing(call, error, text):
    before = torch.get_rng_state()
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_is_one_pass_and_draws_nothing():
    x, before = torch.randn(6, 8), torch.get_rng_state()
    for p, training in ((0.4, False), (0.0, True), (torch.tensor(0.4), False)):
        torch.testing.assert_close(fused_dropout.gelu_dropout(x, p, training), torch.nn.functional.gelu(x))
        a, b = x.chunk(2, -1)
        torch.testing.assert_close(fused_dropout.swiglu_dropout(x, None, p, training), torch.nn.functional.silu(a) * b)
    assert torch.equal(before, torch.get_rng_state())
