"""Counts the instructions an element of the CPU's loops, which are the same in every run, as seconds are not.

    python -m tools.instructions           # compares with bench/instructions.json
    python -m tools.instructions --write   # writes there what this compiler gives

The loops are those of csrc, compiled without torch (proof/host.py) with the extension's optimization; callgrind counts
two calls of different size, and the difference, divided by that of the elements, leaves out what a call costs. Valgrind
knows no AVX-512: of that path the machine code of the long loop is read, whose instructions all run once a turn.
Another compiler gives other numbers: they are kept by its version, and only those of the same one are compared.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from proof import host

STORED = host.ROOT / "bench" / "instructions.json"
ELEMENTS = (1 << 16, 3 << 16)
# The compiler's options for each path: what csrc/cpu/kernels_*.cpp ask for.
_AVX2 = ("-mavx", "-mavx2", "-mf16c", "-mfma", "-mbmi", "-mbmi2")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
TARGETS = {"portable": (), "avx2": _AVX2, "avx512": _AVX512}
READ = ("avx512",)  # not run
DTYPES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}


class Call(NamedTuple):
    """Of rows of so many features; its operands are as tools/instructions.cpp has them."""

    pipeline: str
    dtype: str
    features: int = 1024
    operands: str = "dense"

    def __str__(self) -> str:
        usual = self.operands == "dense"
        return f"{self.pipeline} {self.dtype}" + ("" if usual else f" of a {self.operands}, rows of {self.features}")


CALLS = (
    Call("dropout", "float32"),
    Call("dropout", "bfloat16"),
    Call("dropout", "float32", operands="number"),
    Call("bias_dropout_add", "float32"),
    Call("bias_dropout_add", "float32", 8, "bias"),
    Call("gaussian_dropout", "float32"),
    Call("swiglu_dropout_backward", "float32"),
    Call("keep_mask", "float32"),
)
INSTANCES = {  # of a call, the class of its loop, and the bytes of an element
    Call("dropout", "float32"): ("Dropout<float>, float", 4),
    Call("dropout", "bfloat16"): ("Dropout<float>, fused_dropout::BFloat16", 2),
    Call("bias_dropout_add", "float32"): ("BiasDropoutAdd<float>, float", 4),
    Call("keep_mask", "float32"): ("KeepMask<float>, unsigned char", 1),
}
PHILOX_ROUNDS = 10
TOLERANCE = 0.01  # of a count: alignment moves a loop's first and last elements


def missing() -> str:
    """Why instructions cannot be counted here, or nothing."""
    if platform.machine() != "x86_64":
        return f"the paths are those of x86_64, and this is {platform.machine()}"
    absent = [name for name in ("valgrind", "c++", "objdump") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else ""


def compiler() -> str:
    """Its name and version, under which the numbers are kept."""
    first = subprocess.run(["c++", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return re.sub(r"^c\+\+", "g++", first)


def build(path: str, folder: Path, faults: Iterable[host.Fault] = ()) -> Path:
    """A program of the sources for one instruction set, with faults where some are planted."""
    host.copy_sources(folder)
    for fault in faults:
        host.plant(folder, fault)
    others = (option for other, option in host.WITHOUT.items() if other != path)
    options = ("-O3", *TARGETS[path], *others, "-shared", "-fPIC")
    host.compile_host(folder, folder / "libhost.so", options=options)
    caller = ["c++", "-O1", host.ROOT / "tools" / "instructions.cpp", folder / "libhost.so", "-o", folder / "call"]
    subprocess.run([*caller, f"-Wl,-rpath,{folder}"], check=True, capture_output=True, text=True)
    return folder / "call"


def an_element(program: Path, path: str, call: Call) -> float:
    """Instructions an element."""
    if path in READ:
        return _of_the_loop(program.parent / "libhost.so", *INSTANCES[call])
    small, large = (_instructions(program, path, call, elements // call.features) for elements in ELEMENTS)
    return (large - small) / (ELEMENTS[1] - ELEMENTS[0])


def _instructions(program: Path, path: str, call: Call, rows: int) -> int:
    arguments = [path, call.pipeline, *map(str, (DTYPES[call.dtype], rows, call.features)), call.operands]
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={program.parent / 'counts'}", program, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.search(r"Collected : (\d+)", said)[1])  # type: ignore[index]


def _of_the_loop(library: Path, instance: str, size: int) -> float:
    """Instructions an element of `size` bytes of the innermost loop that has the generator in it."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    owner = f"ElementwiseLoops<fused_dropout::Avx512, fused_dropout::{instance}>::"
    loops = [
        loop
        for function in listing.split("\n\n")
        if owner in function.partition("\n")[0]
        for loop in _loops(function)
        if sum("vpmuludq" in line for line in loop) > 2 * PHILOX_ROUNDS - 4
    ]
    loop = min(loops, key=len)
    # A store of a whole register, but not of one that waits on the stack.
    stores = sum(re.match(r"vmov\S+ +%zmm\d+,[^%]*\(%(?!rsp|rbp)", line) is not None for line in loop)
    return len(loop) / (stores * 64 / size)


def _loops(function: str) -> Iterator[list[str]]:
    """From each backward jump's target to the jump."""
    found = re.findall(r"^ *([0-9a-f]+):\s+(.*)$", function, flags=re.MULTILINE)
    at = {int(address, 16): i for i, (address, _) in enumerate(found)}
    lines = [line for _, line in found]
    for i, line in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+)", line)
        if jump and (to := at.get(int(jump[1], 16), i)) < i:
            yield lines[to : i + 1]


def count(path: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        program = build(path, Path(name))
        calls = INSTANCES if path in READ else CALLS
        return {f"{path} {call}": round(an_element(program, path, call), 3) for call in calls}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.instructions", description="Instructions an element.")
    parser.add_argument("--write", action="store_true", help=f"write them to bench/{STORED.name}, under this compiler")
    options = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    counts = {name: number for path in TARGETS for name, number in count(path).items()}
    known = stored.get(compiler(), {})
    for name, number in counts.items():
        print(f"{name:45} {number:8.3f}" + (f"  stored {known[name]:8.3f}" if name in known else "  not stored"))
    if options.write:
        STORED.write_text(json.dumps({**stored, compiler(): counts}, indent=2) + "\n")
        return 0
    return int(any(abs(counts[name] / known[name] - 1) > TOLERANCE for name in counts if name in known))


if __name__ == "__main__":
    sys.exit(main())
