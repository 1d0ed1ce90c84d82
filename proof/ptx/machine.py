"""Runs kernels: all threads of some blocks in lockstep, those that are furthest behind first.

Threads that part meet again where their ways join, as compilers lay out code in that order. A barrier and a shuffle
wait for every thread that they are for; one that has ended, or waits elsewhere, is an error.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from .arithmetic import Array
from .frame import Frame, Grid, Lanes
from .memory import Memory, Region
from .shared import RaceError, Shared
from .source import Instruction, Module, Unsupported
from .steps import Step, step_of

WARP = 32
_ALL = slice(None)
_CONTROL = ("bra", "bra.uni", "ret", "call.uni", "shfl.sync.idx.b32")


class Machine:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._steps = cache(self._steps_of)
        self.kernels = module.kernels.keys()
        self.instructions = 0  # executed, by each thread that was there

    def parameters(self, kernel: str) -> list[int]:
        """The bytes of each of a kernel's parameters."""
        return list(self._module.function(self._module.kernels[kernel]).parameters.values())

    def launch(self, kernel: str, blocks: Sequence[int], threads: int, parameters: bytes, memory: Memory) -> None:
        """Those of a grid's blocks."""
        function = self._module.function(self._module.kernels[kernel])
        if self.parameters(kernel) != [len(parameters)]:
            raise Unsupported(f"{kernel} has parameters of {self.parameters(kernel)} bytes, "
                              f"and was launched with {len(parameters)}")  # fmt: skip
        region = Region("the parameters", len(parameters), writable=False)
        region.bytes(0, len(parameters))[:] = np.frombuffer(parameters, dtype=np.uint8)
        block, thread = np.divmod(np.arange(len(blocks) * threads), threads)
        special = {"%tid.x": thread, "%ctaid.x": np.array(blocks)[block], "%ntid.x": np.full(len(block), threads)}
        grid = Grid(memory, region, Shared(function.shared_bytes, block), special, block,
                    (block * threads + thread) // WARP)  # fmt: skip
        with np.errstate(all="ignore"):
            self._run(Frame(function, grid, np.arange(len(block)), {}))

    def _steps_of(self, name: str) -> list[Step]:
        function = self._module.function(name)
        return [_never if _controls(each) else step_of(each, function) for each in function.code]

    def _run(self, frame: Frame) -> None:
        code, steps = frame.function.code, self._steps(frame.function.name)
        end, count = len(code), len(frame.threads)
        at, waits = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        while True:
            ready = ~waits & (at < end)
            if not ready.any():
                if waits.any():
                    raise RaceError(f"threads wait for ever at {code[at[waits][0]].text} in {frame.function.name}")
                return
            now = int(at[ready].min())
            here = ready & (at == now)
            others = at[ready & ~here]
            until = int(others.min()) if len(others) else end
            lanes: Lanes = _ALL if here.all() else np.flatnonzero(here)
            present = int(here.sum())
            while now < until:
                instruction = code[now]
                self.instructions += present
                if not _controls(instruction):
                    some = lanes if not instruction.predicate else _where(frame, instruction, lanes)
                    steps[now](frame, some)
                    now += 1
                    continue
                if instruction.opcode in ("bra", "bra.uni"):
                    target = frame.function.labels[instruction.operands[0]]
                    jumps = _taken(frame, instruction, lanes)
                    if jumps.all() or not jumps.any():
                        now = target if jumps.all() else now + 1
                        continue
                    at[lanes] = np.where(jumps, target, now + 1)
                elif instruction.opcode == "ret":
                    at[lanes] = np.where(_taken(frame, instruction, lanes), end, now + 1)
                elif instruction.opcode == "call.uni":
                    self._call(frame, instruction, lanes)
                    now += 1
                    continue
                else:
                    at[lanes], waits[lanes] = now, True
                    self._meet(frame, at, waits, now)
                break
            else:
                at[lanes] = now

    def _call(self, frame: Frame, instruction: Instruction, lanes: Lanes) -> None:
        result, name, arguments = instruction.operands
        callee = self._module.function(name)
        given = [frame.slots[slot.strip()][lanes] for slot in arguments.strip("()").split(",")]
        inner = Frame(callee, frame.grid, frame.threads[lanes], dict(zip(callee.parameters, given, strict=True)))
        self._run(inner)
        value = inner.slots["func_retval0"]
        frame.slots.setdefault(result.strip("()"), np.zeros(len(frame.threads), dtype=value.dtype))[lanes] = value

    def _meet(self, frame: Frame, at: Array, waits: Array, now: int) -> None:
        """Lets those go on that wait at `now` and whose others have all come there."""
        instruction = frame.function.code[now]
        if instruction.predicate or not frame.function.kernel:
            raise Unsupported(f"{instruction.text} in {frame.function.name}: on a condition, or in a function")
        barrier = instruction.opcode == "bar.sync"
        team = frame.grid.block if barrier else frame.grid.warp
        arrived = np.bincount(team, waits & (at == now))
        elsewhere = np.bincount(team, (waits & (at != now)) | (at >= len(frame.function.code)))
        if ((arrived > 0) & (elsewhere > 0)).any():
            raise RaceError(f"not all threads come to {instruction.text} in {frame.function.name}")
        complete = np.flatnonzero((arrived == np.bincount(team))[team])
        if barrier:
            frame.grid.shared.barrier(np.unique(team[complete]))
        elif len(complete):
            _shuffle(frame, instruction, complete)
        at[complete], waits[complete] = now + 1, False


def _shuffle(frame: Frame, instruction: Instruction, lanes: Array) -> None:
    """shfl.sync.idx.b32 d|p, a, b, c, membermask: a of lane b. Whole warps take part, and `lanes` are in order."""
    to, value, source, clamp, members = instruction.operands
    if (frame.full(members, "u32", lanes) != 2**32 - 1).any() or (frame.full(clamp, "u32", lanes) != WARP - 1).any():
        raise Unsupported(f"{instruction.text}: other than among all lanes of a warp")
    own = np.arange(len(lanes))
    given = frame.full(value, "b32", lanes)
    found = given[own // WARP * WARP + (frame.full(source, "u32", lanes) & np.uint32(WARP - 1))]
    register, _, valid = to.partition("|")
    frame.write(register, found, lanes)
    if valid:
        frame.write(valid, np.ones(len(lanes), dtype=bool), lanes)


def _controls(instruction: Instruction) -> bool:
    return instruction.opcode in _CONTROL or instruction.text == "bar.sync 0"


def _never(frame: Frame, lanes: Lanes) -> None:
    raise AssertionError("a step that is no step")


def _taken(frame: Frame, instruction: Instruction, lanes: Lanes) -> Array:
    """Of each of the lanes, whether it does what the instruction says."""
    if not instruction.predicate:
        return np.ones(len(frame.threads[lanes]), dtype=bool)
    return frame.full(instruction.predicate, "pred", lanes) != instruction.negated


def _where(frame: Frame, instruction: Instruction, lanes: Lanes) -> Array:
    return np.arange(len(frame.threads))[lanes][_taken(frame, instruction, lanes)]
