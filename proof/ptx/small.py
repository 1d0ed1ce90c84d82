"""Calls that together run every kernel there is, on every dtype; small, so that each element is compared."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from fused_dropout import reference
from fused_dropout._extension import ops

from .calls import (
    DTYPES,
    STATE,
    Buffer,
    Call,
    Elementwise,
    blocks,
    elementwise,
    made,
    normal,
    reading,
    span,
    state,
    write_state,
    writing,
)
from .row_calls import and_sum, rows, sums_of_parts

# Pipelines, and the inputs of each: x like the first one, b a bias.
AFFINE = {"dropout": "x", "alpha_dropout": "x", "dropped": "x", "gaussian_dropout": "x", "dropout_add": "xx",
          "zoneout": "xx", "bias_dropout": "xb", "bias_dropout_add": "xbx"}  # fmt: skip
ACTIVATIONS = ("squared_relu", "gelu", "gelu_tanh", "silu")
NONLINEAR = {
    **{f"{name}_dropout": "x" for name in (*ACTIVATIONS, "relu")},
    **{f"{name}_dropout_backward": "xx" for name in (*ACTIVATIONS, "relu")},
    **{f"bias_{name}_dropout": "xb" for name in (*ACTIVATIONS, "relu")},
    **{f"bias_{name}_dropout_backward": "xxb" for name in ACTIVATIONS},
    **{f"{name}_dropout": "xx" for name in reference.GATED},
    **{f"{name}_dropout_backward": "xxx" for name in reference.GATED},
}
SUMMED = {"dropout": "x", "relu_dropout_backward": "xx",
          **{f"bias_{name}_dropout_backward": "xxb" for name in ACTIVATIONS}}  # fmt: skip
LENGTHS = (1, 7, 8, 9, 255, 256, 257, 2047, 2048, 2049, 5000)
BASES = (3, 8, 2**32 - 5, 2**35 - 13, 2**35 - 80, 2**40 + 1, -100)  # 2^35 - 80: group numbers pass 2^32
# A noise shape, where strides are those of the mask's own dimensions.
SHARED = {"channels": ((5, 6, 7, 7), (6, 1, 0, 0)), "time": ((9, 4, 33), (0, 33, 1)), "samples": ((6, 500), (1, 0)),
          "short rows": ((90, 4), (1, 0)), "strided": ((20, 30), (90, 3)), "everything": ((7, 33), (0, 0))}  # fmt: skip


def inputs(kinds: str, shape: Sequence[int], dtype: torch.dtype) -> list[torch.Tensor]:
    return [normal(shape if kind == "x" else shape[-1:], dtype, seed) for seed, kind in enumerate(kinds)]


def off_by_one(t: torch.Tensor) -> torch.Tensor:
    """The same values, one element further on in memory."""
    return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)


def of_pipelines(pipelines: dict[str, str], dtypes: Sequence[torch.dtype]) -> Iterator[Call]:
    """A whole tile, of 1,024 elements at most, and a tail; pointers that no vector access may use; strides."""
    for name, kinds in pipelines.items():
        for dtype in dtypes:
            dense = inputs(kinds, (3, 360), dtype)
            yield elementwise(name, dense)
            yield elementwise(name, [off_by_one(t) for t in dense], mask_base=8, skew=1)
            yield elementwise(name, [t.t() if t.dim() == 2 else normal([3], dtype) for t in dense])


def of_ties(dtypes: Sequence[torch.dtype]) -> Iterator[Call]:
    """So many elements that some high halves, four on average, equal the threshold's; with vectors and without."""
    for dtype in dtypes:
        for skew in (0, 1):
            yield elementwise("dropout", [normal([1 << 18], dtype)], skew=skew)


def of_masks(dtypes: Sequence[torch.dtype]) -> Iterator[Call]:
    for dtype in dtypes:
        for length in LENGTHS:
            yield elementwise("dropout", [normal([length], dtype)])
        for base in BASES:
            yield elementwise("dropout", [normal([1100], dtype)], mask_base=base)
            yield elementwise("gaussian_dropout", [normal([50], dtype)], mask_base=base)
        for shape, strides in SHARED.values():
            for pipeline in ("dropout", "gaussian_dropout"):
                yield elementwise(pipeline, [normal(shape, dtype)], mask_strides=strides, mask_base=11)
        for base in (0, 3):
            noise = ops.normal_noise(state(), [3, 37], dtype=dtype, mask_base=base)
            yield made("normal_noise", noise, dtype, 0.0, base)
            yield stored(dtype, 700, base)
        yield by_pointer(dtype)
        yield padded(dtype, 48, 16)
        yield padded(dtype, 49, dtype.itemsize)
    for base, skew, p in ((0, 0, 0.4), (2**40 + 1, 1, 0.4), (0, 0, 1e-12), (0, 0, 1.0)):
        yield made("keep_mask", ops.keep_mask(state(), [700], p, mask_base=base), torch.bool, p, base, skew)
    keep = ops.keep_mask(state(), [30, 5], 0.4, mask_strides=[1, 30])
    call = made("keep_mask", keep, torch.bool, 0.4, 0)
    assert isinstance(call.invoke, Elementwise)
    yield replace(call, invoke=replace(call.invoke, mask_strides=[1, 30]))
    yield blocks(5)
    yield blocks(40, mask_base=2**32 - 70)
    yield write_state()


def stored(dtype: torch.dtype, numel: int, base: int) -> Call:
    """Dropout by keep bits in memory."""
    words = np.random.default_rng(0).integers(0, 2**63, size=(numel + base) // 64 + 2, dtype=np.uint64)
    keep = torch.from_numpy(np.unpackbits(words.view(np.uint8), bitorder="little")[base : base + numel]).bool()
    x = normal([numel], dtype)
    y = torch.where(keep, x * torch.tensor(reference.gain_of(0.3, reference.GAIN_UPSCALE), dtype=dtype), 0.0)
    invoke = Elementwise("blocks", dtype, [numel], [[1], [1]], mask_base=base)
    buffers = {"y0": writing(y), "x0": reading(x), "keep_bits": Buffer(words.view(np.uint8))}
    # The gain is rounded once more where dtype is narrower than what is computed in: the host's bytes decide there.
    expected = {"y0": span(y)} if dtype in (torch.float32, torch.float64) else {}
    return Call(f"stored bits, {dtype}, {numel}", "library", buffers, invoke, expected, numel)


def by_pointer(dtype: torch.dtype) -> Call:
    """p and the state lie in memory, and the state is left for the backward."""
    call = elementwise("dropout", [normal([300], dtype)], 0.3)
    assert isinstance(call.invoke, Elementwise)
    there = torch.tensor([state()[0], 1000])
    offset = 1000 + STATE[1]
    left = torch.tensor([state()[0], offset])
    call.buffers |= {"state": reading(there), "p": reading(torch.tensor([0.3], dtype=torch.float64)),
                     "state_out": writing(left)}  # fmt: skip
    call.expected = {"y0": span(ops.dropout_apply(normal([300], dtype), left, 0.3)), "state_out": span(left)}
    return replace(call, what=f"{call.what}, p and state by pointer", invoke=replace(call.invoke, p=1.0))


def padded(dtype: torch.dtype, features: int, width: int) -> Call:
    """Rows with a gap behind each, which are no single run; written `width` bytes at a time."""
    wide = normal([5, 2 * features], dtype)
    return replace(elementwise("dropout", [wide[:, :features]]), width=width)


def of_rows(operations: Sequence[str], dtypes: Sequence[torch.dtype]) -> Iterator[Call]:
    """Rows that a warp holds, that a block holds, and that nobody does."""
    for operation in operations:
        for dtype in dtypes:
            for sizes in ((3, 2, 100), (9, 33), (3, 1200), (2, 8200)):
                call = rows(operation, dtype, sizes, mask_base=2**32 - 777)
                if not operation.endswith("backward"):  # which may be of a call that drew its state
                    call.buffers["state_out"] = writing(state())
                    call.expected = {"state_out": span(state())}
                yield call


def of_sums(pipelines: dict[str, str], dtypes: Sequence[torch.dtype]) -> Iterator[Call]:
    for dtype in dtypes:
        yield sums_of_parts(dtype, 1, 9, 45)
        yield sums_of_parts(dtype, 2, 33, 45)
        yield sums_of_parts(dtype, 2, 161, 32)
        for name, kinds in pipelines.items():
            yield and_sum(name, inputs(kinds, (17, 257), dtype), 3)


def of_library(quick: bool) -> Iterator[Call]:
    some = {name: AFFINE[name] for name in ("dropout", "bias_dropout_add", "gaussian_dropout")}
    some |= {name: NONLINEAR[name] for name in ("bias_gelu_dropout", "swiglu_dropout_backward")}
    yield from of_pipelines(some if quick else {**AFFINE, **NONLINEAR}, DTYPES)
    yield from of_masks(DTYPES)


def of_rows_library(quick: bool, operations: Sequence[str]) -> Iterator[Call]:
    yield from of_sums({"dropout": "x"} if quick else SUMMED, DTYPES)
    yield from of_rows(operations, DTYPES)
