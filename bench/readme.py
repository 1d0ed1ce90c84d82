"""Writes measured numbers into documents from a result file, so that nobody types one: `python -m bench.readme FILE`.

The README has those of dropout itself and of the pipelines, bench/RESULTS.md has all.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import memory
from .cases import LARGE

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- measured: begin (python -m bench.readme) -->\n", "<!-- measured: end -->\n"


TABLES = {
    "layers": "**Layers.** A new output and the gradient against `torch.mul`, in place against `mul_`; native is\n"
    "PyTorch's own, or what libraries write where PyTorch has none.",
    "pipelines": "**Pipelines** against the eager chain with a multiply in dropout's place (unmasked), the eager\n"
    "chain, and torch.compile of that (these two with all threads); forward, and with all gradients (step).",
    "compiled": "**torch.compile** of one call against torch.compile of `F.dropout`, by the number of elements.",
}


# Of the pipelines, those that the README shows.
SHOWN = (
    *("dropout_add", "drop_path_add", "bias_dropout_add", "relu_dropout", "bias_gelu_dropout", "silu_dropout"),
    *("swiglu_dropout of halves", "dropout_add_layer_norm", "dropout_add_rms_norm", "softmax_dropout"),
)


def section(path: Path, names: Sequence[str] = ("pipelines",), shown: Sequence[str] | None = SHOWN) -> str:
    """The text between the markers: where it was measured, and a row for each case with one thread and with all."""
    result = json.loads(path.read_text())
    facts, saved = result["provenance"], result["saved_for_backward"]
    threads = facts["threads"]
    cases: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["table"]:
            continue
        key = (row["name"], row["versus"], row["dtype"], f"{row['numel']:,}")
        cases.setdefault(key, {})[row["threads"]] = row
    head = ["operation", "against", "dtype", "elements", *(f"{n} thread{'s' * (n > 1)}" for n in threads), "target"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for key, rows in cases.items():
        ratios = [speed(rows[n]["ratio"]) if n in rows else "" for n in threads]
        targets = {f"{row['target']:.2f}" for row in rows.values() if row["target"] is not None}
        lines.append(" | ".join([*key, *ratios, ", ".join(sorted(targets, reverse=True))]))
    body = "\n".join(f"| {line} |" for line in lines)
    tables = "\n\n".join(f"{TABLES[name]}\n\n{table(result['rows'], name, shown)}" for name in names)
    commit = facts["commit"][:12] + (" and changes" if facts["dirty"] else "")
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['instruction_set']}; torch {facts['torch']}; "
        f"p = {facts['p']}; commit {commit}; {facts['date'][:10]}. "
        "Our time divided by theirs, medians of interleaved pairs, one run; "
        f"`bench/results/{path.name}` has every quantile.\n\n{body}\n\n"
        f"float32, {LARGE:,} elements where no other number is named; one thread / all; `!` misses the target.\n\n"
        f"{tables}\n\n"
        f"Saved for backward, {saved['numel']:,} elements of {saved['dtype']}: {saved['subject_bytes']} bytes; "
        f"F.dropout {saved['baseline_bytes']:,}.\n"
        + (f"{memory.line(result['memory_of_a_step'])}\n" if "memory_of_a_step" in result else "")
    )


def results(path: Path) -> str:
    """bench/RESULTS.md."""
    body = section(path, list(TABLES), None)
    return f"# Results\n\nWritten by `python -m bench.readme bench/results/{path.name}`.\n\n{body}"


def table(rows: list[dict[str, Any]], of: str, shown: Sequence[str] | None) -> str:
    """A line for each operation (or each of `shown`), a column for each way to run it; `!` marks a missed target."""
    names: dict[str, dict[str, list[str]]] = {}
    targets: dict[str, set[float | None]] = {}
    for row in rows:
        if row["table"] == of:
            name, column = row["name"], row["column"]
            for way in (" backward", " in place", " step"):
                name = name.removesuffix(way) if of != "compiled" else name
            cell = f"{row['ratio']:.2f}" + "!" * (row["met"] is False)
            names.setdefault(name, {}).setdefault(column, []).append(cell)
            targets.setdefault(column, set()).add(row["target"])
    same = {column: f" (≤ {next(iter(some)):.2f})" if len(some) == 1 else "" for column, some in targets.items()}
    head = ["", *(column + same[column] for column in targets)]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, cells in names.items():
        if shown is not None and name not in shown:
            continue
        lines.append(" | ".join([name, *(" / ".join(cells.get(column, [])) for column in targets)]))
    return "\n".join(f"| {line} |" for line in lines)


def speed(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.5 else f"{ratio:.2f} ({1 / ratio:.1f} x faster)"


def main() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(before + BEGIN + section(Path(sys.argv[1])) + END + rest.split(END)[1])
    RESULTS.write_text(results(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
