"""On a GPU: every test, the masks of the CPU, and compute-sanitizer's four tools. Never run yet."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import torch

from fused_dropout._extension import build_info

from . import answers, host
from .report import Finding

TITLE = "On a GPU"
METHOD = (
    "The whole of the tests, those of a GPU among them (CUDA graphs, streams, more than 2^32 elements); decisions "
    "about words that NumPy made; and the comparisons with the CPU again under compute-sanitizer, without "
    "PyTorch's own cache of memory, which would hide an access beyond a tensor."
)
ALONE = "tests/test_cuda.py"  # tensors of many GiB
PROCESSES = "4"  # each of which takes some of a GPU's memory for itself
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED = "bits_of_the_cpu or order_of_their_sums or replays"


def _tests(*arguments: str, before: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """The exit status of pytest, and the line in which it says how many passed."""
    command = [*before, sys.executable, "-m", "pytest", *arguments]
    ran = subprocess.run(command, cwd=host.ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    summary = re.findall(r"^\d+ (?:passed|failed).*$", ran.stdout, flags=re.MULTILINE)
    return ran.returncode, summary[-1] if summary else f"exit status {ran.returncode}"


def findings(quick: bool) -> Iterator[Finding]:
    if not torch.cuda.is_available() or build_info()["cuda"] is None:
        sys.exit("proof: the section gpu wants a GPU and an extension that was built with CUDA")
    name = torch.cuda.get_device_name()
    wrong = answers.differing(answers.by_extension("cuda"), 2**20 if quick else 2**24, 12 if quick else 60)
    yield Finding(f"{name}: decisions about words of NumPy", f"{wrong} differ", "0", wrong == 0)
    status, said = _tests(ALONE)
    yield Finding(f"{name}: the tests that have it for themselves", said, "all pass", status == 0)
    if not quick:
        status, said = _tests("-n", PROCESSES, f"--ignore={ALONE}", "tests")
        yield Finding(f"{name}: the others", said, "all pass", status == 0)
    sanitizer = shutil.which("compute-sanitizer")
    for tool in TOOLS:
        if sanitizer is None:
            yield Finding(f"{name}: {tool}", "compute-sanitizer is not installed", "0 errors", False)
            continue
        before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
        status, said = _tests(ALONE, "-k", SANITIZED, before=before, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        yield Finding(f"{name}: {tool}", said, "0 errors", status == 0)
