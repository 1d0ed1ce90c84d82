"""compute-sanitizer's four tools, on a GPU. Never run yet."""

from collections.abc import Iterator

from . import extension
from .gpu import ALONE, run_tests, wanted
from .report import Finding

TITLE = "On a GPU, under compute-sanitizer"
METHOD = (
    "The comparisons with the CPU, and replayed CUDA graphs, under each of compute-sanitizer's tools. The former have "
    "no cache of memory, which would hide an access beyond a tensor; a capture needs it."
)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED = {  # which tests, and their environment
    "comparisons": ("bits_of_the_cpu or order_of_their_sums", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    "replays": ("replays", {}),
}


def findings(quick: bool) -> Iterator[Finding]:
    name, sanitizer = wanted(), extension.cuda_tool("compute-sanitizer")
    for tool in TOOLS[: 1 if quick else None]:
        if sanitizer is None:
            yield Finding(f"{name}: {tool}", "compute-sanitizer is not installed", "0 errors", False)
            continue
        before = (sanitizer, "--tool", tool, "--error-exitcode", "9")
        for what, (chosen, environment) in SANITIZED.items():
            status, said = run_tests(ALONE, "-k", chosen, before=before, **environment)
            yield Finding(f"{name}: {tool}, {what}", said, "0 errors", status == 0)
