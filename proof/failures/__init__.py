"""Memory that runs out and interrupts: what a call leaves behind."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import host
from ..report import Finding

TITLE = "Failures and interrupts"
METHOD = (
    "`proof/failures/allocator.cpp` is preloaded into a process in which each allocation of a tensor fails once, in "
    "every public function of tensors, every dtype, out of place and in place, forward and backward; and in which a "
    "KeyboardInterrupt ends every call at each line of the package that it reaches. Blocks that are alive are counted."
)
ALLOCATOR = Path(__file__).parent / "allocator.cpp"
CLAIMS = {
    "allocations": {
        "silent": "every failed allocation is an exception",
        "leak": "no block of memory leaks",
        "input": "inputs are untouched, in place untouched or whole",
        "generator": "the generator has not moved",
        "backward": "a second backward after one that failed is right",
    },
    "interrupts": {
        "leak": "no block of memory leaks",
        "input": "inputs are untouched, in place untouched or whole",
        "generator": "the generator has not moved, or as far as one call moves it",
    },
}


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        allocator = Path(name) / "allocator.so"
        subprocess.run(["c++", "-O2", "-shared", "-fPIC", "-std=c++17", ALLOCATOR, "-o", allocator], check=True)
        command = [sys.executable, "-m", "proof.failures.calls", "1" if quick else "1000"]
        environment = {**os.environ, "LD_PRELOAD": str(allocator)}
        ran = subprocess.run(command, cwd=host.ROOT, env=environment, capture_output=True, text=True, check=True)
    for kind, found in json.loads(ran.stdout).items():
        for what, claim in CLAIMS[kind].items():
            wrong = found["wrong"].get(what, [])
            functions = sorted({where.split(",")[0] for where in wrong})
            figure = f"{found['injected']:,} injected, {len(wrong)} wrong" + (f": {', '.join(functions)}" * bool(wrong))
            yield Finding(f"{kind}: {claim}", figure, "0 wrong", not wrong)
