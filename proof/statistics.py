"""Masks look like independent coins: a battery of tests, and the planted faults that show what it can see."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from fused_dropout import reference

from . import answers
from .answers import Masks
from .report import Finding

TITLE = "Statistics"
METHOD = (
    "Each test is a count whose distribution is known for independent coins, as a number of standard deviations "
    "z. A test that looks at many counts takes the largest; the z that is given is that of a single count with "
    "the same probability (Bonferroni). The bar of 6 is met by chance in all but two of 10^9 tests. A mask of "
    "every path is one function (see the known answers), so the extension's stands for all."
)
BAR = 6.0
CHUNK = 2**26  # elements at a time; a lag reaches as far
LAGS = (*range(1, 33), *(2**k for k in range(6, 22)), 63, 65, 100, 255, 257, 768, 1000, 4099, 12_345, 100_003)
PERIOD = 256
SHIFTED = 2**20  # elements of each of two masks that are compared at every distance
COMPARED = 2**18  # of two that are compared element by element
BASES = (0, 2**31, 2**32, 2**33, 2**35, 2**36, 2**40)


def equivalent(z: float, count: int) -> float:
    """The z of one test that is as improbable as the largest of `count`, by absolute value, being this one."""
    tail = math.erfc(abs(z) / math.sqrt(2)) * count
    if tail >= 1:
        return 0.0
    return -NormalDist().inv_cdf(tail / 2) if tail > 1e-300 else math.inf


def largest(z: np.ndarray) -> float:
    return equivalent(float(np.abs(z).max()), z.size)


@dataclass
class Within:
    """What is counted within a mask, a stretch after the other."""

    q: float  # the probability of keeping that is honoured
    n: int = 0
    kept: np.ndarray = field(default_factory=lambda: np.zeros(PERIOD))
    pairs: dict[int, list[int]] = field(default_factory=lambda: {lag: [0, 0, 0, 0] for lag in LAGS})

    def add(self, keep: np.ndarray) -> None:
        self.n += len(keep)
        self.kept += np.add.reduce(keep.reshape(-1, PERIOD).view(np.uint8), axis=0, dtype=np.int64)
        words = np.packbits(keep, bitorder="little").view(np.uint64)
        for lag, sums in self.pairs.items():
            if lag >= len(keep) // 2:
                continue
            head, shift = lag // 64, np.uint64(lag % 64)
            later = words[head:]
            if shift:
                later = later[:-1] >> shift | later[1:] << (np.uint64(64) - shift)
            n = len(later) * 64
            first, second = int(np.bitwise_count(words[: len(later)]).sum()), int(np.bitwise_count(later).sum())
            both = int(np.bitwise_count(words[: len(later)] & later).sum())
            for k, term in enumerate((n, first, second, both)):
                sums[k] += term

    def tests(self) -> dict[str, float]:
        q, scale = self.q, math.sqrt(self.q * (1 - self.q))
        found = {"keep rate": abs(self.kept.sum() - q * self.n) / (scale * math.sqrt(self.n))}
        for period in (4, 32, PERIOD):
            kept = self.kept.reshape(-1, period).sum(0)
            each = self.n / period
            found[f"positions, period {period}"] = largest((kept - q * each) / (scale * math.sqrt(each)))
        z = [
            (both - q * (first + second) + n * q * q) / (q * (1 - q) * math.sqrt(n))
            for n, first, second, both in self.pairs.values() if n
        ]  # fmt: skip
        found["lags"] = largest(np.array(z))
        return found


def agreement(a: np.ndarray, b: np.ndarray, q: float) -> float:
    """z of the covariance of two masks, element by element."""
    both = np.count_nonzero(a & b) - q * (np.count_nonzero(a) + np.count_nonzero(b)) + len(a) * q * q
    return both / (q * (1 - q) * math.sqrt(len(a)))


def at_every_shift(a: np.ndarray, b: np.ndarray, q: float) -> float:
    """The same at all circular distances, by Fourier transforms."""
    spectrum = np.fft.rfft(a - q).conj() * np.fft.rfft(b - q)
    return largest(np.fft.irfft(spectrum, len(a)) / (q * (1 - q) * math.sqrt(len(a))))


def between(masks: Masks, seed: int, offset: int, p: float, q: float) -> dict[str, float]:
    """Of masks that must have nothing to do with each other."""

    def mask(seed: int, offset: int, base: int = 0, numel: int = COMPARED) -> np.ndarray:
        return masks(seed % 2**64, offset % 2**64, base % 2**64, numel, p)

    calls = [mask(seed, offset + 8 * k, 0, SHIFTED) for k in range(3)]
    seeds = [mask(seed + k, offset, 0, SHIFTED) for k in range(2)]
    here = mask(seed, offset)
    at_bases = [mask(seed, offset, base) for base in BASES]
    aligned = 3 * 2**20
    index = {bit: mask(seed, offset, aligned ^ 2**bit) for bit in range(18, 64)}
    there = mask(seed, offset, aligned)
    pairs = [(a, b) for i, a in enumerate(at_bases) for b in at_bases[:i]]
    return {
        "consecutive calls, all shifts": max(at_every_shift(*calls[:2], q), at_every_shift(calls[0], calls[2], q)),
        "neighbouring seeds, all shifts": at_every_shift(*seeds, q),
        "one bit of the seed": largest(
            np.array([agreement(here, mask(seed ^ 2**bit, offset), q) for bit in range(64)])
        ),
        "one bit of the offset": largest(
            np.array([agreement(here, mask(seed, offset ^ 2**bit), q) for bit in range(3, 64)])
        ),
        "far bases": largest(np.array([agreement(a, b, q) for a, b in pairs])),
        "one bit of the mask index": largest(np.array([agreement(there, other, q) for other in index.values()])),
    }


def battery(masks: Masks, numel: int, p: float, seed: int, offset: int = 0) -> dict[str, float]:
    """|z| of each test, of masks with this state and others near it."""
    q = reference.kept(p)
    within = Within(q)
    for base in range(0, numel, CHUNK):
        within.add(masks(seed, offset, base, min(CHUNK, numel - base), p))
    return within.tests() | between(masks, seed, offset, p, q)


# What a mistake would make of masks: a function of the right one, or of NumPy's words where that is not enough.


def _indexed(masks: Masks, index: Callable[[np.ndarray], np.ndarray]) -> Masks:
    """Element i gets the decision of element index(i); the mask must reach as far as a few of the calls' lengths."""

    def faulty(seed: int, offset: int, base: int, numel: int, p: float) -> np.ndarray:
        at = index(np.arange(numel))
        return masks(seed, offset, base, int(at.max()) + 1, p)[at]

    return faulty


def _numpy(rounds: int) -> Masks:
    return lambda seed, offset, base, numel, p: (
        answers.words(seed, offset, base, numel, rounds) >= np.uint64(reference.drop_below(p))
    )


def _always_kept(masks: Masks) -> Masks:
    def faulty(seed: int, offset: int, base: int, numel: int, p: float) -> np.ndarray:
        keep = masks(seed, offset, base, numel, p).copy()
        keep[PERIOD - 1 :: 4 * PERIOD] = True
        return keep

    return faulty


def faults(masks: Masks) -> Mapping[str, Masks]:
    """Each of which has been somebody's bug or nearly so."""
    below = 2**64 - 1
    return {
        "p in 8 bits": lambda s, o, b, n, p: masks(s, o, b, n, round(p * 256) / 256),
        "p of a half percent too much": lambda s, o, b, n, p: masks(s, o, b, n, p * 1.005),
        "one decision for four neighbours": _indexed(masks, lambda i: i // 4),
        "a lane that repeats the one before": _indexed(masks, lambda i: i - (i % 8 == 7)),
        "a period of 2^18": _indexed(masks, lambda i: i % 2**18),
        "rows of 1,000 that repeat the one before": _indexed(masks, lambda i: i % 1000 + i // 2000 * 1000),
        "groups whose second half is the next one's first": _indexed(masks, lambda i: i // 8 * 4 + i % 8),
        "a tail that is always kept": _always_kept(masks),
        "one mask for every call": lambda s, o, b, n, p: masks(s, 0, b, n, p),
        "calls that overlap": lambda s, o, b, n, p: masks(s, 0, (b + 1024 * o) & below, n, p),
        "a seed of 32 bits": lambda s, o, b, n, p: masks(s % 2**32, o, b, n, p),
        "seeds that are shifts of one stream": lambda s, o, b, n, p: masks(1, o, (b + 8 * s) & below, n, p),
        "an offset of 32 bits": lambda s, o, b, n, p: masks(s, o % 2**32, b, n, p),
        "a mask index of 32 bits": lambda s, o, b, n, p: masks(s, o, b % 2**32, n, p),
        "a mask index of 40 bits": lambda s, o, b, n, p: masks(s, o, b % 2**40, n, p),
        "Philox with 5 rounds": _numpy(5),
        "Philox with 6 rounds": _numpy(6),
    }


def caught(masks: Masks, numel: int, seed: int) -> tuple[str, float]:
    """The test that is farthest off, at p = 0.1 or 0.5, and its z."""
    found = {f"{name}, p = {p}": z for p in (0.1, 0.5) for name, z in battery(masks, numel, p, seed).items()}
    return max(found.items(), key=lambda item: item[1])


def findings(quick: bool) -> Iterator[Finding]:
    masks = answers.by_extension()
    numel, seeds = 2**22, 3 if quick else 20
    for p in (0.1, 0.5) if quick else (0.1, 0.5, 0.9, 0.01):
        size = numel if quick else 2**32 if p in (0.1, 0.5) else 2**28
        for name, z in battery(masks, size, p, seed=12_345).items():
            yield Finding(
                f"p = {p}, 2^{size.bit_length() - 1} elements: {name}", f"{z:.2f}", f"|z| < {BAR:.0f}", z < BAR
            )
    alarms = [caught(masks, numel, seed) for seed in range(1, seeds + 1)]
    worst = max(z for _, z in alarms)
    yield Finding(f"no false alarm over {seeds} seeds", f"at most {worst:.2f}", f"|z| < {BAR:.0f}", worst < BAR)
    # Salmon et al. find 7 rounds the fewest that withstand BigCrush: what the battery may see, and what it may not.
    name, z = caught(_numpy(7), numel, 1)
    yield Finding("Philox with 7 rounds, known to be enough", f"{z:.2f}, {name}", f"|z| < {BAR:.0f}", z < BAR)
    for fault, faulty in faults(masks).items():
        name, z = caught(faulty, numel, 1)
        yield Finding(f"caught: {fault}", f"{z:.3g}, {name}", f"|z| >= {BAR:.0f}", z >= BAR)
