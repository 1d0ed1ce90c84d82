"""Memory that knows its bounds: every access must lie within one allocation, at a multiple of its size.

Allocations may be larger than the machine's memory: only pages that are touched exist.
"""

import mmap

import numpy as np

from .arithmetic import Array

WINDOW = 40  # bits of an address within an allocation, so that no pointer comes from one into another
_NO_RESERVE = 0x4000  # MAP_NORESERVE; Python names it from 3.13 on


class AccessError(Exception):
    """An access that a GPU would refuse, or that would touch what belongs to somebody else."""


class Region:
    """`size` bytes, the first of them at address `begin` within the region's window."""

    def __init__(self, name: str, size: int, begin: int = 0, writable: bool = True, there: Array | None = None) -> None:
        """`there` is memory that exists, in multiples of 16 bytes."""
        self.name, self.size, self.begin, self.writable = name, size, begin, writable
        self.written = 0  # bytes
        self.widths: set[int] = set()  # of the accesses that wrote them
        self._bytes = _reserved(begin + size) if there is None else there

    def bytes(self, first: int, last: int) -> Array:
        """A view of those of the region."""
        return self._bytes[self.begin + first : self.begin + last]

    def _at(self, address: Array, width: int, verb: str) -> None:
        bad = (address < self.begin) | (address > self.begin + self.size - width)
        for wrong, why in ((bad, "out of bounds"), (address % width != 0, "misaligned")):
            if wrong.any():
                first = int(address[wrong.argmax()]) - self.begin
                raise AccessError(f"{why}: {verb} {width} bytes at {self.name}[{first:,}] of {self.size:,}")

    def read(self, address: Array, kind: type, count: int) -> list[Array]:
        size = np.dtype(kind).itemsize
        self._at(address, size * count, "reads")
        place = address // size
        return [self._bytes.view(kind)[place + k] for k in range(count)]

    def write(self, address: Array, values: list[Array]) -> None:
        kind = values[0].dtype
        if not self.writable:
            raise AccessError(f"writes to {self.name}, an input")
        self._at(address, kind.itemsize * len(values), "writes")
        self.written += len(address) * kind.itemsize * len(values)
        self.widths.add(kind.itemsize * len(values))
        place = address // kind.itemsize
        for k, value in enumerate(values):
            self._bytes.view(kind)[place + k] = value

    def add(self, address: Array, values: Array) -> Array:
        """Atomically; returns what was there before one of the additions."""
        before = self.read(address, values.dtype.type, 1)[0]
        self._at(address, values.dtype.itemsize, "adds to")
        np.add.at(self._bytes.view(values.dtype), address // values.dtype.itemsize, values)
        return before


def _reserved(size: int) -> Array:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return np.frombuffer(mmap.mmap(-1, (size + 16) // 16 * 16, flags=flags), dtype=np.uint8)


class Memory:
    """The global memory of a device."""

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def allocate(self, name: str, size: int, begin: int = 0, writable: bool = True) -> tuple[Region, int]:
        """And the address of its first byte."""
        self._regions.append(Region(name, size, begin, writable))
        return self._regions[-1], (len(self._regions) << WINDOW) + begin

    def load(self, address: Array, kind: type, count: int) -> list[Array]:
        values: list[Array] = [np.zeros(len(address), dtype=kind) for _ in range(count)]
        for region, which, within in self._regions_at(address):
            for value, found in zip(values, region.read(within, kind, count), strict=True):
                value[which] = found
        return values

    def store(self, address: Array, values: list[Array]) -> None:
        for region, which, within in self._regions_at(address):
            region.write(within, [value[which] for value in values])

    def add(self, address: Array, values: Array) -> Array:
        before = np.zeros_like(values)
        for region, which, within in self._regions_at(address):
            before[which] = region.add(within, values[which])
        return before

    def _regions_at(self, address: Array) -> list[tuple[Region, Array, Array]]:
        """The regions that addresses point to, which of them do, and where in the region. A null pointer has none."""
        numbers = address >> WINDOW
        found = []
        for number in np.unique(numbers):
            if not 1 <= number <= len(self._regions):
                raise AccessError(f"out of bounds: an access at {int(address[numbers == number][0]):#x}, no allocation")
            which = np.flatnonzero(numbers == number)
            found.append((self._regions[int(number) - 1], which, address[which] & ((1 << WINDOW) - 1)))
        return found
