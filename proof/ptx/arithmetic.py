"""What PTX's arithmetic makes of numbers: a table by the full opcode, so that one that is not in it is an error.

NumPy's float32 and float64 round as IEEE 754 says, to nearest even, and keep subnormal numbers, as PTX does without
`.ftz`; the payload of a NaN may differ. Half precision numbers are unsigned integers here, as their registers are.
"""

import ctypes
import ctypes.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
NUMPY: dict[str, Any] = {"pred": np.bool_, "f16": np.uint16, "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32,
         "f32": np.float32, "f64": np.float64,
         **{f"{kind}{8 * size}": np.dtype(f"{'i' if kind == 's' else 'u'}{size}").type
            for kind in "bus" for size in (1, 2, 4, 8)}}  # fmt: skip
INTEGERS = [f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64)]
WORDS = ["b16", "b32", "b64"]
FLOATS = ["f32", "f64"]


@dataclass(frozen=True)
class Operation:
    result: str  # types
    operands: tuple[str, ...]
    function: Callable[..., Array]


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero. PTX leaves a division by 0 unspecified."""
    if not np.all(b):
        raise ZeroDivisionError("an integer division by 0")
    down = a // b
    return down + ((a % b != 0) & ((a < 0) != (b < 0))).astype(down.dtype)


def _shifted(a: Array, by: Array, left: bool) -> Array:
    """By more than the width: everything is shifted out, and an arithmetic shift leaves the sign."""
    bits = a.dtype.itemsize * 8
    amount = np.minimum(by, bits - 1).astype(a.dtype)
    moved = a << amount if left else a >> amount
    return moved if a.dtype.kind == "i" else np.where(by < bits, moved, a.dtype.type(0))


def _inserted(field: Array, into: Array, at: Array, length: Array) -> Array:
    """bfi: the lowest bits of `field` in place of those of `into`."""
    wide, at, length = into.dtype.itemsize * 8, at & 0xFF, length & 0xFF
    ones = np.uint64(2**64 - 1)
    low = np.where(length >= 64, ones, ~(ones << np.minimum(length, 63).astype(np.uint64)))
    mask = np.where(at < wide, low << np.minimum(at, 63).astype(np.uint64), np.uint64(0)).astype(into.dtype)
    return (into & ~mask) | (_shifted(field, at, True) & mask)


def _permuted(a: Array, b: Array, selector: Array) -> Array:
    """prmt without a mode: each half byte of the selector names a byte of the two words, or its sign."""
    both = b.astype(np.uint64) << np.uint64(32) | a
    result = np.zeros_like(both)
    for k in range(4):
        chosen = selector >> (4 * k)
        byte = both >> ((chosen & 7) * 8).astype(np.uint64) & np.uint64(0xFF)
        signs = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result |= np.where(chosen & 8, signs, byte) << np.uint64(8 * k)
    return result.astype(np.uint32)


def _to_half(x: Array) -> Array:
    return x.astype(np.float16).view(np.uint16)


def _to_bfloat16(x: Array) -> Array:
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _pair(convert: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda high, low: convert(high).astype(np.uint32) << np.uint32(16) | convert(low)


def _truncated(x: Array) -> Array:
    """To an unsigned integer of 64 bits; what lies outside becomes the nearest one, and a NaN 0."""
    inside = (x > 0) & (x < 2.0**64)
    whole = np.where(inside, x, 0.0).astype(np.uint64)
    return np.where(x >= 2.0**64, np.uint64(2**64 - 1), whole)


def _fused(kind: str) -> Callable[[Array, Array, Array], Array]:
    """a * b + c, rounded once, which NumPy does not have: the C library's."""
    number, name = {"f32": (ctypes.c_float, "fmaf"), "f64": (ctypes.c_double, "fma")}[kind]
    function = getattr(ctypes.CDLL(ctypes.util.find_library("m")), name)
    function.argtypes, function.restype = (number, number, number), number
    return lambda a, b, c: np.asarray(np.frompyfunc(function, 3, 1)(a, b, c), dtype=NUMPY[kind])


def _wide(kind: str) -> Operation:
    twice = f"{kind[0]}{2 * int(kind[1:])}"
    return Operation(twice, (kind, kind), lambda a, b: a.astype(NUMPY[twice]) * b.astype(NUMPY[twice]))


def _comparisons() -> dict[str, Operation]:
    orders = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
              "ge": np.greater_equal}  # fmt: skip
    table = {}
    for name, order in orders.items():
        for kind in (*INTEGERS, *WORDS, *FLOATS):
            function: Callable[..., Array] = order
            if name == "ne" and kind in FLOATS:  # ordered, other than NumPy's
                function = lambda a, b: (a < b) | (a > b)  # noqa: E731
            table[f"setp.{name}.{kind}"] = Operation("pred", (kind, kind), function)
    for name, opposite in {"ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt", "equ": "ne", "neu": "eq"}.items():
        for kind in FLOATS:
            ordered = table[f"setp.{opposite}.{kind}"].function
            table[f"setp.{name}.{kind}"] = Operation("pred", (kind, kind), lambda a, b, of=ordered: ~of(a, b))
    return table


def _table() -> dict[str, Operation]:
    table = _comparisons()

    def add(opcode: str, kind: str, count: int, function: Callable[..., Array]) -> None:
        table[opcode] = Operation(kind, (kind,) * count, function)

    for kind in INTEGERS:
        for name, function in {"add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "min": np.minimum,
                               "max": np.maximum, "div": _quotient}.items():  # fmt: skip
            add(f"{name}.{kind}", kind, 2, function)
        add(f"mad.lo.{kind}", kind, 3, lambda a, b, c: a * b + c)
        add(f"neg.{kind}", kind, 1, np.negative)
        table[f"shr.{kind}"] = Operation(kind, (kind, "u32"), lambda a, by: _shifted(a, by, False))
        if kind[1:] != "64":
            table[f"mul.wide.{kind}"] = _wide(kind)
    for kind in FLOATS:
        add(f"abs.{kind}", kind, 1, np.abs)
        add(f"min.{kind}", kind, 2, np.fmin)
        add(f"max.{kind}", kind, 2, np.fmax)
        for name, function in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}.items():
            add(f"{name}.rn.{kind}", kind, 2, function)
        add(f"fma.rn.{kind}", kind, 3, _fused(kind))
        add(f"sqrt.rn.{kind}", kind, 1, np.sqrt)
        add(f"rcp.rn.{kind}", kind, 1, np.reciprocal)
        add(f"neg.{kind}", kind, 1, np.negative)
    for kind in (*WORDS, "pred"):
        for name, function in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
            add(f"{name}.{kind}", kind, 2, function)
        add(f"not.{kind}", kind, 1, np.invert)
    for kind in WORDS:
        table[f"shl.{kind}"] = Operation(kind, (kind, "u32"), lambda a, by: _shifted(a, by, True))
        table[f"bfi.{kind}"] = Operation(kind, (kind, kind, "u32", "u32"), _inserted)
    for kind in (*INTEGERS, *WORDS, *FLOATS):
        table[f"selp.{kind}"] = Operation(kind, (kind, kind, "pred"), lambda a, b, p: np.where(p, a, b))
    for kind in (*INTEGERS, *WORDS, *FLOATS, "pred"):
        add(f"mov.{kind}", kind, 1, lambda a: a)
        for other in (*INTEGERS, "u8", "s8"):
            if kind in INTEGERS:
                table[f"cvt.{kind}.{other}"] = Operation(kind, (other,), lambda a, to=NUMPY[kind]: a.astype(to))
    for kind in FLOATS:
        for integer in INTEGERS[1:]:
            table[f"cvt.rn.{kind}.{integer}"] = Operation(kind, (integer,), lambda a, to=NUMPY[kind]: a.astype(to))
    table["cvt.rn.f32.f64"] = Operation("f32", ("f64",), lambda a: a.astype(np.float32))
    table["cvt.f64.f32"] = Operation("f64", ("f32",), lambda a: a.astype(np.float64))
    table["cvt.rzi.u64.f64"] = Operation("u64", ("f64",), _truncated)
    table["cvt.f32.f16"] = Operation("f32", ("f16",), lambda a: a.view(np.float16).astype(np.float32))
    for kind, convert in {"f16": _to_half, "bf16": _to_bfloat16}.items():
        table[f"cvt.rn.{kind}.f32"] = Operation(kind, ("f32",), convert)
        table[f"cvt.rn.{kind}x2.f32"] = Operation(f"{kind}x2", ("f32", "f32"), _pair(convert))
    table["prmt.b32"] = Operation("b32", ("b32", "b32", "b32"), _permuted)
    table["popc.b32"] = Operation("u32", ("b32",), lambda a: np.bitwise_count(a).astype(np.uint32))
    table["cvta.to.global.u64"] = Operation("u64", ("u64",), lambda a: a)
    return table


OPERATIONS = _table()
