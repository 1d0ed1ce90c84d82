"""The rows of the benchmark: data, and its expansion into one case for each dtype and thread count.

To add a row, write a Family into `on_cpu` or `on_cuda`; to compare with something else, name it in `baselines`. A
target is the largest ratio of times, subject to baseline, that is accepted: 1/18 reads "at least 18 times as fast".
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

from . import inputs, operations, work
from .choice import Choice, Level, words
from .inputs import Inputs
from .layers import Layer, layers
from .operations import Operation
from .peers import Skipped, flash_layer_norm
from .pipelines import Pipeline, dropout_linear, pipelines
from .work import Factory, Function, Way

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
LARGE, MEDIUM, SMALL = 2**24, 2**20, 64  # elements: more than a cache holds, less, and so few that the call is all
CUDA_BYTES = 2**28  # of a tensor: five times the L2 of an H200
SAMPLE = 2**16  # elements of one sample of images: the smallest size at which layers are compared
ONE_THREAD = 2**15  # elements for which neither PyTorch nor fused_dropout wakes a second thread

Target: TypeAlias = tuple[float | None, float | None]  # with one thread, with several
Baseline: TypeAlias = Callable[[Way], Factory]


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
    arithmetic: float | None
    table: str
    column: str
    exact: bool

    @property
    def label(self) -> str:
        """What `--only` looks into."""
        threads = f" threads={self.threads}" if self.threads else ""
        return f"{self.device} {self.name} vs {self.versus} {words(self.dtype)} numel={self.numel}{threads}"


@dataclass(frozen=True)
class Family:
    """A row as it is written down: one case for each dtype that has targets, and for each thread count.

    `accesses` is how often the operation moves an element, reads and writes, whatever the hardware adds to that;
    `arithmetic`, how many 32-bit operations it takes, where the roofline has it; `level`, from which on it is
    measured; `last`, that it is measured with the last thread count alone; `table` and `column` say where the results
    have it.
    """

    name: str
    way: Way
    operation: Operation
    versus: str
    targets: Mapping[torch.dtype, Target]
    numel: int = LARGE
    level: Level = Level.DEFAULT
    accesses: int = 2
    arithmetic: float | None = None
    inputs: Inputs = inputs.flat
    table: str = ""
    column: str = ""
    last: bool = False

    def case(self, dtype: torch.dtype, threads: int, baselines: Mapping[str, Baseline]) -> Case:
        one, several = self.targets[dtype]
        return Case(
            name=self.name,
            versus=self.versus,
            subject=self.way(self.operation.fused),
            baseline=baselines[self.versus](self.way),
            oracle=self.way(self.operation.oracle),
            inputs=self.inputs,
            dtype=dtype,
            numel=self.numel if threads else CUDA_BYTES // dtype.itemsize,
            threads=threads,
            device="cpu" if threads else "cuda",
            target=several if threads > 1 else one,
            bytes_per_element=self.accesses * dtype.itemsize,
            arithmetic=self.arithmetic,
            table=self.table,
            column=self.column,
            exact=self.operation.exact,
        )


def _run(function: Function) -> Baseline:
    return lambda way: way(function)


def baselines(p: float, device: str) -> Mapping[str, Baseline]:
    """What an operation is measured against, by name.

    "eager" is the chain of native functions that gives what a fused one does, "compiled" torch.compile of that, and
    "unmasked" the chain with a multiply in dropout's place: against it the gain is fusion, not the slow native
    generator.
    """
    dropout, chains = operations.dropout(p), pipelines(p)
    try:
        flash = {"flash_attn": _run(flash_layer_norm(p, device))}
    except Skipped:  # peers.py says why
        flash = {}
    return {
        "mul": _run(operations.multiply(p)),
        "mul_": _run(operations.multiply_in_place(p)),
        "F.dropout": _run(dropout.native),
        "compiled F.dropout": _run(operations.compiled_dropout(p).native),
        "eager drop_block2d": _run(operations.drop_block2d(p).native),
        "eager gaussian": _run(operations.gaussian_dropout(p).native),
        "eager zoneout": _run(operations.zoneout(p).native),
        "bernoulli_": _run(operations.keep_mask(p).native),
        "contiguous": lambda way: lambda x: way(dropout.fused)(x.contiguous()),
        "copy": lambda way: operations.device_copy,
        **{f"eager {pipeline.name}": _run(pipeline.native) for pipeline in chains},
        **{f"compiled {pipeline.name}": _run(torch.compile(pipeline.native, dynamic=False)) for pipeline in chains},
        **{f"unmasked {pipeline.name}": _run(pipeline.unmasked) for pipeline in (*chains, dropout_linear(p))},
        **{f"native {layer.name}": _run(layer.operation.native) for layer in layers(p)},
        **flash,
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


def _of_layer(layer: Layer) -> Iterator[Family]:
    name, native = layer.name, f"native {layer.name}"
    fused, in_place = layer.operation, layer.operation_in_place
    row = partial(Family, table="layers", inputs=layer.inputs, level=Level.FULL)
    yield row(name, work.forward, fused, "mul", LAYER, column="new output")
    yield row(f"{name} backward", work.backward, fused, "mul", LAYER, column="backward")
    yield row(f"{name} in place", work.in_place, in_place, "mul_", LAYER_IN_PLACE, column="in place")
    for numel, column in ((LARGE, "native"), (MEDIUM, "native, 1 M"), (SAMPLE, "native, 64 K")):
        yield row(name, work.forward, fused, native, LAYER_NATIVE, numel, column=column)


def _of_pipeline(pipeline: Pipeline) -> Iterator[Family]:
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
                level=Level.FULL,
                accesses=pipeline.accesses,
                arithmetic=pipeline.arithmetic if way is work.forward else None,
                inputs=pipeline.inputs,
                table="pipelines",
                column=peer + suffix,
                last=peer != "unmasked",
            )


def _of_pipeline_on_cuda(pipeline: Pipeline) -> Iterator[Family]:
    name, targets = pipeline.name, {"dropout_add": 1 / 1.6, "bias_dropout_add": 1 / 2.2, "drop_path_add": None}
    row = partial(Family, inputs=pipeline.inputs, accesses=pipeline.accesses, table="pipelines", level=Level.FULL)
    for suffix, way in (("", work.forward), (" step", work.step)):
        eager, compiled = {BFLOAT16: (targets.get(name, 1 / 2), None)}, {BFLOAT16: (1.0, None)}
        yield row(name + suffix, way, pipeline.operation, f"eager {name}", eager, column="eager" + suffix)
        yield row(name + suffix, way, pipeline.operation, f"compiled {name}", compiled, column="compiled" + suffix)
        if name == "dropout_add_layer_norm":
            yield row(name + suffix, way, pipeline.operation, "flash_attn", compiled, column="flash_attn" + suffix)


def _compiled(p: float) -> Iterator[Family]:
    """torch.compile of a call against that of the native one, from small tensors to large ones."""
    compiled = operations.compiled_dropout(p)
    row = partial(Family, versus="compiled F.dropout", targets=COMPILED, level=Level.FULL, table="compiled")
    for numel in (SMALL, 2**10, SAMPLE, MEDIUM, LARGE):
        for name, way in (("compiled dropout", work.forward), ("compiled dropout and backward", work.round_trip)):
            yield row(name, way, compiled, numel=numel, column=f"{numel:,}")


def on_cpu(p: float) -> Iterator[Family]:
    dropout, in_place, linear = operations.dropout(p), operations.dropout_in_place(p), dropout_linear(p)
    arithmetic, quick = operations.DROPOUT, Level.QUICK
    yield Family("dropout in place", work.in_place, in_place, "mul_", IN_PLACE, level=quick, arithmetic=arithmetic)
    yield Family("dropout", work.forward, dropout, "mul", NEW_PAGES, level=quick, arithmetic=arithmetic)
    yield Family("dropout backward", work.backward, dropout, "mul", NEW_PAGES)
    yield Family("dropout backward of a sum", work.backward_of_sum, dropout, "mul", NEW_PAGES)
    yield Family("dropout", work.forward, dropout, "F.dropout", UNTARGETED)
    yield Family("dropout", work.forward, dropout, "mul", CACHED, MEDIUM)
    yield Family("dropout", work.forward, dropout, "F.dropout", NATIVE, MEDIUM, quick)
    yield Family("dropout, recorded", work.recorded, dropout, "F.dropout", CALL, SMALL, quick)
    yield Family("dropout and backward", work.round_trip, dropout, "F.dropout", CALL, SMALL, quick)
    yield from _compiled(p)
    for pipeline in pipelines(p):
        yield from _of_pipeline(pipeline)
    row = partial(Family, "dropout_linear step", work.step, linear.operation, "unmasked dropout_linear")
    yield row({FLOAT32: (1.05, 1.05)}, 2**22, inputs=linear.inputs)
    for versus, targets in (("F.dropout", UNTARGETED), ("contiguous", TILED)):
        yield Family("channels_last", work.forward, dropout, versus, targets, inputs=inputs.channels_last)
    block, gaussian, zoneout, mask = (
        f(p) for f in (operations.drop_block2d, operations.gaussian_dropout, operations.zoneout, operations.keep_mask)
    )
    yield Family("drop_block2d", work.forward, block, "eager drop_block2d", BLOCKS, inputs=inputs.images)
    yield Family("gaussian_dropout", work.forward, gaussian, "eager gaussian", UNTARGETED_FLOAT)
    yield Family("zoneout", work.forward, zoneout, "eager zoneout", UNTARGETED_FLOAT, accesses=3, inputs=inputs.pair)
    yield Family("keep_mask", work.forward, mask, "bernoulli_", UNTARGETED_FLOAT)
    for layer in layers(p):
        yield from _of_layer(layer)


def on_cuda(p: float) -> Iterator[Family]:
    dropout = operations.dropout(p)
    yield Family("dropout", work.forward, dropout, "copy", COPY, level=Level.QUICK, arithmetic=operations.DROPOUT)
    yield Family("dropout backward", work.backward, dropout, "copy", COPY)
    yield Family("dropout", work.forward, dropout, "F.dropout", CUDA_NATIVE, level=Level.QUICK)
    yield Family("dropout backward", work.backward, dropout, "F.dropout", CUDA_NATIVE)
    for pipeline in pipelines(p):
        yield from _of_pipeline_on_cuda(pipeline)


def families(device: str, p: float) -> list[Family]:
    return list(on_cuda(p) if device == "cuda" else on_cpu(p))


def cases(choice: Choice) -> Iterator[Case]:
    """The cases that are chosen: on the CPU with each number of threads, on a GPU once."""
    counts = list(choice.threads) if choice.device == "cpu" else [0]
    against = baselines(choice.p, choice.device)
    for family in families(choice.device, choice.p):
        if family.level > choice.level or family.versus not in against or not choice.wants_peer(family.versus):
            continue
        for dtype in family.targets:
            for count in counts[:1] if family.numel <= ONE_THREAD else counts[-1:] if family.last else counts:
                case = family.case(dtype, count, against)
                if choice.wants(dtype, case.numel, case.name) and choice.only in case.label:
                    yield case
