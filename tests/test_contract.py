"""The mask contract: frozen answers, and the reference, on every path."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, INSTRUCTION_SETS, using_instruction_set
from hypothesis import given, settings
from hypothesis import strategies as st

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

U64 = st.integers(0, 2**64 - 1)


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def state_of(seed: int, offset: int, device: str = "cpu") -> torch.Tensor:
    return torch.tensor([signed(seed), signed(offset)], dtype=torch.int64, device=device)


def masks(path: str, state: torch.Tensor, shape, p, **options) -> torch.Tensor:
    """keep_mask by the reference, or by the extension's kernels."""
    keep_mask = reference.keep_mask if path == "reference" else ops.keep_mask
    return keep_mask(state, list(shape), p, **options)


@pytest.fixture(params=["reference", *INSTRUCTION_SETS, *DEVICES[1:]])
def path(request):
    """The reference, the CPU's kernels with each instruction set, and the GPU's where there is one."""
    if request.param not in INSTRUCTION_SETS:
        yield request.param
        return
    with using_instruction_set(request.param):
        yield request.param


def device_of(path: str) -> str:
    return "cuda" if path == "cuda" else "cpu"


class TestGolden:
    """Every path gives the frozen answers; on the CPU, with every instruction set."""

    def test_masks(self, golden, path):
        assert len(golden["cases"]) == 24
        for case in golden["cases"]:
            state = state_of(int(case["seed"]), int(case["offset"]), device_of(path))
            for mask in case["masks"]:
                keep = masks(path, state, [256], mask["p"], mask_base=int(case["start"]))
                packed = np.packbits(keep.cpu().numpy(), bitorder="little").tobytes().hex()
                assert packed == mask["keep"], f"seed {case['seed']} offset {case['offset']} p {mask['p']}"

    def test_words(self, golden, path):
        """A word w is kept at the threshold w and dropped at w + 1, which pins all its 32 bits."""
        for case in golden["cases"]:
            state = state_of(int(case["seed"]), int(case["offset"]), device_of(path))
            for i, word in enumerate(case["words"]):
                w, index = int(word, 16), int(case["start"]) + i
                assert masks(path, state, [1], w / 2**32, mask_base=index).item()
                assert not masks(path, state, [1], (w + 1) / 2**32, mask_base=index).item()

    def test_maps(self, golden, path):
        for row in golden["maps"]:
            state = state_of(int(row["seed"]), int(row["offset"]), device_of(path))
            strides = [int(s) for s in row["strides"]]
            keep = masks(path, state, row["shape"], row["p"], mask_strides=strides, mask_base=int(row["base"]))
            assert "".join("01"[k] for k in keep.flatten().tolist()) == row["keep"], row["why"]

    def test_thresholds_and_scales(self, golden):
        for row in golden["thresholds"]:
            assert reference.drop_below(row["p"]) == row["drop_below"]
            assert reference.gain_of(row["p"], reference.GAIN_UPSCALE) == row["scale"]
            state = state_of(1, 0)
            kept = ops.dropout_apply(torch.ones(4096, dtype=torch.float64), state, row["p"]).unique().tolist()
            assert [v for v in kept if v] in ([row["scale"]], [])
            kept = ops.dropout_apply(
                torch.ones(4096, dtype=torch.float64), state, 1.0, p_tensor=torch.tensor(row["p"], dtype=torch.float64)
            )
            assert [v for v in kept.unique().tolist() if v] in ([row["scale"]], [])

    def test_cpu_generator(self, golden):
        expected = golden["cpu_generator"]
        want = [signed(int(expected["seed"])), signed(int(expected["offset"]))]
        for draw in (fused_dropout.draw, lambda: reference.draw(torch.empty(0))):
            torch.manual_seed(expected["manual_seed"])
            assert draw().tolist() == want
        torch.manual_seed(expected["manual_seed"])
        assert ops.dropout(torch.ones(8), 0.5)[1].tolist() == want


def test_rng_version(golden):
    from fused_dropout import _C

    assert fused_dropout.RNG_VERSION == _C.RNG_VERSION == golden["rng_version"] == 1


@settings(max_examples=300, deadline=None)
@given(
    seed=U64,
    offset=U64.map(lambda n: n & ~3),
    base=U64.map(signed),
    p=st.floats(0, 1),
    n=st.integers(1, 300),
)
def test_mask_equals_reference_anywhere(seed, offset, base, p, n):
    state = state_of(seed, offset)
    assert torch.equal(ops.keep_mask(state, [n], p, mask_base=base), reference.keep_mask(state, [n], p, mask_base=base))


def test_mask_index_wraps_at_64_bits(path):
    state = state_of(7, 12, device_of(path))
    row = masks(path, state, [300], 0.5, mask_base=-104)
    assert torch.equal(row, torch.cat([masks(path, state, [1], 0.5, mask_base=-104 + i) for i in range(300)]))


@pytest.mark.parametrize("base", [2**31 - 5, 2**32 - 5, 2**33 - 3, 2**35 - 13, 2**40 + 1, 2**62 + 1])
def test_mask_index_has_64_bits(base, path):
    state = state_of(7, 12, device_of(path))
    keep = masks(path, state, [1000], 0.3, mask_base=base)
    assert torch.equal(keep.cpu(), reference.keep_mask(state.cpu(), [1000], 0.3, mask_base=base))
    for bits in (31, 32, 33):
        if base + 1000 > 2**bits:
            truncated = (base + torch.arange(1000)) % 2**bits
            assert not torch.equal(keep.cpu(), reference.words(state.cpu(), truncated) >= reference.drop_below(0.3))


def test_low_half_decides_where_the_high_half_ties(path):
    """Of 2^18 elements several tie; thresholds at and just above every tied word must separate them."""
    state, n = state_of(123, 456, device_of(path)), 1 << 18
    words = reference.words(state.cpu(), torch.arange(n))
    high = int((words >> 16).mode().values)
    tied = (words >> 16 == high).nonzero().flatten()
    assert len(tied) > 8
    for i in tied.tolist():
        for threshold in (int(words[i]), int(words[i]) + 1):
            assert torch.equal(masks(path, state, [n], threshold / 2**32).cpu(), words >= threshold)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_low_two_bits_of_a_state_tensors_offset_are_ignored(p, path):
    a, b = state_of(5, 8, device_of(path)), state_of(5, 11, device_of(path))
    assert torch.equal(masks(path, a, [1000], p), masks(path, b, [1000], p))


def test_statistics_of_the_keep_rate():
    """|z| < 6 for the rate at 2^22 elements, over all and over each of the eight lanes."""
    n = 1 << 22
    for p in (0.1, 0.5, 0.9):
        keep = fused_dropout.keep_mask((n,), p, (11, 0)).double()
        honoured = reference.kept(p)
        for part in (keep, *keep.view(-1, 8).unbind(1)):
            z = (part.sum() - honoured * part.numel()) / (honoured * (1 - honoured) * part.numel()) ** 0.5
            assert abs(z) < 6


def test_consecutive_draws_give_unrelated_masks():
    torch.manual_seed(0)
    a, b = (fused_dropout.keep_mask((1 << 20,), 0.5, fused_dropout.draw()) for _ in range(2))
    agree = (a == b).double().sum()
    assert abs(agree - 2**19) / 2**9 < 6
