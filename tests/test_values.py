"""What kept and dropped elements become: every pipeline, dtype and layout against the reference, bit for bit."""

import math

import pytest
import torch
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, moved, using_instruction_set
from hypothesis import given, settings
from hypothesis import strategies as st

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

STATE = (2**63 + 12345, 2**40 + 8)

# How a tensor of the logical values `x` (contiguous) can lie in memory.
LAYOUTS = {
    "contiguous": lambda x: x,
    "sliced columns": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "reversed dimensions": lambda x: x.permute(*range(x.dim())[::-1]).contiguous().permute(*range(x.dim())[::-1]),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "offset by one element": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    "expanded": lambda x: x[:1].expand_as(x),
}
# Sizes that no vector width divides, tiles with and without remainders, and rows that begin anywhere in a group.
SHAPES = [(3, 5, 7), (2, 64, 64), (5, 3, 70, 9), (4, 130, 67), (1, 1, 1), (2, 3, 1, 1025)]
PIPELINES = ["dropout", "alpha_dropout", "dropout_add", "zoneout", "dropped"]


def inputs_for(pipeline: str, x: torch.Tensor) -> list[torch.Tensor]:
    residual = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    return [x, residual] if pipeline in ("dropout_add", "zoneout") else [x]


def assert_same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    assert torch.equal(ours.contiguous().view(integers), theirs.contiguous().view(integers))


def state(device: str = "cpu") -> torch.Tensor:
    return reference.make_state(torch.empty(0, device=device), *STATE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_the_same_on_another_device(layout):
    """So that what these tests are to show of a GPU is shown there."""
    x = LAYOUTS[layout](torch.randn(2, 64, 64))
    copy = moved(x, "meta")
    assert (copy.stride(), copy.storage_offset()) == (x.stride(), x.storage_offset())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_equal_the_reference(layout, shape, pipeline, dtype, device):
    x = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
    inputs = [moved(t, device) for t in inputs_for(pipeline, x)]
    for p in (0.3, 0.5):
        got = getattr(ops, f"{pipeline}_apply")(*inputs, state(device), p)
        want = getattr(reference, f"{pipeline}_apply")(*inputs_for(pipeline, x), state(), p)
        assert_same_bits(got.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_instruction_sets_give_the_same_bits(pipeline, dtype, instruction_set):
    """Values of every magnitude, subnormal results included, and a length that ends inside a vector."""
    generator = torch.Generator().manual_seed(2)
    spread = 2.0 ** torch.randint(-30, 12, (10007,), generator=generator).double()
    x = (torch.randn(10007, generator=generator, dtype=torch.float64) * spread).to(dtype)
    want = getattr(reference, f"{pipeline}_apply")(*inputs_for(pipeline, x), state(), 0.1)
    assert_same_bits(getattr(ops, f"{pipeline}_apply")(*inputs_for(pipeline, x), state(), 0.1), want)
    for layout in ("transposed", "every second"):
        y = LAYOUTS[layout](x[:9999].view(99, 101))
        want = getattr(reference, f"{pipeline}_apply")(*inputs_for(pipeline, y), state(), 0.1)
        assert_same_bits(getattr(ops, f"{pipeline}_apply")(*inputs_for(pipeline, y), state(), 0.1), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_precision_value_rounds_to_nearest_even(dtype, instruction_set):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    y = ops.dropout_apply(x, state(), 0.3)
    want = reference.dropout_apply(x, state(), 0.3)
    assert torch.equal(y.isnan(), want.isnan())
    assert_same_bits(y.nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("numel", [*range(0, 140), 255, 256, 257, 4095, 4096, 4097, 100_003])
def test_every_length(numel, instruction_set):
    x = torch.arange(1, numel + 1, dtype=torch.float32)
    assert_same_bits(ops.dropout_apply(x, state(), 0.4), reference.dropout_apply(x, state(), 0.4))


NOISE_SHAPES = [
    ((4, 3, 8, 8), (4, 3, 1, 1), "channels: Dropout2d"),
    ((4, 7, 33), (4, 1, 33), "locked over time"),
    ((5, 4, 9), (5, 1, 1), "rows: stochastic depth"),
    ((5, 4, 9), (1, 1, 1), "one decision"),
    ((6, 70, 3), (1, 70, None), "one mask for the batch"),
    ((2, 300, 100), (None, 300, 1), "vectors"),
    ((1, 5, 1, 6), (1, 1, None, 6), "sizes of 1 on both sides"),
    ((33, 31, 2), (33, 31, 1), "the parts of complex numbers"),
    ((5, 77, 3), (1, 77, 1), "short rows, met again"),
]


@pytest.mark.parametrize(("shape", "noise_shape", "why"), NOISE_SHAPES, ids=[row[2] for row in NOISE_SHAPES])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last", "every second"])
def test_noise_shape_shares_decisions(layout, shape, noise_shape, why, instruction_set):
    x = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(3)))
    y = fused_dropout.dropout(x, 0.4, noise_shape=noise_shape, rng=STATE)
    small = [n if n is not None else s for n, s in zip(noise_shape, shape, strict=True)]
    keep = fused_dropout.keep_mask(small, 0.4, STATE)  # the mask of the noise shape itself, broadcast
    factor = torch.tensor(reference.gain_of(0.4, 0), dtype=torch.float32)
    assert_same_bits(y, torch.where(keep, x * factor, 0.0))
    assert torch.equal(fused_dropout.keep_mask(shape, 0.4, STATE, noise_shape=noise_shape), keep.expand(shape))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_shape_layout_and_noise_shape(data):
    """Rows and runs of every length, masks shared along any dimensions, in memory of any order: all are one map."""
    sizes = st.sampled_from([1, 2, 3, 4, 5, 8, 17, 49, 63, 64, 65, 130, 300, 1025])
    shape = data.draw(st.lists(sizes, min_size=1, max_size=4).filter(lambda s: math.prod(s) <= 300_000))
    order = data.draw(st.permutations(range(len(shape))))
    noise_shape = [size if data.draw(st.booleans()) else 1 for size in shape]
    pad = data.draw(st.sampled_from([0, 0, 1]))  # of the innermost dimension: the rows are no run any more
    base = data.draw(st.sampled_from([0, 0, 5, 2**35 - 77, -100]))
    p = data.draw(st.sampled_from([0.1, 0.5, 1 - 2.0**-20]))
    memory = [shape[d] for d in order]
    whole = torch.ones([*memory[:-1], memory[-1] + pad])
    x = whole[..., : memory[-1]].permute([order.index(d) for d in range(len(shape))])
    options = {"mask_strides": reference.row_major(noise_shape), "mask_base": base}
    want = reference.dropout_apply(x, state(), p, **options)
    noise = ops.normal_noise(state(), shape, **options)
    noisy = x * (1 + torch.tensor((reference.dropped(0.3) / reference.kept(0.3)) ** 0.5) * noise)
    for name in INSTRUCTION_SETS:
        with using_instruction_set(name):
            assert torch.equal(ops.gaussian_dropout_apply(x, state(), 0.3, **options), noisy), name
            assert torch.equal(ops.dropout_apply(x, state(), p, **options), want), name
            y = whole.clone().as_strided(x.shape, x.stride())
            ops.dropout_apply_(y, state(), p, **options)
            assert torch.equal(y, want), name


@pytest.mark.parametrize("row", [2, 3, 4, 8, 16, 31, 32, 49, 64, 65, 127, 128, 200, 1000])
@pytest.mark.parametrize("base", [0, 5, 2**35 - 77, -100])
def test_short_rows_with_one_decision_each(row, base, instruction_set):
    """The parts of complex numbers, and channels: a batch holds several decisions, each of them several times."""
    many, few = max(5000 // row, 70), max(333 // row, 11)
    for shape, strides in (((many, row), [1, 0]), ((7, few, row), [few, 1, 0]), ((7, few, row), [0, 1, 0])):
        options = {"mask_strides": strides, "mask_base": base}
        x = torch.randn(shape)
        want = reference.dropout_apply(x, state(), 0.4, **options)
        assert_same_bits(ops.dropout_apply(x, state(), 0.4, **options), want)
        noise = ops.normal_noise(state(), shape, mask_strides=strides, mask_base=base)
        each = ops.normal_noise(state(), shape[:-1], mask_strides=strides[:-1], mask_base=base)
        assert_same_bits(noise, each.unsqueeze(-1).expand(shape))


@pytest.mark.parametrize("row", [2, 3, 20, 32, 64, 70, 96, 128])
@pytest.mark.parametrize("base", [0, 5, 2**35 - 77, -100])
def test_short_rows_of_one_mask(row, base, instruction_set):
    """Features that share their mask over time, and channels of channels_last: whole batches of several rows, made
    once, and what is left before a stretch or a dimension ends."""
    for shape, strides in (((9000 // row, row), [0, 1]), ((3, 9000 // row, row), [row + 7, 0, 1]),
                           ((2, 3, 1000 // row, row), [500, row, 0, 1])):  # fmt: skip
        options = {"mask_strides": strides, "mask_base": base}
        x = torch.randn(shape)
        want = reference.dropout_apply(x, state(), 0.4, **options)
        assert_same_bits(ops.dropout_apply(x, state(), 0.4, **options), want)
        noise = ops.normal_noise(state(), shape, mask_strides=strides, mask_base=base)
        once = ops.normal_noise(state(), (*shape[:-2], 1, row), mask_strides=strides, mask_base=base)
        assert_same_bits(noise, once.expand(shape))


@pytest.mark.parametrize("base", [0, 5, 2**35 - 77, -100])
def test_narrow_tiles_find_the_next_row_in_what_is_remembered(base, instruction_set):
    for height, width in ((5000, 2), (3000, 10), (700, 64), (700, 65)):
        for gap in (0, 3, 500):
            options = {"mask_strides": [width + gap, 1], "mask_base": base}
            x = torch.randn(width, height).t()
            want = reference.dropout_apply(x, state(), 0.4, **options)
            assert_same_bits(ops.dropout_apply(x, state(), 0.4, **options), want)


def test_mask_index_wraps_at_64_bits_in_tiles(instruction_set):
    """Memory across the mask's order, and a base so close to the end that a tile begins before it and ends behind."""
    x = torch.ones(300, 70).t()
    for base in range(-200, 0, 7):
        want = reference.dropout_apply(x, state(), 0.5, mask_base=base)
        assert torch.equal(ops.dropout_apply(x, state(), 0.5, mask_base=base), want), base


@pytest.mark.parametrize("shape", [(3, 2**17 + 5000), (5, 2**17 - 3), (2, 3, 70_001), (40_000, 2, 5)], ids=str)
def test_masks_that_are_shared_beyond_what_is_remembered(shape, instruction_set):
    x = torch.ones(shape)
    for shared in range(len(shape)):
        strides = reference.row_major([1 if d == shared else size for d, size in enumerate(shape)])
        want = reference.dropout_apply(x, state(), 0.5, mask_strides=strides)
        assert torch.equal(ops.dropout_apply(x, state(), 0.5, mask_strides=strides), want)


def test_dimensions_behind_the_last_mask_stride_share_decisions():
    x = torch.randn(5, 3, 4, 7)
    for own in range(5):
        strides = reference.row_major(x.shape[:own])
        got = ops.dropout_apply(x, state(), 0.5, mask_strides=strides)
        assert_same_bits(got, ops.dropout_apply(x, state(), 0.5, mask_strides=strides + [0] * (4 - own)))
        assert_same_bits(got, reference.dropout_apply(x, state(), 0.5, mask_strides=strides))


def test_shard_of_a_larger_tensor_gets_its_global_mask(instruction_set):
    """Columns 20 to 29 of rows 3 to 6 of a (10, 64) tensor, from its base and strides alone."""
    whole = torch.randn(10, 64)
    y = fused_dropout.dropout(whole, 0.5, rng=STATE)
    part = ops.dropout_apply(whole[3:7, 20:30], state(), 0.5, mask_strides=[64, 1], mask_base=3 * 64 + 20)
    assert_same_bits(part, y[3:7, 20:30])


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7, 64])
def test_thread_count_does_not_matter(n_threads, threads):
    x = torch.randn(1_000_003)
    t = torch.randn(1000, 900).t()
    want = [reference.dropout_apply(v, state(), 0.2) for v in (x, t)]
    threads(n_threads)
    for v, w in zip((x, t), want, strict=True):
        assert_same_bits(ops.dropout_apply(v, state(), 0.2), w)


@pytest.mark.parametrize("offset", range(0, 33))
def test_alignment_does_not_matter(offset, instruction_set):
    storage = torch.randn(1000 + 33)
    x = storage[offset : offset + 1000]
    assert_same_bits(ops.dropout_apply(x, state(), 0.2), reference.dropout_apply(x.clone(), state(), 0.2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_dropped_is_positive_zero_whatever_it_was(dtype, bad, instruction_set):
    x = torch.full((4099,), bad, dtype=dtype)
    y = fused_dropout.dropout(x, 0.5, rng=STATE)
    keep = fused_dropout.keep_mask(x.shape, 0.5, STATE)
    assert (y[~keep] == 0).all()
    assert not y[~keep].signbit().any()
    assert not y[keep].isfinite().any()
    negative = fused_dropout.dropout(-torch.ones_like(x), 0.5, rng=STATE)
    assert not negative[~keep].signbit().any()


def test_p_that_rounds_to_one_gives_zeros_and_zero_gradients():
    x = torch.randn(100, requires_grad=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    y = fused_dropout.dropout(x, 1 - 2**-40)
    assert not torch.equal(before, torch.get_rng_state())
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()
    assert not fused_dropout.alpha_dropout(x, 1.0, training=True).any()


def test_tiny_p_draws_and_keeps_everything():
    x = torch.randn(1000)
    before = torch.get_rng_state()
    assert torch.equal(fused_dropout.dropout(x, 2.0**-33), x)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
@pytest.mark.parametrize("p", [0.0, 0])
def test_p_zero_is_the_input_itself_and_draws_nothing(p, mode):
    x = torch.arange(5)  # any dtype
    before = torch.get_rng_state()
    assert fused_dropout.dropout(x, p, mode=mode) is x
    assert fused_dropout.dropout(x, p, inplace=True, mode=mode) is x
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["float", "tensor"])
def test_modes(p, dtype):
    x = torch.randn(1000).to(dtype)
    before = torch.get_rng_state()
    assert fused_dropout.dropout(x, p, training=False) is x
    compute = torch.promote_types(dtype, torch.float32)
    factor = torch.tensor(reference.kept(0.1), dtype=torch.float64).to(compute)
    want = (x.to(compute) * factor).to(dtype)
    assert_same_bits(fused_dropout.dropout(x, p, training=False, mode="downscale_in_infer"), want)
    in_place = x.clone()
    assert fused_dropout.dropout(in_place, p, False, True, mode="downscale_in_infer") is in_place
    assert_same_bits(in_place, want)
    assert torch.equal(before, torch.get_rng_state())
    keep = fused_dropout.keep_mask(x.shape, p, STATE)
    bare = fused_dropout.dropout(x, p, rng=STATE, mode="downscale_in_infer")
    assert_same_bits(bare, torch.where(keep, x, 0))


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.1, 0.5, 1.0, -0.5, 1.5, math.nan])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_tensor_p_equals_the_float_and_counts_as_one_outside(value, pipeline):
    number = value if 0 <= value <= 1 else 1.0
    p = torch.tensor(value, dtype=torch.float64)
    inputs = inputs_for(pipeline, torch.randn(1000))
    call = getattr(ops, f"{pipeline}_apply")
    assert_same_bits(call(*inputs, state(), 1.0, p_tensor=p), call(*inputs, state(), number))
    want = getattr(reference, f"{pipeline}_apply")(*inputs, state(), 1.0, p_tensor=p)
    assert torch.allclose(call(*inputs, state(), number), want, rtol=1e-6, atol=0)


def test_tensor_p_always_draws_and_never_returns_the_input():
    x = torch.randn(100)
    before = torch.get_rng_state()
    y = fused_dropout.dropout(x, torch.tensor(0.0))
    assert y is not x
    assert torch.equal(x, y)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pipeline", ["dropout", "alpha_dropout"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_in_place_writes_what_out_of_place_returns(layout, pipeline, instruction_set):
    call = getattr(fused_dropout, pipeline)
    x = LAYOUTS[layout](torch.randn(5, 3, 70, 9))
    want = call(x, 0.3, True, rng=STATE)
    y = call(x, 0.3, True, True, rng=STATE)
    assert y is x
    assert torch.equal(x, want)


def test_in_place_on_a_slice_leaves_its_neighbours_alone():
    x = torch.ones(10, 16)
    fused_dropout.dropout(x[2:5, 3:11], 1.0, inplace=True)
    assert x.sum() == 160 - 24


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dense_inputs_keep_their_strides(layout):
    x = LAYOUTS[layout](torch.randn(4, 6, 5, 3))
    y = fused_dropout.dropout(x, 0.5)
    assert y.stride() == torch.empty_like(x).stride()
    if layout in ("transposed", "reversed dimensions", "channels last"):
        assert y.stride() == x.stride()


def test_zero_dimensional_and_empty():
    assert fused_dropout.dropout(torch.tensor(1.0), 0.5, rng=STATE).item() in (0.0, 2.0)
    for shape in ((0,), (3, 0, 2), (0, 5)):
        x = torch.empty(shape, requires_grad=True)
        before = torch.get_rng_state()
        y = fused_dropout.dropout(x, 0.5)
        assert not torch.equal(before, torch.get_rng_state()), "an empty input draws too"
        y.sum().backward()
        assert y.shape == x.grad.shape == x.shape
        assert fused_dropout.dropout(x.detach(), 0.5, noise_shape=[1] * x.dim()).shape == x.shape


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_p_gives_the_references_float64_bits(pipeline, instruction_set):
    inputs = inputs_for(pipeline, torch.randn(500, dtype=torch.float64))
    for p in torch.arange(201, dtype=torch.float64) / 200:
        want = getattr(reference, f"{pipeline}_apply")(*inputs, state(), p.item())
        assert_same_bits(getattr(ops, f"{pipeline}_apply")(*inputs, state(), p.item()), want)
        assert_same_bits(getattr(ops, f"{pipeline}_apply")(*inputs, state(), 1.0, p_tensor=p), want)


def test_expectation_is_the_input():
    """Over 2^20 elements the mean of ones stays 1: |z| < 6 with the variance p / (1 - p)."""
    for p in (0.1, 0.5, 0.9):
        y = fused_dropout.dropout(torch.ones(1 << 20, dtype=torch.float64), p, rng=(3, 4))
        assert abs(y.mean() - 1) * (1 << 10) / (p / (1 - p)) ** 0.5 < 6


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(1 << 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = fused_dropout.alpha_dropout(x, 0.3, training=True, rng=(1, 0))
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02
    torch_values = torch.nn.functional.alpha_dropout(torch.zeros(1000), 0.3, training=True).unique()
    ours = fused_dropout.alpha_dropout(torch.zeros(1000), 0.3, training=True).unique()
    torch.testing.assert_close(ours, torch_values)


def test_dropout_add_is_dropout_then_add(instruction_set):
    for dtype in DTYPES:
        x, residual = torch.randn(2, 1003).to(dtype)
        y = fused_dropout.dropout_add(x, residual, 0.3, rng=STATE)
        compute = torch.promote_types(dtype, torch.float32)
        keep = fused_dropout.keep_mask(x.shape, 0.3, STATE)
        factor = torch.tensor(reference.gain_of(0.3, 0), dtype=compute)
        want = (residual.to(compute) + torch.where(keep, x.to(compute) * factor, 0)).to(dtype)
        assert_same_bits(y, want)
        assert torch.equal(fused_dropout.dropout_add(x, residual, 0.3, training=False), residual + x)
        assert torch.equal(fused_dropout.dropout_add(x, residual, 0.0), residual + x)


# Normal noise and blocks ---------------------------------------------------------------------------------------------

NOISE_ULPS = 4  # in the type computed in: the angle's rounding, times 2 pi, and the functions' own


def exact_noise(shape, mask_strides=None, mask_base=0) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise in float64, and how far from it, in units of the type computed in, that type may come.

    The radius is sqrt(-2 ln u): where u is near 1 its own rounding moves the radius by as much over the radius.
    """
    strides = reference.row_major(shape) if mask_strides is None else mask_strides
    index = reference.mask_indices(shape, strides, mask_base, torch.device("cpu"))
    radius = torch.sqrt(-2 * torch.log((reference.words(state(), index & ~1).double() + 0.5) / 2.0**32))
    exact = reference.normal_noise(state(), shape, dtype=torch.float64, mask_strides=strides, mask_base=mask_base)
    return exact, NOISE_ULPS * (1 + radius) + 1 / radius


def assert_near(ours: torch.Tensor, exact: torch.Tensor, units: torch.Tensor) -> None:
    """Within `units` of the type computed in, and one rounding to the dtype where that is another."""
    wide = reference.compute(ours.dtype)
    info = torch.finfo(ours.dtype)
    rounding = 0 if wide == ours.dtype else info.eps / 2 * (exact.abs() + info.smallest_normal)
    assert ((ours.double() - exact).abs() <= torch.finfo(wide).eps * units + rounding).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5, 7), (4, 130, 67)], ids=str)
def test_normal_noise_is_that_of_the_mask_index(shape, dtype, device, instruction_set):
    maps = [{}, {"mask_base": 1}, {"mask_base": 2**33 + 5}, {"mask_strides": [3 * i for i in range(len(shape))]}]
    for options in maps:
        noise = ops.normal_noise(state(device), list(shape), dtype=dtype, **options)
        assert noise.dtype == dtype
        assert_near(noise.cpu(), *exact_noise(shape, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian_dropout_is_the_noise_times_the_input(layout, dtype, device, instruction_set):
    x = LAYOUTS[layout](torch.randn((5, 3, 70, 9), generator=torch.Generator().manual_seed(0)).to(dtype))
    noise, units = exact_noise(x.shape)
    for p in (0.1, 0.5):
        stddev = math.sqrt(reference.dropped(p) / reference.kept(p))
        y = ops.gaussian_dropout_apply(x.to(device), state(device), p)
        exact = x.double() * (1 + stddev * noise)
        assert_near(y.cpu(), exact, x.double().abs() * (stddev * units + 2 * (1 + stddev * noise.abs())))
        p_tensor = torch.tensor(p, dtype=torch.float64, device=device)
        assert_same_bits(ops.gaussian_dropout_apply(x.to(device), state(device), 1.0, p_tensor=p_tensor), y)
        assert y.stride() == torch.empty_like(x).stride()
    assert not ops.gaussian_dropout_apply(x * math.inf, state(), 1.0).any()
    if layout != "expanded":
        written = x.clone() if layout == "contiguous" else LAYOUTS[layout](x.contiguous())
        want = fused_dropout.gaussian_dropout(written, 0.5, rng=STATE)
        assert fused_dropout.gaussian_dropout(written, 0.5, inplace=True, rng=STATE) is written
        assert_same_bits(written, want)


# block, seeds' grid, coupled: on maps of 9 x 10
BLOCK_ROWS = [
    ([1, 1, 9, 10], False),
    ([2, 3, 8, 8], False),
    ([3, 3, 9, 10], True),
    ([4, 5, 9, 10], False),
    ([9, 10, 1, 1], True),
    ([9, 7, 9, 10], False),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("block", "coupled"), BLOCK_ROWS, ids=str)
def test_blocks_equal_the_reference(block, coupled, dtype, instruction_set):
    strides = reference.row_major([5, 1 if coupled else 4, *block[2:]])
    for layout in ("contiguous", "transposed", "channels last", "every second", "expanded"):
        x = LAYOUTS[layout](torch.randn((5, 4, 9, 10), generator=torch.Generator().manual_seed(0)).to(dtype))
        for p, gain in ((0.0, 0), (0.01, 0), (0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)):
            options = {"gain": gain, "mask_strides": strides, "mask_base": 3, "block": block}
            want = reference.dropout_apply(x, state(), p, **options)
            assert_same_bits(ops.dropout_apply(x, state(), p, **options), want)
            by_tensor = ops.dropout_apply(x, state(), 1.0, p_tensor=torch.tensor(p, dtype=torch.float64), **options)
            assert_same_bits(by_tensor, want)
