"""The extension made again with some of its files changed, of the objects that a build in the checkout has left; and
the tools that look into it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.cpp_extension import CUDA_HOME, library_paths

from . import host
from .report import Skipped


def objects() -> dict[Path, Path]:
    """The objects of the project's build, by their sources relative to the project."""
    build = _build()
    found = re.findall(r"^build (\S+\.o): \S+ (\S+)$", (build / "build.ninja").read_text(), flags=re.MULTILINE)
    return {Path(source).relative_to(host.ROOT): Path(made) for made, source in found}


def compile_again(source: Path, copy: Path, options: Sequence[str] = ()) -> Path:
    """The object of a file of `copy`, the project's sources in another folder, with options behind the build's own."""
    ours = objects()[source]
    mine = copy / ours.relative_to(host.ROOT)
    mine.parent.mkdir(parents=True, exist_ok=True)
    asked = subprocess.run(["ninja", "-t", "commands", ours], cwd=_build(), check=True, capture_output=True, text=True)
    command = asked.stdout.strip()
    for folder in ("csrc", "build"):
        command = command.replace(f"{host.ROOT / folder}/", f"{copy / folder}/")
    subprocess.run(" ".join([command, *options]), shell=True, check=True, capture_output=True)
    return mine


def link(copy: Path, changed: Mapping[Path, Path], options: Sequence[str] = ()) -> None:
    """The extension of `copy`, of the changed sources' objects and the project's others."""
    libraries = ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
    if torch.version.cuda:
        libraries += ["-lc10_cuda", "-ltorch_cuda"]  # which bring CUDA's runtime along
    folders = [f"-L{path}" for path in library_paths("cuda" if torch.version.cuda else "cpu")]
    linked = [changed.get(source, ours) for source, ours in objects().items()]
    extension = copy / "fused_dropout" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    extension.unlink(missing_ok=True)  # what is written over, other processes may have open
    command = ["c++", "-shared", "-fopenmp", *options, *linked, *folders, *libraries, "-o", extension]
    subprocess.run(command, check=True, capture_output=True)


def cuda_tool(name: str) -> str | None:
    """On the PATH, in the CUDA toolkit that torch finds, or in the Triton wheel that it brings along."""
    folders = [os.environ.get("PATH", os.defpath), Path(CUDA_HOME or "", "bin")]
    if triton := find_spec("triton"):
        folders.append(Path(triton.origin or "").parent / "backends" / "nvidia" / "bin")
    return shutil.which(name, path=os.pathsep.join(map(str, folders)))


def _build() -> Path:
    found = list((host.ROOT / "build").glob(f"temp.*-{sys.implementation.cache_tag}"))
    if len(found) != 1:
        raise Skipped(f"the extension is not built in the checkout ({len(found)} builds): make build")
    return found[0]
