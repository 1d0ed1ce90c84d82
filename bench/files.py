"""Result files: JSON, which holds everything, and CSV, a line for each measurement."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 2
FACTS = ("date", "commit", "dirty", "processor", "instruction_set", "gpu", "driver", "torch", "cuda", "p")
QUANTILES = ("median", "p20", "p80")


class Unreadable(Exception):
    """A file that is no result of this benchmark, in words for its user."""


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"schema": SCHEMA, **result}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Unreadable(f"{path}: expected JSON, but {error}") from None
    found = result.get("schema") if isinstance(result, dict) else None
    if found != SCHEMA:
        raise Unreadable(f"{path}: expected results of schema {SCHEMA}, but found {found}: measure again")
    return dict(result)


def write_csv(path: Path, result: Mapping[str, Any]) -> None:
    """A line for each side of a row and each implementation of a sweep, with the provenance beside it."""
    facts = {name: result["provenance"][name] for name in FACTS}
    lines = [line | facts for row in result["rows"] for line in _of_row(row)]
    lines += [_of_sweep(record) | facts for record in result["sweep"] if "refused" not in record]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)


def _of_row(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    same = {"kind": "row", **{key: row[key] for key in ("name", "device", "dtype", "numel", "threads")}}
    sides = (("fused_dropout", "subject_ms", "gb_per_s"), (row["versus"], "baseline_ms", "baseline_gb_per_s"))
    return [
        same
        | {"implementation": name}
        | _flat("ms", row[times])
        | {"gb_per_s": row[speed], "bytes_per_element": row["bytes_per_element"]}
        | {"ratio": row["ratio"], **_flat("ratio_of_pairs", row["ratio_of_pairs"]), "samples": row["samples"]}
        for name, times, speed in sides
    ]


def _of_sweep(record: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("name", "device", "dtype", "numel", "threads", "implementation")
    return {
        "kind": "sweep",
        **{key: record[key] for key in keys},
        **_flat("ms", record["ms"]),
        **{key: record[key] for key in ("gb_per_s", "bytes_per_element", "ratio")},
        **_flat("ratio_of_pairs", record["ratio_of_pairs"]),
        **{key: record[key] for key in ("samples", "limit", "of_limit")},
    }


def _flat(name: str, quantiles: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{key}": quantiles[key] for key in QUANTILES}
