"""Dropout that stores its mask as a bit an element, in PyTorch's own operations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _packed(keep: Tensor) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=keep.device)
    bits = F.pad(keep.flatten().to(torch.uint8), (0, -keep.numel() % 8)).view(-1, 8)
    return (bits << places).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> places & 1).flatten()[: shape.numel()].view(shape).bool()


class _BitMaskDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep = torch.rand_like(x, dtype=torch.float32) >= p
        ctx.save_for_backward(_packed(keep))
        ctx.p = p
        return torch.where(keep, x / (1 - p), 0)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (packed,) = ctx.saved_tensors
        return torch.where(_unpacked(packed, grad_y.shape), grad_y / (1 - ctx.p), 0), None


def bit_mask_dropout(x: Tensor, p: float) -> Tensor:
    """Equivalent to `torch.nn.functional.dropout(x, p)`, with an eighth of a byte an element saved for backward."""
    return _BitMaskDropout.apply(x, p)  # type: ignore[no-untyped-call]
