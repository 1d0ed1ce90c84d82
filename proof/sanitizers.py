"""Memory and threads: the CPU's loops, and the CUDA kernels run on the host, under sanitizers."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import block_calls, calls, host, row_calls
from .report import Finding

TITLE = "Memory and threads"
METHOD = (
    "`proof/host` is compiled with the address and the undefined-behaviour sanitizer and run on the calls of the "
    "mutants, whose inputs lie in blocks of memory of their own; with the thread sanitizer it works on rows, "
    "tiles and shared masks in four threads. A fault of each kind is planted, to see that it would be reported. "
    "The tests of the whole extension are the next section's."
)
ADDRESS = (
    "-O1",
    "-g",
    "-march=native",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-shared",
    "-fPIC",
)
THREAD = ("-O1", "-g", "-march=native", "-fsanitize=thread", "-DFD_WITHOUT_CUDA")
REPORT = ("ERROR: AddressSanitizer", "runtime error", "WARNING: ThreadSanitizer")
READS_BEYOND = ("cpu/batches.h", "for (int64_t i = 0; i < count; ++i) to[i] = at.x[k][i * stride];",
                "for (int64_t i = 0; i < kBatch; ++i) to[i] = at.x[k][i * stride];")  # fmt: skip
WRITES_BEYOND = ("cpu/row_batches.h", "std::copy_n(copy[kRead + k], count, row.written[k] + at);",
                 "std::copy_n(copy[kRead + k], kBatch, row.written[k] + at);")  # fmt: skip
OVERLAPS = (
    "cpu/elementwise_loops.h",
    "for (int64_t i = begin; i < end; ++i)",
    "for (int64_t i = begin; i <= end; ++i)",
)


def count_reports(output: str) -> int:
    return sum(output.count(text) for text in REPORT)


def preloaded() -> dict[str, str]:
    """The environment in which Python can open a library that was compiled with the sanitizers."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.run(["c++", f"-print-file-name={n}"], capture_output=True, text=True).stdout.strip() for n in names
    ]
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    return {**os.environ, "LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": options}


def address(prepared: Path, fault: host.Fault | None = None, library: str = "host.cpp") -> tuple[int, int]:
    """Reports, and the exit status of the calls."""
    with tempfile.TemporaryDirectory() as name:
        host.copy_sources(Path(name), fault)
        host.compile_host(Path(name), Path(name) / "host.so", options=ADDRESS, library=library)
        command = [sys.executable, host.ROOT / "proof" / "judge.py", Path(name) / "host.so", prepared, *host.PATHS[1:]]
        ran = subprocess.run(command, env=preloaded(), capture_output=True, text=True, errors="replace")
    return count_reports(ran.stderr), ran.returncode


def thread(fault: host.Fault | None = None) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as name:
        host.copy_sources(Path(name), fault)
        host.compile_host(Path(name), Path(name) / "host", options=THREAD)
        ran = subprocess.run([Path(name) / "host", "threads"], capture_output=True, text=True, errors="replace")
    return count_reports(ran.stderr), ran.returncode


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        prepared = calls.prepared(Path(name) / "calls.npz")
        reports, status = address(prepared)
        yield Finding("addresses and undefined behaviour", f"{reports} reports", "0", reports == 0 and status == 0)
        rows = row_calls.prepared(Path(name) / "row_calls.npz")
        reports, status = address(rows, library="rows.cpp")
        yield Finding("the same of rows", f"{reports} reports", "0", reports == 0 and status == 0)
        blocks = block_calls.prepared(Path(name) / "block_calls.npz")
        reports, status = address(blocks, library="blocks.cpp")
        yield Finding("the same of blocks", f"{reports} reports", "0", reports == 0 and status == 0)
        reports, status = thread()
        yield Finding("four threads", f"{reports} reports", "0", reports == 0 and status == 0)
        reports, status = address(prepared, READS_BEYOND)
        yield Finding("planted: a read behind a row is reported", f"{reports} reports", "1 or more", reports > 0)
        reports, status = address(rows, WRITES_BEYOND, "rows.cpp")
        yield Finding("planted: a write behind a row is reported", f"{reports} reports", "1 or more", reports > 0)
        reports, status = thread(OVERLAPS)
        yield Finding("planted: two threads at one place are reported", f"{reports} reports", "1 or more", reports > 0)
