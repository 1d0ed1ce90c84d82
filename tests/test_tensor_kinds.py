"""Tensors that are not plain: complex, conjugated, nested, subclassed; and those that are refused, in words."""

import pytest
import torch
from conftest import DEVICES, moved
from test_values import LAYOUTS, assert_same_bits

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import ops

STATE = (2**63 + 12345, 2**40 + 8)
COMPLEX = [torch.complex64, torch.complex128]
COMPLEX_CALLS = {
    "dropout": lambda x, **o: fused_dropout.dropout(x, 0.3, **o),
    "dropout noise_shape": lambda x, **o: fused_dropout.dropout(x, 0.3, noise_shape=(None, 1, None, None), **o),
    "dropout2d": lambda x, **o: fused_dropout.dropout2d(x, 0.3, **o),
    "dropout_add": lambda x, **o: fused_dropout.dropout_add(x, x.flip(0), 0.3, **o),
    "zoneout": lambda x, **o: fused_dropout.zoneout(x, x.flip(0), 0.3, True, **o),
    "gaussian_dropout": lambda x, **o: fused_dropout.gaussian_dropout(x, 0.3, **o),
    "drop_block2d": lambda x, **o: fused_dropout.drop_block2d(x, 0.1, 3, **o),
}
COMPLEX_LAYOUTS = {
    **LAYOUTS,
    "conjugated": lambda x: x.conj().resolve_conj().conj(),
    "negative": lambda x: torch._neg_view(-x),
    "part of a quaternion": lambda x: torch.stack([x, x], 0)[1],
}


def parts(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x.resolve_conj().resolve_neg().contiguous())


def complex_of(*shape, dtype=torch.complex64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", COMPLEX_LAYOUTS)
def test_a_layout_is_as_lazy_on_another_device(layout):
    """As tests/test_values.py asks of a layout's strides."""
    x = COMPLEX_LAYOUTS[layout](complex_of(3, 4, 5, 7))
    copy = moved(x, "meta")
    assert (copy.is_conj(), copy.is_neg()) == (x.is_conj(), x.is_neg())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("layout", COMPLEX_LAYOUTS)
@pytest.mark.parametrize("name", COMPLEX_CALLS)
def test_a_complex_number_has_one_decision_for_both_parts(name, layout, dtype, device, instruction_set):
    """Each part becomes what a real tensor with the same mask, shared by the last dimension, becomes."""
    for shape in ((3, 4, 5, 7), (2, 3, 66, 9)):
        x = complex_of(*shape, dtype=dtype)
        got = COMPLEX_CALLS[name](moved(COMPLEX_LAYOUTS[layout](x), device), rng=STATE).cpu()
        if layout == "expanded":
            x = x[:1].expand_as(x)
        if name == "drop_block2d":  # knows four dimensions only
            want = torch.complex(*(COMPLEX_CALLS[name](part.contiguous(), rng=STATE) for part in (x.real, x.imag)))
        elif name.startswith("dropout"):
            noise_shape = {"dropout noise_shape": (None, 1, None, None), "dropout2d": (None, None, 1, 1)}.get(name)
            keep = fused_dropout.keep_mask(shape, 0.3, STATE, noise_shape=noise_shape)
            scale = torch.tensor(reference.gain_of(0.3, 0), dtype=parts(x).dtype)
            want = torch.where(keep[..., None], parts(x) * scale, 0)
            want = torch.view_as_complex(want + parts(x.flip(0)) if name == "dropout_add" else want)
        else:
            strides = [*reference.row_major(shape), 0]
            inputs = [parts(x), parts(x.flip(0))][: 2 if name == "zoneout" else 1]
            state = reference.make_state(torch.empty(0), *STATE)
            want = torch.view_as_complex(getattr(ops, f"{name}_apply")(*inputs, state, 0.3, mask_strides=strides))
        assert_same_bits(parts(got), parts(want))


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("name", ["dropout", "dropout_add", "zoneout", "gaussian_dropout"])
def test_the_reference_agrees_about_complex_numbers(name, dtype):
    state = reference.make_state(torch.empty(0), *STATE)
    x = complex_of(5, 33, dtype=dtype)
    inputs = [x, x.flip(0)] if name in ("dropout_add", "zoneout") else [x]
    for p_tensor in (None, torch.tensor(0.3, dtype=torch.float64)):
        arguments = (*inputs, state, 0.3 if p_tensor is None else 1.0)
        got = getattr(ops, f"{name}_apply")(*arguments, p_tensor=p_tensor)
        want = getattr(reference, f"{name}_apply")(*arguments, p_tensor=p_tensor)
        ulps = 8 if name == "gaussian_dropout" else 0  # normal noise is within 4 of the reference's
        atol = ulps * torch.finfo(dtype).eps * float(x.abs().max())
        torch.testing.assert_close(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize("name", COMPLEX_CALLS)
def test_complex_gradients(name):
    x = complex_of(2, 3, 4, 4, dtype=torch.complex128).requires_grad_()

    def call(x):
        return COMPLEX_CALLS[name](x, rng=STATE)

    torch.autograd.gradcheck(call, x, check_forward_ad=True)
    torch.autograd.gradgradcheck(call, x)


def test_an_infinite_part_leaves_the_other_one_alone():
    """A product of complex numbers would not: infinity times 0 is nan."""
    x = torch.full((100,), complex(float("inf"), 1.0))
    for mode in ("upscale_in_train", "downscale_in_infer"):
        for training in (True, False):
            for inplace in (False, True):
                y = fused_dropout.dropout(x.clone(), 0.5, training, inplace, mode=mode, rng=STATE)
                assert not torch.view_as_real(y).isnan().any(), (mode, training, inplace)
                assert len(y.imag.unique()) == (2 if training else 1)


def test_in_place_writes_through_a_conjugate_view():
    x = complex_of(100)
    want = fused_dropout.dropout(x.conj().resolve_conj(), 0.3, rng=STATE)
    base, original = x.clone(), x.clone()
    assert fused_dropout.dropout(base.conj(), 0.3, inplace=True, rng=STATE).is_conj()
    assert torch.equal(base, want.conj().resolve_conj())
    fused_dropout.dropout(original.conj(), 0.25, False, True, mode="downscale_in_infer")
    assert torch.equal(original, x * 0.75)


def test_alpha_dropout_refuses_complex_numbers():
    """SELU saturates at a real value; what a dropped complex element would become is anybody's guess."""
    before = torch.get_rng_state()
    with pytest.raises(
        RuntimeError, match=r"alpha_dropout: expected a tensor of dtype .* or float64, but got ComplexF"
    ):
        fused_dropout.alpha_dropout(complex_of(4), 0.5, True)
    assert torch.equal(before, torch.get_rng_state())


# Nested tensors


def jagged(*lengths, width=5, grad=False):
    rows = [torch.randn(n, width, generator=torch.Generator().manual_seed(n)) for n in lengths]
    return torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=grad)


def holes():
    """Rows with room behind them, which has mask indices too: it is part of values()."""
    padded = torch.randn(3, 6, 5)
    return torch.nested.narrow(padded, 1, torch.tensor([0, 1, 2]), torch.tensor([3, 2, 4]), layout=torch.jagged)


NESTED = {
    "dropout": lambda x, **o: fused_dropout.dropout(x, 0.3, **o),
    "tensor p": lambda x, **o: fused_dropout.dropout(x, torch.tensor(0.3), **o),
    "alpha_dropout": lambda x, **o: fused_dropout.alpha_dropout(x, 0.3, True, **o),
    "gaussian_dropout": lambda x, **o: fused_dropout.gaussian_dropout(x, 0.3, **o),
    "dropout_add": lambda x, **o: fused_dropout.dropout_add(x, x, 0.3, **o),
    "zoneout": lambda x, **o: fused_dropout.zoneout(x, x, 0.3, True, **o),
}


@pytest.mark.parametrize("make", [lambda: jagged(3, 1, 4), lambda: jagged(3, 1, 4).transpose(1, 2), holes])
@pytest.mark.parametrize("name", NESTED)
def test_nested_rows_are_dropped_by_their_index_in_values(name, make):
    x = make()
    y = NESTED[name](x, rng=STATE)
    assert y.is_nested
    assert y.shape == x.shape
    assert y.offsets() is x.offsets()
    assert y.lengths() is x.lengths()
    assert torch.equal(y.values(), NESTED[name](x.values(), rng=STATE))
    torch.manual_seed(1)
    drawn = NESTED[name](x)
    torch.manual_seed(1)
    assert torch.equal(drawn.values(), NESTED[name](x.values()))


@pytest.mark.parametrize("name", NESTED)
def test_nested_gradients_keep_the_mask(name):
    x = jagged(3, 1, 4, grad=True)
    values = x.detach().values().clone().requires_grad_()
    (grad,) = torch.autograd.grad(NESTED[name](x, rng=STATE).values().sum(), x)
    (want,) = torch.autograd.grad(NESTED[name](values, rng=STATE).sum(), values)
    assert grad.is_nested
    assert torch.equal(grad.values(), want)


def test_nested_in_place_and_evaluation():
    x = jagged(3, 1, 4)
    want = fused_dropout.dropout(x.values(), 0.3, rng=STATE)
    half = x.values() * 0.5
    assert fused_dropout.dropout(x, 0.3, training=False) is x
    shrunk = fused_dropout.Dropout(0.5, mode="downscale_in_infer").eval()(x)
    assert torch.equal(shrunk.values(), half)
    assert fused_dropout.dropout(x, 0.3, inplace=True, rng=STATE) is x
    assert torch.equal(x.values(), want)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore:NestedTensor does not implement _stable_hash_for_caching")
def test_nested_compiled(backend):
    x = jagged(3, 1, 4, grad=True)
    rng = fused_dropout.draw()

    def f(x, rng):
        return fused_dropout.dropout(x * 2, 0.5, rng=rng)

    results = []
    for call in (f, torch.compile(f, backend=backend, fullgraph=True)):
        y = call(x, rng)
        results.append((y.values(), torch.autograd.grad(y.values().sum(), x)[0].values()))
    torch._dynamo.reset()
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: fused_dropout.dropout(x, noise_shape=(None, 1, None)), "dropout: a nested tensor takes no noise"),
        (
            lambda x: fused_dropout.dropout(x, noise_shape=(None, 1, None), rng=STATE),
            "^dropout: a nested tensor takes no",
        ),
        (lambda x: fused_dropout.dropout1d(x), "a nested tensor takes no noise shape"),
        (lambda x: fused_dropout.drop_path(x, 0.5, True), "a nested tensor takes no noise shape"),
        (lambda x: fused_dropout.locked_dropout(x), "a nested tensor takes no noise shape"),
        (lambda x: fused_dropout.dropout_add(x, torch.ones(3, 4, 5)), r"input's shape \[3, j\d+, 5\], but got one of"),
        (lambda x: fused_dropout.dropout_add(x, jagged(3, 1, 4)), r"shape \[3, j\d+, 5\], but got one of shape \[3, j"),
        (lambda x: ops.dropout_add(x, torch.ones(3, 4, 5), 0.5), "expected all tensors to be nested, with the input's"),
        (lambda x: ops.dropout_add(x, jagged(3, 1, 4), 0.5), "expected all tensors to be nested, with the input's"),
    ],
)
def test_nested_tensors_that_do_not_fit(call, text):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=text):
        call(jagged(3, 1, 4))
    assert torch.equal(before, torch.get_rng_state())


# Subclasses


class Tagged(torch.Tensor):
    """The plainest of subclasses: PyTorch's functions return it."""


class Wrapper(torch.Tensor):
    """A tensor that holds another, as quantized and distributed ones do, and computes on it."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):  # the compiler's log prints what it traces
        return f"Wrapper({self.inner.shape})"

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Wrapper(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        unwrapped = torch.utils._pytree.tree_map_only(Wrapper, lambda x: x.inner, (args, kwargs or {}))
        result = func(*unwrapped[0], **unwrapped[1])
        return torch.utils._pytree.tree_map_only(torch.Tensor, Wrapper, result)


def test_a_subclass_stays_what_it_is():
    x = torch.randn(100).as_subclass(Tagged).requires_grad_()
    plain = x.detach().as_subclass(torch.Tensor)
    for call in (
        lambda x: fused_dropout.dropout(x, 0.5, rng=STATE),
        lambda x: fused_dropout.dropout_add(x, x, 0.5, rng=STATE),
        lambda x: fused_dropout.Dropout(0.5)(x, rng=STATE),
        lambda x: fused_dropout.dropout(x * 1, 0.5, inplace=True, rng=STATE),
    ):
        y = call(x)
        assert type(y) is Tagged
        assert torch.equal(y.as_subclass(torch.Tensor), call(plain))
        y.sum().backward()
    assert type(fused_dropout.dropout(x)) is Tagged


def test_a_subclass_may_override_the_operation():
    class Logged(torch.Tensor):
        seen = []  # noqa: RUF012

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    fused_dropout.dropout(torch.ones(4).as_subclass(Logged), 0.5)
    assert ops.dropout in Logged.seen


@pytest.mark.filterwarnings("ignore:Wrapper does not implement _stable_hash_for_caching")
@pytest.mark.parametrize("backend", [None, "aot_eager", "inductor"])
def test_a_wrapper_computes_on_what_it_holds(backend):
    inner = torch.randn(100)

    def f(x):
        return fused_dropout.dropout(x, 0.5)

    call = f if backend is None else torch.compile(f, backend=backend, fullgraph=True)
    x = Wrapper(inner).requires_grad_()
    torch.manual_seed(3)
    y = call(x)
    torch.manual_seed(3)
    want = f(inner)
    torch._dynamo.reset()
    assert type(y) is Wrapper
    assert torch.equal(y.inner, want)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert type(grad) is Wrapper
    assert torch.equal(grad.inner == 0, want == 0)


# What is refused


def strided_nested():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.strided)


REFUSED = {
    "sparse": (lambda: torch.eye(3).to_sparse(), r"a sparse one \(Sparse\); call to_dense\(\)"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), r"a sparse one \(SparseCsr\); call to_dense\(\)"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        r"a quantized one \(QInt8\); call dequantize\(\)",
    ),
    "mkldnn": (lambda: torch.ones(3, 3).to_mkldnn(), r"one of layout torch._mkldnn; call to_dense\(\)"),
    "nested, strided": (strided_nested, "a nested one of strided layout; make it with layout=torch.jagged"),
}
REFUSING = {
    "dropout": lambda x: fused_dropout.dropout(x),
    "in place": lambda x: fused_dropout.dropout(x, inplace=True),
    "given state": lambda x: fused_dropout.dropout(x, rng=STATE),
    "alpha_dropout": lambda x: fused_dropout.alpha_dropout(x, 0.5, True),
    "dropout_add": lambda x: fused_dropout.dropout_add(x, x),
    "bias_dropout": lambda x: fused_dropout.bias_dropout(x, x),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", REFUSING)
def test_other_tensors_are_refused_in_words(name, kind, inference):
    make, text = REFUSED[kind]
    stem = name if name in ("alpha_dropout", "dropout_add", "bias_dropout") else "dropout"
    before = torch.get_rng_state()
    with torch.inference_mode(inference):
        x = make()
        with pytest.raises(RuntimeError, match=f"^{stem}: expected a dense tensor, but got {text}"):
            REFUSING[name](x)
        assert fused_dropout.dropout(x, training=False) is x
    assert torch.equal(before, torch.get_rng_state())
