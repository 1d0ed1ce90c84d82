"""What only a GPU can show. Skipped, with this reason, where there is none."""

import functools
import itertools

import pytest
import torch
from conftest import DTYPES, moved
from test_launches import ALWAYS as FUSED
from test_values import LAYOUTS, PIPELINES, assert_same_bits, inputs_for

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
STATE = (2**63 + 12345, 2**40 + 8)


@pytest.fixture
def kernels_of(request):
    """Of a call, the names of the kernels that it launches."""

    def profiled(call):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        return [event.name for event in profile.events()]

    emulator = request.config.pluginmanager.get_plugin("proof.emulator.plugin")  # a GPU in software, without a profiler
    return profiled if emulator is None else emulator.device.launches_of


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gpu_gives_the_bits_of_the_cpu(layout, pipeline, dtype):
    for shape in ((3, 5, 7), (2, 64, 64), (5, 3, 70, 9), (2, 3, 1, 1025)):
        x = LAYOUTS[layout](torch.randn(shape).to(dtype))
        inputs = inputs_for(pipeline, x)
        rng = torch.tensor([STATE[0] - 2**64, STATE[1]])
        want = getattr(ops, f"{pipeline}_apply")(*inputs, rng, 0.3)
        got = getattr(ops, f"{pipeline}_apply")(*[moved(t, "cuda") for t in inputs], rng.cuda(), 0.3)
        assert_same_bits(got.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_blocks_and_shared_masks_give_the_bits_of_the_cpu(layout, dtype):
    for shape in ((2, 3, 14, 15), (3, 8, 7, 7), (2, 64, 20, 20)):
        x = LAYOUTS[layout](torch.randn(shape).to(dtype))
        for call in (
            lambda v: fused_dropout.gaussian_dropout(v, 0.3, rng=STATE),
            lambda v: fused_dropout.drop_block2d(v, 0.2, 5, rng=STATE),
            lambda v: fused_dropout.drop_block2d(v, 0.2, 4, couple_channels=True, clip=True, rng=STATE),
            lambda v: fused_dropout.dropout2d(v, 0.3, rng=STATE),
            lambda v: fused_dropout.feature_alpha_dropout(v, 0.3, True, rng=STATE),
            lambda v: fused_dropout.dropout(v, 0.3, noise_shape=(None, 1, None, None), rng=STATE),
        ):
            assert_same_bits(call(moved(x, "cuda")).cpu(), call(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", reference.CHAINS)
def test_activations_have_the_bits_of_the_cpu(name, dtype):
    """Forward and backward: exponential and normal distribution are made of operations that are rounded in one way."""
    for layout in ("contiguous", "transposed", "offset by one element"):
        x = LAYOUTS[layout](3 * torch.randn(33, 70).to(dtype))
        shape = x.shape[-1:] if "bias" in name else x.shape
        inputs = [x, *(torch.randn(shape).to(dtype) for _ in range(reference.CHAINS[name][1] - 1))]
        results = []
        for device in ("cpu", "cuda"):
            tensors = [moved(t, device).detach().requires_grad_() for t in inputs]
            rng = torch.tensor([STATE[0] - 2**64, STATE[1]], device=device)
            y = getattr(ops, f"{name}_apply")(*tensors, rng, 0.3)
            first = tensors[0] if "bias" in name else tensors  # a bias's gradient is a sum, of another order
            results.append([y, *torch.autograd.grad(y, first, y.detach())])
        for ours, theirs in zip(*results, strict=True):
            assert_same_bits(theirs.detach().cpu(), ours.detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 7, 64, 1000, 5000, 70_000])
def test_rows_are_those_of_the_cpu_but_for_the_order_of_their_sums(features, dtype):
    eps = 64 * torch.finfo(dtype).eps
    calls = (
        lambda x, r, w, b: fused_dropout.dropout_add_layer_norm(x, r, w, b, 0.3, rng=STATE),
        lambda x, r, w, b: fused_dropout.dropout_add_rms_norm(x, r, w, 0.3, rng=STATE),
        lambda x, r, w, b: (fused_dropout.softmax_dropout(x, 0.3, attn_mask=r > -1, rng=STATE),),
    )
    inputs = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in ((9, features),) * 2 + ((features,),) * 2]
    for call in calls:
        results = []
        for device in ("cpu", "cuda"):
            tensors = [t.to(device).requires_grad_() for t in inputs]
            outputs = call(*tensors)
            loss = sum(y.sin().sum() for y in outputs)
            grads = torch.autograd.grad(loss, tensors, allow_unused=True)
            results.append([y.detach().cpu() for y in (*outputs, *grads) if y is not None])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=eps, atol=eps * 8)
            assert torch.equal(ours == 0, theirs == 0) or dtype.itemsize == 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FUSED)
def test_a_call_is_one_kernel_of_ours(name, training, kernels_of):
    tensors = [t if t is None else t.cuda() for t in FUSED[name]]
    call = functools.partial(getattr(fused_dropout, name), *tensors, p=0.4, training=training)
    call()
    kernels = [kernel for kernel in kernels_of(call) if "fused_dropout" in kernel]
    assert len(kernels) == 1, kernels


def test_a_call_advances_the_generator_by_eight_and_is_predictable():
    torch.cuda.init()  # there are no default generators before
    torch.cuda.manual_seed(42)
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    for call in (
        lambda: fused_dropout.dropout(torch.ones(1 << 20, device="cuda")),
        lambda: fused_dropout.dropout(torch.ones(0, device="cuda")),
        lambda: fused_dropout.gaussian_dropout(torch.ones(0, device="cuda")),
        lambda: fused_dropout.dropout(torch.ones(5, device="cuda"), inplace=True),
        lambda: fused_dropout.draw("cuda"),
        lambda: fused_dropout.softmax_dropout(torch.ones(3, 5, device="cuda")),
        lambda: fused_dropout.softmax_dropout(torch.ones(3, 0, device="cuda")),
    ):
        before = generator.get_offset()
        call()
        assert generator.get_offset() == before + 8
    torch.cuda.manual_seed(42)
    assert fused_dropout.draw("cuda").tolist() == [42, 0]
    assert ops.dropout(torch.ones(9, device="cuda"), 0.5)[1].tolist() == [42, 8]
    before = generator.get_offset()
    fused_dropout.dropout(torch.ones(5, device="cuda"), rng=(1, 0))
    assert generator.get_offset() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it takes two GPUs")
def test_a_generator_of_another_gpu_is_refused_and_stays_where_it_is():
    generator = torch.Generator("cuda:1").manual_seed(3)
    with pytest.raises(RuntimeError, match="expected a generator of the input's device cuda:0, but got one of cuda:1"):
        fused_dropout.dropout(torch.ones(5, device="cuda:0"), generator=generator)
    assert generator.get_offset() == 0


def test_backward_of_a_drawn_state():
    x = torch.randn(100_003, device="cuda", requires_grad=True)
    y = fused_dropout.dropout(x, 0.3)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_graph_replays_draw_anew_and_equal_eager_calls():
    x = torch.randn(10_000, device="cuda", requires_grad=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(fused_dropout.dropout(x, 0.5).sum(), x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fused_dropout.dropout(x, 0.5)
        (grad,) = torch.autograd.grad(y.sum(), x)
        again, rows = fused_dropout.dropout(x, 0.5), fused_dropout.softmax_dropout(x.view(100, 100), 0.5)
    torch.cuda.manual_seed(7)
    replays = []
    for _ in range(3):
        graph.replay()
        assert torch.equal(grad == 0, y == 0)
        replays.append([t.clone() for t in (y, again, rows)])
    torch.cuda.manual_seed(7)
    for replay in replays:
        eager = [fused_dropout.dropout(x, 0.5), fused_dropout.dropout(x, 0.5)]
        eager.append(fused_dropout.softmax_dropout(x.view(100, 100), 0.5))
        assert all(map(torch.equal, eager, replay))
    assert not torch.equal(replays[0][0], replays[1][0])


def test_a_state_on_the_device_may_change_between_replays():
    x, rng = torch.ones(10_000, device="cuda"), fused_dropout.draw("cuda")
    fused_dropout.dropout(x, 0.5, rng=rng)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fused_dropout.dropout(x, 0.5, rng=rng)
    for seed in (1, 2):
        rng.copy_(torch.tensor([seed, 0]))
        graph.replay()
        assert torch.equal(y.cpu(), fused_dropout.dropout(torch.ones(10_000), 0.5, rng=(seed, 0)))


def test_generators_of_the_device_are_honoured():
    x = torch.ones(1000, device="cuda")
    generator = torch.Generator("cuda").manual_seed(5)
    before = torch.cuda.get_rng_state()
    a, b = (fused_dropout.dropout(x, generator=generator) for _ in range(2))
    assert not torch.equal(a, b)
    assert torch.equal(a, fused_dropout.dropout(x, rng=(5, 0)))
    assert torch.equal(b, fused_dropout.dropout(x, rng=(5, 8)))
    assert torch.equal(before, torch.cuda.get_rng_state())
    drawn = fused_dropout.dropout(x)
    with torch.random.fork_rng(devices=[0]):
        fused_dropout.dropout(x)
    after = fused_dropout.dropout(x)
    torch.cuda.set_rng_state(before)
    assert torch.equal(fused_dropout.dropout(x), drawn)
    assert torch.equal(fused_dropout.dropout(x), after)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_draws_the_eager_masks(mode):
    """With reduce-overhead a CUDA graph is replayed: each time another mask, and that of the eager call."""
    compiled = torch.compile(lambda x: fused_dropout.dropout(x * 2, 0.5), mode=mode, fullgraph=True)
    x = torch.randn(10_000, device="cuda", requires_grad=True)
    seen = []
    for step in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        torch.cuda.manual_seed(step)
        y = compiled(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        torch.cuda.manual_seed(step)
        assert torch.equal(y, fused_dropout.dropout(x * 2, 0.5))
        assert torch.equal(grad == 0, y == 0)
        seen.append((y != 0).clone())
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))
    torch._dynamo.reset()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant):
    from torch.utils.checkpoint import checkpoint

    def block(x):
        return fused_dropout.dropout(fused_dropout.dropout(x.sin(), 0.3).exp(), 0.3)

    x = torch.randn(1000, device="cuda", requires_grad=True)
    grads = []
    for f in (block, lambda x: checkpoint(block, x, use_reentrant=use_reentrant)):
        torch.cuda.manual_seed(9)
        x.grad = None
        f(x).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_vmap_reserves_eight_words_a_sample():
    x = torch.ones(4, 1000, device="cuda")
    torch.cuda.manual_seed(3)
    y = torch.vmap(lambda v: fused_dropout.dropout(v, 0.5), randomness="different")(x)
    for sample in range(4):
        assert torch.equal(y[sample], fused_dropout.dropout(x[0], 0.5, rng=(3, 8 * sample)))
    torch.cuda.manual_seed(3)
    same = torch.vmap(lambda v: fused_dropout.dropout(v, 0.5), randomness="same")(x)
    assert torch.equal(same, y[0].expand(4, -1))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_and_nested_tensors_give_the_bits_of_the_cpu(dtype):
    for layout in LAYOUTS.values():
        x = layout(torch.randn(5, 3, 70, 9, dtype=dtype))
        for call in (
            lambda v: fused_dropout.dropout(v, 0.3, rng=STATE),
            lambda v: fused_dropout.dropout2d(v, 0.3, rng=STATE),
            lambda v: fused_dropout.gaussian_dropout(v, 0.3, rng=STATE),
        ):
            assert_same_bits(torch.view_as_real(call(moved(x, "cuda")).cpu()), torch.view_as_real(call(x)))
    rows = [torch.randn(n, 5, device="cuda") for n in (3, 1, 4)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    want = fused_dropout.dropout(torch.cat(rows).cpu(), 0.3, rng=STATE)
    assert torch.equal(fused_dropout.dropout(nested, 0.3, rng=STATE).values().cpu(), want)


def test_nothing_synchronises():
    x, p = torch.ones(1000, device="cuda", requires_grad=True), torch.tensor(0.5, device="cuda")
    rng = fused_dropout.draw("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for options in ({}, {"rng": rng}, {"rng": (1, 8)}, {"noise_shape": (1,)}):
            fused_dropout.dropout(x, p, **options).sum().backward()
            fused_dropout.dropout(x, 0.3, **options).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_streams_and_devices():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.ones(1 << 22, device="cuda")
        y = fused_dropout.dropout(x, 0.5, rng=(1, 0))
    stream.synchronize()
    assert torch.equal(y.cpu(), fused_dropout.dropout(torch.ones(1 << 22), 0.5, rng=(1, 0)))
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    assert fused_dropout.dropout(torch.ones(10, device=last)).device == last


@pytest.mark.parametrize("numel", [2**31 + 4, 2**32 + 13])
def test_more_than_32_bits_of_elements(numel):
    if torch.cuda.mem_get_info()[0] < 4.2 * numel:
        pytest.skip("not enough free memory on the GPU")
    x = torch.ones(numel, device="cuda", dtype=torch.bfloat16)
    y = fused_dropout.dropout(x, 0.5, rng=STATE)
    rng = torch.tensor([STATE[0] - 2**64, STATE[1]])
    for start in (0, 2**31 - 8, numel - 1000):
        want = ops.keep_mask(rng, [min(1000, numel - start)], 0.5, mask_base=start)
        assert torch.equal((y[start : start + 1000] != 0).cpu(), want)
