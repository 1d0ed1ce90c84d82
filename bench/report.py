"""What the benchmark says: a row for each case, as a table for a reader and as JSON with its provenance."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import fused_dropout

from .cases import Case
from .timing import Quantiles, Timing, utc_now
from .work import P

SCHEMA = 1
WORDS = ("operation", "against", "dtype")  # aligned left, and the numbers after them right
NUMBERS = ("elements", "threads", "ours ms", "baseline ms", "ratio", "p20 - p80", "target", "met", "GB/s")


def row_of(case: Case, timing: Timing) -> dict[str, Any]:
    """A result, as JSON has it: milliseconds a call, ratios of subject to baseline, GB/s of the declared bytes."""
    gigabytes = case.numel * case.bytes_per_element * 1e-9
    return {
        "name": case.name,
        "versus": case.versus,
        "table": case.table,
        "column": case.column,
        "device": case.device,
        "dtype": str(case.dtype).removeprefix("torch."),
        "numel": case.numel,
        "threads": case.threads,
        "p": P,
        "subject_ms": _quantiles(timing.subject, 1e3),
        "baseline_ms": _quantiles(timing.baseline, 1e3),
        "ratio": timing.ratio,
        "ratio_of_pairs": _quantiles(timing.pairs, 1),
        "target": case.target,
        "met": None if case.target is None else timing.ratio <= case.target,
        "bytes_per_element": case.bytes_per_element,
        "gb_per_s": gigabytes / timing.subject.median,
        "baseline_gb_per_s": gigabytes / timing.baseline.median,
        "samples": timing.samples,
        "subject_repeats": timing.repeats[0],
        "baseline_repeats": timing.repeats[1],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns; a ratio below a half is written 1/x, as a target is."""
    columns = zip(WORDS + NUMBERS, *(_cells(row) for row in rows), strict=True)
    aligned = []
    for column in columns:
        width = max(map(len, column))
        aligned.append([cell.ljust(width) if column[0] in WORDS else cell.rjust(width) for cell in column])
    head, *lines = ("  ".join(cells) for cells in zip(*aligned, strict=True))
    return "\n".join([head, "-" * len(head), *lines])


def summary(rows: Sequence[dict[str, Any]], saved: dict[str, Any]) -> str:
    """What the table cannot say: the bytes saved for backward, and how many targets are met."""
    judged = [row["met"] for row in rows if row["met"] is not None]
    return (
        f"saved for backward, {_count(saved['numel'])} elements of {saved['dtype']}: {saved['subject_bytes']:,} bytes, "
        f"F.dropout {saved['baseline_bytes']:,}\ntargets met: {sum(judged)} of {len(judged)}"
    )


def heading(facts: dict[str, Any]) -> str:
    """The provenance that a reader of the table needs."""
    dirty = ", with changes" if facts["dirty"] else ""
    gpu = f"{facts['gpu']}, driver {facts['driver']}; " if facts["gpu"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['instruction_set']}; {gpu}torch {facts['torch']}; "
        f"commit {(facts['commit'] or 'unknown')[:12]}{dirty}; p = {P}; load {facts['load_average']}"
    )


def provenance(threads: Sequence[int]) -> dict[str, Any]:
    """Where, when and of what a result is."""
    build = fused_dropout.build_info()
    cuda = torch.cuda.is_available()
    status = _output("git", "status", "--porcelain")
    return {
        "date": utc_now(),
        "commit": _output("git", "rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": list(threads),
        "instruction_set": build["cpu_instruction_set"],
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "build": build,
        "python": platform.python_version(),
        "system": platform.system(),
        "p": P,
    }


def write_json(
    path: Path,
    facts: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    saved: dict[str, Any],
    memory: dict[str, Any] | None,
) -> None:
    result = {"schema": SCHEMA, "provenance": facts, "rows": list(rows), "saved_for_backward": saved}
    if memory is not None:
        result["memory_of_a_step"] = memory
    path.write_text(json.dumps(result, indent=2) + "\n")


def _quantiles(q: Quantiles, unit: float) -> dict[str, float]:
    return {"median": q.median * unit, "p20": q.p20 * unit, "p80": q.p80 * unit}


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


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """What a command prints, run beside this file; None where there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
