"""Derivatives: the same pure operation with the same state, of any order and direction; 16 bytes saved."""

import pytest
import torch
from conftest import DEVICES, DTYPES
from test_values import LAYOUTS, assert_same_bits

import fused_dropout
from fused_dropout._extension import ops

STATE = (99, 16)
# (public function of a list of inputs, number of inputs)
CALLS = {
    "dropout": lambda x, **o: fused_dropout.dropout(x, 0.4, **o),
    "dropout noise_shape": lambda x, **o: fused_dropout.dropout(x, 0.4, noise_shape=(None, 1, None), **o),
    "dropout downscale_in_infer": lambda x, **o: fused_dropout.dropout(x, 0.4, mode="downscale_in_infer", **o),
    "dropout tensor p": lambda x, **o: fused_dropout.dropout(x, torch.tensor(0.4), **o),
    "alpha_dropout": lambda x, **o: fused_dropout.alpha_dropout(x, 0.4, True, **o),
    "dropout_add": lambda x, r, **o: fused_dropout.dropout_add(x, r, 0.4, **o),
}


def inputs_of(name: str, dtype=torch.float64, shape=(3, 4, 5)) -> list[torch.Tensor]:
    n = 2 if name == "dropout_add" else 1
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(n)]


@pytest.mark.parametrize("name", CALLS)
def test_gradcheck_of_both_orders_and_forward_mode(name):
    def call(*inputs):
        return CALLS[name](*inputs, rng=STATE)

    inputs = inputs_of(name)
    torch.autograd.gradcheck(
        call, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    torch.autograd.gradgradcheck(call, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_gradient_carries_the_mask_of_the_forward(name, dtype, device):
    """Drawn, not given: the state that the forward drew is what the backward uses."""
    inputs = [t.detach().to(device).requires_grad_() for t in inputs_of(name, dtype, (4, 33, 5))]
    zero = [torch.zeros_like(t) for t in inputs]
    if name == "dropout tensor p":
        pytest.skip("the tensor p of the row lies on the CPU") if device != "cpu" else None
    torch.manual_seed(5)
    y = CALLS[name](*inputs)
    torch.manual_seed(5)
    constant = CALLS[name](*zero)  # the affine part, with the same mask
    grads = torch.autograd.grad(y, inputs, torch.ones_like(y))
    torch.manual_seed(5)
    ones = CALLS[name](torch.ones_like(inputs[0]), *zero[1:])
    linear = (ones.double() - constant.double()).to(dtype)
    torch.testing.assert_close(grads[0], linear, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-3)
    assert torch.equal(grads[0] == 0, linear == 0)
    if len(grads) > 1:
        assert torch.equal(grads[1], torch.ones_like(y))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_any_stride(layout):
    x = torch.randn(3, 6, 5, requires_grad=True)
    g = LAYOUTS[layout](torch.randn(3, 6, 5))
    y = fused_dropout.dropout(x, 0.4, rng=STATE)
    (grad,) = torch.autograd.grad(y, x, g)
    assert_same_bits(grad, fused_dropout.dropout(g.contiguous(), 0.4, rng=STATE))


def test_expanded_gradient_of_sum():
    x = torch.randn(1000, requires_grad=True)
    fused_dropout.dropout(x, 0.4, rng=STATE).sum().backward()
    assert_same_bits(x.grad, fused_dropout.dropout(torch.ones(1000), 0.4, rng=STATE))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(2, 4, 3), (64, 128, 128)], ids=str)
def test_sixteen_bytes_are_saved_whatever_the_size(name, shape):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        CALLS[name](*inputs_of(name, torch.float32, shape))
    assert sum(t.numel() * t.element_size() for t in saved if t.dim()) == 16
    assert len(saved) == (2 if name == "dropout tensor p" else 1), "and p, where it is a tensor"


def test_nothing_is_recorded_where_no_gradient_is_asked_for():
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert fused_dropout.dropout(x).grad_fn is None
    assert fused_dropout.dropout(x.detach()).grad_fn is None
    residual = torch.randn(10, requires_grad=True)
    y = fused_dropout.dropout_add(x.detach(), residual, 0.4)
    y.sum().backward()
    assert x.grad is None
    assert torch.equal(residual.grad, torch.ones(10))


def test_backward_twice_needs_retain_graph():
    x = torch.randn(10, requires_grad=True)
    y = fused_dropout.dropout(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_state_changed_before_backward_is_noticed():
    x, rng = torch.randn(10, requires_grad=True), fused_dropout.draw()
    y = fused_dropout.dropout(x, rng=rng)
    rng.add_(4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
@pytest.mark.parametrize("given", [True, False], ids=["given state", "drawn state"])
def test_in_place_gradient(name, given):
    options = {"rng": STATE} if given else {}
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    (want,) = torch.autograd.grad(CALLS[name](x * 2, **options).sum(), x)
    torch.manual_seed(1)
    z = x * 2
    version = z._version
    y = CALLS[name](z, inplace=True, **options)
    assert y is z
    assert z._version == version + 1
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], want)


def test_in_place_on_a_view_writes_through_to_its_base():
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    base = x * 1
    fused_dropout.dropout(base[1:3], 0.4, inplace=True, rng=STATE)
    keep = fused_dropout.keep_mask((2, 6), 0.4, STATE)
    (grad,) = torch.autograd.grad(base.sum(), x)
    assert torch.equal(grad[1:3] != 0, keep)
    assert torch.equal(grad[[0, 3]], torch.ones(2, 6, dtype=torch.float64))


def test_saved_tensor_that_was_overwritten_in_place_is_noticed():
    x = torch.randn(10, requires_grad=True)
    z = x * 1
    w = z.exp()  # saves its output
    fused_dropout.dropout(w, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        w.sum().backward()


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "dropout_add"])
def test_forward_mode_is_never_a_silent_zero(name):
    primals = [t.detach() for t in inputs_of(name)]
    tangents = [torch.randn_like(t) for t in primals]

    def call(*inputs):
        return CALLS[name](*inputs, rng=STATE)

    _, got = torch.autograd.functional.jvp(call, tuple(primals), tuple(tangents))  # double backward
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)]
        tangent = torch.autograd.forward_ad.unpack_dual(call(*duals)).tangent
        torch.testing.assert_close(tangent, got)
        drawn = torch.autograd.forward_ad.unpack_dual(CALLS[name](*duals)).tangent
        assert drawn.any()
    torch.testing.assert_close(torch.func.jvp(call, tuple(primals), tuple(tangents))[1], got)


def test_a_tangent_is_not_shared_with_the_residuals():
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones(4), torch.ones(4))
        fused_dropout.dropout_add(torch.ones(4), dual, 0.5).mul_(2)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, torch.ones(4))


def test_p_is_not_differentiable_and_says_so():
    before = torch.get_rng_state()
    for call in (fused_dropout.dropout, lambda x, p: fused_dropout.dropout(x, p, rng=STATE)):
        with pytest.raises(RuntimeError, match="p is not differentiable"):
            call(torch.ones(4), torch.tensor(0.5, requires_grad=True))
    assert torch.equal(before, torch.get_rng_state())


def test_func_transforms_of_given_and_drawn_states():
    x = torch.randn(50, dtype=torch.float64)
    want = fused_dropout.dropout(torch.ones_like(x), 0.4, rng=STATE)
    assert torch.equal(torch.func.grad(lambda v: fused_dropout.dropout(v, 0.4, rng=STATE).sum())(x), want)
    y, vjp = torch.func.vjp(lambda v: fused_dropout.dropout(v, 0.4), x)
    assert torch.equal(vjp(torch.ones_like(x))[0] == 0, y == 0)
    torch.testing.assert_close(
        torch.func.jacfwd(lambda v: fused_dropout.dropout(v * v, 0.4, rng=STATE), randomness="same")(x).diagonal(),
        2 * x * want,
    )


def test_tensors_need_not_outlive_the_call():
    """A state and a p that only the graph still holds."""
    x = torch.randn(1000, requires_grad=True)
    y = fused_dropout.dropout(x, torch.tensor(0.3), rng=fused_dropout.draw())
    torch.empty(10_000).fill_(7.0)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_operations_that_apply_a_state_are_their_own_derivative():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    state = fused_dropout.draw()
    y = ops.dropout_apply(x, state, 0.5)
    (first,) = torch.autograd.grad(y, x, y.detach(), create_graph=True)
    assert torch.equal(first, ops.dropout_apply(y.detach(), state, 0.5))
