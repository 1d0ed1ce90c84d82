"""The CUDA kernels' own source, compiled by g++ and run thread by thread on the host, against the CPU extension.

What a GPU alone can show (that it runs there, its conversions, its speed) is in test_cuda.py.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DTYPES
from test_values import LAYOUTS, NOISE_SHAPES, PIPELINES, STATE, assert_same_bits, inputs_for, state

from fused_dropout import reference
from fused_dropout._extension import ops

ROOT = Path(__file__).parent.parent
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels for the host with")

DTYPE_IDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3, torch.bool: 2}
MAX = 2**64 - 1
ALIGNED = "-fsanitize=alignment -fno-sanitize-recover=alignment"  # as a GPU, which refuses other vector accesses
TWO = [f"{name}_dropout_backward" for name in reference.GATED]  # pipelines of two outputs


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    here = ROOT / "tests" / "cuda_on_host"
    built = tmp_path_factory.mktemp("cuda_on_host") / "library.so"
    warnings = "-Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-parameter"
    flags = f"-std=c++17 -O2 {warnings} -ffp-contract=off {ALIGNED} -shared -fPIC"
    command = [COMPILER, *flags.split(), f"-I{here}", "-x", "c++", here / "library.cpp", "-o", built]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(built))


def pipeline_id(library, name):
    found = [library.pipeline_of(f"{name}{form}".encode()) for form in ("", "_apply")]
    assert max(found) >= 0, name
    return max(found)


def run(library, pipeline, inputs, p, *, shape=None, dtype=None, mask_strides=None, mask_base=0, state=STATE, gain=0,
        state_ptr=None, p_ptr=None, state_out=None, keep_bits=None, output=None, blocks=(0, MAX)):  # fmt: skip
    """One launch; the arguments are those of the operations. A pipeline of two outputs gives both."""
    if output is None:
        output = torch.empty_like(inputs[0]) if inputs else torch.empty(shape, dtype=dtype)
    outputs = [output, torch.empty_like(output)] if pipeline in TWO else [output]
    operands = [*outputs, *(t.expand(output.shape) for t in inputs)]
    ndim = output.dim()
    sizes = np.array(output.shape, dtype=np.int64)
    strides = np.array([t.stride() for t in operands], dtype=np.int64).reshape(-1)
    if mask_strides is None:
        mask_strides = np.array([int(np.prod(output.shape[d + 1 :], dtype=np.int64)) for d in range(ndim)])
    mask_strides = np.array(mask_strides, dtype=np.uint64)
    pointers = (ctypes.c_void_p * len(operands))(*[t.data_ptr() for t in operands])
    library.run_on_cuda(
        pipeline_id(library, pipeline), DTYPE_IDS[output.dtype], pointers, len(outputs), len(operands), ndim,
        ctypes.c_void_p(sizes.ctypes.data), ctypes.c_void_p(strides.ctypes.data),
        ctypes.c_void_p(mask_strides.ctypes.data), ctypes.c_uint64(mask_base), ctypes.c_uint64(state[0]),
        ctypes.c_uint64(state[1]), ctypes.c_void_p(state_ptr), ctypes.c_double(p), ctypes.c_void_p(p_ptr),
        ctypes.c_int64(gain), ctypes.c_void_p(state_out), ctypes.c_void_p(keep_bits), ctypes.c_uint64(blocks[0]),
        ctypes.c_uint64(blocks[1]),
    )  # fmt: skip
    return tuple(outputs) if pipeline in TWO else output


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in reference.CHAINS if not name.endswith("_halves")])
def test_activations_have_the_bits_of_the_cpu(library, name, dtype):
    """Exponential and normal distribution too: they are made of operations that are rounded in one way only."""
    for layout, shape in (("contiguous", (3, 700)), ("transposed", (5, 33)), ("offset by one element", (2, 300))):
        x = LAYOUTS[layout](3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
        inputs = [
            x,
            *(
                torch.randn(shape[-1:] if "bias" in name else shape).to(dtype)
                for _ in range(1, reference.CHAINS[name][1])
            ),
        ]
        y = run(library, name, inputs, 0.3)
        assert_same_bits(y, getattr(ops, f"{name}_apply")(*inputs, state(), 0.3))
        backward = f"{name}_backward"
        if not hasattr(reference, backward):
            continue
        tensors = [torch.randn(shape).to(dtype), *([y] if name == "relu_dropout" else inputs)]
        got, want = run(library, backward, tensors, 0.3), getattr(ops, backward)(*tensors, state(), 0.3)
        for ours, theirs in zip(*(t if isinstance(t, tuple) else (t,) for t in (got, want)), strict=True):
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pipeline", [*PIPELINES, "gaussian_dropout"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(library, layout, pipeline, dtype):
    for shape in ((3, 5, 7), (2, 64, 64), (2, 3, 7, 33)):
        x = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
        inputs = inputs_for(pipeline, x)
        for p in (0.3, 0.5):
            want = getattr(ops, f"{pipeline}_apply")(*inputs, state(), p)
            assert_same_bits(run(library, pipeline, inputs, p), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("numel", [1, 2, 7, 8, 9, 255, 256, 257, 511, 2047, 2048, 2049, 5000])
def test_every_length_and_nothing_beyond(library, numel, dtype):
    guard = torch.full((numel + 64,), 7.0, dtype=dtype)
    x = torch.arange(1, numel + 1).to(dtype)
    run(library, "dropout", [x], 0.4, output=guard[32 : 32 + numel])
    assert_same_bits(guard[32 : 32 + numel], ops.dropout_apply(x, state(), 0.4))
    assert (guard[:32] == 7).all()
    assert (guard[32 + numel :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", range(9))
def test_pointers_and_mask_bases_of_any_alignment(library, offset, dtype):
    storage = torch.randn(3000).to(dtype)
    x = storage[offset : offset + 2500]
    for base in (0, 3, 8, 2**32 - 5, 2**35 - 13, 2**35 - 8, 2**40 + 1):
        want = ops.dropout_apply(x, state(), 0.2, mask_base=base)
        assert_same_bits(run(library, "dropout", [x], 0.2, mask_base=base), want)


@pytest.mark.parametrize(("shape", "noise_shape", "why"), NOISE_SHAPES, ids=[row[2] for row in NOISE_SHAPES])
def test_noise_shapes(library, shape, noise_shape, why):
    strides = reference.row_major([s if n is None else n for s, n in zip(shape, noise_shape, strict=True)])
    for layout in ("contiguous", "transposed", "channels last"):
        x = LAYOUTS[layout](torch.randn(shape))
        for pipeline in ("dropout", "gaussian_dropout"):
            for base in (0, 5):
                options = {"mask_strides": strides, "mask_base": base}
                want = getattr(ops, f"{pipeline}_apply")(x, state(), 0.4, **options)
                assert_same_bits(run(library, pipeline, [x], 0.4, **options), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("base", [0, 3, 2**35 - 13, MAX - 20])
def test_normal_noise(library, base, dtype):
    signed = base - 2**64 if base >= 2**63 else base
    want = ops.normal_noise(state(), [3, 37], dtype=dtype, mask_base=signed)
    assert_same_bits(run(library, "normal_noise", [], 0.0, shape=(3, 37), dtype=dtype, mask_base=base), want)


# (map, block, seeds, planes of samples and channels, why)
BLOCKS = [
    ((14, 14), (7, 7), (8, 8), (2, 3), "inside"),
    ((14, 15), (6, 7), (14, 15), (2, 1), "clipped, channels share it"),
    ((9, 90), (4, 70), (6, 21), (1, 3), "wider than a word, samples share it"),
    ((9, 90), (4, 71), (9, 90), (2, 3), "wider than a word, clipped"),
    ((1, 1), (1, 1), (1, 1), (1, 1), "a single element"),
]


@pytest.mark.parametrize(("size", "block", "seeds", "planes", "why"), BLOCKS, ids=[row[-1] for row in BLOCKS])
def test_blocks(library, size, block, seeds, planes, why):
    samples, channels, p = 2, 3, 0.05
    count = seeds[0] * seeds[1]
    strides = [0 if planes[0] == 1 else planes[1] * count, 0 if planes[1] == 1 else count, seeds[1], 1]
    x = torch.randn(samples, channels, *size)
    corner = [0 if s == n - b + 1 else -(b // 2) for s, n, b in zip(seeds, size, block, strict=True)]
    numbers = np.array([*planes, strides[0], strides[1], 0, *size, *block, *seeds, *corner], dtype=np.int64)
    words, seed_words = -(-size[0] * size[1] // 64), -(-count // 64)
    bits = torch.full((planes[0] * planes[1] * words + 4,), -1)
    dropped, kept = torch.full((planes[0] * planes[1] * seed_words + 1,), -1), torch.zeros((), dtype=torch.int64)
    library.run_blocks_on_cuda(
        ctypes.c_void_p(numbers.ctypes.data), ctypes.c_uint64(STATE[0]), ctypes.c_uint64(STATE[1]), ctypes.c_double(p),
        ctypes.c_void_p(dropped.data_ptr()), ctypes.c_void_p(bits.data_ptr()), ctypes.c_void_p(kept.data_ptr()),
    )  # fmt: skip
    elements = planes[0] * planes[1] * size[0] * size[1]
    covered = torch.tensor((elements - kept.item()) / elements, dtype=torch.float64)
    mask_strides = [0 if planes[0] == 1 else planes[1] * words * 64, 0 if planes[1] == 1 else words * 64, size[1], 1]
    got = run(library, "blocks", [x], 1.0, p_ptr=covered.data_ptr(), keep_bits=bits.data_ptr(),
              mask_strides=mask_strides)  # fmt: skip
    want = ops.dropout_apply(x, state(), p, mask_strides=strides, block=[*block, *seeds])
    assert_same_bits(got, want)
    assert (want[0, 0] == 0).any() or elements == 1


def test_golden_masks(library, golden):
    for case in golden["cases"]:
        for mask in case["masks"]:
            keep = run(library, "keep_mask", [], mask["p"], shape=(256,), dtype=torch.bool,
                       mask_base=int(case["start"]), state=(int(case["seed"]), int(case["offset"])))  # fmt: skip
            assert np.packbits(keep.numpy(), bitorder="little").tobytes().hex() == mask["keep"]


def test_low_half_decides_where_the_high_half_ties(library):
    words = reference.words(state(), torch.arange(1 << 16))
    high = int((words >> 16).mode().values)
    tied = (words >> 16 == high).nonzero().flatten().tolist()
    assert len(tied) > 4
    for i in tied:
        for threshold in (int(words[i]), int(words[i]) + 1):
            keep = run(library, "keep_mask", [], threshold / 2**32, shape=(1 << 16,), dtype=torch.bool)
            assert torch.equal(keep, words >= threshold)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1.5, float("nan")])
def test_p_by_pointer(library, value, pipeline):
    inputs = inputs_for(pipeline, torch.randn(1000))
    p = torch.tensor(value, dtype=torch.float64)
    want = getattr(ops, f"{pipeline}_apply")(*inputs, state(), value if 0 <= value <= 1 else 1.0)
    assert_same_bits(run(library, pipeline, inputs, 1.0, p_ptr=p.data_ptr()), want)


def test_state_by_pointer_plus_distance_is_what_a_captured_graph_reads(library):
    """Under capture the generator's offset lives on the device, and a replay adds to it there: three replays, three
    masks, each equal to an eager call with that state, and each state left for the backward."""
    x = torch.randn(1000)
    on_device = torch.tensor([42, 1000], dtype=torch.int64)
    masks = []
    for replay in range(3):
        state_out = torch.zeros(2, dtype=torch.int64)
        y = run(library, "dropout", [x], 0.5, state=(0, 16), state_ptr=on_device.data_ptr(),
                state_out=state_out.data_ptr())  # fmt: skip
        assert state_out.tolist() == [42, 1016 + 8 * replay]
        assert_same_bits(y, ops.dropout_apply(x, state_out, 0.5))
        masks.append(y)
        on_device[1] += 8
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_empty_tensor_still_leaves_its_state(library):
    state_out = torch.zeros(2, dtype=torch.int64)
    run(library, "dropout", [torch.empty(0)], 0.5, state=(5, 12), state_out=state_out.data_ptr())
    assert state_out.tolist() == [5, 12]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)], ids=str)
def test_empty_tensor_with_noise_still_leaves_its_state(library, shape):
    """By the kernel for any strides, which looks for the run of each octet."""
    state_out = torch.zeros(2, dtype=torch.int64)
    run(library, "gaussian_dropout", [torch.empty(shape)], 0.5, state=(5, 12), state_out=state_out.data_ptr())
    assert state_out.tolist() == [5, 12]


def test_write_state(library):
    words = torch.zeros(2, dtype=torch.int64)
    library.write_state_on_cuda(ctypes.c_uint64(2**64 - 1), ctypes.c_uint64(12), ctypes.c_void_p(words.data_ptr()))
    assert words.tolist() == [-1, 12]


EDGES = [2**31 - 4, 2**31 + 4, 2**32 - 4, 2**32 + 4]


@pytest.mark.parametrize(
    ("numel", "dtype"),
    [(numel, dtype) for dtype in DTYPES for numel in (*EDGES, *(n // dtype.itemsize for n in EDGES), 5 * 2**32 + 3)],
    ids=str,
)
def test_elements_and_bytes_beyond_32_bits(library, numel, dtype, tmp_path):
    """The last block of a tensor too large to hold: a sparse file of which only the end is ever touched."""
    x = torch.from_file(str(tmp_path / "sparse"), shared=True, size=numel, dtype=dtype)
    block = 256 * 8
    last = (numel - 1) // block
    end = numel - last * block
    x[last * block :] = torch.arange(1, end + 1).to(dtype)
    want = ops.dropout_apply(x[last * block :].clone(), state(), 0.5, mask_base=last * block)
    run(library, "dropout", [x], 0.5, output=x, blocks=(last, last))
    assert_same_bits(x[last * block :], want)


def test_portable_half_conversions_agree_with_torch(library):
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    floats = torch.empty(2**16)
    library.half_to_float(ctypes.c_void_p(halves.data_ptr()), ctypes.c_void_p(floats.data_ptr()), ctypes.c_int64(2**16))
    want = halves.view(torch.float16).float()
    assert torch.equal(floats.isnan(), want.isnan())
    assert torch.equal(floats.nan_to_num(7.0), want.nan_to_num(7.0))
    # Every half, its neighbours in float32, and the midpoints between halves: where rounding decides.
    finite = want[want.isfinite()].sort().values.unique()
    middle = (finite[1:].double() + finite[:-1].double()).mul(0.5).float()
    above, below = (middle.nextafter(torch.tensor(end)) for end in (torch.inf, -torch.inf))
    odd = torch.tensor([65519.9, 65520.0, 7e4, torch.inf])
    probes = torch.cat([finite, middle, above, below, odd, torch.randn(100_000) * 1e-6])
    probes = torch.cat([probes, -probes])
    got = torch.empty(len(probes), dtype=torch.int16)
    library.float_to_half(
        ctypes.c_void_p(probes.data_ptr()), ctypes.c_void_p(got.data_ptr()), ctypes.c_int64(len(probes))
    )
    assert torch.equal(got, probes.half().view(torch.int16))


@pytest.mark.parametrize("compiler", ["g++", "nvcc"])
def test_core_headers_compile_alone(compiler, tmp_path):
    """Each header by itself, with the bare compiler: no torch, no CUDA header."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / ("core.cu" if compiler == "nvcc" else "core.cpp")
    headers = sorted((ROOT / "csrc" / "core").glob("*.h"))
    for header in headers:
        source.write_text(f'#include "{header}"\nint main() {{ return 0; }}\n')
        warnings = ["-Wall", "-Werror"] if compiler == "g++" else []
        subprocess.run([compiler, "-std=c++17", *warnings, "-c", source, "-o", tmp_path / "core.o"], check=True)
