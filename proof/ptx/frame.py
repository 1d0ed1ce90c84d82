"""A function under way: the registers of the threads that run it, and how an instruction names them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .arithmetic import NUMPY, Array
from .memory import Memory, Region
from .shared import Shared
from .source import SIZES, Function, Unsupported

Lanes = Any  # what selects those of a frame's threads that take part: an array of their places, or slice(None) for all


@dataclass(frozen=True)
class Grid:
    """What the threads of some blocks share, and where each of them is."""

    memory: Memory
    parameters: Region
    shared: Shared
    special: Mapping[str, Array]  # registers such as %tid.x
    block: Array  # of each thread, and its warp: counted over all
    warp: Array


class Frame:
    def __init__(self, function: Function, grid: Grid, threads: Array, slots: Mapping[str, Array]) -> None:
        self.function, self.grid, self.threads = function, grid, threads
        self.slots = dict(slots)  # by which functions hand each other values
        self._registers: dict[str, Array] = {}

    def read(self, operand: str, kind: str, lanes: Lanes) -> Array:
        if operand in self._registers:
            bits, wanted = self._registers[operand][lanes], np.dtype(NUMPY[kind])
            if wanted.itemsize != bits.dtype.itemsize:
                bits = bits.astype(f"u{wanted.itemsize}")
            return bits.view(wanted)
        if operand in self.grid.special:
            return self.grid.special[operand][self.threads[lanes]].astype(NUMPY[kind])
        if operand in self.function.shared:
            return np.array(self.function.shared[operand], dtype=NUMPY[kind])
        if operand in self.function.parameters:
            return np.array(0, dtype=NUMPY[kind])
        return _constant(operand, kind)

    def write(self, register: str, value: Array, lanes: Lanes) -> None:
        if register not in self._registers:
            kind = self.function.type_of(register)
            bits = np.dtype(np.bool_ if kind == "pred" else f"u{SIZES[kind]}")
            self._registers[register] = np.zeros(len(self.threads), dtype=bits)
        target = self._registers[register]
        if value.dtype.kind == "i":  # a wider register gets its sign
            value = value.astype(f"i{target.dtype.itemsize}")
        target[lanes] = value if value.dtype == np.bool_ else value.view(f"u{value.dtype.itemsize}")

    def full(self, operand: str, kind: str, lanes: Lanes) -> Array:
        """As `read`, with a value for each thread also of a constant."""
        return np.broadcast_to(self.read(operand, kind, lanes), self.threads[lanes].shape)

    def address(self, operand: str, lanes: Lanes) -> Array:
        base, _, displacement = operand.strip("[] ").partition("+")
        return self.full(base, "u64", lanes).astype(np.int64) + np.int64(displacement or 0)


@cache
def _constant(text: str, kind: str) -> Array:
    wanted = np.dtype(NUMPY[kind])
    if text[:2] in ("0f", "0d"):
        raw = bytes.fromhex(text[2:])
        return np.array(struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0], dtype=wanted)
    try:
        value = int(text, 0)
    except ValueError as error:
        raise Unsupported(f"the operand {text}, or a register that is read before it is written") from error
    if kind == "pred":
        return np.array(bool(value))
    return np.array(value & (2 ** (8 * wanted.itemsize) - 1), dtype=f"u{wanted.itemsize}").view(wanted)
