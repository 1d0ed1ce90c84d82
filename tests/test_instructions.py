"""The CPU's loops take no more instructions an element than are stored; seconds are noisy, and instructions are not."""

import json

import pytest

from tools import instructions

pytestmark = pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing() or "it can be counted")
# The same bits, more slowly: contiguous tensors in the loop of all others; pointers that a store may have changed.
SLOWER = {
    "avx2": ("cpu/elementwise_loops.h", "else if (linear_ && n >=", "else if (false && n >="),
    "avx512": ("cpu/elementwise_loops.h", "const Pointers from = at;", "const Pointers& from = at;"),
}


@pytest.fixture(scope="module")
def stored() -> dict[str, float]:
    known = json.loads(instructions.STORED.read_text())
    if instructions.compiler() not in known:
        pytest.skip(
            f"numbers are stored for {', '.join(known)}, and this is {instructions.compiler()}: another compiler makes "
            "other loops; `python -m tools.instructions --write` stores this one's"
        )
    return known[instructions.compiler()]


@pytest.mark.parametrize("path", instructions.TARGETS)
def test_no_loop_takes_more_instructions_than_are_stored(path, stored):
    for name, number in instructions.count(path).items():
        change = number / stored[name] - 1
        assert change < instructions.TOLERANCE, f"{name}: {number} an element, {stored[name]} stored"
        assert change > -instructions.TOLERANCE, f"{name}: fewer than stored: python -m tools.instructions --write"


@pytest.mark.parametrize("path", SLOWER)
def test_a_slower_loop_of_the_same_values_is_noticed(path, tmp_path, stored):
    program = instructions.build(path, tmp_path, SLOWER[path])
    number = instructions.an_element(program, path, "dropout", "float32")
    assert number / stored[f"{path} dropout float32"] - 1 > instructions.TOLERANCE, number
