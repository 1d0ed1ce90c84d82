"""Builds the extension with torch.utils.cpp_extension, for the torch that is installed.

CUDA kernels are built where torch has CUDA and nvcc is found, whether or not a GPU is visible. FORCE_CUDA=1 makes their
absence an error, NO_CUDA=1 leaves them out; TORCH_CUDA_ARCH_LIST and MAX_JOBS are honoured.
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
ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"  # where no GPU is visible


def use_cuda() -> bool:
    force, no = (
        os.environ.get(f"{word}_CUDA", "0").lower() not in ("", "0", "false", "off") for word in ("FORCE", "NO")
    )
    nvcc = Path(cpp_extension.CUDA_HOME or "") / "bin" / "nvcc"
    missing = None
    if torch.version.cuda is None:
        missing = f"no torch built with CUDA (this one is {torch.__version__})"
    elif not nvcc.exists():
        missing = f"no nvcc, the compiler of CUDA {torch.version.cuda} (set CUDA_HOME to where its bin/nvcc lies)"
    if missing and force and not no:
        sys.exit(f"fused_dropout: FORCE_CUDA is set, but there is {missing}")
    if missing or no:
        return False
    # The toolkit that nvcc itself says it belongs to: what lies on PATH may be a link or a wrapper of it.
    says = subprocess.run([nvcc, "-dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    if top := re.search(r"TOP=(.+)", says):
        cpp_extension.CUDA_HOME = str(Path(top[1].strip()).resolve())
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    visible = sorted({"{}.{}".format(*torch.cuda.get_device_capability(gpu)) for gpu in gpus})
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(visible) or ARCHITECTURES)
    return True


class BuildExtension(cpp_extension.BuildExtension):
    """Leaves beside the extension what it was built for, so that the import can refuse a torch that does not match."""

    def run(self):
        super().run()
        for ext in self.extensions:
            built = Path(self.get_ext_fullpath(ext.name))
            (built.parent / "_build.json").write_text(json.dumps({"torch": torch.__version__}) + "\n")


def extension():
    cuda = use_cuda()
    facts = {"TORCH_VERSION": torch.__version__, "CUDA_VERSION": "", "CUDA_ARCHITECTURES": ""}
    # A product and a sum round separately on every device: no contraction to an fma that is not asked for. Nobody reads
    # errno or floating-point exceptions, and to spare them lets loops become vectors; no value changes.
    cxx = ["-O3", "-g0", "-Wall", "-Wno-psabi", "-fvisibility=hidden", "-fopenmp"]
    cxx += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    if cuda:
        facts["CUDA_VERSION"] = torch.version.cuda
        facts["CUDA_ARCHITECTURES"] = os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", " ")
        # Where to look last for the CUDA library headers that torch's own include: its wheel brings them along.
        for folder in sorted((Path(torch.__file__).parent.parent / "nvidia").glob("cu*/include")):
            cxx += ["-idirafter", str(folder)]
    folders = ["csrc", "csrc/core", "csrc/cpu"] + ["csrc/cuda"] * cuda
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return make(
        "fused_dropout._C",
        [str(p.relative_to(ROOT)) for f in folders for p in sorted((ROOT / f).glob("*.c*")) if p.suffix != ".cuh"],
        define_macros=[(f"FD_{name}", f'"{value}"') for name, value in facts.items()],
        extra_compile_args={"cxx": cxx, "nvcc": ["-O3", "-fmad=false", "-Xptxas=-v", "-Xcompiler=-ffp-contract=off"]},
        extra_link_args=["-fopenmp"],
        depends=[str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/**/*.*h")],
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)})
