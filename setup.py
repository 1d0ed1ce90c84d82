"""Builds the extension with torch.utils.cpp_extension, for the torch that is installed.

CUDA kernels are built where torch has CUDA and a compiler is found, whether or not a GPU is visible.
FORCE_CUDA=1 makes their absence an error, NO_CUDA=1 leaves them out; TORCH_CUDA_ARCH_LIST and MAX_JOBS are honoured.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    sys.exit(
        "fused_dropout builds against the torch you use: pip install torch, then pip install --no-build-isolation ."
    )

ROOT = Path(__file__).parent
ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"


def is_set(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "off", "no")


def use_cuda() -> bool:
    if is_set("NO_CUDA"):
        return False
    missing = []
    if torch.version.cuda is None:
        missing.append(f"a torch built with CUDA (this one is {torch.__version__})")
    elif cpp_extension.CUDA_HOME is None or not (Path(cpp_extension.CUDA_HOME) / "bin" / "nvcc").exists():
        missing.append(f"nvcc, the compiler of CUDA {torch.version.cuda} (set CUDA_HOME to where its bin/nvcc lies)")
    if missing and is_set("FORCE_CUDA"):
        sys.exit(f"fused_dropout: FORCE_CUDA is set, but there is no {' and no '.join(missing)}")
    if not missing:
        cpp_extension.CUDA_HOME = toolkit_of(Path(cpp_extension.CUDA_HOME) / "bin" / "nvcc")
    return not missing


def toolkit_of(nvcc: Path) -> str:
    """The toolkit that nvcc itself says it belongs to: what lies on PATH may be a link or a wrapper of it."""
    says = subprocess.run([nvcc, "-dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    top = re.search(r"TOP=(.+)", says.stderr)
    return str(Path(top[1].strip()).resolve()) if top else str(nvcc.parent.parent)


def library_headers() -> list[str]:
    """Where to look last for the CUDA library headers that torch's own include: its wheel brings them along."""
    wheels = Path(torch.__file__).parent.parent / "nvidia"
    return [flag for folder in sorted(wheels.glob("cu*/include")) for flag in ("-idirafter", str(folder))]


class BuildExtension(cpp_extension.BuildExtension):
    """Leaves beside the extension what it was built for, so that the import can refuse a torch that does not match."""

    def run(self):
        super().run()
        for ext in self.extensions:
            built = Path(self.get_ext_fullpath(ext.name))
            (built.parent / "_build.json").write_text(json.dumps({"torch": torch.__version__}) + "\n")


def architectures() -> str:
    """Those of the GPUs that are visible; where none is, as when an image is built, the ones of ARCHITECTURES."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    visible = sorted({torch.cuda.get_device_capability(gpu) for gpu in gpus})
    return ";".join(f"{major}.{minor}" for major, minor in visible) or ARCHITECTURES


def extension():
    cuda = use_cuda()
    if cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", architectures())
    defines = [
        f'-DFD_TORCH_VERSION="{torch.__version__}"',
        f'-DFD_CUDA_VERSION="{torch.version.cuda if cuda else ""}"',
        f'-DFD_CUDA_ARCHITECTURES="{os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", " ") if cuda else ""}"',
    ]
    # A product and a sum round separately on every device: no contraction to fma.
    cxx = ["-O3", "-Wall", "-Wno-psabi", "-fvisibility=hidden", "-ffp-contract=off", "-fopenmp", *defines]
    nvcc = ["-O3", "-fmad=false", "-Xptxas=-v"]
    folders = ["csrc", "csrc/core", "csrc/cpu"] + (["csrc/cuda"] if cuda else [])
    sources = [str(p.relative_to(ROOT)) for f in folders for p in sorted((ROOT / f).glob("*.c*")) if p.suffix != ".cuh"]
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return make(
        "fused_dropout._C",
        sources,
        extra_compile_args={"cxx": cxx + (library_headers() if cuda else []), "nvcc": nvcc},
        extra_link_args=["-fopenmp"],
        depends=[str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/**/*.*h")],
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)})
