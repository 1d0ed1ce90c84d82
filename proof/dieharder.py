"""Brown's dieharder on the words that masks are made from."""

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import calls, host
from .report import Finding

TITLE = "dieharder"
METHOD = (
    "`dieharder -a` (R. G. Brown, version 3.31) reads the 32-bit words of one call, in the order of its elements, "
    "from `proof/streams/words.cpp`, which makes them with `csrc/core/mask.h`. It calls a p-value below 1e-6 FAILED "
    "and one below 0.005 WEAK, both on either side: of its 114 p-values one or two are weak by chance."
)
WORDS = host.ROOT / "proof" / "streams" / "words.cpp"


def assessments(output: str) -> Iterator[tuple[str, str]]:
    """A test's name and what became of it, for each line of dieharder's table."""
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[5] in ("PASSED", "WEAK", "FAILED"):
            yield cells[0], cells[5]


def findings_of(output: str) -> Iterator[Finding]:
    by_test: dict[str, Counter[str]] = {}
    for test, assessment in assessments(output):
        by_test.setdefault(test, Counter())[assessment] += 1
    for test, found in by_test.items():
        figure = ", ".join(f"{count} {word}" for word, count in found.items())
        yield Finding(test, figure, "0 FAILED", found["FAILED"] == 0)
    total = sum(by_test.values(), Counter[str]())
    yield Finding("all p-values", ", ".join(f"{n} {word}" for word, n in total.items()), "0 FAILED, at least 100",
                  total["FAILED"] == 0 and sum(total.values()) >= 100)  # fmt: skip


def findings(quick: bool) -> Iterator[Finding]:
    """`quick` runs the first test alone."""
    program = shutil.which("dieharder")
    if program is None:
        yield Finding("all p-values", "dieharder is not installed", "0 FAILED", False)
        return
    with tempfile.TemporaryDirectory() as name:
        words = Path(name) / "words"
        command = ["c++", "-std=c++17", "-O3", "-march=native", f"-I{host.ROOT / 'csrc'}", WORDS, "-o", words]
        subprocess.run(command, check=True)
        with subprocess.Popen([words, *map(str, calls.STATE)], stdout=subprocess.PIPE) as stream:
            which = ["-d", "0"] if quick else ["-a"]
            ran = subprocess.run([program, *which, "-g", "200"], stdin=stream.stdout, capture_output=True, text=True)
            stream.kill()
    yield from findings_of(ran.stdout)
