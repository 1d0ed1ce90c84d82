"""Where, when and of what a result is."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fused_dropout

from .choice import Choice
from .timing import utc_now

HERE = Path(__file__).resolve().parent
LIBRARIES = ("fused-dropout", "triton", "jax", "transformer-engine", "flash-attn")


def provenance(choice: Choice) -> dict[str, Any]:
    """`commit` and `dirty` are those of the checkout that this file is tracked in, None where it is installed."""
    build = fused_dropout.build_info()
    cuda = torch.cuda.is_available()
    tracked = _output("git", "ls-files", "--error-unmatch", Path(__file__).name) is not None
    return {
        "date": utc_now(),
        "commit": _output("git", "rev-parse", "HEAD") if tracked else None,
        "dirty": bool(_output("git", "status", "--porcelain")) if tracked else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "device": choice.device,
        "threads": list(choice.threads),
        "instruction_set": build["cpu_instruction_set"],
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "build": build,
        "python": platform.python_version(),
        "system": platform.system(),
        "p": choice.p,
        "level": choice.level.name.lower(),
    }


def heading(facts: dict[str, Any]) -> str:
    """The provenance that a reader of the table needs."""
    dirty = ", with changes" if facts["dirty"] else ""
    gpu = f"{facts['gpu']}, driver {facts['driver']}; " if facts["gpu"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['instruction_set']}; {gpu}torch {facts['torch']}; "
        f"commit {(facts['commit'] or 'unknown')[:12]}{dirty}; p = {facts['p']}; load {facts['load_average']}"
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """What a command prints, run beside this file; None where there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
