"""The idea of Triton's tutorial "Low-memory dropout": save the seed, and make the mask again from it in backward.

https://triton-lang.org/main/getting-started/tutorials/04-low-memory-dropout.html. One kernel serves both directions,
since dropout is linear. It has run in Triton's interpreter, and never on a GPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a program, the tutorial's


@triton.jit
def _dropout_kernel(x_ptr, y_ptr, numel, p, seed, block: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < numel
    x = tl.load(x_ptr + index, mask=inside)
    keep = tl.rand(seed, index) >= p
    tl.store(y_ptr + index, tl.where(keep, x / (1 - p), 0.0), mask=inside)


def _apply(x: Tensor, p: float, seed: int) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _dropout_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), p, seed, block=BLOCK)
    return y


class _SeededDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return _apply(x, p, seed)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _apply(grad_y, ctx.p, ctx.seed), None, None


def seeded_dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Dropout whose mask is a function of `seed` and the element's place."""
    return _SeededDropout.apply(x, p, seed)  # type: ignore[no-untyped-call]
