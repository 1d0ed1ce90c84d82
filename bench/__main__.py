"""The command line: chooses cases, checks and measures each, prints and writes what came out."""

import argparse
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import fused_dropout

from . import memory, report, work
from .cases import MEDIUM, Case, cases
from .timing import Effort, Task, measure, rotating

FULL, QUICK = Effort(seconds=2.5, least=9, most=100), Effort(seconds=0.5, least=5, most=40)
CHECKED = 2**17  # elements on which a subject is checked, at most: enough that several threads share them


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    build = fused_dropout.build_info()
    if not build["extension"]:
        sys.exit("bench: expected the extension, but it is not built: there is nothing to measure in its reference")
    threads_before = torch.get_num_threads()
    threads = list(dict.fromkeys(options.threads or (1, threads_before)))
    cuda = torch.cuda.is_available() and build["cuda"] is not None
    chosen = list(cases(threads, cuda, options.quick, options.only))
    if not chosen:
        sys.exit(f"bench: expected --only to be part of a case's label, but none contains {options.only!r}")
    facts, effort = report.provenance(threads), QUICK if options.quick else FULL
    try:
        rows = [_result(case, effort) for case in tqdm(chosen, unit="case", leave=False)]
    finally:
        torch.set_num_threads(threads_before)
    saved = _saved_for_backward()
    print(report.heading(facts), report.table(rows), report.summary(rows, saved), sep="\n\n")
    of_step = None if options.quick or options.only else memory.compare("cuda" if cuda else "cpu")
    if of_step is not None:
        print(f"\n{memory.line(of_step)}")
    if options.json:
        report.write_json(options.json, facts, rows, saved, of_step)
    return int(options.strict and any(row["met"] is False for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Times fused_dropout against what PyTorch does. A ratio is our time divided by theirs: below 1, "
        "ours is faster. The exit status tells of missed targets only with --strict.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases and samples, under half a minute")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all quantiles and the provenance there")
    parser.add_argument("--threads", type=_positive, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help='e.g. "vs mul float32" or "threads=2"')
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of threads, 1 or more, but got {text!r}")
    return int(text)


def _result(case: Case, effort: Effort) -> dict[str, Any]:
    """Checks a case's subject against the reference, then measures it beside its baseline."""
    if case.threads:
        torch.set_num_threads(case.threads)
    few = case.inputs(min(case.numel, CHECKED), case.dtype, case.device)
    work.check(case.label, case.subject, case.oracle, few, case.exact)
    subject, baseline = (_cold(case, factory) for factory in (case.subject, case.baseline))
    return report.row_of(case, measure(subject, baseline, case.device, effort))


def _cold(case: Case, factory: work.Factory) -> Task:
    """A task on inputs of its own; on CUDA one of several in turn, so many that together they exceed L2 four times."""
    rings = 1
    if case.device == "cuda":
        size = case.numel * case.dtype.itemsize
        rings += ceil(4 * torch.cuda.get_device_properties(0).L2_cache_size / size)
    return rotating([factory(*case.inputs(case.numel, case.dtype, case.device)) for _ in range(rings)])


def _saved_for_backward() -> dict[str, Any]:
    x = torch.ones(MEDIUM)
    ours, theirs = (work.saved_bytes(function, x) for function in (work.DROPOUT.fused, work.DROPOUT.native))
    return {"numel": MEDIUM, "dtype": "float32", "versus": "F.dropout", "subject_bytes": ours, "baseline_bytes": theirs}


if __name__ == "__main__":
    sys.exit(main())
