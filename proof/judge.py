"""Runs a compiled host library on prepared calls and compares: 0 all bits are right, 1 some are not. Without torch.

Alone in its process, since what it runs may be broken: ``python proof/judge.py LIBRARY CALLS.npz PATH...``.
"""

import ctypes
import mmap
import sys

import numpy as np

GUARD = 64  # bytes behind every output that nobody may touch
UNTOUCHED = 0xA5  # what a byte of an output is before the call
NONE = 0  # mprotect's PROT_NONE
WHERE = ("guarded", "block", "skewed", "in place")  # the operands lie
IN_PLACE = ("dropout", "gaussian_dropout", "block_dropout")
SIZES = (2, 2, 4, 8)  # of the dtypes, in bytes
C = ctypes.CDLL(None)


class Guarded:
    """Bytes that end where a page begins that nobody may touch: to read beyond them is a crash."""

    def __init__(self, data: np.ndarray) -> None:
        pages = -(-max(1, len(data)) // mmap.PAGESIZE)
        self.memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        end = base + pages * mmap.PAGESIZE
        if C.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), NONE):
            raise OSError("mprotect failed")
        self.address = end - len(data)
        ctypes.memmove(self.address, data.ctypes.data, len(data))


class Block:
    """Bytes in a block of their own, as aligned as PyTorch's or `skew` bytes off: what a sanitizer watches, and vector
    loads want."""

    def __init__(self, data: np.ndarray, skew: int = 0) -> None:
        got = ctypes.c_void_p()
        if C.posix_memalign(ctypes.byref(got), ctypes.c_size_t(64), ctypes.c_size_t(max(1, skew + len(data)))):
            raise MemoryError
        assert got.value is not None
        self.begin, self.address = got, got.value + skew
        ctypes.memmove(self.address, data.ctypes.data, len(data))

    def __del__(self) -> None:
        C.free(self.begin)


def in_place(call: dict[str, np.ndarray]) -> bool:
    """Whether the output may be the input: the only one, with the same strides and as many bytes."""
    one = int(call["inputs"]) == 1 and len(call["x0"]) == len(call["expected"])
    return one and np.array_equal(*call["strides"]) and str(call["pipeline"]) in IN_PLACE


def run(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray], where: str) -> bool:
    """Whether the output has the expected bytes, and what lies around it is untouched."""
    skew = SIZES[int(call["dtype"])] if where == "skewed" else 0
    output = np.full(len(call["expected"]) + 2 * GUARD + skew, UNTOUCHED, dtype=np.uint8)
    begin, end = GUARD + skew, GUARD + skew + len(call["expected"])
    given = [call[f"x{k}"] for k in range(int(call["inputs"]))]
    y = output.ctypes.data + begin
    inputs: list[Guarded | Block] = []  # kept until the call has ended
    if where == "in place":
        output[begin:end] = given[0]
        operands = [y, y]
    else:
        inputs = [Guarded(data) if where == "guarded" else Block(data, skew) for data in given]
        operands = [y, *(x.address for x in inputs)]
    pointers = (ctypes.c_void_p * len(operands))(*operands)
    arrays = [np.ascontiguousarray(call[name]) for name in ("sizes", "strides", "mask_strides")]
    numbers = [int(n) for n in call["state"]]
    bits = call["keep_bits"].ctypes.data if "keep_bits" in call else None
    there = library.run(
        path.encode(), str(call["pipeline"]).encode(), int(call["dtype"]), pointers, len(operands),
        len(arrays[0]), *(ctypes.c_void_p(a.ctypes.data) for a in arrays), *(ctypes.c_uint64(n) for n in numbers),
        ctypes.c_double(float(call["p"])), ctypes.c_void_p(bits),
    )  # fmt: skip
    untouched = (output[:begin] == UNTOUCHED).all() and (output[end:] == UNTOUCHED).all()
    return not there or bool(untouched and np.array_equal(output[begin:end], call["expected"]))


def main(built: str, prepared: str, *paths: str) -> int:
    library = ctypes.CDLL(built)
    library.run.restype = ctypes.c_bool
    calls: dict[str, dict[str, np.ndarray]] = {}
    with np.load(prepared) as data:
        if library.rng_version() != data["rng_version"]:
            return 1
        for key in data.files:
            if "." in key:
                number, name = key.split(".")
                calls.setdefault(number, {})[name] = data[key]
    return int(not all(run(library, path, call, where) for call in calls.values() for path in paths
                       for where in WHERE if where != "in place" or in_place(call)))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
