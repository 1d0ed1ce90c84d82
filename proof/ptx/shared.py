"""Shared memory of blocks, which tells of races: between two barriers, what a thread writes no other may touch."""

import numpy as np

from .arithmetic import Array
from .memory import Region

_NOBODY, _SEVERAL = -1, -2


class RaceError(Exception):
    """Threads that do not meet where they must."""


class Shared:
    def __init__(self, size: int, block: Array) -> None:
        """`block` is that of each thread."""
        self._stride, self._block = max(1, -(-size // 16)) * 16, block
        total = (int(block.max()) + 1) * self._stride
        self._region = Region("shared memory", total)
        self._writer, self._reader = np.full(total, _NOBODY), np.full(total, _NOBODY)
        self._known = np.zeros(total, dtype=bool)

    def barrier(self, blocks: Array) -> None:
        """Of all threads of `blocks`."""
        for seen in (self._writer, self._reader):
            seen.reshape(-1, self._stride)[blocks] = _NOBODY

    def load(self, threads: Array, address: Array, kind: type, count: int) -> list[Array]:
        at = address + self._block[threads] * self._stride
        values = self._region.read(at, kind, count)
        if not self._known[at].all():
            raise RaceError("what nobody has written is read from shared memory")
        _alone(self._writer[at], threads, "what another one wrote is read")
        before = self._reader[at]
        self._reader[at] = threads
        self._reader[at[((before != _NOBODY) & (before != threads)) | (self._reader[at] != threads)]] = _SEVERAL
        return values

    def store(self, threads: Array, address: Array, values: list[Array]) -> None:
        at = address + self._block[threads] * self._stride
        self._region.write(at, values)
        _alone(self._writer[at], threads, "what another one wrote is overwritten")
        _alone(self._reader[at], threads, "what another one reads is overwritten")
        self._writer[at], self._known[at] = threads, True
        _alone(self._writer[at], threads, "two write to one place")


def _alone(seen: Array, threads: Array, what: str) -> None:
    if ((seen != _NOBODY) & (seen != threads)).any():
        raise RaceError(f"a race of threads without a barrier between them: {what} in shared memory")
