"""Two result files side by side: what changed, and by how much more than their noise.

Compared is the ratio of our time to that of the same other implementation, measured in turns in each run, since it
does not depend on how busy either machine was. A result's noise is half the distance of the 20 % and 80 % quantiles of
its pairs, divided by the ratio; a change counts where it is larger than both results' noise together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from .report import aligned

Key: TypeAlias = tuple[str, str, str, str, str, int, int]


@dataclass(frozen=True)
class Change:
    key: Key
    before: float
    after: float
    noise: float

    @property
    def relative(self) -> float:
        return self.after / self.before - 1

    @property
    def verdict(self) -> str:
        if abs(self.relative) <= self.noise:
            return ""
        return "slower" if self.relative > 0 else "faster"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Of what both results have."""
    old, new = _ratios(before), _ratios(after)
    return [
        Change(key, old[key]["median"], new[key]["median"], _noise(old[key]) + _noise(new[key]))
        for key in old
        if key in new
    ]


def table(found: list[Change]) -> str:
    head = ("in", "operation", "against", "device", "dtype", "elements", "threads", "A", "B", "change", "noise", "")
    lines = [
        (
            *(str(part) for part in change.key),
            f"{change.before:.3g}",
            f"{change.after:.3g}",
            f"{change.relative:+.0%}",
            f"{change.noise:.0%}",
            change.verdict,
        )
        for change in found
    ]
    return aligned(head, lines, words=5)


def summary(before: Mapping[str, Any], after: Mapping[str, Any], found: list[Change]) -> str:
    counts = {verdict: sum(change.verdict == verdict for change in found) for verdict in ("slower", "faster")}
    only = {name: len(set(_ratios(a)) - set(_ratios(b))) for name, a, b in (("A", before, after), ("B", after, before))}
    lines = [f"{len(found)} compared: {counts['slower']} slower, {counts['faster']} faster, the others within noise"]
    lines += [f"only in {name}: {count}" for name, count in only.items() if count]
    for fact in ("processor", "gpu", "torch", "instruction_set"):
        a, b = before["provenance"][fact], after["provenance"][fact]
        lines += [f"not alike: {fact}: {a}, {b}"] if a != b else []
    return "\n".join(lines)


def _ratios(result: Mapping[str, Any]) -> dict[Key, Mapping[str, float]]:
    """Of rows, and of a sweep where an implementation is not our own."""
    rows = [("rows", row, row["versus"]) for row in result["rows"]]
    rows += [("sweep", record, record["implementation"]) for record in result["sweep"] if "refused" not in record]
    return {
        (place, row["name"], versus, row["device"], row["dtype"], row["numel"], row["threads"]): row["ratio_of_pairs"]
        for place, row, versus in rows
        if versus != "fused_dropout"
    }


def _noise(pairs: Mapping[str, float]) -> float:
    return (pairs["p80"] - pairs["p20"]) / 2 / pairs["median"]
