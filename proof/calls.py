"""Calls that reach every loop and kernel, with the outputs that they must have: for libraries without torch."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fused_dropout import reference
from fused_dropout._extension import ops

from . import answers
from .judge import UNTOUCHED

Call = dict[str, np.ndarray]
STATE = (2**63 + 12345, 2**40 + 8)
DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}  # as csrc numbers them
OPERANDS = {  # of each pipeline: x is a tensor of the call's shape, b one of its last dimension
    "keep_mask": "", "dropout": "x", "dropout_and_sum": "x", "block_dropout": "x", "gaussian_dropout": "x",
    "bias_dropout_add": "xbx", "swiglu_dropout_backward": "xxx", "relu_dropout_backward": "xx",
}  # fmt: skip
OF_ELEMENTS = {  # pipelines that add no loop and no kernel to these
    "alpha_dropout": "x", "dropout_add": "xx", "bias_dropout": "xb", "zoneout": "xx", "dropped_apply": "x",
    "bias_relu_dropout": "xb", "squared_relu_dropout": "x", "gelu_dropout": "x",
    "gelu_tanh_dropout": "x", "squared_relu_dropout_backward": "xx", "gelu_tanh_dropout_backward": "xx",
    "bias_gelu_dropout_backward": "xxb", "swiglu_dropout": "xx",
}  # fmt: skip


def prepared(path: Path) -> Path:
    """A file of all calls."""
    return save(path, calls())


def save(path: Path, some: Iterable[Call]) -> Path:
    arrays = {f"{number}.{name}": value for number, call in enumerate(some) for name, value in call.items()}
    np.savez(path, rng_version=np.array(reference.RNG_VERSION), **arrays)
    return path


def calls() -> list[Call]:
    f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
    made = [_call("keep_mask", f32, (n,), p, base)
            for n, p, base in ((1, 0.5, 0), (63, 0.1, 3), (64, 0.3, 2**32 - 5), (5000, 0.4, 2**35 - 777),
                               (300, 0.5, 2**64 - 104), (1 << 17, 0.1, 0), (256, 1.0, 0),
                               (256, 1e-12, 0), (256, 0.0, 0))]  # fmt: skip
    made += [_call("gaussian_dropout", dtype, (n,), 0.2, base)
             for dtype, n, base in ((f32, 1000, 0), (bf16, 777, 3), (f64, 300, 2**35 - 99))]  # fmt: skip
    made.append(_call("gaussian_dropout", f32, (100,), 1.0))
    made.append(_call("gaussian_dropout", f32, (40, 96), 0.2, 8, (192, 2)))
    made.append(_call("gaussian_dropout", f32, (20, 10), 0.2, 2**64 - 80, (160, 1)))
    made += [_call("block_dropout", f32, (n,), 0.2, base) for n, base in ((1000, 0), (777, 5))]
    for dtype in (f16, bf16, f32, f64):
        made += [_call("dropout", dtype, (n,), 0.3, base) for n, base in ((7, 0), (1000, 0), (9000, 5))]
        made.append(_call("bias_dropout_add", dtype, (33, 70), 0.4))
        made.append(_call("relu_dropout_backward", dtype, (33, 70), 0.4, 0, (0, 0)))
    made += [_call(pipeline, dtype, (33, 70), 0.4) for pipeline in OF_ELEMENTS for dtype in (f32, bf16, f64)]
    made += [_call(pipeline, f32, shape, 0.5, 11, strides, layout)
             for shape, strides in NOISE.values() for layout in ("contiguous", "reversed")
             for pipeline in ("dropout", "gaussian_dropout", "block_dropout")]  # fmt: skip
    for layout in ("reversed", "channels_last", "every second"):
        for shape in ((4, 5, 6, 70), (2, 130, 9, 67), (3, 3, 20, 33), (1, 64, 1, 64), (2, 3, 5, 61), (2, 545, 3, 11)):
            made.append(_call("dropout", f32, shape, 0.3, 2**35 - 99, None, layout))
            made.append(_call("bias_dropout_add", bf16, shape, 0.3, 2**35 - 99, None, layout))
    made += [_call("swiglu_dropout_backward", dtype, shape, 0.3) for dtype, shape in ((f32, (5, 300)), (bf16, (777,)))]
    made.append(_call("swiglu_dropout_backward", f32, (40, 50), 0.3, 0, (0, 1)))
    made.append(_call("swiglu_dropout_backward", f32, (3, 130, 7), 0.3, 0, None, "a row"))
    made.append(_call("dropout", f32, (128, 192), 0.3, 0, (0, 1)))  # equal rows, and a stretch that begins within one
    for dtype, shape, strides in ((f32, (700, 97), None), (f32, (40, 5, 300), (1500, 300, 1)), (bf16, (130, 64), None),
                                  (f16, (3, 1000), (5000, 1)), (f64, (90, 65), None), (f32, (1, 77), None),
                                  (f32, (33, 129), (0, 1))):  # fmt: skip
        made.append(_call("dropout_and_sum", dtype, shape, 0.5, 2**35 - 99, strides))
    made.append(_call("dropout_and_sum", f32, (17409, 5), 0.5))  # more rows in a part than its warps take at once
    made.append(_call("dropout_and_sum", f32, (70, 90), 0.5, 3, None, "every second"))
    made.append(_call("dropout_and_sum", f32, (1, 300, 70), 0.5, 3, None, "a row"))
    no_rows = _call("dropout_and_sum", f32, (9, 5, 64), 0.5, 3, (0, 64, 1))  # that one stride counts: left to others
    made.append(no_rows | {"expected": np.full_like(no_rows["expected"], UNTOUCHED)})
    # Operands that begin again with each row, or are constant along it.
    for shape, strides in (((700, 7), None), ((293, 7), None), ((1500, 2), None), ((5, 1000), None),
                           ((3, 130, 40), None), ((3, 130, 40), (40, 0, 1)), ((90, 48), (1, 0)),
                           ((2, 3, 65, 16), (3120, 1040, 16, 1))):  # fmt: skip
        made += [_call("bias_dropout_add", dtype, shape, 0.4, 2**35 - 99, strides) for dtype in (f32, f64)]
    # Rows of whole accesses, shorter and longer than what a warp takes, in a whole number of them and not.
    made += [_call(pipeline, dtype, shape, 0.4, base)
             for dtype, shape, base in ((bf16, (300, 8), 0), (f16, (70, 40), 2**35 - 96), (bf16, (5, 1000), 3),
                                        (bf16, (3, 5000), 8), (f16, (9, 256), 0), (f32, (70, 12), 0))
             for pipeline in ("bias_dropout", "bias_dropout_add", "bias_gelu_dropout_backward")]  # fmt: skip
    made.append(_call("bias_dropout_add", bf16, (3, 130, 40), 0.4, 0, None, "every second"))
    made.append(_call("dropout", f32, (70, 50), 0.4, 0, None, "part of another"))
    made.append(_call("bias_dropout_add", f64, (3, 130, 7), 0.4, 0, None, "a row"))
    for constant in CONSTANT:
        for shape in ((3, 130, 67), (2, 5, 9001)):
            made.append(_call("dropout", f32, shape, 0.3, 5, None, constant))
            made.append(_call("bias_dropout_add", bf16, shape, 0.3, 5, None, constant))
        made.append(_call("dropout", f32, (3, 130, 67), 0.3, 5, (130, 1, 390), constant))
        made.append(_call("dropout", f32, (70, 50, 3), 0.3, 5, (1, 210, 70), constant))
    made.append(_call("dropout", f32, (97, 33), 0.3, 0, None, "reversed"))  # the last tile as wide as it is long
    made += [_call("dropout", f32, (700, size), 0.3, 2**35 - 99, None, "reversed") for size in (2, 10, 64)]  # narrow
    made += [_call("dropout", f32, (40, 33), p, 0, (0, 0)) for p in (0.01, 0.99)]  # mask index 0 comes first
    # Enough elements that some high halves equal the threshold's.
    made.append(_call("dropout", f32, (1 << 18,), 0.1))
    made.append(_call("dropout", bf16, (512, 513), 0.7, 0, None, "reversed"))
    return made


NOISE = {  # shapes and mask strides
    "channels": ((5, 6, 7, 7), (6, 1, 0, 0)), "wide channels": ((3, 2, 300), (2, 1, 0)),
    "time": ((9, 4, 130), (0, 130, 1)), "samples": ((6, 500), (1, 0)), "columns": ((70, 200), (0, 1)),
    "swapped": ((40, 50, 3), (3, 120, 1)), "strided": ((50, 90), (270, 3)),
    "every other": ((50, 96), (192, 2)), "equal rows": ((6, 40, 256), (256, 0, 1)),
    "equal rows, every other": ((40, 256), (0, 2)),
    "long rows": ((2, 3, 5000), (5000, 0, 1)), "short rows": ((900, 4), (1, 0)), "everything": ((40, 33), (0, 0)),
    "pairs": ((700, 2), (1, 0)), "pairs with a gap": ((70, 33, 2), (40, 1, 0)),
    "short rows with gaps": ((7, 5, 48, 4), (1000, 50, 1, 0)), "rows of three": ((900, 3), (1, 0)),
    "rows of eight": ((700, 8), (1, 0)), "four channels": ((90, 4, 50), (9, 1, 0)),
    "equal rows of a stretch": ((3, 4096), (0, 1)), "rows with gaps": ((130, 20), (25, 1)),
    "whole batches with gaps": ((70, 64), (70, 1)),
    "samples that may go unread": ((6, 4500), (1, 0)), "rows of a batch": ((3, 40, 64), (45, 1, 0)),
    "equal rows of three": ((3, 1500, 3), (3, 0, 1)),
    "equal rows of 24": ((3, 70, 24), (30, 0, 1)), "equal rows of 70": ((120, 70), (0, 1)),
    "rows and a half": ((2, 70, 97), (70, 1, 0)), "diagonals": ((70, 64), (1, 1)),
}  # fmt: skip
CONSTANT = {  # of an operand, along which of three dimensions it has elements of its own
    "a number": (0, 0, 0), "a row": (0, 0, 1), "a number a row": (1, 1, 0), "a number a sample": (1, 0, 0),
    "a row a sample": (1, 0, 1),
}  # fmt: skip


def _call(pipeline: str, dtype: torch.dtype, shape: tuple[int, ...], p: float, base: int = 0,
          mask_strides: tuple[int, ...] | None = None, layout: str = "contiguous") -> Call:  # fmt: skip
    generator = torch.Generator().manual_seed(len(shape))
    strides = list(reference.row_major(shape)) if mask_strides is None else list(mask_strides)
    summed = pipeline == "dropout_and_sum"  # of small integers that are doubled: the same sum in any order
    inputs: list[Tensor] = []
    for kind in (OPERANDS | OF_ELEMENTS)[pipeline]:
        some = shape if kind == "x" else shape[-1:]
        x = torch.randint(-3, 4, some, generator=generator) if summed else torch.randn(some, generator=generator)
        laid_out = kind == "x" or layout == "every second"
        inputs.append((_laid_out(x.to(dtype), layout) if laid_out else x.to(dtype)).expand(shape))
    if inputs and not summed and layout == "contiguous" and inputs[0].numel() > 8:
        inputs[0].view(-1)[4] = math.inf
        for k, x in enumerate(inputs):
            if x.is_contiguous():  # no bias
                x.view(-1)[5 + k] = 0
    options = {"mask_strides": strides, "mask_base": answers.signed(base)}
    stored: Call = {}
    if pipeline == "block_dropout":  # the keep bits of another state, as the blocks leave them in memory
        last = base + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        bits = reference.keep_mask(state(), [(last // 64 + 6) * 64], 0.5)
        stored["keep_bits"] = np.packbits(bits.numpy(), bitorder="little").view(np.uint64)
        gain = torch.tensor(reference.gain_of(p, reference.GAIN_UPSCALE), dtype=dtype)
        outputs = [torch.where(torch.as_strided(bits, shape, strides, base), inputs[0] * gain, 0.0)]
    elif pipeline == "keep_mask":
        outputs = [reference.keep_mask(state(), list(shape), p, **options)]
    elif summed:
        y = reference.dropout_apply(inputs[0], state(), p, **options).contiguous()
        outputs = [y, y.flatten(0, -2).sum(0)]
    else:
        result = _oracle(pipeline)(*inputs, state(), p, **options)
        outputs = [result] if isinstance(result, Tensor) else list(result)
    # An output is laid out as the input; where that has gaps or is expanded it is dense, as empty_like makes it.
    dense = summed or layout in ("every second", "part of another", *CONSTANT)
    first = outputs[0].contiguous() if dense else _laid_out(outputs[0], layout)
    return stored | {f"x{k}": as_bytes(x) for k, x in enumerate(inputs)} | {
        "pipeline": np.array(pipeline), "dtype": np.array(DTYPES[dtype]), "p": np.array(p),
        "inputs": np.array(len(inputs)),
        "sizes": np.array(shape, dtype=np.int64), "mask_strides": np.array(strides, dtype=np.int64).view(np.uint64),
        "strides": np.array([t.stride() for t in (first, *inputs)], dtype=np.int64),
        "state": np.array([base, *STATE], dtype=np.uint64),
        "expected": np.concatenate([as_bytes(first), *map(as_bytes, outputs[1:])]),
    }  # fmt: skip


def _oracle(pipeline: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The reference; of normal noise and activations, whose last bits it leaves open, the extension
    (tests/test_values.py and tests/test_activations.py hold that one)."""
    applied = pipeline if pipeline.endswith(("_apply", "_backward")) else f"{pipeline}_apply"
    if pipeline == "gaussian_dropout" or pipeline.removesuffix("_backward") in reference.CHAINS:
        return getattr(ops, applied)  # type: ignore[no-any-return]
    return getattr(reference, applied)  # type: ignore[no-any-return]


def _laid_out(t: Tensor, layout: str) -> Tensor:
    if layout == "every second":
        return torch.stack([t, t], -1)[..., 0]
    if layout == "part of another":
        return torch.cat([t, t], -1)[..., : t.shape[-1]]
    if layout in CONSTANT:
        return t[tuple(slice(None if own else 1) for own in CONSTANT[layout])].expand_as(t)
    dims = range(t.dim())
    memory = {"reversed": [*reversed(dims)], "channels_last": [0, *dims[2:], 1]}.get(layout, [*dims])
    return t.permute(memory).contiguous().permute([memory.index(d) for d in dims])


def state() -> Tensor:
    return torch.tensor([answers.signed(word) for word in STATE])


def as_bytes(t: Tensor) -> np.ndarray:
    """Of the memory from the first to the last element."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return torch.as_strided(t, (last + 1,), (1,)).view(torch.uint8).numpy().copy()
