"""The tests are tested: small faults are put into the kernels and the index code, and each must be noticed."""

import hashlib
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fused_dropout import reference
from fused_dropout._extension import ops

from . import answers, host
from .report import Finding

TITLE = "The tests are tested"
METHOD = (
    "A mutant is one operator, constant or condition of `csrc`, changed. `proof/host` is compiled from the "
    "changed sources and run on calls whose outputs the reference (for normal noise the extension) has made "
    "(`proof/judge.py`): layouts, masks, dtypes and lengths that reach every loop. Mutants that do not compile do "
    "not count; a crash or a loop without an end is a catch. Which mutants there are follows from the sources and "
    "a fixed seed."
)
FILES = {  # and the paths that a fault in them can reach
    "core/bits.h": host.PATHS[1:],
    "core/layout.cpp": host.PATHS[1:],
    "core/layout.h": host.PATHS[1:],
    "core/mask.h": host.PATHS[1:],
    "core/philox.h": host.PATHS[1:],
    "core/probability.h": host.PATHS[1:],
    "core/dtype.h": host.PATHS[1:],
    "cpu/batches.h": host.PATHS[1:4],
    "cpu/column_loops.h": host.PATHS[1:4],
    "cpu/columns.cpp": host.PATHS[1:4],
    "cpu/decisions.h": host.PATHS[1:4],
    "cpu/elementwise.h": host.PATHS[1:4],
    "cpu/elementwise_loops.h": host.PATHS[1:4],
    "cpu/makers.h": host.PATHS[1:4],
    "cpu/rows.h": host.PATHS[1:4],
    "cpu/simd.h": host.PATHS[1:4],
    "cpu/simd_avx2.h": host.PATHS[2:3],
    "cpu/simd_avx512.h": host.PATHS[3:4],
    "cpu/simd_portable.h": host.PATHS[1:2],
    "cpu/tiles.h": host.PATHS[1:4],
    "cuda/columns_kernels.cu": host.PATHS[4:],
    "cuda/elementwise_kernels.cu": host.PATHS[4:],
    "cuda/octet.cuh": host.PATHS[4:],
    "cuda/operands.cuh": host.PATHS[4:],
    "cuda/row_memory.cuh": host.PATHS[4:],
    "cuda/vector.cuh": host.PATHS[4:],
}
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
TIMEOUT = 60  # seconds
MUTANTS = 140
# Mutants that cannot be noticed, since the result is the same for every call, and why. They do not count.
EQUIVALENT: dict[str, str] = json.loads((host.ROOT / "proof" / "equivalents.json").read_text())


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int  # from 1
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: `{self.before}` -> `{self.after}`"


def mutants_of(file: str) -> Iterator[Mutant]:
    """Of every line that is code; static_asserts, pragmas and what chooses a compiler are not."""
    for number, line in enumerate((host.ROOT / "csrc" / file).read_text().splitlines(), 1):
        code = line.split("//")[0]
        if code.lstrip().startswith(("#", "static_assert", "template", "gives(", "using ")) or "static_assert" in code:
            continue
        for pattern, change in CHANGES.items():
            for match in re.finditer(pattern, code):
                changed = code[: match.start()] + change + code[match.end() :]
                yield Mutant(file, number, code.strip(), changed.strip())


def sample(count: int) -> list[Mutant]:
    """As many from each file as its share of all, and at least two."""
    rng = random.Random(1)
    of_file = {file: list(dict.fromkeys(mutants_of(file))) for file in FILES}
    total = sum(map(len, of_file.values()))
    chosen: list[Mutant] = []
    for mutants in of_file.values():
        share = min(len(mutants), max(2, round(count * len(mutants) / total)))
        chosen += rng.sample(mutants, share)
    return chosen


# The calls: what reaches each loop -----------------------------------------------------------------------------------

STATE = (2**63 + 12345, 2**40 + 8)
Call = dict[str, np.ndarray]


def _call(pipeline: str, dtype: torch.dtype, shape: tuple[int, ...], p: float, base: int = 0,
          mask_strides: tuple[int, ...] | None = None, layout: str = "contiguous") -> Call:  # fmt: skip
    generator = torch.Generator().manual_seed(len(shape))
    strides = list(reference.row_major(shape)) if mask_strides is None else list(mask_strides)
    ndim = len(shape)
    order = {"contiguous": range(ndim), "reversed": reversed(range(ndim)), "channels_last": [0, *range(2, ndim), 1]}
    memory = list(order.get(layout, range(ndim)))

    def laid_out(t: torch.Tensor) -> torch.Tensor:
        if layout == "every second":
            return torch.stack([t, t], -1)[..., 0]
        return t.permute(memory).contiguous().permute([memory.index(d) for d in range(ndim)])

    inputs: list[torch.Tensor] = []
    if pipeline != "keep_mask":
        inputs.append(laid_out(torch.randn(shape, generator=generator).to(dtype)))
        if layout == "contiguous" and inputs[0].numel() > 5:
            inputs[0].view(-1)[4] = math.inf
    if pipeline == "swiglu_dropout_backward":
        inputs += [laid_out(torch.randn(shape, generator=generator).to(dtype)) for _ in range(2)]
    if pipeline == "bias_dropout_add":
        inputs.append(torch.randn(shape[-1], generator=generator).to(dtype).expand(shape))
        inputs.append(laid_out(torch.randn(shape, generator=generator).to(dtype)))
    state = torch.tensor([answers.signed(word) for word in STATE])
    options = {"mask_strides": strides, "mask_base": answers.signed(base)}
    stored: dict[str, np.ndarray] = {}
    if pipeline == "keep_mask":
        want = laid_out(reference.keep_mask(state, list(shape), p, **options))
    elif pipeline == "block_dropout":  # the keep bits of another state, as the blocks leave them in memory
        last = base + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        bits = reference.keep_mask(state, [(last // 64 + 6) * 64], 0.5)
        stored["keep_bits"] = np.packbits(bits.numpy(), bitorder="little").view(np.uint64)
        index = torch.as_strided(bits, shape, strides, base)
        gain = torch.tensor(reference.gain_of(p, reference.GAIN_UPSCALE), dtype=dtype)
        want = laid_out(torch.where(index, inputs[0] * gain, 0.0))
    elif pipeline == "dropout_and_sum":  # of small integers that are doubled: the same sum in any order
        inputs[0] = laid_out(torch.randint(-3, 4, shape, generator=generator).to(dtype))
        want = reference.dropout_apply(inputs[0], state, p, **options).contiguous()
    elif pipeline == "swiglu_dropout_backward":  # the reference has no e^x of the same bits: tests/test_activations.py
        want, second = ops.swiglu_dropout_backward(*inputs, state, p, **options)
    elif pipeline == "gaussian_dropout":  # the reference's noise may differ by some ulp: tests/test_values.py
        want = laid_out(ops.gaussian_dropout_apply(*inputs, state, p, **options))
    else:
        want = laid_out(getattr(reference, f"{pipeline}_apply")(*inputs, state, p, **options))
    if layout == "every second":  # the output itself is dense, as empty_like makes it
        want = want.contiguous()
    ids = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
    call: Call = {
        "pipeline": np.array(pipeline), "dtype": np.array(ids[dtype]), "p": np.array(p),
        "inputs": np.array(len(inputs)),
        "sizes": np.array(shape, dtype=np.int64), "mask_strides": np.array(strides, dtype=np.int64).view(np.uint64),
        "strides": np.array([t.stride() for t in (want, *inputs)], dtype=np.int64),
        "state": np.array([base, *STATE], dtype=np.uint64),
        "expected": _bytes(want),
    }  # fmt: skip
    if pipeline == "swiglu_dropout_backward":
        call["expected"] = np.concatenate([call["expected"], _bytes(second)])
    if pipeline == "dropout_and_sum":
        call["expected"] = np.concatenate([call["expected"], _bytes(want.flatten(0, -2).sum(0))])
    return call | stored | {f"x{k}": _bytes(x) for k, x in enumerate(inputs)}


def _bytes(t: torch.Tensor) -> np.ndarray:
    """Of the memory from the first to the last element."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return torch.as_strided(t, (last + 1,), (1,)).view(torch.uint8).numpy().copy()


def calls() -> list[Call]:
    f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
    made = [_call("keep_mask", f32, (n,), p, base)
            for n, p, base in ((1, 0.5, 0), (63, 0.1, 3), (64, 0.3, 2**32 - 5), (5000, 0.4, 2**35 - 777),
                               (300, 0.5, 2**64 - 104), (1 << 17, 0.1, 0), (256, 1.0, 0),
                               (256, 1e-12, 0), (256, 0.0, 0))]  # fmt: skip
    made += [_call("gaussian_dropout", dtype, (n,), 0.2, base)
             for dtype, n, base in ((f32, 1000, 0), (bf16, 777, 3), (f64, 300, 2**35 - 99))]  # fmt: skip
    made += [_call("block_dropout", f32, (n,), 0.2, base) for n, base in ((1000, 0), (777, 5))]
    for dtype in (f16, bf16, f32, f64):
        made += [_call("dropout", dtype, (n,), 0.3, base) for n, base in ((7, 0), (1000, 0), (9000, 5))]
        made.append(_call("bias_dropout_add", dtype, (33, 70), 0.4))
    noise = {
        "channels": ((5, 6, 7, 7), (6, 1, 0, 0)), "wide channels": ((3, 2, 300), (2, 1, 0)),
        "time": ((9, 4, 130), (0, 130, 1)), "samples": ((6, 500), (1, 0)), "columns": ((70, 200), (0, 1)),
        "swapped": ((40, 50, 3), (3, 120, 1)), "strided": ((50, 90), (270, 3)),
        "long rows": ((2, 3, 5000), (5000, 0, 1)),
        "short rows": ((900, 4), (1, 0)), "everything": ((40, 33), (0, 0)), "pairs": ((700, 2), (1, 0)),
    }  # fmt: skip
    for shape, strides in noise.values():
        for layout in ("contiguous", "reversed"):
            for pipeline in ("dropout", "gaussian_dropout", "block_dropout"):
                made.append(_call(pipeline, f32, shape, 0.5, 11, strides, layout))
    for layout in ("reversed", "channels_last", "every second"):
        for shape in ((4, 5, 6, 70), (2, 130, 9, 67), (3, 3, 20, 33), (1, 64, 1, 64)):
            made.append(_call("dropout", f32, shape, 0.3, 2**35 - 99, None, layout))
            made.append(_call("bias_dropout_add", bf16, shape, 0.3, 2**35 - 99, None, layout))
    made += [_call("swiglu_dropout_backward", dtype, shape, 0.3) for dtype, shape in ((f32, (5, 300)), (bf16, (777,)))]
    made.append(_call("swiglu_dropout_backward", f32, (40, 50), 0.3, 0, (0, 1)))
    for dtype, shape, strides in ((f32, (700, 97), None), (f32, (40, 5, 300), (1500, 300, 1)), (bf16, (130, 64), None),
                                  (f16, (3, 1000), (5000, 1)), (f64, (90, 65), None), (f32, (1, 77), None),
                                  (f32, (33, 129), (0, 1))):  # fmt: skip
        made.append(_call("dropout_and_sum", dtype, shape, 0.5, 2**35 - 99, strides))
    made.append(_call("dropout_and_sum", f32, (70, 90), 0.5, 3, None, "every second"))
    # Enough elements that some high halves equal the threshold's.
    made.append(_call("dropout", f32, (1 << 18,), 0.1))
    made.append(_call("dropout", bf16, (512, 513), 0.7, 0, None, "reversed"))
    return made


def prepared(path: Path) -> Path:
    arrays = {f"{number}.{name}": value for number, call in enumerate(calls()) for name, value in call.items()}
    np.savez(path, **arrays)
    return path


# Judging -------------------------------------------------------------------------------------------------------------


def judge(folder: Path, file: Path, paths: tuple[str, ...]) -> str:
    """What becomes of the sources in `folder`: "does not compile", "caught" or "survives"."""
    options = ["-O0", "-march=native", "-shared", "-fPIC"]  # most of the time is the compiler's
    if paths == host.PATHS[4:]:
        options.append("-DFD_ONLY_CUDA")
    elif host.PATHS[4] not in paths:
        options.append("-DFD_WITHOUT_CUDA")
    try:
        host.compile_host(folder, folder / "mutant.so", options=options)
    except subprocess.CalledProcessError:
        return "does not compile"
    command = [sys.executable, host.ROOT / "proof" / "judge.py", folder / "mutant.so", file, *paths]
    try:
        code = subprocess.run(command, capture_output=True, timeout=TIMEOUT).returncode
    except subprocess.TimeoutExpired:
        return "caught"
    return "caught" if code else "survives"


def verdict(mutant: Mutant, file: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host.copy_sources(folder)
        source = folder / mutant.file
        lines = source.read_text().splitlines()
        lines[mutant.line - 1] = mutant.after
        source.write_text("\n".join(lines) + "\n")
        return judge(folder, file, FILES[mutant.file])


def fingerprint(file: Path) -> str:
    """Of everything that a verdict depends on."""
    parts = [host.ROOT / "csrc" / part for part in ("core", "cpu", "cuda")]
    files = (path for part in (*parts, host.ROOT / "proof" / "host") for path in part.rglob("*"))
    sources = sorted(path for path in files if path.is_file())
    digest = hashlib.sha256(repr((host.CUT, host.FLAGS)).encode())
    for path in (*sources, host.ROOT / "proof" / "judge.py", file):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def verdicts(mutants: Sequence[Mutant], file: Path) -> list[str]:
    """Of each mutant. Those of the same sources and calls are remembered: a mutant takes a quarter of a minute."""
    memory = host.ROOT / "build" / "proof" / f"{fingerprint(file)}.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    new = [mutant for mutant in mutants if str(mutant) not in known]
    memory.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        judged = pool.map(lambda mutant: verdict(mutant, file), new)
        for mutant, found in tqdm(zip(new, judged, strict=True), total=len(new), unit=" mutants", leave=False):
            known[str(mutant)] = found
            memory.write_text(json.dumps(known, indent=1))
    return [known[str(mutant)] for mutant in mutants]


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = prepared(folder / "calls.npz")
        unchanged = folder / "unchanged"
        unchanged.mkdir()
        host.copy_sources(unchanged)
        found = judge(unchanged, file, host.PATHS[1:])
        yield Finding("the sources as they are pass", found, "survives", found == "survives")
        mutants = sample(12 if quick else MUTANTS)
        found_by_mutant = dict(zip(map(str, mutants), verdicts(mutants, file), strict=True))
    compiled = {mutant: found for mutant, found in found_by_mutant.items() if found != "does not compile"}
    survivors = [mutant for mutant, found in compiled.items() if found == "survives"]
    missed = [mutant for mutant in survivors if mutant not in EQUIVALENT]
    counted = len(compiled) - len(survivors) + len(missed)
    share = 1 - len(missed) / counted
    claim = f"mutants caught, of {counted} that compile and are no equivalents"
    yield Finding(claim, f"{share:.1%}", "90 %", share >= 0.9 and (quick or counted >= 100))
    for mutant in survivors:
        reason = EQUIVALENT.get(mutant)
        yield Finding(f"survives: {mutant}", reason or "not caught", "an equivalent", reason is not None)
