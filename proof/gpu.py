"""On a GPU: every test, and the masks of the CPU. Never run yet."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import torch

from fused_dropout._extension import build_info

from . import answers, host
from .report import Finding

TITLE = "On a GPU"
METHOD = (
    "The whole of the tests, those of a GPU among them (CUDA graphs, streams, more than 2^32 elements), and decisions "
    "about words that NumPy made."
)
ALONE = "tests/test_cuda.py"  # tensors of many GiB
PROCESSES = "4"  # each of which takes some of a GPU's memory for itself


def run_tests(*arguments: str, before: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """The exit status of pytest, and the line in which it says how many passed; what it says of failures is printed."""
    command = [*before, sys.executable, "-m", "pytest", *arguments]
    ran = subprocess.run(command, cwd=host.ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if ran.returncode != 0:
        print(*command, ran.stdout, ran.stderr, sep="\n", file=sys.stderr)
    summary = re.findall(r"^\d+ (?:passed|failed).*$", ran.stdout, flags=re.MULTILINE)
    return ran.returncode, summary[-1] if summary else f"exit status {ran.returncode}"


def wanted() -> str:
    """The GPU's name; without one, and the kernels for it, nothing is run."""
    if not torch.cuda.is_available() or build_info()["cuda"] is None:
        sys.exit("proof: this section wants a GPU and an extension that was built with CUDA")
    return torch.cuda.get_device_name()


def findings(quick: bool) -> Iterator[Finding]:
    name = wanted()
    wrong = answers.differing(answers.by_extension("cuda"), 2**20 if quick else 2**24, 12 if quick else 60)
    yield Finding(f"{name}: decisions about words of NumPy", f"{wrong} differ", "0", wrong == 0)
    status, said = run_tests(ALONE)
    yield Finding(f"{name}: the tests that have it for themselves", said, "all pass", status == 0)
    if not quick:
        status, said = run_tests("-n", PROCESSES, f"--ignore={ALONE}", "tests")
        yield Finding(f"{name}: the others", said, "all pass", status == 0)
