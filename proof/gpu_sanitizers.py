"""compute-sanitizer's four tools, on a GPU. Never run yet."""

from collections.abc import Iterator

from . import extension
from .gpu import ALONE, run_tests, wanted
from .report import Finding

TITLE = "On a GPU, under compute-sanitizer"
METHOD = (
    "The comparisons with the CPU, gradients of a bias, and replayed CUDA graphs, under each of compute-sanitizer's "
    "tools. All but the last have no cache of memory, which would hide an access beyond a tensor; a capture needs it."
)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SANITIZED: dict[str, tuple[str, str, dict[str, str]]] = {  # where, which tests, and their environment
    "comparisons": (ALONE, "bits_of_the_cpu or order_of_their_sums", UNCACHED),
    "gradients of a bias": ("tests/test_bias_gradients.py", "cuda", UNCACHED),
    "replays": (ALONE, "replays", {}),
}


def command(sanitizer: str, tool: str) -> tuple[str, ...]:
    """What stands before a program. PyTorch asks the driver for functions that it may lack, which is no error of ours.
    Of the kernels only ours are watched, but by initcheck, which has to see what PyTorch's have written."""
    ours = () if tool == "initcheck" else ("--kernel-regex", "kns=fused_dropout")
    return (sanitizer, "--tool", tool, "--report-api-errors", "no", *ours, "--error-exitcode", "9")


def findings(quick: bool) -> Iterator[Finding]:
    name, sanitizer = wanted(), extension.cuda_tool("compute-sanitizer")
    for tool in TOOLS[: 1 if quick else None]:
        if sanitizer is None:
            yield Finding(f"{name}: {tool}", "compute-sanitizer is not installed", "0 errors", False)
            continue
        for what, (file, chosen, environment) in SANITIZED.items():
            status, said = run_tests(file, "-k", chosen, before=command(sanitizer, tool), **environment)
            yield Finding(f"{name}: {tool}, {what}", said, "0 errors", status == 0)
