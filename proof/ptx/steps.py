"""What an instruction does that neither jumps nor waits for other threads."""

from collections.abc import Callable

import numpy as np

from .arithmetic import NUMPY, OPERATIONS
from .frame import Frame, Lanes
from .source import SIZES, Function, Instruction, Unsupported

Step = Callable[[Frame, Lanes], None]
# A generic address is one in global memory, since nothing here makes it of another's (cvta.shared).
_SPACES = ("param", "global", "shared", "generic")
_CACHED = ("wb", "ca", "cg", "nc")  # where, which changes no result


def step_of(instruction: Instruction, function: Function) -> Step:
    opcode, operands = instruction.opcode, instruction.operands
    if opcode.startswith(("ld.", "st.")):
        return _access(instruction, function)
    if opcode == "atom.global.add.u64":
        return _add(*operands)
    if opcode in ("mov.b32", "mov.b64") and "{" in instruction.text:
        to, of = operands
        return (_apart if "{" in to else _together)(to, of, opcode[4:])
    operation = OPERATIONS.get(opcode)
    if operation is None or len(operands) != 1 + len(operation.operands):
        raise Unsupported(f"{instruction.text} in {function.name}")
    (to, *given_as), kinds, result = operands, operation.operands, np.dtype(NUMPY[operation.result])

    def step(frame: Frame, lanes: Lanes) -> None:
        given = [frame.read(operand, kind, lanes) for operand, kind in zip(given_as, kinds, strict=True)]
        frame.write(to, operation.function(*given).astype(result, copy=False), lanes)

    return step


def _names(operand: str) -> list[str]:
    return [name.strip() for name in operand.strip("{}").split(",")]


def _apart(to: str, of: str, kind: str) -> Step:
    bits = SIZES[kind] * 4

    def step(frame: Frame, lanes: Lanes) -> None:
        value = frame.read(of, kind, lanes)
        for k, name in enumerate(_names(to)):
            frame.write(name, (value >> value.dtype.type(bits * k)).astype(f"u{bits // 8}"), lanes)

    return step


def _together(to: str, of: str, kind: str) -> Step:
    bits, whole = SIZES[kind] * 4, NUMPY[kind]

    def step(frame: Frame, lanes: Lanes) -> None:
        low, high = (frame.read(name, f"b{bits}", lanes).astype(whole) for name in _names(of))
        frame.write(to, high << whole(bits) | low, lanes)

    return step


def _add(to: str, place: str, by: str) -> Step:
    def step(frame: Frame, lanes: Lanes) -> None:
        before = frame.grid.memory.add(frame.address(place, lanes), frame.full(by, "u64", lanes))
        frame.write(to, before, lanes)

    return step


def _access(instruction: Instruction, function: Function) -> Step:
    verb, *modifiers, kind = instruction.opcode.split(".")
    space = modifiers.pop(0) if modifiers and modifiers[0] in _SPACES else "generic"
    vector = [m for m in modifiers if m in ("v2", "v4")]
    known = kind in SIZES and all(m in (*_CACHED, *vector) for m in modifiers)
    if not known or (verb == "st" and space == "param" and "%" in instruction.operands[0]):
        raise Unsupported(f"{instruction.text} in {function.name}")
    place, values = instruction.operands if verb == "st" else instruction.operands[::-1]
    registers, count = _names(values), int(vector[0][1:]) if vector else 1
    name = place.strip("[] ").removesuffix("+0")
    if space == "param" and (not function.kernel or name.startswith(("param", "retval"))):
        return _slot(verb, name, registers[0], kind)

    def load(frame: Frame, lanes: Lanes) -> None:
        address = frame.address(place, lanes)
        if space == "shared":
            found = frame.grid.shared.load(frame.threads[lanes], address, NUMPY[kind], count)
        elif space == "param":
            found = frame.grid.parameters.read(address, NUMPY[kind], count)
        else:
            found = frame.grid.memory.load(address, NUMPY[kind], count)
        for register, value in zip(registers, found, strict=True):
            frame.write(register, value, lanes)

    def store(frame: Frame, lanes: Lanes) -> None:
        address, given = frame.address(place, lanes), [frame.full(register, kind, lanes) for register in registers]
        if space == "shared":
            frame.grid.shared.store(frame.threads[lanes], address, given)
        else:
            frame.grid.memory.store(address, given)

    return load if verb == "ld" else store


def _slot(verb: str, name: str, register: str, kind: str) -> Step:
    """A value on its way into a function, or out of it."""

    def load(frame: Frame, lanes: Lanes) -> None:
        frame.write(register, frame.slots[name][lanes].view(NUMPY[kind]), lanes)

    def store(frame: Frame, lanes: Lanes) -> None:
        slot = frame.slots.setdefault(name, np.zeros(len(frame.threads), dtype=f"u{SIZES[kind]}"))
        slot[lanes] = frame.full(register, kind, lanes).view(slot.dtype)

    return load if verb == "ld" else store
