"""Dropout and its kin: the same function by this library, by PyTorch, and by the reference that checks it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_dropout
from fused_dropout import reference

from .timing import Task
from .work import Function

BLOCK = 7  # the side of DropBlock's squares

# 32-bit operations an element: a Philox round is two multiplications, two shifts and two three-way xors, and a block of
# ten serves eight elements; then a decision is a comparison, a multiplication and a selection.
MASKED = 3
DROPOUT = 10 * 6 / 8 + MASKED


@dataclass(frozen=True)
class Operation:
    """`fused` is this library's, `native` stock PyTorch's, `oracle` the reference's."""

    fused: Function
    native: Function
    oracle: Function
    exact: bool = True  # whether it gives the reference's bits, and not only its mask and values to their rounding


def multiply(p: float) -> Function:
    """The minimal write: dropout without a mask."""
    scale = 1 / (1 - p)
    return lambda x: torch.mul(x, scale)


def multiply_in_place(p: float) -> Function:
    scale = 1 / (1 - p)
    return lambda x: x.mul_(scale)


def device_copy(x: Tensor) -> Task:
    """The limit of memory: x is read, and y, which is there already, is written."""
    y = torch.empty_like(x)
    return Task(lambda: y.copy_(x))


def dropout(p: float) -> Operation:
    return Operation(
        lambda x: fused_dropout.dropout(x, p), lambda x: F.dropout(x, p), lambda x: reference.dropout(x, p)[0]
    )


def compiled_dropout(p: float) -> Operation:
    torch._dynamo.config.recompile_limit = 64  # a graph for each size and way
    eager = dropout(p)
    fused, native = (torch.compile(f, dynamic=False) for f in (eager.fused, eager.native))
    return Operation(fused, native, eager.oracle)


def dropout_in_place(p: float) -> Operation:
    def oracle(x: Tensor) -> Tensor:
        reference.dropout_(x, p)
        return x

    return Operation(
        lambda x: fused_dropout.dropout(x, p, inplace=True), lambda x: F.dropout(x, p, inplace=True), oracle
    )


def drop_block2d(p: float) -> Operation:
    """The native one is the paper's algorithm, in the operations that torchvision's drop_block2d calls."""

    def gamma_of(x: Tensor) -> float:
        height, width = x.shape[2:]
        return p * height * width / BLOCK**2 / ((height - BLOCK + 1) * (width - BLOCK + 1))

    def native(x: Tensor) -> Tensor:
        shape = (*x.shape[:2], *(side - BLOCK + 1 for side in x.shape[2:]))
        seeds = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(gamma_of(x))
        covered = F.max_pool2d(F.pad(seeds, [BLOCK // 2] * 4), BLOCK, 1, BLOCK // 2)
        keep = 1 - covered
        return x * keep * (keep.numel() / (1e-6 + keep.sum()))

    def oracle(x: Tensor) -> Tensor:
        seeds = [*x.shape[:2], *(side - BLOCK + 1 for side in x.shape[2:])]
        block = [BLOCK, BLOCK, *seeds[2:]]
        return reference.dropout(x, gamma_of(x), mask_strides=reference.row_major(seeds), block=block)[0]

    return Operation(lambda x: fused_dropout.drop_block2d(x, p, BLOCK), native, oracle)


def gaussian_dropout(p: float) -> Operation:
    """The oracle's noise is what the extension's own operation gives: its last bits are not the reference's
    (tests/test_values.py)."""
    stddev = (p / (1 - p)) ** 0.5
    return Operation(
        lambda x: fused_dropout.gaussian_dropout(x, p),
        lambda x: x * torch.randn_like(x).mul_(stddev).add_(1),
        lambda x: x * (1 + stddev * fused_dropout.normal_noise(x.shape, fused_dropout.draw(), dtype=x.dtype)),
    )


def keep_mask(p: float) -> Operation:
    """The mask alone, as truth values; of the input the shape is all that matters."""
    return Operation(
        lambda x: fused_dropout.keep_mask(x.shape, p, fused_dropout.draw(x.device)),
        lambda x: torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p),
        lambda x: reference.keep_mask(fused_dropout.draw(x.device), x.shape, p),
    )


def zoneout(p: float) -> Operation:
    return Operation(
        lambda x, previous: fused_dropout.zoneout(x, previous, p),
        lambda x, previous: torch.where(torch.rand_like(x) < p, previous, x),
        lambda x, previous: reference.zoneout(x, previous, p)[0],
    )
