"""Tensors of more than 2^31 and 2^32 elements or bytes: blocks of a launch, whose memory exists where it is touched.

What a block does is a small call of its own, with the mask base of its first element: the extension, or the host, says
what comes out of that one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from fused_dropout import reference

from .calls import Blocks, Call, Elementwise, Invoke, blocks, elementwise, normal
from .row_calls import Rows, Sums, and_sum, rows

EDGES = (2**31, 2**32)
MOST = 5 * 2**32 + 3
BLOCK = 2048  # elements of a block of an elementwise kernel
TILE = 256  # columns of a block that sums up rows
PER_COLUMN = ("weight", "bias", "attn_mask")


@dataclass
class Piece:
    """Bytes of a part's buffer, and where the whole has them."""

    name: str
    whole: int
    part: int
    count: int


@dataclass
class Part:
    block: int
    call: Call
    pieces: list[Piece]


@dataclass
class Large:
    what: str
    library: str
    invoke: Invoke
    sizes: dict[str, int]  # bytes of the buffers, which begin as those of the parts do
    parts: list[Part]


def counts(item: int) -> list[int]:
    """Elements of `item` bytes that end next to an edge, counted in elements and in bytes."""
    found = {edge + by for edge in EDGES for by in (-4, 4)}
    found |= {(edge - 4) // item for edge in EDGES} | {-(-(edge + 4) // item) for edge in EDGES} | {MOST}
    return sorted(found)


def places(numel: int, item: int) -> list[int]:
    """Elements on both sides of every edge, the first, and the last."""
    edges = [edge // size for edge in EDGES for size in (1, item)]
    return sorted({0, numel - 1, *(e + by for e in edges for by in (-1, 0) if e + by < numel)})


def of_elements(pipeline: str, count: int, dtype: torch.dtype, numel: int, *, step: int = 1, skew: int = 0) -> Large:
    """One row of `numel` elements, every `step`-th of the inputs' memory."""
    item, parts = dtype.itemsize, []
    for number in sorted({place // BLOCK for place in places(numel, item)}):
        first, many = number * BLOCK, min(BLOCK, numel - number * BLOCK)
        tensors = [normal([many * step], dtype, seed + number % 1000)[::step] for seed in range(count)]
        call = elementwise(pipeline, tensors, mask_base=first, skew=skew)
        for buffer in call.buffers.values():
            buffer.begin = skew * item % 16
        pieces = [Piece(name, first * item * (step if name.startswith("x") else 1), 0, len(buffer.bytes))
                  for name, buffer in call.buffers.items()]  # fmt: skip
        parts.append(Part(number, call, pieces))
    call = parts[0].call
    assert isinstance(call.invoke, Elementwise)
    sizes = {name: ((numel - 1) * (step if name.startswith("x") else 1) + 1) * item for name in call.buffers}
    invoke = replace(call.invoke, sizes=[numel], mask_strides=[1])
    return Large(f"{pipeline}, {dtype}, {numel:,} elements, step {step}", call.library, invoke, sizes, parts)


def of_rows(operation: str, dtype: torch.dtype, numel: int, features: int = 24) -> Large:
    """Rows that a warp holds each: a block has 8."""
    count, parts = -(-numel // features), []
    bytes_a_row: dict[str, int] = {}
    for number in sorted({place // features // 8 for place in places(numel, dtype.itemsize)}):
        first, many = number * 8, min(8, count - number * 8)
        call = rows(operation, dtype, [many, features], mask_base=first * features)
        bytes_a_row |= {name: len(b.bytes) // many for name, b in call.buffers.items() if name not in PER_COLUMN}
        pieces = [Piece(name, first * bytes_a_row.get(name, 0), 0, len(buffer.bytes))
                  for name, buffer in call.buffers.items()]  # fmt: skip
        parts.append(Part(number, call, pieces))
    call = parts[0].call
    assert isinstance(call.invoke, Rows)
    sizes = {name: count * bytes_a_row[name] if name in bytes_a_row else len(buffer.bytes)
             for name, buffer in call.buffers.items()}  # fmt: skip
    invoke = replace(call.invoke, sizes=[count, features])
    return Large(f"{operation}, {dtype}, {count:,} rows of {features}", call.library, invoke, sizes, parts)


def of_sums(dtype: torch.dtype, numel: int, count: int = 3) -> Large:
    """Few rows, of so many columns that they are one part."""
    features, item, parts = -(-numel // count), dtype.itemsize, []
    wide = reference.compute(dtype).itemsize
    for number in sorted({place % features // TILE for place in places(numel, item)}):
        first, many = number * TILE, min(TILE, features - number * TILE)
        call = and_sum("dropout", [normal([count, many], dtype, number % 1000)], 1,
                       mask_strides=[features, 1], mask_base=first)  # fmt: skip
        pieces = [Piece(name, (r * features + first) * item, r * many * item, many * item)
                  for name in ("x0", "y0") for r in range(count)]  # fmt: skip
        parts.append(Part(number, call, [*pieces, Piece("sums", first * wide, 0, many * wide)]))
    call = parts[0].call
    assert isinstance(call.invoke, Sums)
    rows_of = [[features, 1]] * 2
    invoke = replace(call.invoke, sizes=[count, features], strides=rows_of, mask_strides=[features, 1])
    sizes = {"x0": count * features * item, "y0": count * features * item, "sums": features * wide}
    return Large(f"dropout and sum, {dtype}, {count} rows of {features:,}", call.library, invoke, sizes, parts)


def of_blocks(numel: int) -> Large:
    """Planes of DropBlock: 32 planes are a block of either kernel."""
    planes, parts = -(-numel // 196), []
    for number in sorted({place // 196 // 32 for place in places(numel, 1)}):
        first, many = number * 32, min(32, planes - number * 32)
        call = blocks(many, mask_base=first * 64)
        pieces = [Piece("seed_bits", first * 8, 0, many * 8), Piece("keep_bits", first * 32, 0, many * 32)]
        parts.append(Part(number, call, pieces))
    invoke = Blocks(planes, 0.05, 0)
    sizes = {"seed_bits": planes * 8 + 8, "keep_bits": planes * 32, "kept": 8}
    return Large(f"blocks, {planes:,} planes", "library", invoke, sizes, parts)


def of_library(quick: bool) -> Iterator[Large]:
    dtypes = (torch.bfloat16, torch.float32) if quick else (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype in dtypes:
        for numel in counts(dtype.itemsize):
            yield of_elements("dropout", 1, dtype, numel)
            yield of_elements("dropout", 1, dtype, numel, skew=1)
            yield of_elements("dropout", 1, dtype, numel, step=2)
            if not quick:
                yield of_elements("gaussian_dropout", 1, dtype, numel)
                yield of_elements("swiglu_dropout_backward", 3, dtype, numel)
    for numel in counts(1)[-1:] if quick else counts(1):
        yield of_blocks(numel)


def of_rows_library(quick: bool, operations: Sequence[str]) -> Iterator[Large]:
    dtypes = (torch.bfloat16,) if quick else (torch.bfloat16, torch.float32, torch.float64)
    for dtype in dtypes:
        for numel in counts(dtype.itemsize):
            yield of_sums(dtype, numel)
            for operation in operations:
                yield of_rows(operation, dtype, numel)
