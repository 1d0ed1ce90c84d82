"""The CUDA kernels without a GPU: the PTX that nvcc makes of them, interpreted, with every access checked."""

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import host
from .ptx import executed, large, small
from .ptx.calls import Call
from .ptx.device import Device
from .ptx.large import Large
from .ptx.row_calls import sums_of_parts
from .ptx.running import Outcome, compared, compared_in_parts
from .report import Finding, Skipped

TITLE = "The kernels as PTX"
METHOD = (
    "nvcc compiles `csrc/cuda` as it is, and `proof/ptx` interprets what it emits, all threads of a block in lockstep; "
    "the launching code, compiled for the host, says what is launched with which arguments. Every access must lie "
    "within one tensor, at a multiple of its size, and what threads exchange in shared memory must have a barrier "
    "between. Every byte of the outputs is compared to what the extension makes on the CPU, and to what the kernels' "
    "source makes on the host (`tests/cuda_on_host`); row operations to the latter, whose sums have their order. Of "
    "tensors with 2^31 ± 4 and 2^32 ± 4 elements, the same numbers of bytes, and 5 · 2^32 + 3 elements, the blocks on "
    "both sides of each of these places run, the first and the last, in memory that exists where it is touched. "
    "The instructions that threads execute are counted: `proof/ptx/executed.json` has what each kernel takes for an "
    "element, by architecture and nvcc; more and fewer are noticed, and another nvcc's are not compared. "
    "Faults are planted in the sources, and each must be noticed."
)
CUT = {
    "KernelTable": "Join<Each<KeepMask, NormalNoise, Dropout, BiasDropoutAdd, GaussianDropout, BlockDropout>, "
    "With<BiasActivationDropout, Gelu>, With<GatedBackward, Silu>>",
    "SummedTable": host.CUT["SummedTable"],
}
WHOLE = 90  # of which everything is run
ARCHITECTURES = (80, 100, 120)  # of which some
ROWS = {"layer": "LayerNorm", "layer backward": "LayerNormBackward", "rms": "RmsNorm",
        "rms backward": "RmsNormBackward", "softmax": "SoftmaxDropout",
        "softmax backward": "SoftmaxDropoutBackward"}  # fmt: skip
LARGE_ROWS = ("layer", "rms", "softmax", "softmax backward")  # others sum up columns over most of a large tensor


@dataclass
class Tally:
    """Of calls that were run."""

    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    elements: int = 0
    threads: int = 0
    executed: Counter[str] = field(default_factory=Counter)  # instructions of each kernel, and elements that it was for
    elements_of: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.wrong += [outcome.wrong] if outcome.wrong else []
        self.calls += 1
        self.elements += outcome.elements
        self.threads += outcome.threads
        self.executed += outcome.executed
        self.elements_of.update(dict.fromkeys(outcome.executed, outcome.elements))

    def finding(self, claim: str) -> Finding:
        size = f"{self.calls:,} calls, {self.elements:,} elements, {self.threads:,} threads"
        said = f"{size}: {len(self.wrong)} differ"
        return Finding(claim, "; ".join([said, *self.wrong[:1]]), "0 differ", not self.wrong)


def run(device: Device, oracle: Device | None, calls: Iterable[Call | Large]) -> Tally:
    tally = Tally()
    for call in calls:
        if isinstance(call, Call):
            tally.add(compared(device, call, oracle))
        else:
            assert oracle is not None
            tally.add(compared_in_parts(device, call, oracle))
    return tally


def of_dropout() -> Iterator[Call]:
    yield from (call for call in small.of_masks((torch.bfloat16,)) if call.what.startswith("dropout"))
    yield from small.of_pipelines({"dropout": "x"}, (torch.bfloat16,))


def of_ties() -> Iterator[Call]:
    yield from small.of_ties((torch.bfloat16,))


def of_large_dropout() -> Iterator[Large]:
    yield large.of_elements("dropout", 1, torch.bfloat16, large.MOST)


def of_parts() -> Iterator[Call]:
    yield sums_of_parts(torch.float32, 2, 33, 45)


KERNELS = "cuda/elementwise_kernels.cu"
# A mistake, and the calls that show it.
FAULTS: dict[str, tuple[host.Fault, str, Callable[[], Iterable[Call | Large]]]] = {
    "a 32-bit index": (
        (KERNELS, "static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp) * kTile",
         "blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp) * static_cast<uint32_t>(kTile)"),
        "library", of_large_dropout),
    "a 32-bit mask index": (
        (KERNELS, "const uint64_t first = a.mask_base + static_cast<uint64_t>(tile);",
         "const uint64_t first = static_cast<uint32_t>(a.mask_base + static_cast<uint64_t>(tile));"),
        "library", of_large_dropout),
    "a carry that is not looked for": (
        (KERNELS, "static_cast<uint32_t>(first / kGroup) <= 0u - kOctets * kWarp", "true"), "library", of_dropout),
    "a tail that is off by one": ((KERNELS, "if (at >= a.numel) continue;", "if (at > a.numel) continue;"),
                                  "library", of_dropout),
    "a missing scale": (("core/pipelines.h", "return select(keep, x * V(gain), V(C(0)));",
                         "return select(keep, x, V(C(0)));"), "library", of_dropout),
    "ties that are not looked for": ((KERNELS, "if (decisions.ties()) {  // with", "if (false) {  // with"), "library",
                                     of_ties),
    "swapped lanes of a block": (("core/mask.h", ">> (16 * (lane & 1)) & 0xffffu",
                                  ">> (16 - 16 * (lane & 1)) & 0xffffu"), "library", of_dropout),
    "swapped lanes of a warp": (("cuda/octet.cuh", "(j * kWarp + lane) * N / kGroup)",
                                 "((j * kWarp + lane) * N / kGroup) ^ 1)"), "library", of_dropout),
    "pointers that are not aligned": ((KERNELS, "% (sizeof(T) * kVector<T>) == 0;", "% sizeof(T) == 0;"),
                                      "library", of_dropout),
    "strides that are not aligned": ((KERNELS, "l.stride[k][d] % kVector<T> == 0", "l.stride[k][d] % 1 == 0"),
                                     "library", of_dropout),
    "aligned strides that are taken for others": (
        (KERNELS, "l.stride[k][d] % kVector<T> == 0", "l.stride[k][d] / kVector<T> == 0"), "library", of_dropout),
    "a missing bounds check": ((KERNELS, "if (run >= layout.runs()) return;", ""), "library", of_dropout),
    "a missing barrier": (("cuda/columns_kernels.cu", "__syncthreads();\n  if (warp != 0", "if (warp != 0"),
                          "rows_library", of_parts),
}  # fmt: skip
QUICK = ("a 32-bit index", "a tail that is off by one")
SMALLEST = {"KernelTable": "Each<Dropout>", "SummedTable": "AndSums<Each<Dropout>>"}


def planted(name: str, oracle: Device) -> Finding:
    fault, library, calls = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder), fault, SMALLEST, libraries=[library], rows=["RmsNorm"],
                        dtypes=["Pipeline<float>, BFloat16"])  # fmt: skip
        tally = run(device, oracle, calls())
    return Finding(f"planted: {name}", tally.wrong[0] if tally.wrong else "not noticed", "noticed", bool(tally.wrong))


def of_everything(device: Device, oracle: Device | None, quick: bool, operations: Sequence[str]) -> dict[str, Tally]:
    """What small calls of both libraries show."""
    return {
        "operations by element, all of their elements": run(device, oracle, small.of_library(quick)),
        "row operations and sums, all of their elements": run(device, oracle, small.of_rows_library(quick, operations)),
    }


def instructions(tallies: Iterable[Tally]) -> dict[str, float]:
    """That each kernel's threads have executed for an element."""
    return {
        executed.named(kernel): count / tally.elements_of[kernel]
        for tally in tallies
        for kernel, count in tally.executed.items()
    }


def budget(architecture: int, tallies: Iterable[Tally]) -> Iterator[Finding]:
    """Nothing where this compiler's instructions were never counted."""
    if executed.stored(architecture):
        counts = instructions(tallies)
        wrong = executed.differing(architecture, counts)
        figure = "; ".join([f"{len(wrong)} of {len(counts)} differ", *wrong[:1]])
        yield Finding(f"instructions an element, of each kernel, for compute_{architecture}", figure,
                      f"those written down, to {executed.TOLERANCE:.0%}", not wrong)  # fmt: skip


def findings(quick: bool) -> Iterator[Finding]:
    if shutil.which("nvcc") is None:
        raise Skipped("nvcc is not installed")
    operations = ("rms",) if quick else tuple(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder), cut=CUT if quick else {}, rows=[ROWS[name] for name in operations])
        tallies = of_everything(device, device, quick, operations)
        for claim, tally in tallies.items():
            yield tally.finding(claim)
        ran = {kernel for tally in tallies.values() for kernel in tally.executed}
        missing = len(device.kernels.keys() - ran)
        yield Finding("kernels that ran, of those that nvcc emitted", f"{len(ran)} of {len(device.kernels)}", "all",
                      missing == 0)  # fmt: skip
        yield from budget(WHOLE, tallies.values())
        ties = small.of_ties((torch.bfloat16, torch.float32))
        yield run(device, device, ties).finding("words that tie with the threshold")
        yield run(device, device, large.of_library(quick)).finding("operations by element beyond 32 bits")
        some = [name for name in LARGE_ROWS if name in operations]
        yield run(device, device, large.of_rows_library(quick, some)).finding("row operations and sums beyond 32 bits")
        for architecture in () if quick else ARCHITECTURES:
            tally = of_architecture(architecture, device)
            yield tally.finding(f"some of both, compiled for compute_{architecture}")
            yield from budget(architecture, [tally])
        for name in QUICK if quick else FAULTS:
            yield planted(name, device)


def of_architecture(architecture: int, oracle: Device | None) -> Tally:
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder), cut=CUT, rows=["LayerNorm"], architecture=architecture)
        return run(device, oracle, [*small.of_library(True), *small.of_rows_library(True, ["layer"])])


def count() -> dict[int, dict[str, float]]:
    """The instructions of every kernel, by architecture."""
    with tempfile.TemporaryDirectory() as folder:
        whole = of_everything(Device(Path(folder), cut={}), None, False, tuple(ROWS))
    tallies = {WHOLE: [*whole.values()]} | {each: [of_architecture(each, None)] for each in ARCHITECTURES}
    wrong = [one for some in tallies.values() for tally in some for one in tally.wrong]
    if wrong:
        raise RuntimeError(wrong[0])
    return {architecture: instructions(some) for architecture, some in tallies.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proof.kernels", description="Counts the kernels' instructions.")
    parser.add_argument("--write", action="store_true", help="writes them down, in proof/ptx/executed.json")
    write = parser.parse_args().write
    counts = count()
    if write:
        executed.write(counts)
    for architecture, kernels in counts.items():
        for kernel, each in sorted(kernels.items()):
            print(f"compute_{architecture}  {each:8.1f}  {kernel}")
