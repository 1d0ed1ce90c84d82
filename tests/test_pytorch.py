"""At home in PyTorch: operations, tags, fake tensors, compilation, generators."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import NAMES, SUMMED, ops

STATE = torch.tensor([7, 16])
P = torch.tensor(0.3, dtype=torch.float64)


def x_of(*shape, dtype=torch.float32, grad=True):
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


OPCHECKS = {
    "dropout": [((x_of(4, 6), 0.5), {}), ((x_of(4, 6, grad=False), 1.0), {"p_tensor": P, "mask_strides": [1, 0]})],
    "dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "dropout_apply": [((x_of(4, 6), STATE, 0.5), {}), ((x_of(4, 6).t(), STATE, 1.0), {"p_tensor": P, "gain": 1})],
    "dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "alpha_dropout": [((x_of(4, 6), 0.5), {"mask_strides": [1]})],
    "alpha_dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "alpha_dropout_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "alpha_dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "dropout_add": [((x_of(4, 6), x_of(4, 6), 0.5), {})],
    "dropout_add_apply": [((x_of(4, 6), x_of(4, 6), STATE, 0.5), {"mask_strides": [0, 1], "mask_base": 5})],
    "bias_dropout": [((x_of(4, 6), x_of(6), 0.5), {})],
    "bias_dropout_apply": [((x_of(4, 6), x_of(4, 1), STATE, 0.5), {"mask_strides": [1, 0]})],
    "bias_dropout_add": [((x_of(4, 6), x_of(6), x_of(4, 6), 0.5), {})],
    "bias_dropout_add_apply": [((x_of(4, 6), x_of(6), x_of(4, 6), STATE, 0.5), {})],
    "gaussian_dropout": [((x_of(4, 6), 0.5), {"mask_strides": [1, 0]})],
    "gaussian_dropout_": [((x_of(4, 6, grad=False), 0.5), {})],
    "gaussian_dropout_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "gaussian_dropout_apply_": [((x_of(4, 6, grad=False), STATE, 0.5), {})],
    "zoneout": [((x_of(4, 6), x_of(4, 6), 0.5), {})],
    "zoneout_apply": [((x_of(4, 6), x_of(4, 6), STATE, 0.5), {})],
    "dropped_apply": [((x_of(4, 6), STATE, 0.5), {})],
    "draw": [((torch.empty(0),), {})],
    "make_state": [((torch.empty(0), 5, 8), {})],
    "keep_mask": [((STATE, [4, 6], 0.5), {})],
    "normal_noise": [((STATE, [4, 6]), {"dtype": torch.bfloat16}), ((STATE, [4, 6]), {"mask_strides": [0, 1]})],
}
for name, (_, count) in reference.CHAINS.items():
    tensors = [x_of(4, 6) for _ in range(count)]
    if name.startswith("bias_"):
        tensors[1] = x_of(6)
    grad = x_of(4, 3) if "halves" in name else x_of(4, 6)
    saved = [x_of(4, 6)] if name == "relu_dropout" else tensors
    OPCHECKS[name] = [((*tensors, 0.5), {})]
    OPCHECKS[f"{name}_apply"] = [((*tensors, STATE, 1.0), {"p_tensor": P})]
    OPCHECKS[f"{name}_backward"] = [((grad, *saved, STATE, 0.5), {})]
ROW, OF_ROWS = x_of(6), [torch.ones(4), torch.ones(4)]  # of a weight or a bias, and the statistics
OPCHECKS |= {
    "dropout_add_layer_norm": [((x_of(4, 6), x_of(4, 6), ROW, None, 0.5, 1e-5), {})],
    "dropout_add_rms_norm": [((x_of(4, 6), x_of(4, 6), ROW, 1.0, 1e-5), {"p_tensor": P})],
    "softmax_dropout": [((x_of(4, 6), ROW, 0.5, 0.5), {"mask_base": 7})],
    "dropout_add_layer_norm_apply": [((x_of(4, 6), x_of(4, 6), ROW, ROW, STATE, 0.5, 1e-5), {"mask_strides": [0, 1]})],
    "dropout_add_layer_norm_backward": [
        ((x_of(4, 6), None, x_of(4, 6), ROW, *OF_ROWS, STATE, 0.5, 1e-5, [True] * 4), {"p_tensor": P})
    ],
    "dropout_add_rms_norm_apply": [((x_of(4, 6), x_of(4, 6), None, STATE, 1.0, 1e-5), {"p_tensor": P})],
    "dropout_add_rms_norm_backward": [
        ((x_of(4, 6), x_of(4, 6), x_of(4, 6), None, OF_ROWS[0], STATE, 0.5, 1e-5, [True, False, False]), {})
    ],
    "softmax_dropout_apply": [((x_of(4, 6), ROW, STATE, 1.0, 0.5), {"p_tensor": P, "mask_strides": [0, 1]})],
    "softmax_dropout_backward": [((x_of(4, 6), x_of(4, 6), None, *OF_ROWS, STATE, 0.5, 0.5, [True, False]), {})],
}
for name, without in SUMMED.items():
    OPCHECKS[name] = list(OPCHECKS[without])
BLOCKS = {"mask_strides": [50, 25, 5, 1], "block": [3, 4, 5, 5]}  # of a map of 7 by 8
OPCHECKS["dropout"].append(((x_of(2, 2, 7, 8), 0.1), BLOCKS))
for name in ("dropout", "dropout_add", "zoneout", "gaussian_dropout"):  # the parts of complex numbers
    inputs = [x_of(4, 6, dtype=torch.complex64) for _ in OPCHECKS[name][0][0][:-1]]
    OPCHECKS[name].append(((*inputs, 0.5), {}))
OPCHECKS["dropout_"].append(((x_of(2, 2, 7, 8, grad=False), 0.1), BLOCKS))
OPCHECKS["dropout_apply"].append(((x_of(2, 2, 7, 8), STATE, 0.1), BLOCKS))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    for args, kwargs in OPCHECKS[name]:
        opcheck(getattr(ops, name), args, kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_drawing_operations_are_tagged_random(name):
    """Without the tag compiled checkpointing is silently wrong; with it the pure ones could not be recomputed."""
    random = not any(
        part in name for part in ("apply", "backward", "and_sum", "make_state", "keep_mask", "normal_noise")
    )
    assert (torch.Tag.nondeterministic_seeded in getattr(ops, name).tags) == random


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_meta_and_fake_tensors_have_the_layout_of_real_ones(device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    if device == "meta":
        x = real.to("meta")
        y = fused_dropout.dropout(x, 0.5, noise_shape=(2, 3, 1, 1))
    else:
        with FakeTensorMode() as mode:
            x = mode.from_tensor(real)
            y = fused_dropout.dropout(x, 0.5, noise_shape=(2, 3, 1, 1))
            assert fused_dropout.draw().shape == (2,)
    assert (y.shape, y.stride(), y.dtype) == (real.shape, real.stride(), real.dtype)


def test_a_traced_call_keeps_to_the_inputs_device():
    """On CUDA: a fake tensor needs no GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        x = torch.empty(4, device="cuda")
        assert fused_dropout.dropout(x, 0.5).device == x.device
        assert fused_dropout.dropout(x, 0.5, rng=(1, 0)).device == x.device


def test_manual_seed_state_and_fork():
    x = torch.ones(1000)
    torch.manual_seed(0)
    a = fused_dropout.dropout(x)
    state = torch.get_rng_state()
    b = fused_dropout.dropout(x)
    with torch.random.fork_rng():
        fused_dropout.dropout(x)
    after = torch.rand(1)
    torch.set_rng_state(state)
    assert torch.equal(fused_dropout.dropout(x), b)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(0)
    assert torch.equal(fused_dropout.dropout(x), a)
    assert not torch.equal(a, b)


def test_generator_argument_draws_from_it_alone():
    x = torch.ones(1000)
    before = torch.get_rng_state()
    a, b = (fused_dropout.dropout(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    generator = torch.Generator().manual_seed(5)
    rng = fused_dropout.draw(generator=generator)
    assert torch.equal(a, fused_dropout.dropout(x, rng=rng))
    untouched = generator.get_state()
    fused_dropout.dropout(x, rng=rng)
    assert torch.equal(untouched, generator.get_state())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fused_dropout.dropout(x),
        lambda x: fused_dropout.dropout(x, inplace=True),
        lambda x: fused_dropout.dropout(x[:0]),
        lambda x: fused_dropout.dropout(x, 1.0),
        lambda x: fused_dropout.dropout(x, noise_shape=(1,)),
        lambda x: fused_dropout.alpha_dropout(x, 0.5, True),
        lambda x: fused_dropout.dropout_add(x, x),
        lambda x: fused_dropout.draw(),
    ],
)
def test_every_call_draws_exactly_one_state(call):
    torch.manual_seed(1)
    torch.empty(2, dtype=torch.int64).random_(-(2**63), None)
    want = torch.rand(1)
    torch.manual_seed(1)
    call(torch.ones(100))
    assert torch.equal(torch.rand(1), want)


def test_threads_on_one_generator_lose_no_draw_and_repeat_none():
    generator, drawn = torch.Generator().manual_seed(0), []

    def work():
        drawn.extend(tuple(fused_dropout.draw(generator=generator).tolist()) for _ in range(200))

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    alone = torch.Generator().manual_seed(0)
    assert set(drawn) == {tuple(fused_dropout.draw(generator=alone).tolist()) for _ in range(3200)}
    assert len(drawn) == len(set(drawn)) == 3200


def test_inference_mode_and_autocast():
    with torch.inference_mode():
        x = torch.ones(1000)
        assert set(fused_dropout.dropout(x).tolist()) == {0.0, 2.0}
        assert fused_dropout.dropout(x, inplace=True) is x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert fused_dropout.dropout(torch.ones(10, dtype=dtype)).dtype == dtype


# Of a float32 tensor, a bfloat16 one and a float32 row: what autocast leaves in a transformer's block.
MIXED = {
    "dropout_add": lambda x, h, row, **rng: fused_dropout.dropout_add(h, x, 0.3, **rng),
    "dropout_add, the other one wide": lambda x, h, row, **rng: fused_dropout.dropout_add(x, h, 0.3, **rng),
    "drop_path_add": lambda x, h, row, **rng: fused_dropout.drop_path_add(h, x, 0.3, True, **rng),
    "bias_dropout": lambda x, h, row, **rng: fused_dropout.bias_dropout(h, row, 0.3, **rng),
    "bias_dropout_add": lambda x, h, row, **rng: fused_dropout.bias_dropout_add(h, row, x, 0.3, **rng),
    "bias_gelu_dropout": lambda x, h, row, **rng: fused_dropout.bias_gelu_dropout(h, row, 0.3, **rng),
    "bias_relu_dropout": lambda x, h, row, **rng: fused_dropout.bias_relu_dropout(h, row, 0.3, **rng),
    "bias_squared_relu_dropout": lambda x, h, row, **rng: fused_dropout.bias_squared_relu_dropout(h, row, 0.3, **rng),
    "bias_silu_dropout": lambda x, h, row, **rng: fused_dropout.bias_silu_dropout(h, row, 0.3, **rng),
    "swiglu_dropout": lambda x, h, row, **rng: fused_dropout.swiglu_dropout(h, x, 0.3, **rng),
    "geglu_dropout": lambda x, h, row, **rng: fused_dropout.geglu_dropout(x, h, 0.3, **rng),
    "zoneout": lambda x, h, row, **rng: fused_dropout.zoneout(h, x, 0.3, **rng),
    "softmax_dropout": lambda x, h, row, **rng: fused_dropout.softmax_dropout(h, 0.3, attn_mask=x, **rng),
    "layer norm": lambda x, h, row, **rng: fused_dropout.dropout_add_layer_norm(h, x, row, row, 0.3, **rng)[0],
    "rms norm": lambda x, h, row, **rng: fused_dropout.dropout_add_rms_norm(h, h.detach(), row, 0.3, **rng)[0],
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", MIXED)
def test_autocast_calls_of_several_tensors_take_the_widest_dtype(name, compiled):
    """As PyTorch's own do; without autocast dtypes that differ are an error, as they are everywhere here."""
    call, x, h, row = MIXED[name], torch.randn(6, 8), torch.randn(6, 8).bfloat16(), torch.randn(8)
    run = torch.compile(call, backend="aot_eager", fullgraph=True) if compiled else call
    results = []
    for tensors, autocast in (((x, h, row), True), ((x, h.float(), row), False)):
        tensors = [t.clone().requires_grad_() for t in tensors]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(*tensors, rng=(1, 0))
        assert y.dtype == torch.float32
        results.append((y, *torch.autograd.grad(y.sin().sum(), tensors, allow_unused=True)))
    for ours, wide in zip(*results, strict=True):
        assert ours is wide is None or torch.equal(ours, wide.to(ours.dtype))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="dtype"):
        call(x, h, row)
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_linear_of_tensors_without_data():
    """Of a device type that autocast does not know."""
    x = torch.empty(4, 8, device="meta")
    assert fused_dropout.dropout_linear(x, x.new_empty(3, 8), None, 0.3).shape == (4, 3)


def test_parameter_and_negative_view():
    w = torch.nn.Parameter(torch.ones(100))
    fused_dropout.dropout(w).sum().backward()
    assert set(w.grad.tolist()) == {0.0, 2.0}
    z = torch.randn(100, dtype=torch.cfloat)
    negative = z.conj().imag
    assert negative.is_neg()
    y = fused_dropout.dropout(negative, 0.5, rng=(1, 0))
    assert torch.equal(y, fused_dropout.dropout(-z.imag, 0.5, rng=(1, 0)))


def test_autocast_of_another_device_is_seen():
    with FakeTensorMode(), torch.autocast("mps", torch.float16):
        x = torch.empty(4, 8, dtype=torch.float16, device="mps")
        y = fused_dropout.bias_dropout(x, x.new_empty(8, dtype=torch.float32), 0.5, training=False)
    assert y.dtype == torch.float32
