"""Machine code as cuobjdump shows it: its instructions, where they may go, and how many a thread executes on a path."""

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?);", re.MULTILINE)
_NOTHING = ("NOP",)


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # empty where it is always executed
    opcode: str
    operands: str

    @property
    def target(self) -> int:
        return int(re.findall(r"0x([0-9a-f]+)", self.operands)[-1], 16)


def instructions(code: str) -> list[Instruction]:
    """Of a kernel; those of what it calls lie behind it."""
    return [Instruction(int(at, 16), predicate, *rest) for at, predicate, *rest in _LINE.findall(code)]


def _next(code: list[Instruction], k: int) -> Iterator[int]:
    """Where a thread may be after instruction k. What is called comes back; nobody waits for ever."""
    places = {each.address: number for number, each in enumerate(code)}
    one = code[k]
    ends = one.opcode in ("EXIT", "BRA", "RET.REL.NODEC", "BREAK")
    if one.opcode == "BRA":
        yield places[one.target]
    # Convergence barriers: BSYNC goes to where its BSSY says, which is the next instruction but one.
    if not ends or one.predicate or one.operands.startswith(("P", "!P", "UP", "!UP")):
        if k + 1 < len(code):
            yield k + 1


def _cost(one: Instruction) -> int:
    return one.opcode not in _NOTHING


def shortest(code: list[Instruction], begin: int, ends: Iterable[int]) -> list[int]:
    """The numbers of the instructions from `begin` on, up to the first of `ends`, that are fewest to execute."""
    wanted, before, queue, done = set(ends), {begin: begin}, [(0, begin, begin)], set()
    while queue:
        cost, k, came = heapq.heappop(queue)
        if k in done:
            continue
        done.add(k)
        before[k] = came
        if k in wanted and k != begin:
            path = [k]
            while path[-1] != begin:
                path.append(before[path[-1]])
            return path[::-1]
        for other in _next(code, k):
            # A call is a slow path: ties of a mask, the divisions and roots of p in memory.
            heapq.heappush(queue, (cost + _cost(code[k]) + 10_000 * code[k].opcode.startswith("CALL"), other, k))
    raise ValueError("there is no such path")


def main_path(code: list[Instruction]) -> list[Instruction]:
    """What a thread executes whose accesses are all of the widest kind, once: from the start through every
    one of these loads and stores to the end, by the shortest way between.
    """
    widest = "128" if any(".128" in one.opcode for one in code) else "64"
    wide = [k for k, one in enumerate(code) if re.match(rf"(LDG|STG)\.E\S*\.{widest}\b", one.opcode) and not one.predicate]
    stops = [k for k, one in enumerate(code) if one.opcode == "EXIT"]
    path = [0]
    while wide:
        try:
            path += shortest(code, path[-1], wide)[1:]
        except ValueError:
            break
        wide.remove(path[-1])
    return [code[k] for k in [*path, *shortest(code, path[-1], stops)[1:]]]
