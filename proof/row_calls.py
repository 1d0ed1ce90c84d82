"""Calls of the operations on rows, with the outputs that they must have: for libraries without torch.

Rows are made of small integers, and of scores of which e^x is 1 or 0, so that no sum is rounded, in whatever order it
is made: every path must have the reference's bits.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fused_dropout import reference

from .calls import DTYPES, STATE, Call, as_bytes, save, state

P, EPS, SCALE = 0.5, 0.5, 0.5  # powers of two, and so is the gain
NOTHING = -2048.0  # a score, of which e^x is 0 in every dtype
OPERATIONS = ("layer", "layer backward", "rms", "rms backward", "softmax", "softmax backward")  # as csrc numbers them
OPERANDS = ("x0", "x1", "x2", "weight", "bias", "attn_mask", "first", "output", "second", "statistic0", "statistic1",
            "column0", "column1", "state_out")  # fmt: skip
# The last part has one row.
ROWS, ROWS_IN_PART = 9, 4
LENGTHS = (1, 7, 64, 129, 1000)
LONG = (1100, 8201, 33003)  # a block of threads; what no block holds; what no buffer of the CPU's holds


# Kinds of attn_mask, of which elements to leave out.
MASKS: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "bools, nothing in the first row": lambda out, dtype: (~out).index_fill(0, torch.tensor(0), False),
    "bools of a row": lambda out, dtype: ~out[0, 0],
    "numbers": lambda out, dtype: torch.where(out, NOTHING, 0.0).to(dtype),
    "numbers of samples": lambda out, dtype: torch.where(out[:, :1], NOTHING, 4.0).to(dtype),
}


def calls() -> Iterator[Call]:
    for dtype in DTYPES:
        for features in LENGTHS:
            yield from of_every_operation(dtype, (ROWS, features))
    for features in LONG:
        yield from of_every_operation(torch.float32, (2, features))
    for dtype, features in (
        (torch.bfloat16, 1100),
        (torch.float32, 1024),
        (torch.float64, 4200),
        (torch.float16, 8201),
    ):
        yield from of_every_operation(dtype, (2, features))
    shape = (6, 4, 70)
    for mask_strides in ([0, 70, 1], [1, 6, 24], [5, 0, 0]):
        yield from of_every_operation(torch.float32, shape, mask_strides, 2**40 + 1)
    for attend in MASKS:
        yield from softmaxes(torch.float32, shape, row_major(shape), 5, attend)
        yield from softmaxes(torch.bfloat16, (3, 2, 300), row_major((3, 2, 300)), 5, attend)
    yield from of_every_operation(torch.float32, shape, without="mask")
    for some in (shape, (2, 8201)):
        yield from of_every_operation(torch.float32, some, without="operands")


def row_major(shape: tuple[int, ...]) -> list[int]:
    return list(reference.row_major(shape))


def of_every_operation(dtype: torch.dtype, shape: tuple[int, ...], mask_strides: list[int] | None = None,
                       base: int = 3, without: str = "") -> Iterator[Call]:  # fmt: skip
    """`without` a mask, or without the operands that may be missing."""
    strides = mask_strides or row_major(shape)
    yield from norms(dtype, shape, strides, base, without)
    yield from softmaxes(dtype, shape, strides, base, "", without)


def integers(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, most: int = 3) -> Tensor:
    return torch.randint(-most, most + 1, shape, generator=generator).to(dtype)


def norms(dtype: torch.dtype, shape: tuple[int, ...], strides: list[int], base: int, without: str) -> Iterator[Call]:
    generator = torch.Generator().manual_seed(shape[-1])
    wide, p, options = (
        reference.compute(dtype),
        0.0 if without == "mask" else P,
        {"mask_strides": strides, "mask_base": base},
    )
    x, g, h = (integers(generator, shape, dtype) for _ in range(3))
    weight, bias = (integers(generator, shape[-1:], dtype) for _ in range(2))
    # A sum of which each row's mean is an integer, and the residual that makes it.
    sum = with_integer_means(integers(generator, shape, torch.float64)).to(dtype)
    residual = sum - reference.dropout_apply(x, state(), p, **options)
    rest = without != "operands"
    for norm in ("layer", "rms"):
        centred = norm == "layer"
        affine = [weight, bias][: 1 + centred] if rest else [None, None][: 1 + centred]
        apply = getattr(reference, f"dropout_add_{norm}_norm_apply")
        y, total, *statistics = apply(x, residual, *affine, state(), p, EPS, **options)
        y = y if len(affine) > 1 and rest else y + 0.0  # what has no bias adds 0
        assert torch.equal(total, sum)
        named = dict(zip(("statistic0", "statistic1") if centred else ("statistic1",), statistics, strict=True))
        common = (dtype, shape, strides, base, p, EPS)
        given = {"x0": x, "x1": residual} | dict(zip(("weight", "bias"), affine, strict=False))
        yield call(norm, *common, given, {"first": sum, "output": y} | (named if rest else {}))

        rows = shape[:-1]
        mean, rstd = integers(generator, rows, wide), 2.0 ** integers(generator, rows, wide)
        statistics = [mean, rstd] if centred else [rstd]
        backward = getattr(reference, f"dropout_add_{norm}_norm_backward")
        grads = backward(g, h if rest else None, sum, affine[0], *statistics, state(), p, EPS, [True] * 4, **options)
        wanted = {"output": grads[1], "second": grads[0]}
        wanted |= columns(g, sum, mean if centred else torch.zeros_like(rstd), rstd)
        if not rest:
            wanted = {"second": wanted["second"], "column1": wanted["column1"]}
        given = {"x0": g, "x1": sum, "x2": h if rest else None, "weight": affine[0], "statistic1": rstd}
        given |= {"statistic0": mean} if centred else {}
        yield call(f"{norm} backward", *common, given, wanted)


def with_integer_means(x: Tensor) -> Tensor:
    """Some elements of each row less by one, or more."""
    excess = x.sum(-1, keepdim=True).remainder(x.shape[-1])
    return x - (torch.arange(x.shape[-1]) < excess).to(x.dtype)


def columns(g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> dict[str, Tensor]:
    """The sums of each part of the rows: gradients of weight and bias."""
    wide = g.to(rstd.dtype)
    terms = (wide * ((x.to(rstd.dtype) - mean[..., None]) * rstd[..., None]), wide)
    return {f"column{k}": torch.stack([part.sum(0) for part in term.flatten(0, -2).split(ROWS_IN_PART)])
            for k, term in enumerate(terms)}  # fmt: skip


def softmaxes(dtype: torch.dtype, shape: tuple[int, ...], strides: list[int], base: int, attend: str,
              without: str = "") -> Iterator[Call]:  # fmt: skip
    generator = torch.Generator().manual_seed(shape[-1] + 1)
    p, options = 0.0 if without == "mask" else P, {"mask_strides": strides, "mask_base": base}
    attn_mask = MASKS[attend](torch.rand(shape, generator=generator) < 0.3, dtype) if attend else None
    # Of each row a power of two of elements takes part; of the others the score or attn_mask says that they do not.
    part = power_of_two((torch.rand(shape, generator=generator) < 0.7) & ~left_out(attn_mask, shape))
    high = integers(generator, shape[:-1], dtype).unsqueeze(-1)
    x = torch.where(part | left_out(attn_mask, shape), high, torch.tensor(NOTHING, dtype=dtype))
    y, maximum, inverse = reference.softmax_dropout_apply(x, attn_mask, state(), p, SCALE, **options)
    statistics = {"statistic0": maximum, "statistic1": inverse} if without != "operands" else {}
    common = (dtype, shape, strides, base, p, SCALE)
    yield call("softmax", *common, {"x0": x, "attn_mask": attn_mask}, {"second": y} | statistics)

    g = integers(generator, shape, dtype)
    wanted = [True, without != "operands"]
    grads = reference.softmax_dropout_backward(g, x, attn_mask, maximum, inverse, state(), p, SCALE, wanted, **options)
    given = {"x0": x, "x1": g, "attn_mask": attn_mask, "statistic0": maximum, "statistic1": inverse}
    yield call("softmax backward", *common, given, {"second": grads[0], "output": grads[1]})


def left_out(attn_mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """By the mask: whatever their scores are."""
    if attn_mask is None:
        return torch.zeros(shape, dtype=torch.bool)
    return (~attn_mask if attn_mask.dtype == torch.bool else attn_mask == NOTHING).expand(shape)


def power_of_two(part: Tensor) -> Tensor:
    """Of the true values of each row the first ones, as many as the greatest power of two in their number."""
    count = part.sum(-1, keepdim=True)
    most = torch.where(count > 0, 2.0 ** count.clamp(1).log2().floor(), 0.0)
    return part & (part.cumsum(-1) <= most)


def call(operation: str, dtype: torch.dtype, shape: tuple[int, ...], strides: list[int], base: int, p: float,
         constant: float, given: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> Call:  # fmt: skip
    attn_mask = given.get("attn_mask")
    attend = 0 if attn_mask is None else 1 if attn_mask.dtype == torch.bool else 2
    attn_strides = row_major(shape) if attn_mask is None else attn_mask.expand(shape).stride()
    return {f"given{OPERANDS.index(name)}": as_bytes(t) for name, t in given.items() if t is not None} | {
        f"wanted{OPERANDS.index(name)}": as_bytes(t) for name, t in wanted.items() if t is not None
    } | {
        "operation": np.array(OPERATIONS.index(operation)), "dtype": np.array(DTYPES[dtype]), "p": np.array(p),
        "sizes": np.array(shape, dtype=np.int64), "strides": np.array(attn_strides, dtype=np.int64),
        "mask_strides": np.array(strides, dtype=np.int64).view(np.uint64),
        "state": np.array([base, *STATE], dtype=np.uint64), "attend": np.array(attend),
        "constant": np.array(constant), "rows_in_part": np.array(ROWS_IN_PART),
    }  # fmt: skip


def prepared(path: Path) -> Path:
    return save(path, calls())
