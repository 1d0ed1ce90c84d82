"""Known answers: published vectors, the C++ standard's number, and words made by NumPy, on every path."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fused_dropout import reference
from fused_dropout._extension import build_info, extension, ops

from . import host
from .report import Finding

TITLE = "Known answers"
METHOD = (
    "Every path makes masks of states whose words are known: the extension with each instruction set, the "
    "reference, the CPU's loops and the CUDA kernels compiled for the host (`proof/host`), and the portable loops "
    "compiled for ARM and emulated. A mask at the threshold w keeps the word w and one at w + 1 drops it, which "
    "pins all 32 bits of it."
)
Masks = Callable[[int, int, int, int, float], np.ndarray]  # (seed, offset, mask_base, numel, p) to bools

GOLDEN = host.ROOT / "tests" / "data" / "golden.json"
# Of Random123's three kat_vectors for philox4x32 with 10 rounds a mask's counters reach this one. All three are
# static_asserts of csrc/core/philox.h, so that nothing compiles where one is wrong.
ZEROS = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
# C++26, [rand.predef]: what the 10000th call of a default-constructed std::philox4x32 returns. Its seed is the key, and
# its n-th block has counter n.
STANDARD_SEED, STANDARD_PLACE, STANDARD_WORD = 20111115, 9999, 1955073260
STATES = (
    (0, 0, 0),
    (2**63 + 12345, 2**40 + 8, 2**35 - 13),
    (2**64 - 1, 2**64 - 4, 2**64 - 2**15),
    (7, 2**34 - 4, 2**31),
)


def philox(counter: list[np.ndarray], seed: int, rounds: int = 10) -> list[np.ndarray]:
    """Philox4x32 (Salmon et al., SC'11) on arrays of uint64 that hold 32 bits."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = counter
    for r in range(rounds):
        k0, k1 = (
            np.uint64((key + r * step) & 0xFFFFFFFF) for key, step in ((seed, 0x9E3779B9), (seed >> 32, 0xBB67AE85))
        )
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
    return [c0, c1, c2, c3]


def words(seed: int, offset: int, base: int, numel: int, rounds: int = 10) -> np.ndarray:
    """The words of the mask indices base, base + 1, ... modulo 2^64, as uint64 that hold 32 bits."""
    first, skip = divmod(base, 8)
    groups = (np.arange(-(-(skip + numel) // 8), dtype=np.uint64) + np.uint64(first)) & np.uint64(2**61 - 1)

    def halves(step: int) -> np.ndarray:
        fixed = [np.full_like(groups, step & 0xFFFFFFFF), np.full_like(groups, step >> 32)]
        block = np.stack(
            philox([*fixed, groups & np.uint64(0xFFFFFFFF), groups >> np.uint64(32)], seed, rounds), axis=1
        )
        lanes = np.stack([block & np.uint64(0xFFFF), block >> np.uint64(16)], axis=2)
        return lanes.reshape(-1)[skip : skip + numel]

    return halves(offset >> 2) << np.uint64(16) | halves((offset >> 2) + 1)


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _by_operation(
    operation: Callable[..., torch.Tensor], device: str, seed: int, offset: int, base: int, numel: int, p: float
) -> np.ndarray:
    state = torch.tensor([signed(seed), signed(offset)], device=device)
    return operation(state, [numel], p, mask_base=signed(base)).cpu().numpy()


def _by_extension(instruction_set: str, *args) -> np.ndarray:
    before = build_info()["cpu_instruction_set"]
    extension.use_instruction_set(instruction_set)
    try:
        return by_extension()(*args)
    finally:
        extension.use_instruction_set(before)


def by_extension(device: str = "cpu") -> Masks:
    """On the CPU, with the instruction set in use."""
    return partial(_by_operation, ops.keep_mask, device)


def _emulated(program: Path, seed: int, offset: int, base: int, numel: int, p: float) -> np.ndarray:
    command = ["qemu-aarch64", program, "portable", *map(str, (seed, offset, base, numel)), repr(p)]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, dtype=np.uint8).view(bool)


def paths(folder: Path) -> dict[str, Masks]:
    """Every path that this machine has."""
    found: dict[str, Masks] = {"the reference": partial(_by_operation, reference.keep_mask, "cpu")}
    for instruction_set in build_info()["cpu_instruction_sets"]:
        found[f"the extension, {instruction_set}"] = partial(_by_extension, instruction_set)
    built = host.library(folder)
    for path in host.PATHS:
        if host.keep_mask(built, path, 0, 0, 0, 1, 0.5) is not None:
            found[f"on the host, {path}"] = partial(host.keep_mask, built, path)
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler and shutil.which("qemu-aarch64"):
        host.compile_host(folder, folder / "arm", compiler, ["-O2", "-static"])
        found["for ARM, emulated"] = partial(_emulated, folder / "arm")
    return found


def pinned(masks: Masks, seed: int, offset: int, place: int, bits: int, width: int) -> bool:
    """Whether the upper `width` bits of the word of mask index `place` are `bits`."""
    at = [masks(seed, offset, place, 1, (bits + more) * 2.0**-width)[0] for more in (0, 1)]
    return bool(at[0]) and not at[1]


def differing(masks: Masks, numel: int, thresholds: int) -> int:
    """Decisions about `numel` words that differ from NumPy's, at thresholds between words, on them and beside them."""
    wrong = 0
    for seed, offset, base in STATES:
        expected = words(seed, offset, base, numel // len(STATES))
        some = expected[np.linspace(0, len(expected) - 1, thresholds // 3, dtype=np.int64)]
        for threshold in (
            *some.tolist(),
            *(some + np.uint64(1)).tolist(),
            *np.linspace(0, 2**32, thresholds // 3 + 1).astype(int).tolist(),
        ):
            got = masks(seed, offset, base, len(expected), threshold / 2**32)
            wrong += int((got != (expected >= np.uint64(threshold))).sum())
    return wrong


def findings(quick: bool) -> Iterator[Finding]:
    golden = json.loads(GOLDEN.read_text())
    with tempfile.TemporaryDirectory() as folder:
        for name, masks in paths(Path(folder)).items():
            equal = total = 0
            for case in golden["cases"]:
                for mask in case["masks"]:
                    keep = masks(int(case["seed"]), int(case["offset"]), int(case["start"]), 256, mask["p"])
                    equal += np.packbits(keep, bitorder="little").tobytes().hex() == mask["keep"]
                    total += 1
            yield Finding(f"{name}: the frozen masks", f"{equal} of {total}", "all", equal == total)

            zeros = [word >> shift & 0xFFFF for word in ZEROS for shift in (0, 16)]
            equal = sum(pinned(masks, 0, 0, lane, half, 16) for lane, half in enumerate(zeros))
            yield Finding(f"{name}: Random123's vector, in halves", f"{equal} of 8", "all", equal == 8)

            block, lane = divmod(STANDARD_PLACE, 4)
            halves = [STANDARD_WORD & 0xFFFF, STANDARD_WORD >> 16]
            right = all(
                pinned(masks, STANDARD_SEED, 4 * block, 2 * lane + i, half, 16) for i, half in enumerate(halves)
            )
            yield Finding(
                f"{name}: C++26's 10000th number", "found" if right else "not found", str(STANDARD_WORD), right
            )

            slow = "emulated" in name or "cuda" in name or "scalar" in name
            numel, thresholds = 2**20, 6 if slow and quick else 12 if quick else 60
            wrong = differing(masks, numel, thresholds)
            yield Finding(
                f"{name}: {numel:,} words of NumPy, each at {2 * (thresholds // 3) + thresholds // 3 + 1} thresholds",
                f"{wrong} decisions differ", "0", wrong == 0,
            )  # fmt: skip
