"""The command line: runs sections, prints their findings, keeps them and writes the report."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import (
    answers,
    dieharder,
    emulator,
    failures,
    fuzzing,
    gpu,
    gpu_sanitizers,
    kernels,
    mistakes,
    mutation,
    probability,
    properties,
    report,
    sanitizers,
    statistics,
    suite,
)

SECTIONS: dict[str, report.Section] = {
    "answers": answers,
    "probability": probability,
    "statistics": statistics,
    "dieharder": dieharder,
    "properties": properties,
    "fuzzing": fuzzing,
    "kernels": kernels,
    "emulator": emulator,
    "sanitizers": sanitizers,
    "suite": suite,
    "failures": failures,
    "mutation": mutation,
    "mistakes": mistakes,
}
ON_A_GPU: dict[str, report.Section] = {"gpu": gpu, "gpu_sanitizers": gpu_sanitizers}  # asked for by name
EVERY = SECTIONS | ON_A_GPU
HERE = Path(__file__).parent
RESULTS, REPORT = HERE / "results", HERE / "REPORT.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    missed = 0
    for name in options.only or SECTIONS:
        begin, commit = time.monotonic(), report.commit()
        findings = []
        try:
            for finding in tqdm(EVERY[name].findings(options.quick), desc=name, unit=" claims"):
                said = f"{finding.claim}: {finding.figure} ({finding.bar})"
                tqdm.write(f"{'holds ' if finding.holds else 'MISSED'} {said}")
                findings.append(finding)
        except report.Skipped as reason:
            print(f"skipped {name}: {reason}")
            continue
        missed += sum(not finding.holds for finding in findings)
        if options.save:
            report.save(RESULTS, name, findings, (time.monotonic() - begin) / 60, commit)
            REPORT.write_text(report.markdown(RESULTS, EVERY))
    return int(missed > 0)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m proof", description="Checks every claim of the sections; the exit status is 1 if one is missed."
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the sizes that the tests have")
    size.add_argument("--save", action="store_true", help="keep the findings in proof/results, for proof/REPORT.md")
    parser.add_argument("--only", nargs="+", choices=EVERY, metavar="SECTION", help=f"of {', '.join(EVERY)}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
