"""p is exact: of the 2^32 words that an element may have, those that keep it are counted, and nothing is sampled."""

import ctypes
import math
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from .report import Finding

TITLE = "p is exact"
METHOD = (
    "`proof/counting` compiles `csrc/core/mask.h` with a stand-in for the generator that gives any word asked for, and "
    "counts the words that are kept: all 2^32 one by one for some p, by halves (every upper half, and every lower half "
    "where the upper one equals the threshold's) for all. The honoured p is compared to the wanted one as a fraction."
)
WORDS = 2**32
ALL_WORDS = (0.1, 0.5, 1 / 3, 1e-7, 1 - 1e-7, 2.0**-33 * 1.5, 0.9999847412109375)  # the last: a low half of 0


def library(folder: Path) -> ctypes.CDLL:
    """Compiled into `folder`, from the headers as they are."""
    here = Path(__file__).parent
    for header in (here.parent / "csrc" / "core").glob("*.h"):
        shutil.copy(header, folder)
    for source in (here / "counting").iterdir():
        shutil.copy(source, folder)
    built = folder / "counting.so"
    command = ["c++", "-std=c++17", "-O3", "-shared", "-fPIC", f"-I{folder}", folder / "counting.cpp", "-o", built]
    subprocess.run(command, check=True)
    counting = ctypes.CDLL(str(built))
    counting.count_all.argtypes = counting.scale_of.argtypes = [ctypes.c_double]
    counting.count_by_halves.argtypes = [ctypes.c_double, ctypes.c_int]
    counting.count_all.restype = counting.count_by_halves.restype = ctypes.c_int64
    counting.scale_of.restype = ctypes.c_double
    return counting


def probabilities(count: int) -> list[float]:
    """0 and 1 and their neighbourhoods, halves of a step of the threshold, and numbers of every size at both ends."""
    given = [0.0, 1.0, 1e-7, 1 - 1e-7, *ALL_WORDS, math.nextafter(0, 1), math.nextafter(1, 0)]
    given += [(k + 0.5) / WORDS for k in (0, 1, 2, 2**16 - 1, 2**16, 2**31, WORDS - 2, WORDS - 1)]
    given += [2.0**-k for k in range(1, 36)] + [1 - 2.0**-k for k in range(1, 36)]
    rng = random.Random(1)
    while len(given := list(dict.fromkeys(given))) < count:
        p = 10 ** rng.uniform(-10, 0)
        given.append(rng.choice([p, 1 - p, rng.random()]))
    return given


def error(p: float, kept: int) -> Fraction:
    """Of the honoured p, in units of 2^-33, of which 1 is allowed."""
    return abs(Fraction(WORDS - kept, WORDS) - Fraction(p)) * 2**33


def findings(quick: bool) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        counting = library(Path(folder))
        given = probabilities(1000 if quick else 10_000)
        kept = {p: counting.count_by_halves(p, 6) for p in given}
        worst = max(error(p, count) for p, count in kept.items())
        yield Finding(
            f"the honoured p differs from p by 2^-33 at most, for {len(kept):,} values of p",
            f"{float(worst):.6f} x 2^-33",
            "1",
            worst <= 1 and min(kept.values()) >= 0,
        )
        # E[y] = scale * kept / 2^32 * x. A quotient of float64 is off by half a unit of the last place.
        bias = max(
            abs(Fraction(counting.scale_of(p)) * Fraction(count, WORDS) - 1) for p, count in kept.items() if count
        )
        yield Finding(
            "E[y] = x: the scale times the probability that was counted is 1, to the rounding of the scale",
            f"{float(bias * 2**53):.3f} x 2^-53",
            "1",
            bias * 2**53 <= 1,
        )
        nothing = all(counting.scale_of(p) == 0 for p, count in kept.items() if count == 0)
        yield Finding("where nothing is kept, the scale is 0", "as said" if nothing else "not so", "as said", nothing)
        if quick:
            return
        one_by_one = {p: counting.count_all(p) for p in ALL_WORDS}
        same = all(kept[p] == count for p, count in one_by_one.items())
        said = "equal" if same else "different"
        yield Finding(f"counted word by word, {len(one_by_one)} of these have the same count", said, "equal", same)
