"""torch.vmap: `randomness` does what it does to PyTorch's own dropout; a given state gives each sample its mask."""

import pytest
import torch
from torch.func import grad, jvp, vmap

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

STATE = torch.tensor([7, 16])
DRAWING = {
    "dropout": lambda x: fused_dropout.dropout(x, 0.5),
    "in place": lambda x: fused_dropout.dropout(x.clone(), 0.5, inplace=True),
    "channels": lambda x: fused_dropout.dropout1d(x[None], 0.5)[0],
    "alpha": lambda x: fused_dropout.alpha_dropout(x, 0.5, True),
    "gaussian": lambda x: fused_dropout.gaussian_dropout(x, 0.5),
    "add": lambda x: fused_dropout.dropout_add(x, x, 0.5),
    "zoneout": lambda x: fused_dropout.zoneout(x, -x, 0.5),
    "blocks": lambda x: fused_dropout.drop_block2d(x.expand(1, 1, *x.shape), 0.3, 2)[0, 0],
    "layer norm": lambda x: fused_dropout.dropout_add_layer_norm(x, x, None, None, 0.5)[0],
    "softmax": lambda x: fused_dropout.softmax_dropout(x, 0.5),
    "native": lambda x: torch.nn.functional.dropout(x, 0.5),
}


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_randomness_is_obeyed_as_by_torchs_own(name, batched):
    x = torch.ones(5, 40, 8)
    call = DRAWING[name]
    torch.manual_seed(0)

    def run(randomness):
        if batched:
            return vmap(call, randomness=randomness)(x)
        return vmap(lambda _: call(x[0]), randomness=randomness)(torch.zeros(5))

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        run("error")
    assert torch.equal(before, torch.get_rng_state())
    same = run("same")
    assert same.shape == x.shape
    assert all(torch.equal(sample, same[0]) for sample in same)
    if name == "in place" and not batched:
        return  # cannot differ, see below
    different = run("different")
    assert different.shape == x.shape
    assert not any(torch.equal(different[i], different[j]) for i in range(5) for j in range(i))


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_an_empty_batch(randomness, name):
    x = torch.ones(0, 40, 8)
    run = vmap(DRAWING[name], randomness=randomness)
    assert run(x).shape == x.shape
    assert grad(lambda x: run(x).sum())(x).shape == x.shape


@pytest.mark.parametrize("batch", [0, 3])
def test_masks_and_noise_of_a_batch_of_states(batch):
    states = torch.arange(2 * batch).view(batch, 2) * 8
    masks = vmap(lambda rng: fused_dropout.keep_mask((4, 5), 0.4, rng))(states)
    noise = vmap(lambda rng: fused_dropout.normal_noise((4, 5), rng))(states)
    assert masks.shape == noise.shape == (batch, 4, 5)
    for i, rng in enumerate(states):
        assert torch.equal(masks[i], fused_dropout.keep_mask((4, 5), 0.4, rng))
        assert torch.equal(noise[i], fused_dropout.normal_noise((4, 5), rng))


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_a_given_state_gives_every_sample_the_mask_of_its_logical_index(in_dim):
    x = torch.randn(4, 5, 6)
    y = vmap(lambda v: fused_dropout.dropout(v, 0.4, rng=STATE), in_dims=in_dim, out_dims=in_dim)(x)
    for got, sample in zip(y.unbind(in_dim), x.unbind(in_dim), strict=True):
        assert torch.equal(got, fused_dropout.dropout(sample.contiguous(), 0.4, rng=STATE))
    noise = vmap(lambda v: fused_dropout.dropout(v, 0.4, noise_shape=(None, 1), rng=STATE), in_dims=in_dim)(x)
    for got, sample in zip(noise, x.unbind(in_dim), strict=True):
        assert torch.equal(got, fused_dropout.dropout(sample.contiguous(), 0.4, noise_shape=(None, 1), rng=STATE))


def test_batched_states_and_batched_p_are_each_samples_own():
    x, states = torch.randn(4, 50), torch.stack([fused_dropout.draw() for _ in range(4)])
    p = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    y = vmap(lambda v, s: fused_dropout.dropout(v, 0.4, rng=s))(x, states)
    z = vmap(lambda v, q: fused_dropout.dropout(v, q, rng=STATE))(x, p)
    one = vmap(lambda s: fused_dropout.dropout(x[0], 0.4, rng=s))(states)
    for i in range(4):
        assert torch.equal(y[i], fused_dropout.dropout(x[i], 0.4, rng=states[i]))
        assert torch.equal(z[i], fused_dropout.dropout(x[i], p[i].item(), rng=STATE))
        assert torch.equal(one[i], fused_dropout.dropout(x[0], 0.4, rng=states[i]))
    w = x.clone()
    vmap(lambda v, s: (ops.dropout_apply_(v, s, 0.4), v)[1])(w, states)
    assert torch.equal(w, y)


def test_different_draws_one_state_a_sample_in_their_order():
    x = torch.randn(4, 50)
    torch.manual_seed(3)
    y = vmap(lambda v: fused_dropout.dropout(v, 0.4), randomness="different")(x)
    torch.manual_seed(3)
    assert torch.equal(y, torch.stack([fused_dropout.dropout(v, 0.4) for v in x]))
    torch.manual_seed(3)
    same = vmap(lambda v: fused_dropout.dropout(v, 0.4), randomness="same")(x)
    torch.manual_seed(3)
    rng = fused_dropout.draw()
    assert torch.equal(same, torch.stack([fused_dropout.dropout(v, 0.4, rng=rng) for v in x]))


@pytest.mark.parametrize("outer", ["same", "different"])
@pytest.mark.parametrize("inner", ["same", "different"])
@pytest.mark.parametrize("native", [False, True], ids=["ours", "torch's"])
def test_nested(outer, inner, native):
    call = DRAWING["native" if native else "dropout"]
    y = vmap(vmap(call, randomness=inner), randomness=outer)(torch.ones(3, 4, 100))
    rows = [[y[i, j] for j in range(4)] for i in range(3)]
    assert torch.equal(rows[0][0], rows[0][1]) == (inner == "same")
    assert torch.equal(rows[0][0], rows[1][0]) == (outer == "same")


def test_in_place_on_an_unbatched_tensor_cannot_differ():
    x = torch.ones(10)
    with pytest.raises(RuntimeError, match="Cannot ask for different inplace randomness on an unbatched tensor"):
        vmap(lambda _: fused_dropout.dropout(x, inplace=True), randomness="different")(torch.zeros(3))
    assert torch.equal(x, torch.ones(10))
    with pytest.raises(RuntimeError, match="cannot give an unbatched tensor a mask for each sample in place"):
        vmap(lambda s: ops.dropout_apply_(x, s, 0.5))(torch.stack([STATE, STATE + 8]))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_per_sample_gradients_carry_the_mask_of_their_forward(randomness):
    x, w = torch.randn(6, 40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)

    def loss(w, v):
        y = fused_dropout.dropout(v * w, 0.5)
        return y.sum(), y

    grads, y = vmap(grad(loss, has_aux=True), in_dims=(None, 0), randomness=randomness)(w, x)
    assert torch.equal(grads == 0, y == 0)
    torch.testing.assert_close(grads, torch.where(y != 0, x * 2, 0))


def test_forward_mode_and_reverse_mode_inside_and_outside():
    x = torch.randn(4, 30, dtype=torch.float64)
    t = torch.randn_like(x)

    def call(v):
        return fused_dropout.dropout(v, 0.4, rng=STATE) ** 2

    keep = fused_dropout.keep_mask((30,), 0.4, STATE)
    scale = torch.tensor(reference.gain_of(0.4, 0), dtype=torch.float64)
    want = torch.where(keep, 2 * scale**2 * x * t, 0)
    torch.testing.assert_close(jvp(vmap(call), (x,), (t,))[1], want)
    torch.testing.assert_close(vmap(lambda v, u: jvp(call, (v,), (u,))[1])(x, t), want)
    torch.testing.assert_close(grad(lambda v: (vmap(call)(v) * t).sum())(x), want)
    torch.testing.assert_close(torch.func.jacrev(call)(x[0]).diagonal(), torch.func.jacfwd(call)(x[0]).diagonal())
    hessian = torch.func.hessian(lambda v: call(v).sum())(x[0])
    torch.testing.assert_close(hessian, torch.diag(torch.where(keep, 2 * scale**2, 0)))


def test_draw_obeys_randomness():
    states = vmap(lambda _: fused_dropout.draw(), randomness="different")(torch.zeros(3))
    assert len({tuple(s.tolist()) for s in states}) == 3
    assert vmap(lambda _: fused_dropout.draw(), randomness="same")(torch.zeros(3)).unique(dim=0).shape == (1, 2)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(lambda _: fused_dropout.draw())(torch.zeros(3))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_compiled(randomness):
    x = torch.randn(4, 50, requires_grad=True)
    f = torch.compile(vmap(lambda v: fused_dropout.dropout(v, 0.5), randomness=randomness), backend="aot_eager")
    y = f(x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0] == 0, y == 0)
    assert torch.equal(y[0] == 0, y[1] == 0) == (randomness == "same")
    torch._dynamo.reset()


def test_an_invalid_call_draws_nothing():
    before = torch.get_rng_state()
    for call in (
        lambda v: ops.dropout(v, 1.5),
        lambda v: ops.dropout(v.long(), 0.5),
        lambda v: ops.dropout_(v, 2.0),
        lambda v: ops.softmax_dropout(v.long(), None, 0.5, 1.0),
        lambda v: ops.dropout_add_rms_norm(v, v[:2], None, 0.5, 1e-5),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            vmap(call, randomness="different")(torch.ones(3, 4))
    assert torch.equal(before, torch.get_rng_state())
