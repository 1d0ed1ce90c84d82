"""How many instructions a kernel's threads execute for an element, in the calls of small.py: the same in every run.

    python -m proof.kernels --write   # writes down what this nvcc gives

Of PTX, so that loops and branches are counted as often as they are gone through, which machine code does not tell. The
calls are small: what a launch and the end of a row cost is in it. Another nvcc gives other numbers; they are kept by
its version, and only those of the same one are compared.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

STORED = Path(__file__).parent / "executed.json"
TOLERANCE = 0.03
PerKernel = Mapping[str, float]


@cache
def compiler() -> str:
    """Its name and version, under which the numbers are kept."""
    said = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    return f"nvcc {found[1] if found else said}"


def named(kernel: str) -> str:
    """As the source has it: without namespaces and parameters."""
    return re.sub(r"fused_dropout::|\(anonymous namespace\)::|^void |\((?!anonymous).*$", "", kernel)


def stored(architecture: int) -> PerKernel:
    """What was written down; nothing for another compiler."""
    known: dict[str, dict[str, PerKernel]] = json.loads(STORED.read_text())
    return known.get(compiler(), {}).get(str(architecture), {})


def differing(architecture: int, found: PerKernel) -> list[str]:
    """The kernels whose numbers are not those written down."""
    known = stored(architecture)
    return [
        f"{kernel}: {count:.1f} instead of {known.get(kernel, 0):.1f}"
        for kernel, count in found.items()
        if abs(count - known.get(kernel, 0)) > TOLERANCE * count
    ]


def write(found: Mapping[int, PerKernel]) -> None:
    known = json.loads(STORED.read_text())
    known[compiler()] = {
        str(architecture): {kernel: round(count, 2) for kernel, count in sorted(counts.items())}
        for architecture, counts in found.items()
    }
    STORED.write_text(json.dumps(known, indent=1) + "\n")
