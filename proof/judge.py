"""Runs a compiled host library on prepared calls and compares: 0 all bits are right, 1 some are not. Without torch.

Alone in its process, since what it runs may be broken: ``python proof/judge.py LIBRARY CALLS.npz PATH...``.
"""

import ctypes
import sys

import numpy as np

GUARD = 64  # bytes behind every output that nobody may touch


def run(library: ctypes.CDLL, path: str, call: dict[str, np.ndarray]) -> bool:
    """Whether the output has the expected bytes, and what lies around it is untouched."""
    operands = [call[f"x{k}"].copy() for k in range(int(call["inputs"]))]
    output = np.full(len(call["expected"]) + 2 * GUARD, 0xA5, dtype=np.uint8)
    pointers = (ctypes.c_void_p * (len(operands) + 1))(output.ctypes.data + GUARD, *(x.ctypes.data for x in operands))
    arrays = [np.ascontiguousarray(call[name]) for name in ("sizes", "strides", "mask_strides")]
    numbers = [int(n) for n in call["state"]]
    bits = call["keep_bits"].ctypes.data if "keep_bits" in call else None
    there = library.run(
        path.encode(), str(call["pipeline"]).encode(), int(call["dtype"]), pointers, len(operands) + 1,
        len(arrays[0]), *(ctypes.c_void_p(a.ctypes.data) for a in arrays), *(ctypes.c_uint64(n) for n in numbers),
        ctypes.c_double(float(call["p"])), ctypes.c_void_p(bits),
    )  # fmt: skip
    untouched = (output[:GUARD] == 0xA5).all() and (output[-GUARD:] == 0xA5).all()
    return not there or bool(untouched and np.array_equal(output[GUARD:-GUARD], call["expected"]))


def main(built: str, prepared: str, *paths: str) -> int:
    library = ctypes.CDLL(built)
    library.run.restype = ctypes.c_bool
    calls: dict[str, dict[str, np.ndarray]] = {}
    with np.load(prepared) as data:
        for key in data.files:
            number, name = key.split(".")
            calls.setdefault(number, {})[name] = data[key]
    return int(not all(run(library, path, call) for call in calls.values() for path in paths))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
