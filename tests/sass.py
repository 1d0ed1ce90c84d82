"""Machine code as cuobjdump shows it: its instructions, where they lead, and how many a thread executes on a path.

The main path of a kernel is that of a thread whose every access is of the widest kind: from the start through all of
these loads and stores to the end, by the fewest instructions in between. So it is one where p and the state are given
by value, the mask is aligned to the octet (one Philox block), no half word ties with the threshold, and the tile is
whole. An instruction whose predicate is false counts, since it is issued all the same; a NOP, of which some versions of
the compiler leave more than others, does not.
"""

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?);")
_WIDE = r"(?:LDG|STG)\.E\S*\.{}\b"
_CALL = 10_000  # instructions, in the place of what is called: ties, and roots and quotients of p in memory


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # empty where it is always executed
    opcode: str
    operands: str


class Code:
    """Of a kernel; what it calls lies behind it."""

    def __init__(self, text: str) -> None:
        self.instructions = [Instruction(int(at, 16), *rest) for at, *rest in _LINE.findall(text)]
        numbers = {one.address: k for k, one in enumerate(self.instructions)}
        self._next = [self._after(k, one, numbers) for k, one in enumerate(self.instructions)]

    def _all(self, opcode: str) -> list[int]:
        return [k for k, one in enumerate(self.instructions) if re.match(opcode, one.opcode) and not one.predicate]

    def _after(self, k: int, one: Instruction, numbers: dict[int, int]) -> list[int]:
        jumps = [numbers[int(one.operands.split("0x")[-1], 16)]] if one.opcode in ("BRA", "BRA.U") else []
        ends = one.opcode.startswith(("EXIT", "RET")) or (bool(jumps) and "P" not in one.operands)
        return jumps if ends and not one.predicate else [*jumps, *range(k + 1, len(self.instructions))[:1]]

    def shortest(self, begin: int, ends: Iterable[int]) -> list[int]:
        """From behind `begin` to the first of `ends`, or nothing where no way leads there."""
        wanted, before, queue = set(ends), {}, [(1, k, begin) for k in self._next[begin]]
        while queue:
            cost, k, came = heapq.heappop(queue)
            if k in before:
                continue
            before[k] = came
            if k in wanted:
                path = [k]
                while before[path[-1]] != begin:
                    path.append(before[path[-1]])
                return path[::-1]
            price = _CALL if self.instructions[k].opcode.startswith("CALL") else 1
            for other in self._next[k]:
                heapq.heappush(queue, (cost + price, other, k))
        return []

    def main_path(self) -> list[Instruction]:
        bits = next(bits for bits in (128, 64) if self._all(_WIDE.format(bits)))
        path, left = [0], set(self._all(_WIDE.format(bits)))
        while more := self.shortest(path[-1], left):  # the rest are copies for threads of a warp that have parted
            path += more
            left -= set(more)
        path += self.shortest(path[-1], self._all("EXIT"))
        return [self.instructions[k] for k in path if self.instructions[k].opcode != "NOP"]


def products_of_philox(path: Iterable[Instruction]) -> int:
    return sum(one.opcode == "IMAD.WIDE.U32" for one in path)
