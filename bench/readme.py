"""Writes measured numbers into documents, and draws the plots beside the result file, so that nobody types a number.

    python -m fused_dropout.bench.readme bench/results/x86_64-cpu.json

In a checkout alone. The README has the CPU's numbers of dropout itself and of the pipelines, bench/RESULTS.md has all;
a GPU's are in bench/RESULTS-cuda.md.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import memory, saved, series
from .cases import CUDA_BYTES, LARGE
from .files import read_json
from .report import skipped

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
RESULTS = {"cpu": HERE / "RESULTS.md", "cuda": HERE / "RESULTS-cuda.md"}
BEGIN, END = "<!-- measured: begin (python -m fused_dropout.bench.readme) -->\n", "<!-- measured: end -->\n"
PLOTS = ("time", "ratio", "roofline", "memory")  # those that the README shows

OVER_SIZES = (
    "Microseconds a call, medians, with all threads; in brackets the share of the speed of the minimal write\n"
    "(`mul`, `mul_` or, of a pipeline, the unmasked chain) of the same bytes."
)
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
    result = read_json(path)
    facts = result["provenance"]
    threads = facts["threads"] if facts["device"] == "cpu" else [0]
    cases: dict[tuple[str, str, str, str], dict[int, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["table"]:
            continue
        key = (row["name"], row["versus"], row["dtype"], f"{row['numel']:,}")
        cases.setdefault(key, {})[row["threads"]] = row
    head = ["operation", "against", "dtype", "elements", *(_threads(n) for n in threads), "target"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for key, rows in cases.items():
        ratios = [speed(rows[n]["ratio"]) + missed(rows[n]) if n in rows else "" for n in threads]
        targets = {f"{row['target']:.2f}" for row in rows.values() if row["target"] is not None}
        lines.append(" | ".join([*key, *ratios, ", ".join(sorted(targets, reverse=True))]))
    body = "\n".join(f"| {line} |" for line in lines)
    there = {row["table"] for row in result["rows"]}
    tables = "".join(f"{TABLES[n]}\n\n{table(result['rows'], n, shown)}\n\n" for n in names if n in there)
    cut = ", cut short" * result.get("cut_short", False)  # older files do not say
    commit = (facts["commit"] or "unknown")[:12] + (" and changes" if facts["dirty"] else "")
    return (
        f"{_machine(facts)}; torch {facts['torch']}; "
        f"p = {facts['p']}; commit {commit}; {facts['date'][:10]}. "
        f"Our time divided by theirs, medians of interleaved pairs, one run{cut}; "
        f"`bench/results/{path.name}` has every quantile.\n\n{body}\n\n"
        f"{_unnamed(facts['device'])}; `!` misses the target.\n\n"
        f"{tables}"
        + (f"{saved.line(result['saved_for_backward'])}\n" if "saved_for_backward" in result else "")
        + "".join(f"{memory.line(step)}\n" for step in result.get("training_steps", ()))
    )


def _machine(facts: Mapping[str, Any]) -> str:
    if facts["device"] == "cuda":
        return f"{facts['gpu']}, driver {facts['driver']}, CUDA {facts['cuda']}"
    return f"{facts['processor']}, {facts['cores']} cores, {facts['instruction_set']}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}" if count else "ratio"


def _unnamed(device: str) -> str:
    if device == "cuda":
        return f"bfloat16, {CUDA_BYTES // 2:,} elements where no other number is named"
    return f"float32, {LARGE:,} elements where no other number is named; one thread / all"


def results(path: Path) -> str:
    """bench/RESULTS.md, or that of a GPU."""
    result, command = read_json(path), f"python -m fused_dropout.bench.readme bench/results/{path.name}"
    drawn = images(result, "results", [figure.name for figure in series.figures(result)])
    return (
        f"# Results\n\nWritten by `{command}`.\n\n{section(path, list(TABLES), None)}"
        + (f"\n## Over sizes\n\n{OVER_SIZES}\n\n{sweep(result['sweep'])}\n" if result["sweep"] else "")
        + "".join(f"\n- {line}" for line in skipped(result).splitlines())
        + ("\n" if result["peers"] else "")
        + (f"\n## Plots\n\n{drawn}\n" if drawn else "")
    )


def readme(path: Path) -> str:
    """What stands between the README's markers."""
    drawn = images(read_json(path), "bench/results", PLOTS)
    return section(path) + (f"\n{drawn}\n" if drawn else "")


def images(result: Mapping[str, Any], folder: str, names: Sequence[str]) -> str:
    """Links to those of the plots that the result has data for."""
    titles = {figure.name: figure.title.partition("\n")[0] for figure in series.figures(result)}
    links = [f"![{titles[n]}]({folder}/{series.stem(result)}-{n}.svg)" for n in names if n in titles]
    return " ".join(links)


def sweep(records: Sequence[Mapping[str, Any]]) -> str:
    """A line for each operation and size, a column for each implementation."""
    measured = [record for record in records if "refused" not in record]
    columns = list(dict.fromkeys(record["implementation"] for record in measured))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for record in measured:
        key = (record["name"], record["dtype"], f"{record['numel']:,}")
        microseconds = record["ms"]["median"] * 1e3
        cell = f"{microseconds:,.{0 if microseconds >= 100 else 1}f} ({record['of_limit']:.0%})"
        cells.setdefault(key, {})[record["implementation"]] = cell
    head = ["operation", "dtype", "elements", *columns]
    lines = [head, ["---"] * len(head)]
    lines += [[*key, *(found.get(column, "") for column in columns)] for key, found in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(rows: list[dict[str, Any]], of: str, shown: Sequence[str] | None) -> str:
    """A line for each operation (or each of `shown`), a column for each way to run it; `!` marks a missed target."""
    names: dict[str, dict[str, list[str]]] = {}
    targets: dict[str, set[float | None]] = {}
    for row in rows:
        if row["table"] == of:
            name, column = row["name"], row["column"]
            for way in (" backward", " in place", " step"):
                name = name.removesuffix(way) if of != "compiled" else name
            cell = f"{row['ratio']:.2f}" + missed(row)
            names.setdefault(name, {}).setdefault(column, []).append(cell)
            targets.setdefault(column, set()).add(row["target"])
    head = ["", *(column + aims(some) for column, some in targets.items())]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, cells in names.items():
        if shown is not None and name not in shown:
            continue
        lines.append(" | ".join([name, *(" / ".join(cells.get(column, [])) for column in targets)]))
    return "\n".join(f"| {line} |" for line in lines)


def missed(row: Mapping[str, Any]) -> str:
    return "!" * (row["met"] is False)


def aims(targets: set[float | None]) -> str:
    """Of a column; some of its rows may have none."""
    numbers = sorted((target for target in targets if target is not None), reverse=True)
    none = ", or none" * (None in targets)
    return f" (≤ {' or '.join(f'{number:.2f}' for number in numbers)}{none})" if numbers else ""


def speed(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.5 else f"{ratio:.2f} ({1 / ratio:.1f} x faster)"


def main() -> None:
    if len(sys.argv) != 2 or not README.exists():
        sys.exit("usage, in a checkout: python -m fused_dropout.bench.readme bench/results/NAME.json")
    from .plots import draw  # matplotlib is needed for nothing else

    path = Path(sys.argv[1])
    result = read_json(path)
    device = result["provenance"]["device"]
    if device == "cpu":
        before, rest = README.read_text().split(BEGIN)
        README.write_text(before + BEGIN + readme(path) + END + rest.split(END)[1])
    RESULTS[device].write_text(results(path))
    draw(result, path.parent)


if __name__ == "__main__":
    main()
