"""The command line: runs sections one after the other, prints their findings and writes the report."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from . import answers, fuzzing, gpu, mutation, probability, properties, report, sanitizers, statistics

SECTIONS: dict[str, report.Section] = {
    "answers": answers,
    "probability": probability,
    "statistics": statistics,
    "properties": properties,
    "fuzzing": fuzzing,
    "sanitizers": sanitizers,
    "mutation": mutation,
}
ON_A_GPU: dict[str, report.Section] = {"gpu": gpu}  # asked for by name


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    names = options.only or list(SECTIONS)
    begin = time.monotonic()
    if options.jobs == 1:
        found = {name: _findings(name, options.quick) for name in names}
    else:  # processes of their own, which leave torch as they find it
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            running = [pool.submit(_findings, name, options.quick) for name in names]
            found = {name: future.result() for name, future in zip(names, running, strict=True)}
    command = " ".join(["python -m proof", *(arguments if arguments is not None else sys.argv[1:])])
    sections = {name: ((SECTIONS | ON_A_GPU)[name], findings) for name, findings in found.items()}
    text = report.markdown(sections, command, (time.monotonic() - begin) / 60)
    if options.report:
        options.report.write_text(text)
    return int(not all(finding.holds for findings in found.values() for finding in findings))


def _findings(name: str, quick: bool) -> list[report.Finding]:
    findings = []
    for finding in tqdm((SECTIONS | ON_A_GPU)[name].findings(quick), desc=name, unit=" claims"):
        tqdm.write(f"{'holds ' if finding.holds else 'MISSED'} {finding.claim}: {finding.figure} ({finding.bar})")
        findings.append(finding)
    return findings


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    every = (*SECTIONS, *ON_A_GPU)
    parser = argparse.ArgumentParser(
        prog="python -m proof", description="Checks every claim of the sections; the exit status is 1 if one is missed."
    )
    parser.add_argument("--quick", action="store_true", help="the sizes that the tests have")
    parser.add_argument("--only", nargs="+", choices=every, metavar="SECTION", help=f"of {', '.join(every)}")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="sections at a time")
    parser.add_argument("--report", type=Path, metavar="PATH", help="write the findings there, as Markdown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
