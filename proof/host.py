"""Compiles every path that needs neither torch nor a GPU: `host/host.cpp`, `host/rows.cpp` for the operations on rows
and `host/blocks.cpp` for DropBlock's masks, over the sources of csrc as they are."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-w", "-pthread")
PATHS = ("scalar", "portable", "avx2", "avx512", "cuda on the host")
WITHOUT = {  # what leaves a path out
    "portable": "-DFD_WITHOUT_PORTABLE", "avx2": "-DFD_WITHOUT_AVX2", "avx512": "-DFD_WITHOUT_AVX512",
    "cuda on the host": "-DFD_WITHOUT_CUDA",
}  # fmt: skip
Fault = tuple[str, str, str]  # a file, what stands in it, and what a mistake would put there
# Enough for every loop and kernel.
CUT = {
    "KernelTable": "Join<Each<KeepMask, Dropout, BiasDropoutAdd, GaussianDropout, BlockDropout, ReluDropoutBackward>, "
    "With<GatedBackward, Silu>>",
    "SummedTable": "AndSums<Each<Dropout>>",
}
# Enough for what csrc/core says of elements.
OF_ELEMENTS = {
    "KernelTable": "Join<Each<Dropout, AlphaDropout, DropoutAdd, BiasDropout, BiasDropoutAdd, GaussianDropout, "
    "Zoneout, Dropped, BiasReluDropout, ReluDropoutBackward>, With<ActivationDropout, SquaredRelu, Gelu, GeluTanh>, "
    "With<ActivationBackward, SquaredRelu, GeluTanh>, With<BiasActivationBackward, Gelu>, With<GatedDropout, Silu>, "
    "With<GatedBackward, Silu>>",
    "SummedTable": "AndSums<Each<Dropout>>",
}


def copy_sources(folder: Path, fault: Fault | None = None, cut: Mapping[str, str] = CUT) -> None:
    """csrc without torch, the table of pipelines cut to what `host.cpp` runs, and with a fault where one is planted."""
    for part in ("core", "cpu", "cuda"):
        shutil.copytree(ROOT / "csrc" / part, folder / part, dirs_exist_ok=True)
    table = folder / "core" / "table.h"
    text = table.read_text()
    for name, rows in cut.items():
        text, count = re.subn(rf"using {name} =\s.*?;", f"using {name} = {rows};", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"expected one {name} in {table}, but found {count}")
    table.write_text(text)
    if fault is not None:
        plant(folder, fault)


def plant(folder: Path, fault: Fault) -> None:
    """Changes a file of `folder`."""
    file, right, wrong = fault
    text = (folder / file).read_text()
    if right not in text:
        raise ValueError(f"expected {right!r} in {file}, to be changed into a fault")
    (folder / file).write_text(text.replace(right, wrong))


def compile_host(
    folder: Path, output: Path, compiler: str = "c++", options: Sequence[str] = (), library: str = "host.cpp"
) -> None:
    """Of the sources that `copy_sources` has left in `folder`; a failure raises CalledProcessError."""
    includes = [f"-I{path}" for path in (folder, ROOT / "proof" / "host", ROOT / "tests" / "cuda_on_host")]
    command = [compiler, *FLAGS, *options, *includes, ROOT / "proof" / "host" / library, "-o", output]
    subprocess.run(command, check=True, capture_output=True, text=True)


def clang() -> str | None:
    """The compiler beside the usual one, where there is one."""
    versions = (f"-{version}" for version in range(30, 14, -1))
    return next((name for end in ("", *versions) if shutil.which(name := f"clang++{end}")), None)


def library(folder: Path) -> ctypes.CDLL:
    copy_sources(folder)
    compile_host(folder, folder / "host.so", options=("-O2", "-march=native", "-shared", "-fPIC"))
    return load(folder / "host.so")


def load(built: Path) -> ctypes.CDLL:
    host = ctypes.CDLL(str(built))
    host.keep_mask.argtypes = [
        ctypes.c_char_p,
        *[ctypes.c_uint64] * 3,
        ctypes.c_int64,
        ctypes.c_double,
        ctypes.c_void_p,
    ]
    host.keep_mask.restype = host.run.restype = ctypes.c_bool
    return host


def keep_mask(
    host: ctypes.CDLL, path: str, seed: int, offset: int, base: int, numel: int, p: float
) -> np.ndarray | None:
    """Bools, or None where the machine does not have the path."""
    keep = np.zeros(numel, dtype=np.uint8)
    there = host.keep_mask(path.encode(), seed, offset, base, numel, p, keep.ctypes.data)
    return keep.view(bool) if there else None
