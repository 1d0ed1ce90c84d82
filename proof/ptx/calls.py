"""Calls of the kernels' launching code: with pointers into the host's memory, or into the memory of `memory.py`."""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fused_dropout import reference
from fused_dropout._extension import ops

from .. import answers
from .arithmetic import Array

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STATE = (2**63 + 12345, 2**40 + 8)
ROWS = ("layer", "layer backward", "rms", "rms backward", "softmax", "softmax backward")
ROW_OPERANDS = ("x0", "x1", "x2", "weight", "bias", "attn_mask", "first", "output", "second", "statistic0",
                "statistic1", "column0", "column1")  # fmt: skip
Pointers = Mapping[str, int]
Invoke = Callable[[ctypes.CDLL, Pointers], object]


@dataclass
class Buffer:
    bytes: Array  # what is there before the call
    begin: int = 0  # of the first one's address, modulo 16
    writable: bool = False


@dataclass
class Call:
    what: str
    library: str
    buffers: dict[str, Buffer]
    invoke: Invoke
    expected: dict[str, Array] = field(default_factory=dict)  # bytes that the extension makes of some buffers
    elements: int = 0


def span(t: torch.Tensor) -> Array:
    """The bytes from the first to the last element."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) if t.numel() else -1
    return torch.as_strided(t, (last + 1,), (1,), t.storage_offset()).view(torch.uint8).numpy().copy()


def reading(t: torch.Tensor) -> Buffer:
    return Buffer(span(t), t.storage_offset() * t.element_size() % 16)


def writing(like: torch.Tensor, begin: int = 0) -> Buffer:
    return Buffer(np.full(len(span(like)), 0xA5, dtype=np.uint8), begin, writable=True)


def normal(shape: Sequence[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Of every magnitude at which the activations have a branch."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(tuple(shape), generator=generator, dtype=torch.float64)).to(dtype)


def state() -> torch.Tensor:
    return torch.tensor([answers.signed(word) for word in STATE])


def _array(values: Any, dtype: Any) -> ctypes.c_void_p:
    array = np.array(values, dtype=dtype)
    pointer = ctypes.c_void_p(array.ctypes.data)
    pointer.keeps = array  # type: ignore[attr-defined]
    return pointer


def _numbers(values: Sequence[int]) -> list[ctypes.c_uint64]:
    return [ctypes.c_uint64(value % 2**64) for value in values]


def number_of(dtype: torch.dtype) -> int:
    return DTYPES.index(dtype) if dtype in DTYPES else DTYPES.index(torch.float32)


@dataclass
class Elementwise:
    """What an elementwise call is made of; strides are those of the outputs, then of the inputs."""

    pipeline: str
    dtype: torch.dtype
    sizes: Sequence[int]
    strides: Sequence[Sequence[int]]
    outputs: int = 1
    p: float = 0.3
    mask_strides: Sequence[int] = ()
    mask_base: int = 0
    numbers: tuple[int, int] = STATE

    def __call__(self, library: ctypes.CDLL, at: Pointers) -> None:
        operands = [at[f"y{k}"] for k in range(self.outputs)]
        operands += [at[f"x{k}"] for k in range(len(self.strides) - self.outputs)]
        pipeline = max(library.pipeline_of(f"{self.pipeline}{form}".encode()) for form in ("", "_apply"))
        mask_strides = self.mask_strides or reference.row_major(self.sizes)
        library.run_on_cuda(
            pipeline, number_of(self.dtype), (ctypes.c_void_p * len(operands))(*operands), self.outputs,
            len(operands), len(self.sizes), _array(self.sizes, np.int64), _array(self.strides, np.int64),
            _array([stride % 2**64 for stride in mask_strides], np.uint64), *_numbers([self.mask_base, *self.numbers]),
            ctypes.c_void_p(at.get("state")), ctypes.c_double(self.p), ctypes.c_void_p(at.get("p")),
            ctypes.c_int64(0), ctypes.c_void_p(at.get("state_out")), ctypes.c_void_p(at.get("keep_bits")),
            *_numbers([0, 2**64 - 1]),
        )  # fmt: skip


def elementwise(pipeline: str, inputs: Sequence[torch.Tensor], p: float = 0.3, *, mask_strides: Sequence[int] = (),
                mask_base: int = 0, skew: int = 0) -> Call:  # fmt: skip
    """A pipeline of the table, and what the extension makes of it; the output begins `skew` elements off."""
    x = inputs[0]
    options = {"mask_strides": list(mask_strides or reference.row_major(x.shape)), "mask_base": mask_base}
    want = getattr(ops, pipeline if pipeline.endswith("_backward") else f"{pipeline}_apply")(
        *inputs, state(), p, **options
    )
    outputs = [want] if isinstance(want, torch.Tensor) else list(want)
    buffers = {f"y{k}": writing(y, skew * y.element_size() % 16) for k, y in enumerate(outputs)}
    buffers |= {f"x{k}": reading(t) for k, t in enumerate(inputs)}
    strides = [t.expand(x.shape).stride() for t in (*outputs, *inputs)]
    invoke = Elementwise(pipeline, x.dtype, x.shape, strides, len(outputs), p, options["mask_strides"], mask_base)
    what = f"{pipeline}, {str(x.dtype).removeprefix('torch.')}, {list(x.shape)}"
    expected = {f"y{k}": span(y) for k, y in enumerate(outputs)}
    return Call(what, "library", buffers, invoke, expected, x.numel())


def made(pipeline: str, want: torch.Tensor, dtype: torch.dtype, p: float, mask_base: int, skew: int = 0) -> Call:
    """A pipeline without inputs."""
    invoke = Elementwise(pipeline, dtype, want.shape, [want.stride()], 1, p, (), mask_base)
    buffers = {"y0": writing(want, skew)}
    return Call(f"{pipeline}, {dtype}, {list(want.shape)}", "library", buffers, invoke, {"y0": span(want)}, want.numel())


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
        operands = [at.get(name) for name in ROW_OPERANDS]
        strides = self.attn_strides or reference.row_major(self.sizes)
        return int(library.run_rows_on_cuda(
            ROWS.index(self.operation), number_of(self.dtype), (ctypes.c_void_p * len(operands))(*operands),
            len(self.sizes), _array(self.sizes, np.int64), _array(strides, np.int64),
            _array(reference.row_major(self.sizes), np.uint64), *_numbers([self.mask_base]), self.attend,
            int(self.p > 0), ctypes.c_double(self.constant), *_numbers(STATE), ctypes.c_double(self.p),
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


def and_sum(pipeline: str, inputs: Sequence[torch.Tensor], parts: int, p: float = 0.3) -> Call:
    """A pipeline, and the sums of its rows in parts."""
    x = inputs[0]
    want = getattr(ops, pipeline if pipeline.endswith("_backward") else f"{pipeline}_apply")(*inputs, state(), p)
    strides = [t.expand(x.shape).stride() for t in (want, *inputs)]
    sums = torch.empty(parts, x.shape[-1], dtype=reference.compute(x.dtype))
    buffers = {"y0": writing(want), "sums": writing(sums)} | {f"x{k}": reading(t) for k, t in enumerate(inputs)}

    def invoke(library: ctypes.CDLL, at: Pointers) -> None:
        operands = [at["y0"], *(at[f"x{k}"] for k in range(len(inputs)))]
        taken = library.run_and_sum_on_cuda(
            pipeline.encode(), number_of(x.dtype), (ctypes.c_void_p * len(operands))(*operands), len(operands),
            x.dim(), _array(x.shape, np.int64), _array(strides, np.int64),
            _array(reference.row_major(x.shape), np.uint64), *_numbers([0, *STATE]), ctypes.c_double(p),
            ctypes.c_int64(0), ctypes.c_void_p(at["sums"]),
        )  # fmt: skip
        if taken != parts:
            raise ValueError(f"{pipeline} of {list(x.shape)} has {taken} parts, and not {parts}")

    what = f"{pipeline} and sum, {str(x.dtype).removeprefix('torch.')}, {list(x.shape)}"
    return Call(what, "rows_library", buffers, invoke, {"y0": span(want)}, x.numel())


def sum_of_parts(dtype: torch.dtype, parts: int, features: int) -> Call:
    given, total = normal([parts, features], reference.compute(dtype)), torch.empty(features, dtype=dtype)

    def invoke(library: ctypes.CDLL, at: Pointers) -> None:
        library.run_sum_of_parts_on_cuda(
            number_of(dtype), ctypes.c_void_p(at["parts"]), ctypes.c_int64(parts), ctypes.c_int64(features),
            ctypes.c_void_p(at["sum"]),
        )  # fmt: skip

    buffers = {"parts": reading(given), "sum": writing(total)}
    return Call(f"sum of parts, {dtype}, {[parts, features]}", "rows_library", buffers, invoke, elements=features)
