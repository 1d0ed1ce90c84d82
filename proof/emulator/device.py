"""Runs the extension's kernels for `runtime.cpp`: as the PTX that lies in the extension, in the host's memory."""

import ctypes
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from ..extension import cuda_tool
from ..ptx.arithmetic import Array
from ..ptx.machine import Machine
from ..ptx.memory import AccessError, Memory, Region
from ..ptx.source import Module

BLOCKS = 32  # at once
ILLEGAL_ADDRESS = 700  # cudaErrorIllegalAddress
_SizeOf = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p)
_Launched = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_int
)
_Replayed = ctypes.CFUNCTYPE(None)


class Allocations(Memory):
    """Those of a device, where they lie on the host."""

    def __init__(self, addresses: Array, sizes: Array) -> None:
        super().__init__()
        self._begins = addresses.astype(np.int64)
        self._sizes = sizes
        self._region = cache(self._region_of)

    def _region_of(self, number: int) -> Region:
        size, begin = int(self._sizes[number]), int(self._begins[number])
        there = np.frombuffer((ctypes.c_uint8 * ((size + 15) // 16 * 16)).from_address(begin), dtype=np.uint8)
        return Region(f"an allocation of {size:,} bytes", size, there=there)

    def _regions_at(self, address: Array) -> list[tuple[Region, Array, Array]]:
        numbers = np.searchsorted(self._begins, address, side="right") - 1
        if (numbers < 0).any():
            raise AccessError(f"out of bounds: an access at {int(address[numbers < 0][0]):#x}, no allocation")
        found = []
        for number in np.unique(numbers):
            which = np.flatnonzero(numbers == number)
            found.append((self._region(int(number)), which, address[which] - self._begins[number]))
        return found


class Device:
    """What the runtime calls. It must live as long as the process."""

    def __init__(self, runtime: ctypes.CDLL, extension: Path) -> None:
        self._runtime = runtime
        self._kernels: dict[str, tuple[Machine, str]] = {}  # by their names in PTX
        for module in map(Module, _ptx_of(extension)):
            machine = Machine(module)
            self._kernels |= {mangled: (machine, name) for name, mangled in module.kernels.items()}
        self._launches: list[str] = []  # kernels, as C++ has them, in the order of their launches
        self._replayed: list[object] = []
        self._called = _SizeOf(self._size_of), _Launched(self._launched)
        runtime.emulator_runs(*self._called)

    def launches_of(self, call: Callable[[], object]) -> list[str]:
        before = len(self._launches)
        call()
        return self._launches[before:]

    def replay(self, work: Callable[[], None]) -> None:
        """Has the graph that is being captured do `work` too, whenever it is launched."""
        self._replayed.append(_Replayed(work))
        self._runtime.emulator_replays(self._replayed[-1])

    def _size_of(self, kernel: bytes) -> int:
        if kernel.decode() not in self._kernels:
            print(f"the emulator has no kernel {kernel.decode()}", file=sys.stderr)
            return 0
        machine, name = self._kernels[kernel.decode()]
        (size,) = machine.parameters(name)
        return size

    def _launched(self, kernel: bytes, blocks: int, threads: int, argument: int, device: int) -> int:
        machine, name = self._kernels[kernel.decode()]
        self._launches.append(name)
        try:
            memory = self._memory(device)
            parameters = ctypes.string_at(argument, *machine.parameters(name))
            for first in range(0, blocks, BLOCKS):
                machine.launch(name, range(first, min(first + BLOCKS, blocks)), threads, parameters, memory)
        except Exception:  # of which nothing could go through C
            traceback.print_exc()
            return ILLEGAL_ADDRESS
        return 0

    def _memory(self, device: int) -> Allocations:
        room = self._runtime.emulator_allocations(device, None, None, 0)
        addresses, sizes = np.zeros(room, dtype=np.uint64), np.zeros(room, dtype=np.uint64)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (addresses, sizes))
        count = self._runtime.emulator_allocations(device, *pointers, ctypes.c_size_t(room))  # others may free some
        return Allocations(addresses[:count], sizes[:count])


def _ptx_of(extension: Path) -> Iterator[str]:
    """The texts of PTX that lie in a library."""
    program = cuda_tool("cuobjdump")
    if program is None:
        raise FileNotFoundError("cuobjdump is not installed, nor Triton, which brings it along")
    said = subprocess.run([program, "-ptx", extension], check=True, capture_output=True, text=True).stdout
    for part in said.split("Fatbin ptx code:")[1:]:
        yield part[part.index(".version") :]
