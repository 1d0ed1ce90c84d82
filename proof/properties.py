"""One mask everywhere: any dtype, strides, storage offset, thread count, instruction set, shard and noise shape."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fused_dropout import reference
from fused_dropout._extension import build_info, extension, ops

from .report import Finding

TITLE = "One mask everywhere"
METHOD = (
    "Hypothesis draws shapes, orders of memory, gaps, storage offsets, noise shapes, mask bases, states, p, "
    "thread counts and values (of every magnitude, NaN and infinities among them). Every instruction set must "
    "give the reference's bits, out of place and in place, and so must two shards put together. The payload of a "
    "NaN is not compared."
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = (1, 2, 3, 4, 5, 7, 8, 17, 49, 63, 64, 65, 130, 300, 1025, 4099)
BASES = (0, 1, 5, 2**31 - 3, 2**32 - 5, 2**35 - 77, 2**40 + 1, -100)
MOST = 20_000  # elements


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    order: tuple[int, ...]  # of the dimensions in memory, outermost first
    gap: int  # elements between two rows in memory
    offset: int  # of the first element in its storage
    shared: tuple[bool, ...]  # dimensions of size 1 in the noise shape
    base: int
    seed: int
    p: float
    threads: int
    cut: tuple[int, int]  # a dimension, and where shards meet in it

    @property
    def mask_strides(self) -> list[int]:
        noise = [1 if shared else size for shared, size in zip(self.shared, self.shape, strict=True)]
        strides = reference.row_major(noise)
        return [0 if shared else stride for shared, stride in zip(self.shared, strides, strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=5).filter(lambda s: math.prod(s) <= MOST))
    dim = draw(st.integers(0, len(shape) - 1))
    return Case(
        shape=tuple(shape),
        order=tuple(draw(st.permutations(range(len(shape))))),
        gap=draw(st.sampled_from([0, 0, 1, 3])),
        offset=draw(st.integers(0, 17)),
        shared=tuple(draw(st.booleans()) and draw(st.booleans()) for _ in shape),
        base=draw(st.sampled_from(BASES)),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        p=draw(st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([0.1, 0.5, 1.0, 1 - 2.0**-20]))),
        threads=draw(st.sampled_from([1, 2, 5, 64])),
        cut=(dim, draw(st.integers(0, shape[dim]))),
    )


def laid_out(case: Case, dtype: torch.dtype) -> torch.Tensor:
    memory = [case.shape[d] for d in case.order]
    row = memory[-1] + case.gap
    numel = math.prod(memory[:-1]) * row
    generator = torch.Generator().manual_seed(case.seed % 2**32)
    values = torch.randn(case.offset + numel, generator=generator, dtype=torch.float64)
    values *= 2.0 ** torch.randint(-20, 8, values.shape, generator=generator).double()
    values[::61] = math.nan
    values[7::67] = -math.inf
    whole = values.to(dtype)[case.offset :].view(*memory[:-1], row)
    return whole[..., : memory[-1]].permute([case.order.index(d) for d in range(len(memory))])


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    bits = [x.nan_to_num(3.0).contiguous().view(integers) for x in (got, want)]
    return torch.equal(got.isnan(), want.isnan()) and torch.equal(*bits)


def holds(case: Case, dtype: torch.dtype) -> None:
    """AssertionError where it does not."""
    x, state = laid_out(case, dtype), torch.tensor([case.seed, 8 * (case.seed % 2**40)])
    options = {"mask_strides": case.mask_strides, "mask_base": case.base}
    want = reference.dropout_apply(x, state, case.p, **options)
    dim, at = case.cut
    begin = case.base + at * case.mask_strides[dim]
    before = build_info()["cpu_instruction_set"], torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        for instruction_set in build_info()["cpu_instruction_sets"]:
            extension.use_instruction_set(instruction_set)
            assert same(ops.dropout_apply(x, state, case.p, **options), want), instruction_set
            shards = [
                ops.dropout_apply(x.narrow(dim, 0, at), state, case.p, **options),
                ops.dropout_apply(
                    x.narrow(dim, at, x.shape[dim] - at), state, case.p, mask_strides=case.mask_strides, mask_base=begin
                ),
            ]
            assert same(torch.cat(shards, dim), want), f"{instruction_set}, shards"
            y = laid_out(case, dtype)
            ops.dropout_apply_(y, state, case.p, **options)
            assert same(y, want), f"{instruction_set}, in place"
    finally:
        extension.use_instruction_set(before[0])
        torch.set_num_threads(before[1])


def search(dtype: torch.dtype, count: int) -> str:
    """What was found in so many cases: nothing, or a smallest case that fails."""
    seen = 0

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(cases())
    def every(case: Case) -> None:
        nonlocal seen
        seen += 1
        holds(case, dtype)

    try:
        every()
    except AssertionError as error:
        return str(error).splitlines()[0] or "a case fails"
    return f"{seen:,} cases hold"


def findings(quick: bool) -> Iterator[Finding]:
    count = 60 if quick else 10_000
    for dtype in DTYPES:
        found = search(dtype, count)
        name = str(dtype).removeprefix("torch.")
        yield Finding(f"{name}: {count:,} cases equal the reference", found, "all hold", found.endswith("hold"))
