"""Calls that make DropBlock's masks, with the bits that they must have: for libraries without torch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fused_dropout import reference

from . import answers
from .calls import STATE, Call, save, state

# Of the map, of a block and of the seeds' grid: as many as there are blocks inside, or one for each element.
SIZES = {
    "inside": ((14, 14), (7, 7), (8, 8)), "clipped": ((14, 15), (6, 7), (14, 15)),
    "inside, wider than a word": ((9, 90), (4, 70), (6, 21)), "clipped, wider than a word": ((9, 90), (4, 71), (9, 90)),
    "three parts wide": ((5, 300), (3, 130), (3, 171)), "a part wide": ((20, 33), (5, 32), (20, 33)),
    "a part and a column": ((20, 70), (2, 33), (19, 38)), "narrow": ((64, 2), (1, 2), (64, 1)),
    "high": ((70, 3), (40, 3), (31, 1)), "single elements": ((11, 41), (1, 1), (11, 41)),
    "all of the map": ((7, 64), (7, 64), (1, 1)), "one element": ((1, 1), (1, 1), (1, 1)),
    "clipped in one dimension": ((16, 64), (5, 3), (12, 64)), "whole words": ((8, 128), (3, 2), (8, 128)),
}  # fmt: skip
# Samples and channels that have masks of their own, and from which seed to which they are.
PLANES = {"every plane": (2, 3, None), "samples share it": (1, 3, None), "channels share it": (2, 1, None),
          "with gaps": (2, 2, (70_001, 30_000)), "channels first": (3, 2, (20_000, 2**33))}  # fmt: skip
BASES = (0, 5, 2**35 - 99, 2**64 - 50)


def calls() -> Iterator[Call]:
    for number, size in enumerate(SIZES):
        for planes in PLANES:
            yield call(size, planes, 0.05, BASES[number % len(BASES)])
        yield call(size, "every plane", 0.6, BASES[(number + 1) % len(BASES)])
    for p in (0.0, 1.0, 1e-9):
        yield call("inside", "every plane", p, 3)


def call(size: str, planes: str, p: float, base: int) -> Call:
    (height, width), block, seeds = SIZES[size]
    samples, channels, strides = PLANES[planes]
    count = seeds[0] * seeds[1]
    sample_stride, channel_stride = strides or (channels * count, count)
    keep = reference.block_keep_mask(
        state(), (samples, channels, height, width), p, [*block, *seeds],
        [sample_stride, channel_stride, seeds[1], 1], answers.signed(base),
    ).numpy()  # fmt: skip
    rows = keep.reshape(samples * channels, -1)
    words = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 64)))  # each plane begins at one
    corner = [0 if s == n - b + 1 else -(b // 2) for n, b, s in zip((height, width), block, seeds, strict=True)]
    numbers = [samples, channels, sample_stride, channel_stride, answers.signed(base), height, width, *block, *seeds]
    return {
        "map": np.array([*numbers, *corner], dtype=np.int64), "p": np.array(p),
        "state": np.array(STATE, dtype=np.uint64),
        "expected": np.concatenate([np.packbits(words, bitorder="little"), np.array([keep.sum()]).view(np.uint8)]),
    }  # fmt: skip


def prepared(path: Path) -> Path:
    return save(path, calls())
