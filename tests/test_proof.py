"""The sections of the proof at the size that the tests have time for, and that they can fail."""

import ctypes
import platform
import shutil

import numpy as np
import pytest

from proof import __main__ as proof
from proof import (
    answers,
    emulator,
    failures,
    fuzzing,
    gpu_sanitizers,
    host,
    kernels,
    mistakes,
    mutation,
    probability,
    properties,
    report,
    statistics,
    suite,
)
from proof.ptx import executed

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler for what the proof compiles")


COMPILED = pytest.param(kernels, marks=pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"))
EMULATED = pytest.param(
    emulator, marks=pytest.mark.skipif(emulator.absent() is not None, reason=str(emulator.absent()))
)


@pytest.mark.parametrize(
    "section",
    [answers, probability, statistics, properties, fuzzing, failures, COMPILED, EMULATED],
    ids=lambda s: s.__name__,
)
def test_every_claim_holds(section):
    findings = list(section.findings(quick=True))
    assert findings
    assert [f for f in findings if not f.holds] == []


def test_the_report_is_that_of_the_results():
    assert report.markdown(proof.RESULTS, proof.EVERY) == proof.REPORT.read_text()


def test_results_of_no_checkout_are_of_an_unknown_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert report.commit() == "unknown"


@pytest.mark.parametrize("tool", gpu_sanitizers.TOOLS)
def test_a_sanitizer_watches_our_kernels_alone_where_it_can(tool):
    command = " ".join(gpu_sanitizers.command("compute-sanitizer", tool))
    assert f"--tool {tool} --report-api-errors no" in command
    assert ("--kernel-regex kns=fused_dropout" in command) == (tool != "initcheck")
    assert all((host.ROOT / file).exists() for file, *_ in gpu_sanitizers.SANITIZED.values())


@pytest.mark.parametrize("fault", [fault for fault, *_ in suite.PLANTED.values()], ids=lambda fault: fault[1])
def test_a_fault_can_be_planted(fault):
    """By the section that runs the tests under sanitizers."""
    file, right, _ = fault
    assert right in (host.ROOT / file).read_text()


@pytest.mark.parametrize("mistake", [*mistakes.MISTAKES, *emulator.MISTAKES], ids=lambda m: f"{m.file}, {m.right}")
def test_a_mistake_can_be_made(mistake):
    """The long proof makes it, and runs these tests: both must be there still."""
    assert mistake.right in (host.ROOT / mistake.file).read_text()
    assert (host.ROOT / "tests" / mistake.tests).exists()


def test_a_count_that_is_off_by_one_is_noticed():
    """Where p lies between two thresholds a neighbouring count is too far; on one, 2 are."""
    for p in (0.1, 1e-7, 1 - 1e-7):
        right = 2**32 - round(p * 2**32)
        assert probability.error(p, right) <= 1
        assert min(probability.error(p, right + 1), probability.error(p, right - 1)) > 1


def test_words_are_the_frozen_ones(golden):
    """NumPy's arithmetic, which the known answers compare to, is itself held against them."""
    for case in golden["cases"]:
        words = answers.words(int(case["seed"]), int(case["offset"]), int(case["start"]), len(case["words"]))
        assert words.tolist() == [int(word, 16) for word in case["words"]]
    wrapped = answers.words(5, 8, 2**64 - 3, 6)
    assert np.array_equal(wrapped, [*answers.words(5, 8, 2**64 - 3, 3), *answers.words(5, 8, 0, 3)])


def test_a_wrong_path_is_noticed():
    def one_off(seed, offset, base, numel, p):
        return answers.words(seed, offset, base, numel) > np.uint64(round(p * 2**32))  # instead of at least

    assert answers.differing(one_off, 2**12, 6) > 0

    def right(seed, offset, base, numel, p):
        return answers.words(seed, offset, base, numel) >= np.uint64(round(p * 2**32))

    half = answers.ZEROS[0] & 0xFFFF
    assert [answers.pinned(right, 0, 0, 0, half + k, 16) for k in (-1, 0, 1)] == [False, True, False]


def test_kernels_that_execute_more_or_less_are_noticed(monkeypatch):
    monkeypatch.setattr(executed, "stored", lambda architecture: {"a kernel": 100.0})
    found = {count: executed.differing(90, {"a kernel": count}) for count in (96.0, 98.0, 100.0, 102.0, 104.0)}
    assert [count for count, wrong in found.items() if wrong] == [96.0, 104.0]
    assert executed.differing(90, {"another one": 100.0}) == ["another one: 100.0 instead of 0.0"]


FAULTS = {
    "host.cpp": {
        "a 32-bit index": ("core/mask.h", "const uint64_t group = mask_index / kGroup;",
                           "const uint64_t group = static_cast<uint32_t>(mask_index) / kGroup;"),
        "a tail that is off by one": ("cuda/elementwise_kernels.cu", "if (at >= a.numel) continue;",
                                      "if (at > a.numel) continue;"),
        "a bias that does not begin again": ("cuda/operands.cuh", "if (column >= features) column -= features;",
                                             "if (column >= 2 * features) column -= features;"),
        "a missing scale": ("core/pipelines.h", "return select(keep, x * V(gain), V(C(0)));",
                            "return select(keep, x, V(C(0)));"),
        "swapped lanes": ("core/mask.h", ">> (16 * (lane & 1)) & 0xffffu", ">> (16 - 16 * (lane & 1)) & 0xffffu"),
    },
    mutation.ROWS: {
        "a sum that misses what is behind whole registers": ("cpu/row_loops.h", "b.valid != ~uint64_t{0}, 0)",
                                                             "b.valid == 0, 0)"),
        "an octet that begins one late": ("cuda/row_memory.cuh", "p != nullptr && e < left ? p[e]",
                                          "p != nullptr && e < left ? p[e == 0 && left > 1]"),
        "a row's end that is read": ("cuda/row_team.cuh", "if (i + e < a.features) sum[s]", "sum[s]"),
        "a mean of the wrong number": ("core/norm.h", "mean_u = sum[kSums - 1]", "mean_u = sum[0]"),
    },
    mutation.BLOCKS: {
        "a wide block without its last part": ("core/block.h", "part < block_width;", "part + kPart < block_width;"),
        "planes that are not counted": ("cpu/block_loops.h", "kept += ", "kept = "),
        "a warp that counts half of itself": ("cuda/block_kernels.cu", "step = kWarp / 2", "step = kWarp / 4"),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return mutation.prepared(tmp_path_factory.mktemp("proof"))


@pytest.mark.parametrize(
    ("library", "fault"), [(library, fault) for library, faults in FAULTS.items() for fault in (None, *faults)]
)
def test_faults_in_the_sources_are_caught_without_torch_or_a_gpu(library, fault, prepared, tmp_path):
    host.copy_sources(tmp_path, FAULTS[library].get(fault))
    verdict = mutation.judge(tmp_path, prepared, host.PATHS[1:], library)
    assert verdict == ("survives" if fault is None else "caught")


# Each is wrong of a few in a million.
WRONG_SUMS = {
    "rounded twice": (" | (inexact & 1))", ")"),
    "odd, but too far from 0": ("+ beyond)", ")"),
    "an infinity that is made odd": ("(lost < 0) | (lost > 0)", "lost != 0"),
    "only negative sums": ("((lost < 0) ^ (sum < 0)) & inexact", "(lost < 0) & inexact"),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="what has an instruction uses it")
@pytest.mark.parametrize("fault", [None, *WRONG_SUMS])
def test_products_are_added_with_one_rounding_where_there_is_no_instruction(fault, tmp_path):
    host.copy_sources(tmp_path, ("cpu/simd_portable.h", *WRONG_SUMS[fault]) if fault else None)
    host.compile_host(tmp_path, tmp_path / "sums.so", options=("-O3", "-shared", "-fPIC"), library="multiply_add.cpp")
    differing = ctypes.CDLL(str(tmp_path / "sums.so")).differing
    differing.restype = ctypes.c_int64
    assert (differing(ctypes.c_uint64(1), ctypes.c_int64(1 << 20)) > 0) == (fault is not None)


@pytest.mark.skipif(host.clang() is None, reason="no clang")
@pytest.mark.parametrize("library", FAULTS)
def test_another_compiler_gives_the_same_bits(library, prepared, tmp_path):
    host.copy_sources(tmp_path)
    assert mutation.judge(tmp_path, prepared, host.PATHS[1:], library, host.clang(), ("-O2",)) == "survives"
