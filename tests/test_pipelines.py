"""Dropout with its neighbours: the chain's values and gradients, with one rounding and one pass."""

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, DTYPES, moved
from test_values import LAYOUTS, assert_same_bits, state

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import eager, ops

STATE = (2**63 + 12345, 2**40 + 8)
# (our function and the chain that it is equivalent to, of an input, a bias and a residual)
CHAINS = {
    "bias_dropout": (
        lambda x, b, r, **o: fused_dropout.bias_dropout(x, b, 0.4, **o),
        lambda x, b, r, **o: fused_dropout.dropout(x + b, 0.4, **o),
    ),
    "bias_dropout_add": (
        lambda x, b, r, **o: fused_dropout.bias_dropout_add(x, b, r, 0.4, **o),
        lambda x, b, r, **o: r + fused_dropout.dropout(x + b, 0.4, **o),
    ),
    "bias_dropout_add, tensor p": (
        lambda x, b, r, **o: fused_dropout.bias_dropout_add(x, b, r, torch.tensor(0.4), **o),
        lambda x, b, r, **o: r + fused_dropout.dropout(x + b, torch.tensor(0.4), **o),
    ),
    "bias_dropout_add in evaluation": (
        lambda x, b, r, **o: fused_dropout.bias_dropout_add(x, b, r, 0.4, False, **o),
        lambda x, b, r, **o: r + (x + b),
    ),
    "drop_path_add": (
        lambda x, b, r, **o: fused_dropout.drop_path_add(x, r, 0.4, True, **o),
        lambda x, b, r, **o: r + fused_dropout.drop_path(x, 0.4, True, **o) + 0 * b,
    ),
    "drop_path_add of a batch, unscaled": (
        lambda x, b, r, **o: fused_dropout.drop_path_add(x, r, 0.4, True, False, per="batch", **o),
        lambda x, b, r, **o: r + fused_dropout.drop_path(x, 0.4, True, False, per="batch", **o) + 0 * b,
    ),
    "module DropoutAdd": (
        lambda x, b, r, **o: fused_dropout.DropoutAdd(0.4)(x, r, **o),
        lambda x, b, r, **o: r + fused_dropout.dropout(x, 0.4, **o) + 0 * b,
    ),
    "module BiasDropoutAdd": (
        lambda x, b, r, **o: fused_dropout.BiasDropoutAdd(0.4)(x, b, r, **o),
        lambda x, b, r, **o: r + fused_dropout.dropout(x + b, 0.4, **o),
    ),
}
ACTIVATIONS = {  # activation of x + b, and its functions and options
    "relu": (F.relu, "relu", {}),
    "squared_relu": (lambda x: F.relu(x).square(), "squared_relu", {}),
    "gelu": (F.gelu, "gelu", {}),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu", {"approximate": "tanh"}),
    "silu": (F.silu, "silu", {}),
}
for _name, (_act, _stem, _options) in ACTIVATIONS.items():
    CHAINS[f"{_name}_dropout"] = (
        lambda x, b, r, f=_stem, k=_options, **o: getattr(fused_dropout, f"{f}_dropout")(x, 0.4, **k, **o),
        lambda x, b, r, act=_act, **o: fused_dropout.dropout(act(x), 0.4, **o),
    )
    CHAINS[f"bias_{_name}_dropout"] = (
        lambda x, b, r, f=_stem, k=_options, **o: getattr(fused_dropout, f"bias_{f}_dropout")(x, b, 0.4, **k, **o),
        lambda x, b, r, act=_act, **o: fused_dropout.dropout(act(x + b), 0.4, **o),
    )
for _name, _act in (("swiglu", "silu"), ("geglu", "gelu"), ("geglu_tanh", "gelu_tanh")):
    _act, _, _options = ACTIVATIONS[_act]
    _function = getattr(fused_dropout, f"{_name.removesuffix('_tanh')}_dropout")
    CHAINS[f"{_name}_dropout"] = (
        lambda x, b, r, f=_function, k=_options, **o: f(x, r, 0.4, **k, **o),
        lambda x, b, r, act=_act, **o: fused_dropout.dropout(act(x) * r, 0.4, **o),
    )
    CHAINS[f"{_name}_dropout of halves"] = (
        lambda x, b, r, f=_function, k=_options, **o: f(torch.cat((x, r), -1), None, 0.4, **k, **o),
        lambda x, b, r, act=_act, **o: fused_dropout.dropout(act(x) * r, 0.4, **o),
    )
BIASED = ["bias_dropout", "bias_dropout_add"]
BIASES = [(9,), (1,), (), (70, 1), (3, 1, 9), (5, 3, 70, 9)]  # of an input (5, 3, 70, 9)


def tensors(dtype=torch.float32, shape=(5, 3, 70, 9), bias=(9,), grad=True):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in (shape, bias, shape)]
    return [t.requires_grad_(grad) for t in made]


def inputs_for(name, dtype, bias=(9,), shape=(5, 3, 70, 9)):
    return tensors(dtype, shape, bias, grad=False)[: 2 if name == "bias_dropout" else 3]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
@pytest.mark.parametrize("bias", BIASES, ids=str)
@pytest.mark.parametrize("name", BIASED)
def test_values_equal_the_reference_bit_for_bit(name, bias, dtype, device):
    for layout in LAYOUTS:
        x, *others = inputs_for(name, dtype, bias)
        x = LAYOUTS[layout](x)
        got = getattr(ops, f"{name}_apply")(*(moved(t, device) for t in (x, *others)), state(device), 0.3).cpu()
        want = getattr(reference, f"{name}_apply")(x, *others, state(), 0.3)
        if dtype.is_complex:
            got, want = torch.view_as_real(got), torch.view_as_real(want)
        assert_same_bits(got, want)


@pytest.mark.parametrize("features", [1, 2, 7, 64, 129, 1000])
@pytest.mark.parametrize("name", BIASED)
def test_rows_of_every_length(name, features, instruction_set):
    inputs = inputs_for(name, torch.float32, (features,), (50, features))
    want = getattr(reference, f"{name}_apply")(*inputs, state(), 0.3)
    assert_same_bits(getattr(ops, f"{name}_apply")(*inputs, state(), 0.3), want)


@pytest.mark.parametrize("rng", [STATE, None], ids=["given state", "drawn state"])
@pytest.mark.parametrize("name", CHAINS)
def test_values_and_gradients_of_the_chain(name, rng):
    results = []
    for f in CHAINS[name]:
        inputs = tensors(torch.float64)
        torch.manual_seed(5)
        y = f(*inputs, rng=rng)
        grads = torch.autograd.grad(y, inputs, y.detach().sin(), allow_unused=True)
        results.append([y, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))])
    torch.testing.assert_close(*results)
    assert torch.equal(results[0][0] == 0, results[1][0] == 0), "a mask has no tolerance"


@pytest.mark.parametrize("name", CHAINS)
def test_gradcheck_of_both_orders_and_forward_mode(name):
    inputs = tensors(torch.float64, (4, 3, 5), (5,))

    def call(*inputs):
        return CHAINS[name][0](*inputs, rng=STATE)

    torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("bias", BIASES, ids=str)
def test_a_biass_gradient_has_its_shape_and_the_same_bits_each_time(bias):
    grads = []
    for _ in range(3):
        inputs = tensors(torch.float32, bias=bias)
        y = fused_dropout.bias_dropout_add(*inputs, 0.4, rng=STATE)
        grads.append(torch.autograd.grad(y, inputs[1], y.detach())[0])
    assert grads[0].shape == torch.Size(bias)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_what_is_not_kept_leaves_the_residual_alone():
    x = torch.full((100, 9), float("nan"))
    r = torch.randn(100, 9)
    keep = fused_dropout.keep_mask(x.shape, 0.5, STATE)
    y = fused_dropout.bias_dropout_add(x, torch.full((9,), float("inf")), r, 0.5, rng=STATE)
    assert torch.equal(y[~keep], r[~keep])
    assert y[keep].isnan().all()


def test_evaluation_draws_nothing():
    x, b, r = tensors(grad=False)
    before = torch.get_rng_state()
    for p, training in ((0.4, False), (0.0, True)):
        torch.testing.assert_close(fused_dropout.bias_dropout(x, b, p, training), x + b)
        torch.testing.assert_close(fused_dropout.bias_dropout_add(x, b, r, p, training), r + (x + b))
        torch.testing.assert_close(fused_dropout.drop_path_add(x, r, p, training), r + x)
        torch.testing.assert_close(fused_dropout.dropout_linear(x, b[None], None, p, training), F.linear(x, b[None]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("batched", [(0, 0, 0), (0, None, 0), (None, 0, None)], ids=str)
@pytest.mark.parametrize("name", BIASED)
def test_vmap(name, batched, randomness):
    inputs = [torch.randn(3, 4, 9), torch.randn(3, 9), torch.randn(3, 4, 9)]
    inputs = [t if dim == 0 else t[0] for t, dim in zip(inputs, batched, strict=True)]
    torch.manual_seed(5)
    y = torch.vmap(CHAINS[name][0], batched, randomness=randomness)(*inputs)
    torch.manual_seed(5)
    state = fused_dropout.draw()
    for i in range(3):
        sample = [t[i] if dim == 0 else t for t, dim in zip(inputs, batched, strict=True)]
        torch.testing.assert_close(y[i], CHAINS[name][0](*sample, rng=state))
        state = fused_dropout.draw() if randomness == "different" else state


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled(backend, dynamic):
    def step(x, b, r, rng):
        y = fused_dropout.bias_dropout_add(x, b, r, 0.4, rng=rng)
        return fused_dropout.drop_path_add(fused_dropout.bias_dropout(y, b, 0.3, rng=rng), r, 0.3, True, rng=rng)

    compiled = torch.compile(step, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (6, 11):
        inputs, rng = tensors(shape=(n, 9)), fused_dropout.draw()
        results = [(y := f(*inputs, rng), *torch.autograd.grad(y.sum(), inputs)) for f in (step, compiled)]
        torch.testing.assert_close(*results)
    torch._dynamo.reset()


X, B, R = torch.ones(2, 3, 4), torch.ones(4), torch.ones(2, 3, 4)
WRONG = [
    (lambda: fused_dropout.bias_dropout(X, torch.ones(3)), ValueError, r"bias that broadcasts to .*\[2, 3, 4\].*\[3\]"),
    (lambda: fused_dropout.bias_dropout(X, torch.ones(1, 2, 3, 4)), ValueError, "bias that broadcasts"),
    (lambda: ops.bias_dropout(X, torch.ones(3), 0.5), ValueError, r"bias that broadcasts to .*\[2, 3, 4\].*\[3\]"),
    (
        lambda: fused_dropout.bias_dropout(X, B.double()),
        RuntimeError,
        "all tensors to have the input's dtype torch.float32",
    ),
    (lambda: fused_dropout.bias_dropout(X, 1.0), TypeError, "argument 'bias' must be a Tensor, not float"),
    (lambda: fused_dropout.bias_dropout_add(X, B, R[0]), ValueError, r"input's shape \[2, 3, 4\], but got .*\[3, 4\]"),
    (lambda: fused_dropout.bias_dropout_add(X, B, R.half()), RuntimeError, "input's dtype"),
    (lambda: fused_dropout.bias_dropout_add(X, B, R, 1.5), ValueError, "between 0 and 1, but got 1.5"),
    (lambda: fused_dropout.drop_path_add(X, R[0], 0.5, True), ValueError, "input's shape"),
    (lambda: fused_dropout.drop_path_add(X, R, 0.5, True, per="x"), ValueError, "per to be one of"),
    (lambda: fused_dropout.dropout_linear(X, torch.ones(5, 3)), ValueError, r"in_features.*\[2, 3, 4\] and \[5, 3\]"),
    (lambda: fused_dropout.dropout_linear(X, torch.ones(5, 4), B), ValueError, r"bias of shape \[5\], .* shape \[4\]"),
    (lambda: fused_dropout.dropout_linear(X, torch.ones(5, 4).half()), RuntimeError, "to be torch.float32 on cpu"),
    (lambda: fused_dropout.dropout_linear(X, None), TypeError, "argument 'weight' must be a Tensor, not NoneType"),
    (lambda: fused_dropout.dropout_linear(X.long(), torch.ones(5, 4).long()), RuntimeError, "of dtype float16"),
    (lambda: fused_dropout.DropoutLinear(4, 5, p=-1), ValueError, "between 0 and 1, but got -1"),
    (lambda: fused_dropout.BiasDropoutAdd(2.0), ValueError, "between 0 and 1, but got 2.0"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_wrong_calls_raise_and_draw_nothing(call, error, text):
    before = torch.get_rng_state()
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(before, torch.get_rng_state())


# dropout_linear


def linear_inputs(dtype=torch.float64, shape=(2, 6, 7)):
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (5, shape[-1]), (5,))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def two_calls(x, weight, bias, **options):
    return F.linear(fused_dropout.dropout(x, 0.4, **options), weight, bias)


def one_call(x, weight, bias, **options):
    return fused_dropout.dropout_linear(x, weight, bias, 0.4, **options)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("shape", [(6, 7), (2, 6, 7), (7,), (0, 7)], ids=str)
@pytest.mark.parametrize("rng", [STATE, None], ids=["given state", "drawn state"])
def test_dropout_linear_is_two_calls_bit_for_bit(rng, shape, autocast):
    results = []
    for f in (one_call, two_calls):
        inputs = linear_inputs(torch.float32, shape)
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = f(*inputs, rng=rng)
        results.append((y, *torch.autograd.grad(y.sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_dropout_linear_gradcheck():
    inputs = linear_inputs()
    torch.autograd.gradcheck(lambda *i: one_call(*i, rng=STATE), inputs, check_forward_ad=True)
    torch.autograd.gradgradcheck(lambda *i: one_call(*i, rng=STATE), inputs)


def test_dropout_linear_under_transforms():
    inputs = linear_inputs()
    for wrap in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        got, want = (
            wrap(lambda w, f=f: f(inputs[0], w, inputs[2], rng=STATE).sum())(inputs[1]) for f in (one_call, two_calls)
        )
        torch.testing.assert_close(got, want)
    per_sample = [
        torch.vmap(torch.func.grad(lambda w, x, f=f: f(x, w, None, rng=STATE).sum()), (None, 0))(inputs[1], inputs[0])
        for f in (one_call, two_calls)
    ]
    torch.testing.assert_close(*per_sample)


def kept_for_backward(f, inputs):
    """The bytes that a call keeps alive until its backward pass, beside its inputs, from what autograd packs."""
    memories = {}
    known = {t.untyped_storage().data_ptr() for t in inputs}

    def pack(t):
        memories[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = f(*inputs)
    return y, sum(size for memory, size in memories.items() if memory not in known)


def test_dropout_linear_keeps_no_copy_of_its_input():
    """Told by who holds the dropped copy afterwards: autograd's own hooks see less than is kept, and more."""
    import gc
    import weakref

    made = []
    apply, given = ops.dropout_apply, linear_inputs(torch.float32, (64, 128))

    def watched(*args, **kwargs):
        y = apply(*args, **kwargs)
        made.append(weakref.ref(y.untyped_storage()))
        return y

    with pytest.MonkeyPatch.context() as patch:
        for namespace in (ops, eager):
            patch.setattr(namespace, "dropout_apply", watched)
        y = one_call(*given, rng=STATE)
        del watched
        gc.collect()
        assert len(made) == 1
        assert made[0]() is None, "the dropped copy is gone"
        y.sum().backward()
        assert len(made) == 2, "and made once more"
    _, kept = kept_for_backward(two_calls, given)
    assert kept >= 64 * 128 * 4


@pytest.mark.parametrize("which", ["input", "state", "p"])
def test_dropout_linear_refuses_a_backward_pass_of_what_was_written_to(which):
    """Else it would drop another input, or by another mask, and the gradient would be silently wrong."""
    x, weight, bias = linear_inputs()
    written = {"input": x.detach(), "state": fused_dropout.draw(), "p": torch.tensor(0.4)}
    y = fused_dropout.dropout_linear(written["input"], weight, bias, written["p"], rng=written["state"])
    written[which].add_(0 if which == "p" else 4)
    with pytest.raises(
        RuntimeError, match=r"modified by an inplace operation: dropout_linear .* version 1; expected ve"
    ):
        y.sum().backward()


def test_dropout_linear_leaves_a_checkpoint_its_hooks():
    """Hooks of its own would keep the input alive, which the checkpoint frees."""
    from torch.utils.checkpoint import checkpoint

    given = linear_inputs()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        one_call(*given, rng=STATE)
    assert torch.Size([12, 7]) in seen or torch.Size([2, 6, 7]) in seen, "the dropped copy goes to the outer hooks"
    results = []
    for f in (two_calls, lambda *i, rng: checkpoint(lambda *i: one_call(*i, rng=rng), *i, use_reentrant=False)):
        results.append(torch.autograd.grad(f(*given, rng=STATE).sin().sum(), given))
    torch.testing.assert_close(*results)


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch 2.11 keeps what a compiled checkpoint should make again")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_dropout_linear_compiled_keeps_none_either(backend):
    inputs = linear_inputs(torch.float32, (64, 128))
    compiled = torch.compile(lambda x, w, b, rng: one_call(x, w, b, rng=rng), backend=backend, fullgraph=True)
    rng = fused_dropout.draw()
    y, kept = kept_for_backward(lambda *i: compiled(*i, rng), inputs)
    want = two_calls(*inputs, rng=rng)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), inputs), torch.autograd.grad(want.sum(), inputs))
    torch._dynamo.reset()
    assert kept < 64 * 128 * 4


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_dropout_linear_exports(strict):
    layer, x = fused_dropout.DropoutLinear(7, 5, p=0.4), torch.randn(3, 7)
    program = torch.export.export(layer, (x,), strict=strict)
    results = []
    for f in (layer, program.module(), program.run_decompositions().module()):
        torch.manual_seed(2)
        results.append(f(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    names = [str(node.target) for node in program.graph.nodes if "fused_dropout" in str(node.target)]
    assert names == ["fused_dropout.draw.default", "fused_dropout.dropout_apply.default"]


def test_dropout_linear_module_is_a_linear_layer():
    layer = fused_dropout.DropoutLinear(7, 5, p=0.4)
    other = torch.nn.Linear(7, 5)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 7)
    assert torch.equal(layer(x, rng=STATE), two_calls(x, other.weight, other.bias, rng=STATE))
    assert torch.equal(layer.eval()(x), other(x))
    assert "p=0.4" in repr(layer)
    mean, variance = fused_dropout.predict(layer, x, samples=8, seed=0)
    assert mean.shape == (3, 5)
    assert (variance > 0).all()
