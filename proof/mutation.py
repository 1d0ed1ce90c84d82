"""The tests are tested: small faults are put into the kernels and the index code, and each must be noticed."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from fused_dropout._extension import build_info

from . import block_calls, calls, host, row_calls
from .report import Finding

TITLE = "The tests are tested"
METHOD = (
    "A mutant is one operator, constant or condition of `csrc`, changed. `proof/host` is compiled from the "
    "changed sources and run on calls whose outputs the reference (for normal noise the extension) has made "
    "(`proof/judge.py`): layouts, masks, dtypes and lengths that reach every loop. Rows are of numbers whose sums are "
    "exact, so that they too must have the reference's bits. Mutants that do not compile do not count; a crash or a "
    "loop without an end is a catch. Which mutants there are follows from the sources and a fixed seed; verdicts about "
    "the same sources and calls are remembered, and the minutes are those of the others."
)
CPU_PATH = next(path for path in ("avx512", "avx2", "portable") if path in build_info()["cpu_instruction_sets"])
CUDA_PATH = "cuda on the host"
ELEMENTS, ROWS, BLOCKS, SUMS = "host.cpp", "rows.cpp", "blocks.cpp", "multiply_add.cpp"
COUNT = 1 << 19  # of sums, times 8: some faults are wrong of a few in a million


class Judging(NamedTuple):
    """What a mutant is compiled into: the paths of libraries, with which tables of pipelines."""

    paths: tuple[str, ...]
    tables: Mapping[str, str] = host.CUT
    libraries: tuple[str, ...] = (ELEMENTS,)


FILES: dict[str, Judging] = {  # and what a mutant of it is judged on
    **{f"core/{name}": Judging((CUDA_PATH,), host.OF_ELEMENTS) for name in (
        "activation.h", "activation_pipelines.h", "bias_pipelines.h", "dtype.h", "exponential.h", "gated_pipelines.h",
        "normal.h", "normal_distribution.h", "normal_pipelines.h", "pipelines.h", "probability.h", "series.h",
    )},
    **{f"core/{name}": Judging(("portable", CUDA_PATH)) for name in (
        "bits.h", "layout.cpp", "layout.h", "mask.h", "philox.h",
    )},
    "core/elementwise.h": Judging((CPU_PATH,)),
    **{f"cpu/{name}": Judging((CPU_PATH,)) for name in (
        "batches.h", "column_loops.h", "columns.cpp", "decisions.h", "elementwise.h", "elementwise_loops.h",
        "long_rows.h", "makers.h", "pair.h", "rows.h", "simd.h", "tiles.h",
    )},
    **{f"cpu/simd_{path}.h": Judging((path,)) for path in ("avx2", "avx512")},
    "cpu/simd_portable.h": Judging(("portable",), libraries=(ELEMENTS, SUMS)),
    **{f"cuda/{name}": Judging((CUDA_PATH,)) for name in (
        "columns_kernels.cu", "elementwise_kernels.cu", "octet.cuh", "operands.cuh", "vector.cuh",
    )},
    **{f"core/{name}": Judging((CPU_PATH, CUDA_PATH), libraries=(ROWS,)) for name in ("norm.h", "softmax.h")},
    **{f"cpu/{name}": Judging((CPU_PATH,), libraries=(ROWS,)) for name in ("row_batches.h", "row_loops.h")},
    **{f"cuda/{name}": Judging((CUDA_PATH,), libraries=(ROWS,)) for name in (
        "row.cuh", "row_memory.cuh", "row_team.cuh", "rowwise_kernels.cu",
    )},
    "core/block.h": Judging((CPU_PATH, CUDA_PATH), libraries=(BLOCKS,)),
    "cpu/block_loops.h": Judging((CPU_PATH,), libraries=(BLOCKS,)),
    "cuda/block_kernels.cu": Judging((CUDA_PATH,), libraries=(BLOCKS,)),
}  # fmt: skip
# What the binding alone reads: its tests are behind a build.
TRAITS = (
    "kComplex",
    "kInPlace",
    "kLong",
    "kBias",
    "kReadsDropped",
    "Derivative derivative",
    ": PipelineTraits<",
    "kMaxOutputs",
    "rows_in_part(int64_t rows)",
)
CHANGES = {
    r"(?<=\s)<(?=\s)": "<=", r"(?<=\s)<=(?=\s)": "<", r"(?<=\s)>(?=\s)": ">=", r"(?<=\s)>=(?=\s)": ">",
    r"(?<=\s)==(?=\s)": "!=", r"(?<=\s)!=(?=\s)": "==", r"(?<=\s)&&(?=\s)": "||", r"(?<=\s)\|\|(?=\s)": "&&",
    r"(?<=\s)\+(?=\s)": "-", r"(?<=\s)-(?=\s)": "+", r"(?<=\s)\*(?=\s)": "+", r"(?<=\s)/(?=\s)": "*",
    r"(?<=\s)%(?=\s)": "/", r"(?<=\s)&(?=\s)": "|", r"(?<=\s)\|(?=\s)": "&", r"(?<=\s)\^(?=\s)": "|",
    r"(?<=\s)<<(?=\s)": ">>", r"(?<=\s)>>(?=\s)": "<<", r"(?<=\s)\+=(?=\s)": "-=", r"(?<=\s)\|=(?=\s)": "&=",
    r"\+\+(?=\w)": "--", r"\btrue\b": "false", r"\bfalse\b": "true", r"\bstd::min\b": "std::max",
    r"(?<![\w.])0(?![\w.])": "1", r"(?<![\w.])1(?![\w.])": "2", r"(?<![\w.])2(?![\w.])": "3",
    r"(?<=[-\w]) \? (?=\w)": " ? !", r"(?<=if \()(?=\w)": "!",
}  # fmt: skip
TRAPS = ("-fsanitize=bounds-strict,alignment,shift", "-fsanitize-undefined-trap-on-error")  # besides crashes; GCC's
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
# What only that notices: a vector written behind its end.
OVERRUN = (
    "cpu/row_loops.h",
    "static_cast<size_t>(padded_ * kKept) : 0",
    "static_cast<size_t>(padded_ * kKept) / 2 : 0",
)
TIMEOUT = 60  # seconds
MUTANTS = 180
# Mutants that cannot be noticed, since the result is the same for every call, and why. They do not count. Wherever in
# the file they are: the numbers of lines change with every edit.
EQUIVALENT: dict[str, str] = json.loads((host.ROOT / "proof" / "equivalents.json").read_text())


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int  # from 1
    before: str
    after: str

    def __str__(self) -> str:
        return self.change.replace(self.file, f"{self.file}:{self.line}", 1)

    @property
    def change(self) -> str:
        return f"{self.file}: `{self.before}` -> `{self.after}`"


def mutants_of(file: str) -> Iterator[Mutant]:
    """Of every line that is code; static_asserts, pragmas, TRAITS and what only nvcc compiles are not."""
    of_nvcc = [False]  # of the file, and of each condition of the preprocessor that is open
    for number, line in enumerate((host.ROOT / "csrc" / file).read_text().splitlines(), 1):
        code = line.split("//")[0]
        if code.startswith("#if"):
            of_nvcc.append(of_nvcc[-1] or code.startswith(("#if defined(__CUDA", "#ifdef __CUDA")))
        elif code.startswith("#endif"):
            of_nvcc.pop()
        elif code.startswith("#el"):
            of_nvcc[-1] = of_nvcc[-2]
        if of_nvcc[-1] or any(trait in code for trait in TRAITS):
            continue
        if code.lstrip().startswith(("#", "static_assert", "template", "gives(", "using ")) or "static_assert" in code:
            continue
        for pattern, change in CHANGES.items():
            for match in re.finditer(pattern, code):
                changed = code[: match.start()] + change + code[match.end() :]
                yield Mutant(file, number, code.strip(), changed.strip())


def sample(count: int) -> list[Mutant]:
    """As many from each file as its share of all, and at least two."""
    of_file = {file: list(dict.fromkeys(mutants_of(file))) for file in FILES}
    total = sum(map(len, of_file.values()))
    chosen: list[Mutant] = []
    for mutants in of_file.values():
        share = min(len(mutants), max(2, round(count * len(mutants) / total)))
        chosen += random.Random(mutants[0].file).sample(mutants, share)
    return chosen


# Judging -------------------------------------------------------------------------------------------------------------


def prepared(folder: Path) -> dict[str, Path]:
    """The calls of each library that takes some."""
    return {
        ELEMENTS: calls.prepared(folder / "calls.npz"),
        ROWS: row_calls.prepared(folder / "row_calls.npz"),
        BLOCKS: block_calls.prepared(folder / "block_calls.npz"),
    }


def judge(
    folder: Path,
    files: Mapping[str, Path],
    paths: tuple[str, ...],
    library: str = ELEMENTS,
    compiler: str = "c++",
    checks: tuple[str, ...] = ("-O0", *TRAPS),  # most of the time is the compiler's
) -> str:
    """What becomes of the sources in `folder`: "does not compile", "caught" or "survives"."""
    options = [*checks, "-shared", "-fPIC"]
    options += [] if library == SUMS else ["-march=native"]  # which has an instruction for them
    options += [option for path, option in host.WITHOUT.items() if path not in paths]
    try:
        host.compile_host(folder, folder / "mutant.so", compiler, options, library)
    except subprocess.CalledProcessError:
        return "does not compile"
    calls_or_count = str(COUNT) if library == SUMS else files[library]
    command = [sys.executable, host.ROOT / "proof" / "judge.py", folder / "mutant.so", calls_or_count, *paths]
    try:
        code = subprocess.run(command, env=checked(), capture_output=True, timeout=TIMEOUT).returncode
    except subprocess.TimeoutExpired:
        return "caught"
    return "caught" if code else "survives"


def checked() -> dict[str, str]:
    """The environment in which glibc's heap ends a process that has written behind a block."""
    return {
        **os.environ,
        **{name: ":".join(filter(None, (os.environ.get(name), value))) for name, value in CHECKED.items()},
    }


def verdict(mutant: Mutant, files: Mapping[str, Path]) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, tables, libraries = FILES[mutant.file]
        host.copy_sources(folder, cut=tables)
        source = folder / mutant.file
        lines = source.read_text().splitlines()
        lines[mutant.line - 1] = mutant.after
        source.write_text("\n".join(lines) + "\n")
        found = (judge(folder, files, paths, library) for library in libraries)
        return next((one for one in found if one != "survives"), "survives")


def fingerprint(files: Mapping[str, Path], judging: Judging) -> str:
    """Of everything that a verdict depends on."""
    paths = judging.paths
    parts = ["core"] + ["cuda"] * (CUDA_PATH in paths) + ["cpu"] * (paths != (CUDA_PATH,))
    folders = [*(host.ROOT / "csrc" / part for part in parts), host.ROOT / "proof" / "host"]
    folders.append(host.ROOT / "tests" / "cuda_on_host")
    sources = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256(repr((judging, host.FLAGS, TRAPS, CHECKED, TIMEOUT, COUNT)).encode())
    given = [files[library] for library in judging.libraries if library in files]
    for path in (*sources, host.ROOT / "proof" / "judge.py", *given):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def verdicts(mutants: Sequence[Mutant], files: Mapping[str, Path]) -> list[str]:
    """Of each mutant. Those of the same sources and calls are remembered: a mutant takes some seconds."""
    memory = host.ROOT / "build" / "proof" / "verdicts.json"
    memory.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(memory.read_text()) if memory.exists() else {}
    of_file = {name: fingerprint(files, judging) for name, judging in FILES.items()}
    keys = [f"{of_file[mutant.file]} {mutant}" for mutant in mutants]
    new = {key: mutant for key, mutant in zip(keys, mutants, strict=True) if key not in known}
    with ThreadPoolExecutor(2) as pool:
        judged = pool.map(lambda mutant: verdict(mutant, files), new.values())
        for key, found in tqdm(zip(new, judged, strict=True), total=len(new), unit=" mutants", leave=False):
            known[key] = found
            memory.write_text(json.dumps(known, indent=1))
    return [known[key] for key in keys]


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepared(folder)
        unchanged = folder / "unchanged"
        unchanged.mkdir()
        host.copy_sources(unchanged)
        for library, what in ((ELEMENTS, "elements"), (ROWS, "rows"), (BLOCKS, "blocks"), (SUMS, "sums")):
            found = judge(unchanged, files, host.PATHS[1:], library)
            yield Finding(f"the sources as they are pass, of {what}", found, "survives", found == "survives")
            if clang := host.clang():
                found = judge(unchanged, files, host.PATHS[1:], library, clang, ("-O2",))
                yield Finding(f"the same, compiled by {clang} with -O2", found, "survives", found == "survives")
        host.copy_sources(unchanged, OVERRUN)
        found = judge(unchanged, files, (CPU_PATH,), ROWS)
        yield Finding("planted: a vector written behind its end", found, "caught", found == "caught")
        mutants = sample(12 if quick else MUTANTS)
        judged = list(zip(mutants, verdicts(mutants, files), strict=True))
    compiled = [(mutant, found) for mutant, found in judged if found != "does not compile"]
    survivors = [mutant for mutant, found in compiled if found == "survives"]
    missed = [mutant for mutant in survivors if mutant.change not in EQUIVALENT]
    counted = len(compiled) - len(survivors) + len(missed)
    share = 1 - len(missed) / counted
    claim = f"mutants caught, of {counted} that compile and are no equivalents"
    yield Finding(claim, f"{share:.1%}", "90 %", share >= 0.9 and (quick or counted >= 100))
    noticed = {mutant.file for mutant, found in judged if found != "survives"}
    headers = {file for file in FILES if file.startswith("core/")}
    claim = "headers of csrc/core in which one was caught or refused by a static_assert (others: mistakes by hand)"
    yield Finding(claim, f"{len(headers & noticed)} of {len(headers)}", "all", quick or headers <= noticed)
    for mutant in survivors:
        reason = EQUIVALENT.get(mutant.change)
        yield Finding(f"survives: {mutant}", reason or "not caught", "an equivalent", reason is not None)
    gone = EQUIVALENT.keys() - {mutant.change for file in FILES for mutant in mutants_of(file)}
    yield Finding("equivalents that the sources do not have any more", "; ".join([str(len(gone)), *sorted(gone)]), "0",
                  not gone)  # fmt: skip
