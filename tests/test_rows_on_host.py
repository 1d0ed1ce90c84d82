"""The CUDA kernels of row operations, run thread by thread on the host, against the CPU extension.

Masks are exact. A row's sums have another order than the CPU's, so that values may differ by their rounding.
"""

import ctypes
import subprocess

import numpy as np
import pytest
import torch
from conftest import DTYPES
from test_cuda_on_host import ALIGNED, COMPILER, DTYPE_IDS, ROOT
from test_values import STATE, state

from fused_dropout import reference
from fused_dropout._extension import ops
from proof.row_calls import OPERANDS, OPERATIONS

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels for the host with")

ATTEND = {None: 0, torch.bool: 1}
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-5, torch.float64: 1e-12}
# Rows that a warp holds, that a block holds (beyond 1,024) and that nobody does (beyond 8,192).
LENGTHS = [1, 2, 7, 8, 63, 64, 65, 129, 256, 1000, 1024, 1025, 2500, 8200]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    here = ROOT / "tests" / "cuda_on_host"
    built = tmp_path_factory.mktemp("rows_on_host") / "library.so"
    warnings = "-Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-parameter"
    flags = f"-std=c++17 -O1 {warnings} -ffp-contract=off {ALIGNED} -shared -fPIC"
    command = [COMPILER, *flags.split(), f"-I{here}", "-x", "c++", here / "rows_library.cpp", "-o", built]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(built))


def run(library, operation, x, p, constant, *, mask_strides=None, mask_base=0, attn_mask=None, columns=False,
        **operands):  # fmt: skip
    """One launch; returns how many parts the rows have."""
    given = [operands.get(name) for name in OPERANDS]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(x.shape)
        given[OPERANDS.index("attn_mask")] = attn_mask
    pointers = (ctypes.c_void_p * len(OPERANDS))(*[None if t is None else t.data_ptr() for t in given])
    sizes = np.array(x.shape, dtype=np.int64)
    strides = np.array(x.stride() if attn_mask is None else attn_mask.stride(), dtype=np.int64)
    mask_strides = np.array(reference.row_major(x.shape) if mask_strides is None else mask_strides, dtype=np.uint64)
    attend = 0 if attn_mask is None else ATTEND.get(attn_mask.dtype, 2)
    function = library.run_rows_on_cuda
    function.restype = ctypes.c_int64
    return function(
        OPERATIONS.index(operation), DTYPE_IDS[x.dtype], pointers, x.dim(), *(
            ctypes.c_void_p(a.ctypes.data) for a in (sizes, strides, mask_strides)
        ), ctypes.c_uint64(mask_base), attend, int(p > 0), ctypes.c_double(constant), ctypes.c_uint64(STATE[0]),
        ctypes.c_uint64(STATE[1]), ctypes.c_double(p), int(columns),
    )  # fmt: skip


def close(got, want):
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def statistics(x, count=2):
    dtype = reference.compute(x.dtype)
    return [torch.empty(x.shape[:-1], dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", LENGTHS)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms(library, norm, features, dtype):
    shape = (3, 4, features) if features < 2000 else (2, features)
    x, r, g, h = (normal(*shape, dtype=dtype, seed=seed) for seed in range(4))
    w, b = normal(features, dtype=dtype, seed=5), normal(features, dtype=dtype, seed=6) if norm == "layer" else None
    affine, eps, p = [w, b] if norm == "layer" else [w], 0.1, 0.4
    normed, sum, (mean, rstd) = torch.empty_like(x), torch.empty_like(x), statistics(x)
    left = torch.zeros(2, dtype=torch.int64)
    run(library, norm, x, p, eps, x0=x, x1=r, weight=w, bias=b, first=sum, output=normed, statistic1=rstd,
        statistic0=mean if norm == "layer" else None, state_out=left)  # fmt: skip
    assert torch.equal(left, state())
    want = getattr(ops, f"dropout_add_{norm}_norm_apply")(x, r, *affine, state(), p, eps)
    assert torch.equal(sum, want[1])
    close(normed, want[0])
    for got, expected in zip([mean, rstd] if norm == "layer" else [rstd], want[2:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    grad_input, grad_residual = torch.empty_like(x), torch.empty_like(x)
    column = [torch.full((1024, features), 7.0, dtype=rstd.dtype) for _ in range(2)]
    parts = run(library, f"{norm} backward", x, p, eps, x0=g, x1=sum, x2=h, weight=w, output=grad_residual,
                second=grad_input, statistic0=want[2] if norm == "layer" else None, statistic1=want[-1],
                column0=column[0], column1=column[1], columns=True)  # fmt: skip
    grads = [grad_input, grad_residual, *sums_of_parts(library, torch.stack([c[:parts] for c in column]), dtype)]
    backward = getattr(ops, f"dropout_add_{norm}_norm_backward")
    expected = backward(g, h, sum, w, *want[2:], state(), p, eps, [True] * (2 + len(affine)))
    assert torch.equal(grad_input == 0, expected[0] == 0)
    for got, one in zip(grads, expected, strict=False):
        torch.testing.assert_close(got, one, rtol=3 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 2500])
def test_sums_of_columns_over_every_number_of_rows(library, rows):
    x, g = normal(rows, 9), normal(rows, 9, seed=1)
    _, sum, mean, rstd = ops.dropout_add_layer_norm_apply(x, x, None, None, state(), 0.0, 1e-5)
    column = [torch.full((1025, 9), 7.0) for _ in range(2)]
    parts = run(library, "layer backward", x, 0.0, 1e-5, x0=g, x1=sum, statistic0=mean, statistic1=rstd,
                output=torch.empty_like(x), column0=column[0], column1=column[1], columns=True)  # fmt: skip
    assert parts <= 1024
    want = ops.dropout_add_layer_norm_backward(
        g, None, sum, None, mean, rstd, state(), 0.0, 1e-5, [False, False, True, True]
    )
    for j in range(2):
        assert (column[j][parts:] == 7).all()
        torch.testing.assert_close(column[j][:parts].sum(0), want[2 + j], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", LENGTHS)
@pytest.mark.parametrize("mask", ["none", "bools", "added", "a row"])
def test_softmax(library, mask, features, dtype):
    shape = (3, 4, features) if features < 2000 else (2, 1, features)
    x, g = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    attn_mask = {
        "none": None,
        "bools": normal(shape[0], 1, features, seed=2) > -0.5,
        "added": normal(*shape, dtype=dtype, seed=2),
        "a row": normal(features, dtype=dtype, seed=2),
    }[mask]
    if mask == "bools":
        attn_mask[0] = False  # nothing takes part
    p, scale = 0.4, 0.7
    y, (maximum, inverse) = torch.empty_like(x), statistics(x)
    left = torch.zeros(2, dtype=torch.int64)
    run(library, "softmax", x, p, scale, x0=x, attn_mask=attn_mask, second=y, statistic0=maximum, statistic1=inverse,
        state_out=left)  # fmt: skip
    assert torch.equal(left, state())
    want = ops.softmax_dropout_apply(x, attn_mask, state(), p, scale)
    close(y, want[0])
    assert torch.equal(maximum, want[1])
    torch.testing.assert_close(inverse, want[2])
    keep = ops.keep_mask(state(), x.shape, p)
    assert not y[~keep].any()
    scores, grad_input = torch.empty_like(x), torch.empty_like(x)
    run(library, "softmax backward", x, p, scale, x0=x, x1=g, attn_mask=attn_mask, output=scores, second=grad_input,
        statistic0=want[1], statistic1=want[2])  # fmt: skip
    for got, one in zip(
        (grad_input, scores),
        ops.softmax_dropout_backward(g, x, attn_mask, *want[1:], state(), p, scale, [True, True]),
        strict=True,
    ):
        close(got, one)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("features", [7, 64, 1030])
def test_pointers_of_any_alignment_and_nothing_beyond(library, features, offset):
    for dtype in (torch.float32, torch.bfloat16):
        guards = [torch.full((3 * features + 64,), 7.0, dtype=dtype) for _ in range(2)]
        normed, sum = (guard[offset : offset + 3 * features].view(3, features) for guard in guards)
        x, r = (normal(3 * features + 8, dtype=dtype, seed=s)[offset : offset + 3 * features].view(3, features)
                for s in range(2))  # fmt: skip
        run(library, "layer", x, 0.4, 1e-5, x0=x, x1=r, first=sum, output=normed)
        want = ops.dropout_add_layer_norm_apply(x, r, None, None, state(), 0.4, 1e-5)
        assert torch.equal(sum, want[1])
        close(normed, want[0])
        for guard in guards:
            assert (guard[:offset] == 7).all()
            assert (guard[offset + 3 * features :] == 7).all()


@pytest.mark.parametrize("base", [0, 3, 2**32 - 5, 2**40 + 1])
@pytest.mark.parametrize("strides", [None, [0, 33, 1], [1, 6, 24], [5, 0, 0]], ids=str)
def test_masks_of_any_map(library, strides, base):
    x = torch.ones(6, 4, 33)
    sum = torch.empty_like(x)
    run(library, "rms", x, 0.4, 1e-5, mask_strides=strides, mask_base=base, x0=x, x1=torch.zeros_like(x), first=sum,
        output=torch.empty_like(x))  # fmt: skip
    assert torch.equal(sum != 0, ops.keep_mask(state(), x.shape, 0.4, mask_strides=strides, mask_base=base))


def test_without_a_mask_everything_is_kept(library):
    x = normal(5, 100)
    y = torch.empty_like(x)
    run(library, "softmax", x, 0.0, 1.0, x0=x, second=y)
    torch.testing.assert_close(y, torch.softmax(x, -1))


SUMMED = {"dropout_and_sum": [], "relu_dropout_backward_and_sum": ["x"], **{
    f"bias_{name}_dropout_backward_and_sum": ["x", "bias"] for name in ("squared_relu", "gelu", "gelu_tanh", "silu")
}}  # fmt: skip
SHAPES = [(1, 1), (3, 7), (9, 255), (17, 256), (5, 3, 257), (2, 2000), (2, 4, 8), (3000, 24), (70, 4000)]


def and_sum(library, name, tensors, p, guard=3, *, mask_strides=None, mask_base=0):
    """The output and the sum, or None where the kernel does not take the call."""
    x = tensors[0]
    features = x.shape[-1]
    output = torch.empty(x.shape, dtype=x.dtype)
    operands = [output, *(t.expand(x.shape) for t in tensors)]
    sums = torch.full((1024 + guard, features), 7.0, dtype=reference.compute(x.dtype))
    pointers = (ctypes.c_void_p * len(operands))(*[t.data_ptr() for t in operands])
    arrays = [
        np.array(x.shape, dtype=np.int64),
        np.array([t.stride() for t in operands], dtype=np.int64),
        np.array(reference.row_major(x.shape) if mask_strides is None else mask_strides, dtype=np.uint64),
    ]
    function = library.run_and_sum_on_cuda
    function.restype = ctypes.c_int64
    parts = function(
        name.removesuffix("_and_sum").encode(), DTYPE_IDS[x.dtype], pointers, len(operands), x.dim(),
        *(ctypes.c_void_p(a.ctypes.data) for a in arrays), ctypes.c_uint64(mask_base), ctypes.c_uint64(STATE[0]),
        ctypes.c_uint64(STATE[1]), ctypes.c_double(p), ctypes.c_int64(0), ctypes.c_void_p(sums.data_ptr()),
    )  # fmt: skip
    if parts < 0:
        return None
    assert 0 < parts <= 1024
    assert (sums[parts:] == 7).all()
    return output, sums_of_parts(library, sums[None, :parts], x.dtype)[0]


def sums_of_parts(library, parts, dtype):
    number, count, features = parts.shape
    sums = [torch.empty(features, dtype=dtype) for _ in range(number)]
    library.run_sums_of_parts_on_cuda(
        DTYPE_IDS[dtype], ctypes.c_void_p(parts.data_ptr()), (ctypes.c_void_p * number)(*(s.data_ptr() for s in sums)),
        number, ctypes.c_int64(count), ctypes.c_int64(features),
    )  # fmt: skip
    return sums


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [1, 2])
def test_sums_of_parts(library, number, dtype):
    for count in (0, 1, 31, 32, 33, 128, 161, 1024):
        for features in (1, 31, 32, 33, 95) if count < 1024 else (33,):
            parts = torch.randint(-8, 9, (number, count, features)).to(reference.compute(dtype))
            for got, want in zip(sums_of_parts(library, parts, dtype), parts.sum(1), strict=True):
                assert torch.equal(got, want.to(dtype)), "integers, which no order of addition rounds"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUMMED)
def test_a_pipeline_and_the_sum_of_its_rows(library, name, dtype):
    for shape in SHAPES:
        g, x, bias = (normal(*shape, dtype=dtype, seed=1), normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype))
        tensors = [g, *({"x": x, "bias": bias}[each] for each in SUMMED[name])]
        output, sum = and_sum(library, name, tensors, 0.4, mask_base=5)
        want = getattr(ops, name)(*tensors, state(), 0.4, mask_base=5)
        assert torch.equal(output, want[0])
        exact = output.flatten(0, -2).to(torch.float64).sum(0)
        rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-22, torch.float64: 2**-50}[dtype]
        magnitude = output.flatten(0, -2).double().abs().sum(0)
        assert ((sum.double() - exact).abs() <= rounding * exact.abs() + 2**-20 * magnitude).all()


def test_sums_of_rows_that_begin_anywhere(library):
    for offset in (1, 4):
        g = normal(40 * 24 + 8)[offset : offset + 40 * 24].view(40, 24)
        wide = normal(40, 50)[:, offset : offset + 24]
        for x in (g, wide, wide[:1].expand(40, 24)):
            output, sum = and_sum(library, "dropout_and_sum", [x], 0.5)
            assert torch.equal(output, ops.dropout_apply(x.contiguous(), state(), 0.5))
            torch.testing.assert_close(sum, output.sum(0), rtol=1e-5, atol=1e-5)


def test_sums_leave_to_others_what_they_do_not_take(library):
    x = normal(6, 4, 33)
    assert and_sum(library, "dropout_and_sum", [x], 0.5, mask_strides=[0, 33, 1]) is None
    assert and_sum(library, "dropout_and_sum", [x], 0.5, mask_strides=[4, 1, 24]) is None
    assert and_sum(library, "dropout_and_sum", [x[..., :1].expand_as(x)], 0.5) is None
    output, _ = and_sum(library, "dropout_and_sum", [x], 0.5, mask_strides=[400, 100, 1])
    assert torch.equal(output, ops.dropout_apply(x, state(), 0.5, mask_strides=[400, 100, 1]))
