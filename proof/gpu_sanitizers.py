"""compute-sanitizer's four tools, on a GPU. Never run yet."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch.utils import cpp_extension

from .gpu import ALONE, run_tests, wanted
from .report import Finding

TITLE = "On a GPU, under compute-sanitizer"
METHOD = (
    "The comparisons with the CPU, and replayed CUDA graphs, under each of compute-sanitizer's tools. The former have "
    "no cache of memory, which would hide an access beyond a tensor; a capture needs it."
)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# What PyTorch asks of a driver and is refused is no error of a kernel.
OPTIONS = {"memcheck": ("--report-api-errors", "no")}
SANITIZED = {  # which tests, and their environment
    "comparisons": ("bits_of_the_cpu or order_of_their_sums", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    "replays": ("replays", {}),
}


def findings(quick: bool) -> Iterator[Finding]:
    name, sanitizer = wanted(), _sanitizer()
    for tool in TOOLS[: 1 if quick else None]:
        if sanitizer is None:
            yield Finding(f"{name}: {tool}", "compute-sanitizer is not installed", "0 errors", False)
            continue
        before = (sanitizer, "--tool", tool, "--error-exitcode", "9", *OPTIONS.get(tool, ()))
        for what, (chosen, environment) in SANITIZED.items():
            status, said = run_tests(ALONE, "-k", chosen, before=before, **environment)
            yield Finding(f"{name}: {tool}, {what}", said, "0 errors", status == 0)


def _sanitizer() -> str | None:
    """On the PATH, or beside the compiler."""
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path=Path(cpp_extension.CUDA_HOME or "", "bin"))
