"""The same operations over many sizes, each beside the minimal write and every peer that has it.

"dropout" returns a new tensor, allocation included. On the CPU a large one is new pages from the system, which cost
more than the kernel; "dropout in place" is the same without them. On CUDA PyTorch's allocator keeps freed memory, so
that neither pays for it. What is smaller than a cache is in it on the CPU; on CUDA buffers are rotated past L2.

Beyond LARGE elements a processor measures ours, the limit and PyTorch's own alone: native generators take seconds a
call, and every implementation has tensors of gigabytes.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import inputs, operations, work
from .cases import LARGE
from .choice import Choice, Level, words
from .inputs import FEATURES, Inputs, rings
from .operations import Operation
from .peers import ADAPTERS, Peer
from .pipelines import Pipeline, pipelines
from .report import reason
from .timing import Effort, Task, Timing, measure, rotating
from .work import CHECKED, Factory, Way

OURS = "fused_dropout"
SIZES = {
    Level.QUICK: (2**6, 2**13, 2**20),
    Level.DEFAULT: tuple(2**power for power in range(0, 25, 4)),
    Level.FULL: tuple(2**power for power in range(0, 25, 3)),
}
LARGER = (2**26, 2**28)  # on a GPU, and of a full run
NATIVE = ("F.dropout", "eager")
TENSORS, TENSORS_OF_FEW = 64, 16  # that the implementations of an operation have at once, of all and of the few
EFFORT = {Level.QUICK: Effort(0.1, 5, 20), Level.DEFAULT: Effort(0.3, 5, 30), Level.FULL: Effort(0.6, 5, 60)}


@dataclass(frozen=True)
class Swept:
    """An operation, its limit (the same memory traffic without a mask) and what it moves and computes an element.

    `peers` are chains that only this operation has; those of peers.py come by its name.
    """

    name: str
    way: Way
    operation: Operation
    limit: str
    chains: tuple[tuple[str, Factory], ...]  # the limit first
    accesses: int = 2
    arithmetic: float | None = None
    inputs: Inputs = inputs.flat
    least: int = 1  # sizes are multiples of it
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    device: str = ""
    level: Level = Level.QUICK


def _of_pipeline(pipeline: Pipeline, way: Way, suffix: str = "") -> Swept:
    chains = (
        ("unmasked", way(pipeline.unmasked)),
        ("eager", way(pipeline.native)),
        ("compiled", way(torch.compile(pipeline.native))),
    )
    return Swept(
        pipeline.name + suffix,
        way,
        pipeline.operation,
        "unmasked",
        chains,
        pipeline.accesses,
        None if suffix else pipeline.arithmetic,
        pipeline.inputs,
        FEATURES,
        (torch.float32,),
        level=Level.DEFAULT,
    )


def swept(p: float) -> Iterator[Swept]:
    dropout, in_place = operations.dropout(p), operations.dropout_in_place(p)
    mul, mul_, arithmetic = operations.multiply(p), operations.multiply_in_place(p), operations.DROPOUT
    yield Swept("dropout", work.forward, dropout, "mul", (("mul", work.forward(mul)),), arithmetic=arithmetic)
    yield Swept(
        "dropout in place",
        work.in_place,
        in_place,
        "mul_",
        (("mul_", work.in_place(mul_)),),
        arithmetic=arithmetic,
        device="cpu",
    )
    yield Swept("dropout backward", work.backward, dropout, "mul", (("mul", work.backward(mul)),))
    yield Swept("dropout and backward", work.round_trip, dropout, "mul", (("mul", work.round_trip(mul)),), 4)
    for pipeline in pipelines(p):
        if pipeline.name in ("dropout_add", "dropout_add_layer_norm"):
            yield _of_pipeline(pipeline, work.forward)


def names(choice: Choice) -> tuple[set[str], set[str]]:
    """Of all operations and of all implementations but ours."""
    every = list(swept(choice.p))
    return {one.name for one in every}, {name for one in every for name, _ in one.chains} | set(ADAPTERS)


@dataclass(frozen=True)
class Point:
    """One operation at one size."""

    swept: Swept
    dtype: torch.dtype
    numel: int
    device: str
    threads: int  # 0 on CUDA

    @property
    def of_few(self) -> bool:
        """Whether ours, the limit and PyTorch's own are all that is measured."""
        return self.device == "cpu" and self.numel > LARGE

    @property
    def label(self) -> str:
        return f"sweep {self.device} {self.swept.name} {words(self.dtype)} numel={self.numel}"


def points(choice: Choice) -> Iterator[Point]:
    """Those that are chosen; with all threads."""
    larger = choice.device == "cuda" or choice.level == Level.FULL
    sizes = choice.sizes or SIZES[choice.level] + LARGER * larger
    threads = choice.threads[-1] if choice.device == "cpu" else 0
    for one in swept(choice.p):
        if one.device not in ("", choice.device) or one.level > choice.level:
            continue
        for dtype in choice.dtypes or (one.dtypes[:1] if choice.level == Level.QUICK else one.dtypes):
            for numel in sizes:
                point = Point(one, dtype, numel, choice.device, threads)
                if (
                    numel % one.least == 0
                    and _fits(point)
                    and choice.wants(dtype, numel, one.name)
                    and choice.only in point.label
                ):
                    yield point


def _fits(point: Point) -> bool:
    """Whether there is room for the tensors of every implementation that is measured."""
    if point.device == "cuda":
        room = torch.cuda.get_device_properties(0).total_memory
    else:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (TENSORS_OF_FEW if point.of_few else TENSORS) * point.numel * point.dtype.itemsize <= room


def measure_point(point: Point, peers: Sequence[Peer], choice: Choice) -> list[dict[str, Any]]:
    """A record for each implementation: ours, the limit, and the peers that pass the check."""
    one = point.swept
    if point.threads:
        torch.set_num_threads(point.threads)
    few = one.inputs(min(point.numel, CHECKED), point.dtype, point.device)
    work.check(point.label, one.way(one.operation.fused), one.way(one.operation.oracle), few, one.operation.exact)

    def wanted(name: str) -> bool:
        return choice.wants_peer(name) and (name in NATIVE or not point.of_few)

    chains = {name: make for name, make in one.chains if name == one.limit or wanted(name)}
    factories = {OURS: one.way(one.operation.fused), **chains}
    refused = {}
    for peer in peers:
        if one.name in peer.tasks and wanted(peer.name):
            try:
                if one.inputs is inputs.flat:
                    work.check_dropout(peer.tasks[one.name], few, choice.p)
            except Exception as error:  # another library's; the measurement goes on without it
                refused[peer.name] = reason(error)
            else:
                factories[peer.name] = peer.tasks[one.name]
    tasks = [_cold(factory, point) for factory in factories.values()]
    timings = dict(zip(factories, measure(tasks, point.device, EFFORT[choice.level]), strict=True))
    ours, limit = timings[OURS], timings[one.limit]
    records = [_record(point, name, timing, ours, limit) for name, timing in timings.items()]
    return records + [_identity(point, name) | {"refused": why} for name, why in refused.items()]


def _cold(factory: Factory, point: Point) -> Task:
    make, size = point.swept.inputs, point.numel * point.dtype.itemsize
    return rotating([factory(*make(point.numel, point.dtype, point.device)) for _ in range(rings(point.device, size))])


def _identity(point: Point, implementation: str) -> dict[str, Any]:
    return {
        "name": point.swept.name,
        "implementation": implementation,
        "device": point.device,
        "dtype": words(point.dtype),
        "numel": point.numel,
        "threads": point.threads,
    }


def _record(point: Point, implementation: str, timing: Timing, ours: Timing, limit: Timing) -> dict[str, Any]:
    """Milliseconds a call; our time divided by its own; GB/s of the declared bytes, and their share of the limit's."""
    declared = point.swept.accesses * point.dtype.itemsize
    return _identity(point, implementation) | {
        "ms": timing.seconds.scaled(1e3),
        "ratio": ours.seconds.median / timing.seconds.median,
        "ratio_of_pairs": timing.first_to_this.scaled(1),
        "bytes_per_element": declared,
        "arithmetic": point.swept.arithmetic,
        "gb_per_s": point.numel * declared * 1e-9 / timing.seconds.median,
        "limit": point.swept.limit,
        "of_limit": limit.seconds.median / timing.seconds.median,
        "samples": timing.samples,
        "repeats": timing.repeats,
    }
