"""The CPU's loops take no more instructions an element than are stored; seconds are noisy, and instructions are not."""

import json

import pytest

from tools import instructions

pytestmark = pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing() or "it can be counted")
DENSE, BIAS = instructions.Call("dropout", "float32"), instructions.Call("bias_dropout_add", "float32", 8, "bias")
NUMBER = instructions.Call("dropout", "float32", operands="number")
# The same bits, more slowly: contiguous tensors in the loop of all others; pointers that a store may have changed; each
# row of a bias alone; a constant gathered.
SLOWER = [
    ("avx2", {DENSE: ("cpu/elementwise_loops.h", "else if (linear_ && n >=", "else if (false && n >=")}),
    ("avx512", {DENSE: ("cpu/elementwise_loops.h", "const Pointers from = at;", "const Pointers& from = at;")}),
    ("avx2", {BIAS: ("cpu/long_rows.h", "if (count == 1) return", "if (count >= 1) return"),
              NUMBER: ("cpu/batches.h", "l.stride[k][0] == 0));", "false));")}),
]  # fmt: skip


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


@pytest.mark.parametrize(("path", "faults"), SLOWER, ids=["general loop", "pointers", "short rows and constants"])
def test_a_slower_loop_of_the_same_values_is_noticed(path, faults, tmp_path, stored):
    program = instructions.build(path, tmp_path, faults.values())
    for call in faults:
        number = instructions.an_element(program, path, call)
        assert number / stored[f"{path} {call}"] - 1 > instructions.TOLERANCE, (str(call), number)
