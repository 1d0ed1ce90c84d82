"""What the plots draw, computed from a result and nothing else; plots.py draws it.

A roofline (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009) has a point for
each operation: across, the 32-bit operations that it declares, divided by the bytes that it must move; upwards, how
many of them are done in a second. Its roofs are measured: the slopes are memory, the flat one a matrix product.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

OURS, NATIVE = "fused_dropout", ("F.dropout", "eager")
DTYPE = "float32"  # of the plots that show one


@dataclass(frozen=True)
class Curve:
    """`low` and `high` are the 20 % and 80 % quantiles, where there are any; `places` name the points, of bars."""

    label: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Figure:
    """`kind` says how it is drawn: "curves", "roofline" or "bars"."""

    kind: str
    name: str
    title: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]

    @property
    def digest(self) -> str:
        """Of everything that is drawn: a figure that has it was drawn from this result."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def stem(result: Mapping[str, Any]) -> str:
    """Of file names, such as x86_64-cpu."""
    return f"{result['provenance']['machine']}-{result['provenance']['device']}"


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """Those that the result has data for."""
    where = _where(result["provenance"])
    records = [record for record in result["sweep"] if "refused" not in record]
    of_one = [record for record in records if record["dtype"] == DTYPE]
    found = []
    if of_one:
        times = _panels(of_one, lambda r: {key: 1e3 * value for key, value in r["ms"].items()})
        speeds = _panels(of_one, _speeds)
        found.append(Figure("curves", "time", f"Time of a call, {DTYPE}{where}", "elements", "us", times))
        what = f"Bytes that the operation must move, by the time it takes, {DTYPE}{where}"
        found.append(Figure("curves", "bandwidth", what, "elements", "GB/s", speeds))
    if ratios := _ratios(records):
        what = f"Our time divided by PyTorch's own{where}"
        found.append(Figure("curves", "ratio", what, "elements", "ratio", ratios))
    if "limits" in result and (points := _points(result)):
        what = f"Roofline, {DTYPE}, {result['limits']['numel']:,} elements{where}"
        panel = Panel("", (*points, *_roofs(result["limits"], [x for point in points for x in point.x])))
        labels = ("32-bit operations a byte", "billions of operations a second")
        found.append(Figure("roofline", "roofline", what, *labels, (panel,)))
    if bars := tuple(_memory(result)):
        found.append(Figure("bars", "memory", f"Memory, {DTYPE}{where}", "", "", bars))
    return found


def _where(facts: Mapping[str, Any]) -> str:
    machine = facts["gpu"] if facts["device"] == "cuda" else f"{facts['processor']}, {max(facts['threads'])} threads"
    return f"\n{machine}, torch {facts['torch']}, p = {facts['p']}"


def _speeds(record: Mapping[str, Any]) -> dict[str, float]:
    times, speed = record["ms"], record["gb_per_s"]
    return {"median": speed, **{a: speed * times["median"] / times[b] for a, b in (("p20", "p80"), ("p80", "p20"))}}


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Six digits are more than is measured, and the same on every machine."""
    return tuple(float(f"{value:.6g}") for value in values)


def _curve(label: str, records: list[Mapping[str, Any]], value: Any) -> Curve:
    records = sorted(records, key=lambda record: record["numel"])
    found = [value(record) for record in records]
    y, low, high = (_rounded(each[key] for each in found) for key in ("median", "p20", "p80"))
    return Curve(label, _rounded(record["numel"] for record in records), y, low, high)


def _by(key: str, records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def _panels(records: Iterable[Mapping[str, Any]], value: Any) -> tuple[Panel, ...]:
    return tuple(
        Panel(name, tuple(_curve(label, of_one, value) for label, of_one in _by("implementation", group).items()))
        for name, group in _by("name", records).items()
    )


def _ratios(records: Iterable[Mapping[str, Any]]) -> tuple[Panel, ...]:
    native = [record for record in records if record["implementation"] in NATIVE]
    return tuple(
        Panel(name, tuple(_curve(dtype, found, lambda record: record["ratio_of_pairs"]) for dtype, found in of.items()))
        for name, of in ((name, _by("dtype", group)) for name, group in _by("name", native).items())
    )


def _points(result: Mapping[str, Any]) -> list[Curve]:
    """Of rows and of the sweep, whatever declares its arithmetic, at the size of the limits and with all threads."""
    numel, threads = result["limits"]["numel"], result["limits"]["threads"]
    ours = [record for record in result["sweep"] if record["implementation"] == OURS]
    points = {}
    for record in [*ours, *result["rows"]]:
        same = (record["numel"], record["dtype"], record["threads"]) == (numel, DTYPE, threads)
        if same and record["arithmetic"] is not None and record["name"] not in points:
            intensity = record["arithmetic"] / record["bytes_per_element"]
            height = intensity * record["gb_per_s"]
            points[record["name"]] = Curve(record["name"], _rounded([intensity]), _rounded([height]))
    return list(points.values())


def _roofs(limits: Mapping[str, Any], intensities: list[float]) -> list[Curve]:
    left, top = min(intensities) / 2, limits["gop_per_s"]
    what = {"mul_": "memory: mul_ in place", "mul": "memory: mul, new output", "copy": "memory: copy"}
    roofs = []
    for name, speed in limits["gb_per_s"].items():
        ends = (left, top / speed)
        roofs.append(Curve(f"{what[name]}, {speed:.3g} GB/s", _rounded(ends), _rounded(speed * x for x in ends)))
    right = 2 * max(*intensities, *(x for roof in roofs for x in roof.x))
    start = min(roof.x[1] for roof in roofs)
    roofs.append(Curve(f"arithmetic: matrix product, {top:.3g} Gop/s", _rounded([start, right]), _rounded([top, top])))
    return roofs


def _memory(result: Mapping[str, Any]) -> Iterable[Panel]:
    if saved := result.get("saved_for_backward"):
        yield Panel(
            "Saved for backward, bytes an element",
            tuple(
                Curve(
                    label,
                    y=_rounded(record["bytes"] / record["numel"] for record in group),
                    places=tuple(record["name"] for record in group),
                )
                for label, group in _by("implementation", saved).items()
            ),
        )
    if steps := result.get("training_steps"):
        yield Panel(
            "Peak of a training step, MiB",
            tuple(
                Curve(
                    label,
                    y=_rounded(step[kind]["peak_bytes"] / 2**20 for step in steps),
                    places=tuple(step["model"] for step in steps),
                )
                for kind, label in (("fused", OURS), ("native", "PyTorch's layers"))
            ),
        )
