"""A GPU in software: PyTorch's CUDA build and the extension as they are installed, on host memory.

What a GPU's driver would do is in `runtime.cpp`, which is preloaded. Kernels of the extension are run as the PTX that
lies in it (`device.py`, by `proof/ptx`), PyTorch's own operations by its CPU kernels (`operations.py`). So everything
that stands between a tensor and a kernel runs as on a GPU: the dispatcher, device guards, streams, generators, captured
graphs and the autograd engine's threads. The order of streams does not show, since each runs at once, and no time does.

    python -m proof.emulator tests/test_cuda.py -k "replays or generators"   # pytest, with two GPUs in software
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from fused_dropout import build_info

from .. import mistakes
from ..gpu import ALONE, run_tests
from ..mistakes import Mistake
from ..report import Finding, Skipped

TITLE = "The CUDA build on a GPU in software"
METHOD = (
    "`proof/emulator` stands in for CUDA's runtime, with two devices of host memory: PyTorch and the extension run as "
    "they are, kernels as the PTX that lies in the extension, every access within an allocation, PyTorch's own "
    "operations by its CPU kernels. Left out are what takes Triton and one test of thousands of calls "
    "(tests/test_expanded.py); cases that differ in the CPU's instruction set alone are run with one of them. Then "
    "mistakes are made in what stands between PyTorch and the kernels, which the tests of a GPU must notice."
)
PLUGIN = ("-p", "proof.emulator.plugin")
WITHOUT_TRITON = "not compiled"
LEFT_OUT = (ALONE, "tests/test_cuda_on_host.py", "tests/test_rows_on_host.py", "tests/test_expanded.py")
RUNTIME = "FUSED_DROPOUT_EMULATED_RUNTIME"  # the environment variable that says where it was built

GENERATOR, OPERATIONS = "csrc/cuda_generator.h", "csrc/elementwise_ops.h"
MISTAKES = tuple(
    Mistake(*change, "test_cuda.py", unit="csrc/cuda/elementwise.cpp")
    for change in (
        (GENERATOR, "own == device || own == -1", "own == device"),
        (GENERATOR, "{drawn.seed_.ptr, drawn.offset_.ptr, 0,", "{nullptr, nullptr, 7,"),
        (GENERATOR, "drawn.offset_.ptr, 0, drawn.offset_intragraph_}", "drawn.offset_.ptr, 0, 0}"),
        (GENERATOR, "philox_cuda_state(kGroup)", "philox_cuda_state(2 * kGroup)"),
        (GENERATOR, "getDefaultCUDAGenerator()", "getDefaultCUDAGenerator(0)"),
        (OPERATIONS, "const c10::DeviceGuard guard(inputs[0].device());", ""),
        ("csrc/cuda/elementwise.cpp", "dtype, args, at::cuda::getCurrentCUDAStream()", "dtype, args, nullptr"),
    )
)
NOTICING = "replays or honoured or streams or advances"


def absent() -> str | None:
    """Why there cannot be one, in words."""
    built = build_info()
    if built["cuda"] is None:
        return "the extension was built without CUDA"
    if not any(architecture.endswith("+PTX") for architecture in built["cuda_architectures"]):
        return "the extension was built without PTX (TORCH_CUDA_ARCH_LIST=9.0+PTX makes some)"
    if torch.cuda.is_available():
        return "there is a GPU"
    return None if shutil.which("nvcc") else "no nvcc, whose headers the runtime is compiled with"


@contextmanager
def environment() -> Iterator[Mapping[str, str]]:
    """What a process needs to find the GPU in software, once it has loaded the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "libcuda.so.1")
        source = Path(__file__).parent / "runtime.cpp"
        command = ["nvcc", "-std=c++17", "-O1", "-shared", "-cudart", "none", "-Xcompiler", "-fPIC",
                   "-Xlinker", f"-soname={built.name}", source, "-o", built]  # fmt: skip
        subprocess.run(command, check=True)
        # Without PyTorch's cache an allocation is a tensor, whose bounds are known.
        yield {"LD_PRELOAD": str(built), RUNTIME: str(built), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def run(*arguments: str) -> tuple[int, str]:
    """As `gpu.run_tests`."""
    with environment() as variables:
        return run_tests(*PLUGIN, *arguments, **variables)


def findings(quick: bool) -> Iterator[Finding]:
    if reason := absent():
        raise Skipped(reason)
    # Rows of 70,000 elements take a minute and a half.
    status, said = run(ALONE, "-k", f"{WITHOUT_TRITON} and not 70000" if quick else WITHOUT_TRITON)
    yield Finding("the tests of a GPU", said, "all pass", status == 0)
    if not quick:
        ignored = (f"--ignore={path}" for path in LEFT_OUT)
        cases = " and not ".join(["cuda", *(build_info()["cpu_instruction_sets"] or [])[1:]])
        status, said = run("-n", str(os.cpu_count()), *ignored, "-k", f"{WITHOUT_TRITON} and {cases}", "tests")
        yield Finding("the other tests, where they are of every device", said, "all pass", status == 0)
        with environment() as variables:
            for mistake in MISTAKES:
                test = mistakes.caught(mistake, mistake.tests, *PLUGIN, "-k", NOTICING, **variables)
                yield mistakes.finding(mistake, test)
