"""What the benchmark says: a row for each case, and tables for a reader."""

from collections.abc import Mapping, Sequence
from typing import Any

from .cases import Case
from .choice import words
from .timing import Timing


def row_of(case: Case, p: float, subject: Timing, baseline: Timing) -> dict[str, Any]:
    """A result, as JSON has it: milliseconds a call, ratios of subject to baseline, GB/s of the declared bytes."""
    gigabytes = case.numel * case.bytes_per_element * 1e-9
    ratio = subject.seconds.median / baseline.seconds.median
    return _identity(case) | {
        "versus": case.versus,
        "table": case.table,
        "column": case.column,
        "p": p,
        "subject_ms": subject.seconds.scaled(1e3),
        "baseline_ms": baseline.seconds.scaled(1e3),
        "ratio": ratio,
        "ratio_of_pairs": baseline.first_to_this.scaled(1),
        "target": case.target,
        "met": None if case.target is None else ratio <= case.target,
        "bytes_per_element": case.bytes_per_element,
        "arithmetic": case.arithmetic,
        "gb_per_s": gigabytes / subject.seconds.median,
        "baseline_gb_per_s": gigabytes / baseline.seconds.median,
        "samples": subject.samples,
        "subject_repeats": subject.repeats,
        "baseline_repeats": baseline.repeats,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns; a ratio below a half is written 1/x, as a target is."""
    head = ("operation", "against", "dtype", "elements", "threads", "ours ms", "baseline ms", "ratio", "p20 - p80")
    return aligned((*head, "target", "met", "GB/s"), [_cells(row) for row in rows], words=3)


def sweep_table(records: Sequence[dict[str, Any]]) -> str:
    """A line for each implementation at each size; `of limit` is its share of the minimal write's speed."""
    head = ("operation", "implementation", "dtype", "elements", "ms", "p20 - p80", "GB/s", "of limit", "ours / this")
    return aligned(head, [_sweep_cells(record) for record in records if "refused" not in record], words=3)


def reason(error: Exception) -> str:
    """Its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def refused(case: Case, error: Exception) -> dict[str, Any]:
    """Instead of a row, where the baseline cannot run."""
    return _identity(case) | {"implementation": case.versus, "refused": reason(error)}


def _identity(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "device": case.device,
        "dtype": words(case.dtype),
        "numel": case.numel,
        "threads": case.threads,
    }


def skipped(result: Mapping[str, Any]) -> str:
    """A line for each peer and each baseline that was not measured, and why."""
    lines = [f"not measured: {name}: {reason}" for name, reason in result["peers"].items() if reason]
    lines += [
        f"not measured: {record['implementation']}, {record['name']} of {record['dtype']}: {record['refused']}"
        for record in (*result["sweep"], *result.get("refused", ()))  # older files have none
        if "refused" in record
    ]
    return "\n".join(dict.fromkeys(lines))


def targets(rows: Sequence[dict[str, Any]]) -> str:
    judged = [row["met"] for row in rows if row["met"] is not None]
    return f"targets met: {sum(judged)} of {len(judged)}"


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> str:
    """Columns, the first `words` of them aligned left, and the numbers after them right."""
    aligned = []
    for place, column in enumerate(zip(head, *lines, strict=True)):
        width = max(map(len, column))
        aligned.append([cell.ljust(width) if place < words else cell.rjust(width) for cell in column])
    first, *others = ("  ".join(cells) for cells in zip(*aligned, strict=True))
    return "\n".join([first, "-" * len(first), *others])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    pairs, met = row["ratio_of_pairs"], row["met"]
    return (
        row["name"],
        row["versus"],
        row["dtype"],
        _count(row["numel"]),
        str(row["threads"] or row["device"]),
        f"{row['subject_ms']['median']:.4g}",
        f"{row['baseline_ms']['median']:.4g}",
        _ratio(row["ratio"]),
        f"{_ratio(pairs['p20'])} - {_ratio(pairs['p80'])}",
        "" if row["target"] is None else _ratio(row["target"]),
        "" if met is None else "yes" if met else "NO",
        f"{row['gb_per_s']:.3g}",
    )


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.5 else f"1/{1 / ratio:.3g}"


def _count(numel: int) -> str:
    power = numel.bit_length() - 1
    return f"2^{power}" if numel == 2**power and power >= 10 else str(numel)


def _sweep_cells(record: dict[str, Any]) -> tuple[str, ...]:
    ms = record["ms"]
    return (
        record["name"],
        record["implementation"],
        record["dtype"],
        _count(record["numel"]),
        f"{ms['median']:.4g}",
        f"{ms['p20']:.4g} - {ms['p80']:.4g}",
        f"{record['gb_per_s']:.3g}",
        f"{record['of_limit']:.0%}",
        _ratio(record["ratio"]),
    )
