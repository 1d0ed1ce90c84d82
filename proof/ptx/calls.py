"""Calls of the kernels' launching code: with pointers into the host's memory, or into the memory of `memory.py`."""

import ctypes
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
    width: int = 0  # bytes of the accesses that write, where there may be no others


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


def array(values: Any, dtype: Any) -> ctypes.c_void_p:
    """A pointer to numbers, which live as long as it does."""
    memory = np.array(values, dtype=dtype)
    pointer = ctypes.c_void_p(memory.ctypes.data)
    pointer.keeps = memory  # type: ignore[attr-defined]
    return pointer


def numbers(values: Sequence[int]) -> list[ctypes.c_uint64]:
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
    state: tuple[int, int] = STATE

    def __call__(self, library: ctypes.CDLL, at: Pointers) -> None:
        operands = [at[f"y{k}"] for k in range(self.outputs)]
        operands += [at[f"x{k}"] for k in range(len(self.strides) - self.outputs)]
        pipeline = max(library.pipeline_of(f"{self.pipeline}{form}".encode()) for form in ("", "_apply"))
        if pipeline < 0:
            raise ValueError(f"{self.pipeline} is none of the pipelines that were compiled")
        mask_strides = self.mask_strides or reference.row_major(self.sizes)
        library.run_on_cuda(
            pipeline, number_of(self.dtype), (ctypes.c_void_p * len(operands))(*operands), self.outputs,
            len(operands), len(self.sizes), array(self.sizes, np.int64), array(self.strides, np.int64),
            array([stride % 2**64 for stride in mask_strides], np.uint64), *numbers([self.mask_base, *self.state]),
            ctypes.c_void_p(at.get("state")), ctypes.c_double(self.p), ctypes.c_void_p(at.get("p")),
            ctypes.c_int64(0), ctypes.c_void_p(at.get("state_out")), ctypes.c_void_p(at.get("keep_bits")),
            *numbers([0, 2**64 - 1]),
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
    return Call(
        f"{pipeline}, {dtype}, {list(want.shape)}", "library", buffers, invoke, {"y0": span(want)}, want.numel()
    )


def blocks(planes: int, p: float = 0.05, mask_base: int = 0) -> Call:
    """DropBlock's masks of planes of 14 x 14 elements, whose seeds lie on 8 x 8, with blocks of 7 x 7."""
    words, seed_words = -(-14 * 14 // 64), 1
    outputs = {"seed_bits": planes * seed_words + 1, "keep_bits": planes * words}
    buffers = {name: writing(torch.empty(count, dtype=torch.int64)) for name, count in outputs.items()}
    buffers["kept"] = Buffer(np.zeros(8, dtype=np.uint8), writable=True)
    return Call(f"blocks, {planes:,} planes", "library", buffers, Blocks(planes, p, mask_base), {}, planes * 14 * 14)


@dataclass
class Blocks:
    planes: int
    p: float
    mask_base: int

    def __call__(self, library: ctypes.CDLL, at: Pointers) -> None:
        shape = [self.planes, 1, 64, 0, self.mask_base, 14, 14, 7, 7, 8, 8, 0, 0]
        pointers = [ctypes.c_void_p(at[name]) for name in ("seed_bits", "keep_bits", "kept")]
        library.run_blocks_on_cuda(array(shape, np.int64), *numbers(STATE), ctypes.c_double(self.p), *pointers)


def write_state() -> Call:
    def invoke(library: ctypes.CDLL, at: Pointers) -> None:
        library.write_state_on_cuda(*numbers(STATE), ctypes.c_void_p(at["state"]))

    return Call("write_state", "library", {"state": writing(state())}, invoke, {"state": span(state())}, 2)
