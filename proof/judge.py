"""Runs a compiled host library on prepared calls, or on sums of its own, and compares: 0 all bits are right, 1 some are
not. Without torch.

Alone in its process, since what it runs may be broken: ``python proof/judge.py LIBRARY (CALLS.npz | COUNT) PATH...``.
"""

import ctypes
import mmap
import sys

import numpy as np

GUARD = 64  # bytes beside every output that nobody may touch
UNTOUCHED = 0xA5  # what a byte of an output is before the call
NONE = 0  # mprotect's PROT_NONE
WHERE = ("guarded", "block", "skewed", "in place")  # the operands lie
IN_PLACE = ("dropout", "gaussian_dropout", "block_dropout")
SIZES = (2, 2, 4, 8)  # of the dtypes, in bytes
WORD = 8  # and of one of keep bits
ROW_OPERANDS, OF_ELEMENTS = 14, 9  # those of a row operation, of which the first are of its dtype; statistics follow
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


class Output:
    """Room with untouched bytes before it, and behind it more of them or a page that nobody may touch."""

    def __init__(self, size: int, where: str, skew: int = 0) -> None:
        behind = 0 if where == "guarded" else GUARD
        untouched = np.full(GUARD + skew + size + behind, UNTOUCHED, dtype=np.uint8)
        self.memory = Guarded(untouched) if where == "guarded" else Block(untouched)
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * len(untouched)).from_address(self.memory.address))
        self.begin, self.end = GUARD + skew, GUARD + skew + size
        self.address = self.memory.address + self.begin

    def is_only(self, expected: np.ndarray) -> bool:
        outside = (self.bytes[: self.begin] == UNTOUCHED).all() and (self.bytes[self.end :] == UNTOUCHED).all()
        return bool(outside and np.array_equal(self.bytes[self.begin : self.end], expected))


def in_place(call: dict[str, np.ndarray]) -> bool:
    """Whether the output may be the input: the only one, with the same strides and as many bytes."""
    if str(call.get("pipeline")) not in IN_PLACE or int(call["inputs"]) != 1:
        return False
    return len(call["x0"]) == len(call["expected"]) and np.array_equal(*call["strides"])


def run(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray], where: str) -> bool:
    """Whether the outputs have the expected bytes, and what lies around them is untouched."""
    skew = 0 if where != "skewed" else SIZES[int(call["dtype"])] if "dtype" in call else WORD
    one = run_elements if "pipeline" in call else run_rows if "operation" in call else run_blocks
    return one(library, path, call, where, skew)


def run_elements(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray], where: str, skew: int) -> bool:
    output = Output(len(call["expected"]), where, skew)
    given = [call[f"x{k}"] for k in range(int(call["inputs"]))]
    inputs: list[Guarded | Block] = []  # kept until the call has ended
    if where == "in place":
        output.bytes[output.begin : output.end] = given[0]
        operands = [output.address, output.address]
    else:
        inputs = [Guarded(data) if where == "guarded" else Block(data, skew) for data in given]
        operands = [output.address, *(x.address for x in inputs)]
    pointers = (ctypes.c_void_p * len(operands))(*operands)
    bits = call["keep_bits"].ctypes.data if "keep_bits" in call else None
    there = library.run(
        path.encode(), str(call["pipeline"]).encode(), int(call["dtype"]), pointers, len(operands), *shape_of(call),
        ctypes.c_void_p(bits),
    )  # fmt: skip
    return not there or output.is_only(call["expected"])


def run_rows(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray], where: str, skew: int) -> bool:
    inputs: dict[int, Guarded | Block] = {}
    outputs: dict[int, Output] = {}
    for k in range(ROW_OPERANDS):
        off = skew if k < OF_ELEMENTS else 0
        if f"given{k}" in call:
            data = call[f"given{k}"]
            inputs[k] = Guarded(data) if where == "guarded" else Block(data, off)
        elif f"wanted{k}" in call:
            outputs[k] = Output(len(call[f"wanted{k}"]), where, off)
    at = {k: operand.address for k, operand in (inputs | outputs).items()}
    pointers = (ctypes.c_void_p * ROW_OPERANDS)(*(at.get(k) for k in range(ROW_OPERANDS)))
    p = float(call["p"])
    there = library.run_row_operation(
        path.encode(), int(call["operation"]), int(call["dtype"]), pointers, *shape_of(call), int(call["attend"]),
        int(p > 0), ctypes.c_double(float(call["constant"])), ctypes.c_int64(int(call["rows_in_part"])),
    )  # fmt: skip
    return not there or all(output.is_only(call[f"wanted{k}"]) for k, output in outputs.items())


def run_blocks(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray], where: str, skew: int) -> bool:
    output = Output(len(call["expected"]), where, skew)
    numbers = [ctypes.c_uint64(int(n)) for n in call["state"]]
    there = library.run_blocks(
        path.encode(), ctypes.c_void_p(call["map"].ctypes.data), *numbers, ctypes.c_double(float(call["p"])),
        ctypes.c_void_p(output.address),
    )  # fmt: skip
    return not there or output.is_only(call["expected"])


def shape_of(call: dict[str, np.ndarray]) -> list[object]:
    """Sizes, strides, the mask's strides and base, the state and p, as the libraries take them."""
    for name in ("sizes", "strides", "mask_strides"):
        call[name] = np.ascontiguousarray(call[name])
    arrays = [ctypes.c_void_p(call[name].ctypes.data) for name in ("sizes", "strides", "mask_strides")]
    numbers = [ctypes.c_uint64(int(n)) for n in call["state"]]
    return [len(call["sizes"]), *arrays, *numbers, ctypes.c_double(float(call["p"]))]


def main(built: str, prepared: str, *paths: str) -> int:
    library = ctypes.CDLL(built)
    if prepared.isdecimal():
        return int(library.differing(ctypes.c_uint64(1), ctypes.c_int64(int(prepared))) != 0)
    for name in ("run", "run_row_operation", "run_blocks"):
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_bool
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
