"""The command: measures, prints and writes what came out; or compares two results."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from . import compare, files, limits, memory, options, report, saved
from .provenance import heading

INTERRUPTED = 130  # as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    parser, chosen = options.parse(arguments)
    try:
        return _compare(chosen) if chosen.compare else _measure(parser, chosen)
    except files.Unreadable as error:
        parser.error(str(error))


def _compare(chosen: argparse.Namespace) -> int:
    before, after = (files.read_json(path) for path in chosen.compare)
    found = compare.changes(before, after)
    if found:
        print(compare.table(found), end="\n\n")
    print(compare.summary(before, after, found))
    return int(any(change.verdict == "slower" for change in found))


def _measure(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    from . import run  # tqdm and the peers are looked for first

    choice = options.choice_of(chosen)
    if known := run.unknown(choice):
        parser.error(known)
    with _interrupted_by_a_termination():
        result = run.run(choice)
    parts = [heading(result["provenance"])]
    if result["rows"]:
        parts.append(f"{report.table(result['rows'])}\n\n{report.targets(result['rows'])}")
    if result["sweep"]:
        parts.append(report.sweep_table(result["sweep"]))
    parts.append(report.skipped(result))
    if "saved_for_backward" in result:
        parts.append(f"{limits.line(result['limits'])}\n{saved.line(result['saved_for_backward'])}")
    parts += [memory.line(step) for step in result.get("training_steps", ())]
    parts += ["cut short: this is what was measured until then"] if result["cut_short"] else []
    print("\n\n".join(filter(None, parts)))
    if chosen.json:
        files.write_json(chosen.json, result)
    if chosen.csv:
        files.write_csv(chosen.csv, result)
    if chosen.plots:
        from .plots import draw  # matplotlib is needed for nothing else

        print("\n" + "\n".join(f"drawn: {path}" for path in draw(result, chosen.plots)))
    if result["cut_short"]:
        return INTERRUPTED
    return int(chosen.strict and any(row["met"] is False for row in result["rows"]))


@contextmanager
def _interrupted_by_a_termination() -> Iterator[None]:
    """`timeout` and batch systems send one: what was measured until then is kept, as with Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where no handler may be set
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
