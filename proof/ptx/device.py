"""The kernels of csrc as PTX, and the code that launches them, compiled for the host by the shim of the tests."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import host
from .machine import Machine
from .memory import Memory
from .source import Module

SHIM = host.ROOT / "tests" / "cuda_on_host"
NVCC = ("-ptx", "-std=c++17", "-O3", "-fmad=false", "-w")  # as setup.py has them
LIBRARIES = {"library": ("elementwise", "block"), "rows_library": ("columns", "rowwise")}  # and the kernels they launch
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64)


@dataclass(frozen=True)
class Launch:
    kernel: str
    blocks: int
    threads: int
    parameters: bytes


class Device:
    def __init__(self, folder: Path, fault: host.Fault | None = None, cut: Mapping[str, str] = host.CUT,
                 rows: Sequence[str] = (), libraries: Sequence[str] = tuple(LIBRARIES), architecture: int = 90,
                 dtypes: Sequence[str] = ()) -> None:  # fmt: skip
        """`cut` and `rows` say which pipelines and row operations are compiled; with none of `rows`, all are."""
        csrc = folder / "csrc"
        host.copy_sources(csrc, fault, cut)
        shutil.copytree(SHIM, folder / "tests" / "cuda_on_host", dirs_exist_ok=True)
        if rows:
            _only(csrc / "core" / "row_operations.h", r"(?<=visit_dtype<)\w+", rows)
        if dtypes:
            _only(csrc / "core" / "elementwise.h", r"(?<=operator\(\)<)Pipeline<\w+>, \w+", dtypes)
        with ThreadPoolExecutor(2) as pool:
            hosts = {name: pool.submit(_library, folder, name) for name in libraries}
            parts = [part for name in libraries for part in LIBRARIES[name]]
            compiled = [pool.submit(_module, csrc / "cuda" / f"{part}_kernels.cu", architecture) for part in parts]
        self.hosts = {name: future.result() for name, future in hosts.items()}
        self.kernels: dict[str, Machine] = {}
        for future in compiled:
            machine = Machine(future.result())
            self.kernels |= dict.fromkeys(machine.kernels, machine)
        self._names = {name: _kernels_in(library) for name, library in self.hosts.items()}

    def launches(self, library: str, call: Callable[[ctypes.CDLL], object]) -> list[Launch]:
        """What `call` would launch."""
        found: list[Launch] = []
        base, names = self._names[library]

        def told(kernel: int, blocks: int, threads: int, arguments: int, size: int) -> None:
            found.append(Launch(names[kernel - base], blocks, threads, ctypes.string_at(arguments, size)))

        tell = self.hosts[library].tell_launches
        callback = _Callback(told)  # kept as long as it is told
        tell(callback)
        try:
            call(self.hosts[library])
        finally:
            tell(None)
        return found

    def run(self, launch: Launch, memory: Memory, blocks: Sequence[int]) -> int:
        """Returns how many instructions its threads have executed."""
        machine = self.kernels[launch.kernel]
        before = machine.instructions
        machine.launch(launch.kernel, blocks, launch.threads, launch.parameters, memory)
        return machine.instructions - before


def _only(source: Path, pattern: str, wanted: Sequence[str]) -> None:
    """What is not wanted becomes the first that is."""
    text = source.read_text()
    source.write_text(re.sub(pattern, lambda match: match[0] if match[0] in wanted else wanted[0], text))


def _module(source: Path, architecture: int) -> Module:
    output = source.with_suffix(".ptx")
    command = ["nvcc", *NVCC, f"-arch=compute_{architecture}", source, "-o", output]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return Module(output.read_text())


def _library(folder: Path, name: str) -> ctypes.CDLL:
    here = folder / "tests" / "cuda_on_host"
    command = ["c++", *host.FLAGS, "-fno-gnu-unique", "-O0", "-shared", "-fPIC", f"-I{here}", here / f"{name}.cpp",
               "-o", folder / f"{name}.so"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(folder / f"{name}.so"))


def _kernels_in(library: ctypes.CDLL) -> tuple[int, dict[int, str]]:
    """Where the library lies in memory, and the names of its kernels by their place in it."""
    table = subprocess.run(["nm", "-C", library._name], capture_output=True, text=True, check=True).stdout
    names = {}
    for line in table.splitlines():
        with suppress(ValueError):  # what lies elsewhere has no place
            place, _, name = line.split(" ", 2)
            names[int(place, 16)] = name
    known = next(place for place, name in names.items() if name == "tell_launches")
    there = ctypes.cast(library.tell_launches, ctypes.c_void_p).value
    assert there is not None
    return there - known, names
