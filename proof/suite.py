"""The tests of the CPU under sanitizers, with an extension whose every file was compiled with them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import extension, host, sanitizers
from .report import Finding

TITLE = "The tests under sanitizers"
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-omit-frame-pointer")
# GCC does not finish a file of the kernels with these in ten minutes, but in four where each access is checked by a
# call, and what the address sanitizer mostly sees is not tested twice.
KERNELS = "kernels_*.cpp"
KERNEL_FLAGS = ("--param", "asan-instrumentation-with-call-threshold=0", "-fno-sanitize=null,object-size")
# Tests that measure or build, and have nothing to do with memory here.
LEFT_OUT = {
    "test_build.py": "builds extensions of its own",
    "test_bench.py": "measures time",
    "test_instructions.py": "counts instructions",
    "test_machine_code.py": "reads machine code",
    "test_cuda_on_host.py": "compiles the CUDA kernels, without this extension",
    "test_rows_on_host.py": "compiles the CUDA kernels, without this extension",
    "test_proof.py": "compiles the kernels, without this extension",
    "test_cuda.py": "needs a GPU",
}
METHOD = (
    "Every file of the extension is compiled with the address and the undefined-behaviour sanitizer, and the tests of "
    "the CPU, which go through all instruction sets that the machine has, run with it. Left out are `vptr`, since "
    "PyTorch hides what it needs, and of the kernels `null` and `object-size`, most of whose faults the address "
    "sanitizer reports. Faults are planted, to see that they would be reported. Tests left out: "
    + ", ".join(f"`{test}` ({why})" for test, why in LEFT_OUT.items())
    + "."
)
# What is planted, the file that is compiled with it, and tests that come there.
PLANTED = {
    "a write behind a state": (
        ("csrc/cpu_generator.h", "words[1] = static_cast<int64_t>(s.offset);", "words[2] = 0;"),
        Path("csrc/cpu/elementwise.cpp"),
        "tests/test_contract.py",
    ),
    "a read behind a row": (
        ("csrc/" + sanitizers.READS_BEYOND[0], *sanitizers.READS_BEYOND[1:]),
        Path("csrc/cpu/kernels_portable.cpp"),
        "tests/test_values.py",
    ),
}


def sanitized(copy: Path, sources: Sequence[Path], fault: host.Fault | None = None) -> None:
    """A copy of the project, with an extension of which these files were compiled with the sanitizers."""
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "__pycache__")
    shutil.copytree(host.ROOT, copy, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    if fault is not None:
        host.plant(copy, fault)

    def compiled(source: Path) -> Path:
        options = ("-O1", "-g1", *FLAGS, *(KERNEL_FLAGS if source.match(KERNELS) else ()))
        return extension.compile_again(source, copy, options)

    # The kernels, which take longest, first.
    sources = sorted(sources, key=lambda source: not source.match(KERNELS))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compiled, sources))
    extension.link(copy, dict(zip(sources, made, strict=True)), FLAGS)


def run(copy: Path, tests: Sequence[str]) -> tuple[str, bool, int]:
    """How many tests did what, whether all pass, and how many reports there are."""
    reports = copy / "reports"
    reports.mkdir()
    environment = sanitizers.preloaded() | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    # Some tests ask for more memory than there is, and for what follows from that.
    environment["ASAN_OPTIONS"] += f":allocator_may_return_null=1:log_path={reports}/address"
    environment["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={reports}/undefined"
    command = [sys.executable, "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", "-rfE", "--tb=no", *tests]
    ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, errors="replace")
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", ran.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", ran.stdout, flags=re.MULTILINE)
    found = sum(sanitizers.count_reports(file.read_text(errors="replace")) for file in reports.iterdir())
    return "; ".join([", ".join(counts) or "no count", *failed]), ran.returncode == 0, found


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        sanitized(Path(name), list(extension.objects()))
        tests = [f"--ignore=tests/{test}" for test in LEFT_OUT]
        counts, passed, reports = run(Path(name), ["tests", *tests])
        yield Finding("the tests", counts, "none fails", passed)
        yield Finding("addresses and undefined behaviour", f"{reports} reports", "0", reports == 0)
    for planted, (fault, source, tests_of_it) in PLANTED.items():
        with tempfile.TemporaryDirectory() as name:
            sanitized(Path(name), [source], fault)
            _, _, reports = run(Path(name), [tests_of_it])
            yield Finding(f"planted: {planted} is reported", f"{reports} reports", "1 or more", reports > 0)
