"""The rows of the benchmark: data, and its expansion into one case for each dtype and thread count.

To add a row, write a Family into CPU or CUDA; to compare with something else, name it in PEERS. A target is the largest
ratio of times, subject to baseline, that is accepted: 1/18 reads "at least 18 times as fast".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

from . import work
from .work import Factory, Function, Inputs, Operation, Way

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
LARGE, MEDIUM, SMALL = 2**24, 2**20, 64  # elements: more than a cache holds, less, and so few that the call is all
CUDA_BYTES = 2**28  # of a tensor: five times the L2 of an H200
SAMPLE = 2**16  # elements of one sample of images: the smallest size at which layers are compared
ONE_THREAD = 2**15  # elements for which neither PyTorch nor fused_dropout wakes a second thread

Target: TypeAlias = tuple[float | None, float | None]  # with one thread, with several
Peer: TypeAlias = Callable[[Way], Factory]


@dataclass(frozen=True)
class Case:
    """One row: how to make both tasks, and the oracle of the subject, from inputs; and what was declared of them.

    `threads` is 0 on CUDA, where those of the CPU do not matter.
    """

    name: str
    versus: str
    subject: Factory
    baseline: Factory
    oracle: Factory
    inputs: Inputs
    dtype: torch.dtype
    numel: int
    threads: int
    device: str
    target: float | None
    bytes_per_element: int
    table: str
    column: str
    exact: bool

    @property
    def label(self) -> str:
        """What `--only` looks into."""
        threads = f" threads={self.threads}" if self.threads else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.device} {self.name} vs {self.versus} {dtype} numel={self.numel}{threads}"


@dataclass(frozen=True)
class Family:
    """A row as it is written down: one case for each dtype that has targets, and for each thread count.

    `accesses` is how often the operation moves an element, reads and writes, whatever the hardware adds to that;
    `quick` says that `--quick` measures it too; `last`, that it is measured with the last thread count alone; `table`
    and `column` say where the README has it.
    """

    name: str
    way: Way
    operation: Operation
    versus: str
    targets: Mapping[torch.dtype, Target]
    numel: int = LARGE
    quick: bool = False
    accesses: int = 2
    inputs: Inputs = work.flat
    table: str = ""
    column: str = ""
    last: bool = False

    def case(self, dtype: torch.dtype, threads: int) -> Case:
        one, several = self.targets[dtype]
        return Case(
            name=self.name,
            versus=self.versus,
            subject=self.way(self.operation.fused),
            baseline=PEERS[self.versus](self.way),
            oracle=self.way(self.operation.oracle),
            inputs=self.inputs,
            dtype=dtype,
            numel=self.numel if threads else CUDA_BYTES // dtype.itemsize,
            threads=threads,
            device="cpu" if threads else "cuda",
            target=several if threads > 1 else one,
            bytes_per_element=self.accesses * dtype.itemsize,
            table=self.table,
            column=self.column,
            exact=self.operation.exact,
        )


def _run(function: Function) -> Peer:
    return lambda way: way(function)


# "eager" is the chain of native functions that gives what a fused one does, "compiled" torch.compile of that, and
# "unmasked" the chain with a multiply in dropout's place: against it the gain is fusion, not the slow native generator.
PEERS: Mapping[str, Peer] = {
    "mul": _run(work.multiply),
    "mul_": _run(work.multiply_in_place),
    "F.dropout": _run(work.DROPOUT.native),
    "compiled F.dropout": _run(work.COMPILED.native),
    "eager drop_block2d": _run(work.DROP_BLOCK.native),
    "eager gaussian": _run(work.GAUSSIAN_DROPOUT.native),
    "eager zoneout": _run(work.ZONEOUT.native),
    "contiguous": lambda way: lambda x: way(work.DROPOUT.fused)(x.contiguous()),
    "copy": lambda way: work.device_copy,
    **{f"eager {pipeline.name}": _run(pipeline.native) for pipeline in work.PIPELINES},
    **{f"compiled {pipeline.name}": _run(torch.compile(pipeline.native, dynamic=False)) for pipeline in work.PIPELINES},
    **{f"unmasked {p.name}": _run(p.unmasked) for p in (*work.PIPELINES, work.DROPOUT_LINEAR)},
    **{f"native {layer.name}": _run(layer.operation.native) for layer in work.LAYERS},
    **({"flash_attn": _run(work.FLASH_LAYER_NORM)} if work.FLASH_LAYER_NORM else {}),
}

UNTARGETED = {FLOAT32: (None, None), BFLOAT16: (None, None)}
IN_PLACE = {FLOAT32: (1.3, 1.1), BFLOAT16: (2.0, 1.4)}  # no new pages: the mask's arithmetic against bare memory
NEW_PAGES = {FLOAT32: (1.05, 1.05), BFLOAT16: (1.05, 1.05)}  # to get a large output costs more than to compute it
CACHED = {FLOAT32: (1.6, 1.6), BFLOAT16: (2.0, 2.0)}
NATIVE = {FLOAT32: (1 / 18, 1 / 18), BFLOAT16: (1 / 18, 1 / 18)}
CALL = {FLOAT32: (0.8, 0.8)}  # of so few elements that the kernel does not matter
COMPILED = {FLOAT32: (1.0, 1.0)}
COPY = {FLOAT32: (1 / 0.95, None), BFLOAT16: (1 / 0.95, None), FLOAT16: (1 / 0.95, None)}  # 95 % of its bandwidth
CUDA_NATIVE = {FLOAT32: (1 / 1.1, None), BFLOAT16: (1 / 1.2, None), FLOAT16: (None, None)}

# The layer family: a new output and a gradient cost a multiplication, and no layer costs more than the native one.
LAYER, LAYER_IN_PLACE, LAYER_NATIVE = {FLOAT32: (1.15, 1.15)}, {FLOAT32: (1.3, 1.3)}, {FLOAT32: (1.0, 1.0)}
TILED, BLOCKS = {FLOAT32: (1.25, 1.25), BFLOAT16: (1.25, 1.25)}, {FLOAT32: (1 / 3, 1 / 3)}
UNTARGETED_FLOAT = {FLOAT32: (None, None)}


def _of_layer(layer: work.Layer) -> Iterator[Family]:
    name, inputs, native = layer.name, layer.inputs, f"native {layer.name}"
    fused, in_place = layer.operation, layer.operation_in_place
    row = partial(Family, table="layers", inputs=inputs)
    yield row(name, work.forward, fused, "mul", LAYER, column="new output")
    yield row(f"{name} backward", work.backward, fused, "mul", LAYER, column="backward")
    yield row(f"{name} in place", work.in_place, in_place, "mul_", LAYER_IN_PLACE, column="in place")
    for numel, column in ((LARGE, "native"), (MEDIUM, "native, 1 M"), (SAMPLE, "native, 64 K")):
        yield row(name, work.forward, fused, native, LAYER_NATIVE, numel, column=column)


def _of_pipeline(pipeline: work.Pipeline) -> Iterator[Family]:
    name = pipeline.name
    of_rows = "norm" in name or "softmax" in name
    fusion = 1 / 1.5 if of_rows else 1 / 1.3 if name in ("dropout_add", "drop_path_add") else 1 / 1.6
    eager = None if name == "drop_path_add" or of_rows else 1 / 6  # the native generator's; a path is one number
    for peer, target in (("unmasked", fusion), ("eager", eager), ("compiled", 1.0)):
        for suffix, way in (("", work.forward), (" step", work.step)):
            yield Family(
                name + suffix,
                way,
                pipeline.operation,
                f"{peer} {name}",
                {FLOAT32: (target, target)},
                accesses=pipeline.accesses,
                inputs=pipeline.inputs,
                table="pipelines",
                column=peer + suffix,
                last=peer != "unmasked",
            )


def _of_pipeline_on_cuda(pipeline: work.Pipeline) -> Iterator[Family]:
    name, targets = pipeline.name, {"dropout_add": 1 / 1.6, "bias_dropout_add": 1 / 2.2, "drop_path_add": None}
    row = partial(Family, inputs=pipeline.inputs, accesses=pipeline.accesses, table="pipelines")
    for suffix, way in (("", work.forward), (" step", work.step)):
        eager, compiled = {BFLOAT16: (targets.get(name, 1 / 2), None)}, {BFLOAT16: (1.0, None)}
        yield row(name + suffix, way, pipeline.operation, f"eager {name}", eager, column="eager" + suffix)
        yield row(name + suffix, way, pipeline.operation, f"compiled {name}", compiled, column="compiled" + suffix)
        if name == "dropout_add_layer_norm" and work.FLASH_LAYER_NORM is not None:
            yield row(name + suffix, way, pipeline.operation, "flash_attn", compiled, column="flash_attn" + suffix)


def _compiled() -> Iterator[Family]:
    """torch.compile of a call against that of the native one, from small tensors to large ones."""
    for numel in (SMALL, 2**10, SAMPLE, MEDIUM, LARGE):
        for name, way in (("compiled dropout", work.forward), ("compiled dropout and backward", work.round_trip)):
            column = f"{numel:,}"
            yield Family(
                name, way, work.COMPILED, "compiled F.dropout", COMPILED, numel, table="compiled", column=column
            )


CPU = (
    Family("dropout in place", work.in_place, work.DROPOUT_IN_PLACE, "mul_", IN_PLACE, quick=True),
    Family("dropout", work.forward, work.DROPOUT, "mul", NEW_PAGES, quick=True),
    Family("dropout backward", work.backward, work.DROPOUT, "mul", NEW_PAGES),
    Family("dropout", work.forward, work.DROPOUT, "F.dropout", UNTARGETED),
    Family("dropout", work.forward, work.DROPOUT, "mul", CACHED, MEDIUM),
    Family("dropout", work.forward, work.DROPOUT, "F.dropout", NATIVE, MEDIUM, quick=True),
    Family("dropout, recorded", work.recorded, work.DROPOUT, "F.dropout", CALL, SMALL, quick=True),
    Family("dropout and backward", work.round_trip, work.DROPOUT, "F.dropout", CALL, SMALL, quick=True),
    *_compiled(),
    *(family for pipeline in work.PIPELINES for family in _of_pipeline(pipeline)),
    Family(
        "dropout_linear step",
        work.step,
        work.DROPOUT_LINEAR.operation,
        "unmasked dropout_linear",
        {FLOAT32: (1.05, 1.05)},
        2**22,
        inputs=work.DROPOUT_LINEAR.inputs,
    ),
    Family("channels_last", work.forward, work.DROPOUT, "F.dropout", UNTARGETED, inputs=work.channels_last),
    Family("channels_last", work.forward, work.DROPOUT, "contiguous", TILED, inputs=work.channels_last),
    Family("drop_block2d", work.forward, work.DROP_BLOCK, "eager drop_block2d", BLOCKS, inputs=work.images),
    Family("gaussian_dropout", work.forward, work.GAUSSIAN_DROPOUT, "eager gaussian", UNTARGETED_FLOAT),
    Family("zoneout", work.forward, work.ZONEOUT, "eager zoneout", UNTARGETED_FLOAT, accesses=3, inputs=work.pair),
    *(family for layer in work.LAYERS for family in _of_layer(layer)),
)
CUDA = (
    Family("dropout", work.forward, work.DROPOUT, "copy", COPY, quick=True),
    Family("dropout backward", work.backward, work.DROPOUT, "copy", COPY),
    Family("dropout", work.forward, work.DROPOUT, "F.dropout", CUDA_NATIVE, quick=True),
    Family("dropout backward", work.backward, work.DROPOUT, "F.dropout", CUDA_NATIVE),
    *(family for pipeline in work.PIPELINES for family in _of_pipeline_on_cuda(pipeline)),
)


def cases(threads: Sequence[int], cuda: bool, quick: bool, only: str = "") -> Iterator[Case]:
    """The cases whose label contains `only`, on the CPU with each of `threads` and, with `cuda`, on the GPU."""
    for families, counts in ((CPU, list(threads)), (CUDA, [0] if cuda else [])):
        for family in families:
            if quick and not family.quick:
                continue
            for dtype in family.targets:
                for count in counts[:1] if family.numel <= ONE_THREAD else counts[-1:] if family.last else counts:
                    case = family.case(dtype, count)
                    if only in case.label:
                        yield case
