"""Calls of the row operations, and of the sums over rows."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fused_dropout import reference
from fused_dropout._extension import ops

from ..row_calls import OPERANDS, OPERATIONS
from .calls import STATE, Call, Pointers, array, normal, number_of, numbers, reading, span, state, writing


@dataclass
class Rows:
    """A row operation of contiguous rows; `attn_mask` strides in elements."""

    operation: str
    dtype: torch.dtype
    sizes: Sequence[int]
    p: float
    constant: float
    attend: int = 0
    attn_strides: Sequence[int] = ()
    mask_base: int = 0
    columns: bool = False

    def __call__(self, library: ctypes.CDLL, at: Pointers) -> int:
        operands = [at.get(name) for name in OPERANDS]
        strides = self.attn_strides or reference.row_major(self.sizes)
        return int(library.run_rows_on_cuda(
            OPERATIONS.index(self.operation), number_of(self.dtype), (ctypes.c_void_p * len(operands))(*operands),
            len(self.sizes), array(self.sizes, np.int64), array(strides, np.int64),
            array(reference.row_major(self.sizes), np.uint64), *numbers([self.mask_base]), self.attend,
            int(self.p > 0), ctypes.c_double(self.constant), *numbers(STATE), ctypes.c_double(self.p),
            int(self.columns),
        ))  # fmt: skip


def rows(operation: str, dtype: torch.dtype, sizes: Sequence[int], p: float = 0.4, mask_base: int = 0) -> Call:
    """With every operand that the operation may have. The statistics of a backward are any numbers."""
    compute, features, count = reference.compute(dtype), sizes[-1], math.prod(sizes[:-1])
    norm, backward = operation.split()[0] != "softmax", operation.endswith("backward")
    tensor = {name: reading(normal(sizes, dtype, seed)) for seed, name in enumerate(("x0", "x1", "x2"))}
    rstd, mean = normal([count], compute, 3).abs() + 0.5, normal([count], compute, 4)
    empty, statistic = torch.empty(tuple(sizes), dtype=dtype), torch.empty(count, dtype=compute)
    buffers = {"x0": tensor["x0"]}
    if norm or backward:
        buffers["x1"] = tensor["x1"]
    if norm:
        buffers["weight"] = reading(normal([features], dtype, 5))
    if operation == "layer":
        buffers["bias"] = reading(normal([features], dtype, 6))
    if norm and backward:
        buffers["x2"] = tensor["x2"]
        parts = count if count < 1024 else -(-count // -(-count // 1024))
        buffers |= {f"column{k}": writing(torch.empty(parts, features, dtype=compute)) for k in range(2)}
    if not norm:
        buffers["attn_mask"] = reading(normal([features], dtype, 7))
    for k, values in enumerate((mean, rstd)):
        if k == 1 or not operation.startswith("rms"):
            buffers[f"statistic{k}"] = reading(values) if backward else writing(statistic)
    if norm and not backward:
        buffers |= {"first": writing(empty), "output": writing(empty)}
    else:
        buffers |= {"output": writing(empty), "second": writing(empty)} if backward else {"second": writing(empty)}
    invoke = Rows(operation, dtype, sizes, p, 0.1 if norm else 0.7, 0 if norm else 2,
                  () if norm else [0] * (len(sizes) - 1) + [1], mask_base, norm and backward)  # fmt: skip
    what = f"{operation}, {str(dtype).removeprefix('torch.')}, {list(sizes)}"
    return Call(what, "rows_library", buffers, invoke, elements=math.prod(sizes))


@dataclass
class Sums:
    """A pipeline and the sums of its rows; strides are those of the output, then of the inputs."""

    pipeline: str
    dtype: torch.dtype
    sizes: Sequence[int]
    strides: Sequence[Sequence[int]]
    p: float
    parts: int
    mask_strides: Sequence[int]
    mask_base: int = 0

    def __call__(self, library: ctypes.CDLL, at: Pointers) -> None:
        operands = [at["y0"], *(at[f"x{k}"] for k in range(len(self.strides) - 1))]
        function = library.run_and_sum_on_cuda
        function.restype = ctypes.c_int64
        taken = function(
            self.pipeline.encode(), number_of(self.dtype), (ctypes.c_void_p * len(operands))(*operands),
            len(operands), len(self.sizes), array(self.sizes, np.int64), array(self.strides, np.int64),
            array(self.mask_strides, np.uint64), *numbers([self.mask_base, *STATE]), ctypes.c_double(self.p),
            ctypes.c_int64(0), ctypes.c_void_p(at["sums"]),
        )  # fmt: skip
        if taken != self.parts:
            raise ValueError(f"{self.pipeline} of {list(self.sizes)} has {taken} parts, and not {self.parts}")


def and_sum(pipeline: str, inputs: Sequence[torch.Tensor], parts: int, p: float = 0.3,
            mask_strides: Sequence[int] = (), mask_base: int = 0) -> Call:  # fmt: skip
    x = inputs[0]
    options = {"mask_strides": list(mask_strides or reference.row_major(x.shape)), "mask_base": mask_base}
    want = getattr(ops, pipeline if pipeline.endswith("_backward") else f"{pipeline}_apply")(
        *inputs, state(), p, **options
    )
    strides = [t.expand(x.shape).stride() for t in (want, *inputs)]
    sums = torch.empty(parts, x.shape[-1], dtype=reference.compute(x.dtype))
    buffers = {"y0": writing(want), "sums": writing(sums)} | {f"x{k}": reading(t) for k, t in enumerate(inputs)}
    invoke = Sums(pipeline, x.dtype, x.shape, strides, p, parts, **options)
    what = f"{pipeline} and sum, {str(x.dtype).removeprefix('torch.')}, {list(x.shape)}"
    return Call(what, "rows_library", buffers, invoke, {"y0": span(want)}, x.numel())


def sums_of_parts(dtype: torch.dtype, number: int, parts: int, features: int) -> Call:
    """Of one tensor, or of two in one launch."""
    given, total = normal([number, parts, features], reference.compute(dtype)), torch.empty(features, dtype=dtype)

    def invoke(library: ctypes.CDLL, at: Pointers) -> None:
        library.run_sums_of_parts_on_cuda(
            number_of(dtype), ctypes.c_void_p(at["parts"]),
            (ctypes.c_void_p * number)(*(at[f"sum{k}"] for k in range(number))), number, ctypes.c_int64(parts),
            ctypes.c_int64(features),
        )  # fmt: skip

    buffers = {"parts": reading(given)} | {f"sum{k}": writing(total) for k in range(number)}
    what = f"sums of parts, {dtype}, {[number, parts, features]}"
    return Call(what, "rows_library", buffers, invoke, elements=number * features)
