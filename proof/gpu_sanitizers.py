"""compute-sanitizer's four tools, on a GPU. Never run yet."""

import shutil
from collections.abc import Iterator

from .gpu import ALONE, run_tests, wanted
from .report import Finding

TITLE = "On a GPU, under compute-sanitizer"
METHOD = (
    "The comparisons with the CPU, and a replayed CUDA graph, under each of compute-sanitizer's tools, without "
    "PyTorch's own cache of memory, which would hide an access beyond a tensor."
)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED = "bits_of_the_cpu or order_of_their_sums or replays"


def findings(quick: bool) -> Iterator[Finding]:
    name, sanitizer = wanted(), shutil.which("compute-sanitizer")
    for tool in TOOLS[: 1 if quick else None]:
        if sanitizer is None:
            yield Finding(f"{name}: {tool}", "compute-sanitizer is not installed", "0 errors", False)
            continue
        before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
        status, said = run_tests(ALONE, "-k", SANITIZED, before=before, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        yield Finding(f"{name}: {tool}", said, "0 errors", status == 0)
