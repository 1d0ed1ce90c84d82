"""The gradient of a bias: made in the pass that makes the input's, the same bits in every run."""

import pytest
import torch
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, Called, moved, using_instruction_set
from test_values import assert_same_bits, state

import fused_dropout
from fused_dropout import reference
from fused_dropout._extension import SUMMED, inputs_of, ops

FUNCTIONS = ["bias_dropout", "bias_dropout_add", *(f"bias_{name}_dropout" for name in reference.ACTIVATIONS)]
# Columns for whole registers and not, more rows than parts and fewer, and a row that is longer than a block.
SHAPES = [(1,), (7,), (3, 1), (1, 64), (65, 63), (5, 3, 129), (1000, 8), (700, 96), (3, 20000)]


def tensors_for(name, x):
    generator = torch.Generator().manual_seed(1)
    shapes = [x.shape] * inputs_of(name)
    if name.startswith("bias_"):
        shapes[2] = x.shape[-1:]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(x) for shape in shapes]


def rows(x):
    return x.reshape(-1, x.shape[-1])


def assert_sum(sum, output):
    """Of the output as it was stored, with a rounding to its dtype and those of 20 sums in the type computed in."""
    wide = rows(output).double()
    slack = torch.finfo(reference.compute(output.dtype)).eps * 20
    bound = torch.finfo(output.dtype).eps * wide.sum(0).abs() + slack * wide.abs().sum(0)
    assert sum.shape == output.shape[-1:]
    assert sum.dtype == output.dtype
    assert ((sum.double() - wide.sum(0)).abs() <= bound).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUMMED)
def test_the_output_is_that_of_the_operation_without_a_sum(name, dtype, device):
    for shape in SHAPES:
        tensors = [t.to(device) for t in tensors_for(name, torch.empty(shape, dtype=dtype))]
        output, sum = getattr(ops, name)(*tensors, state(device), 0.3, mask_base=11)
        want = getattr(ops, SUMMED[name])(*tensors, state(device), 0.3, mask_base=11)
        assert_same_bits(output, want)
        assert_sum(sum, output)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
    "a number": lambda x: x[:1, :1, :1].expand_as(x),
    "part of another": lambda x: torch.cat([x, x], -1)[..., 5 : 5 + x.shape[-1]],
    "channels_last": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
}
MASKS = [None, [500, 90, 1], [0, 90, 1], [90, 0, 1], [1, 0, 0], [4, 1, 28], [0, 0, 1]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mask_strides", MASKS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SUMMED)
def test_any_layout_and_any_mask(name, layout, mask_strides, device):
    tensors = tensors_for(name, torch.empty(7, 4, 90))
    tensors = [moved(LAYOUTS[layout](t) if t.dim() == 3 else t, device) for t in tensors]
    output, sum = getattr(ops, name)(*tensors, state(device), 0.3, mask_strides=mask_strides, mask_base=2)
    want = getattr(ops, SUMMED[name])(*tensors, state(device), 0.3, mask_strides=mask_strides, mask_base=2)
    assert_same_bits(output, want)
    assert_sum(sum, output)


@pytest.mark.parametrize("name", SUMMED)
def test_empty_tensors(name):
    for shape in ((0, 5), (4, 0), (0,), (3, 0, 5)):
        output, sum = getattr(ops, name)(*tensors_for(name, torch.empty(shape)), state(), 0.3)
        assert output.shape == shape
        assert_same_bits(sum, torch.zeros(shape[-1]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SUMMED)
def test_the_same_bits_for_every_instruction_set_and_thread_count(name, dtype, threads):
    for shape in ((3000, 97), (40, 3, 1024), (16, 20001)):
        tensors = tensors_for(name, torch.empty(shape, dtype=dtype))
        results = []
        for instruction_set in INSTRUCTION_SETS:
            for count in (1, 2, 3, 7):
                threads(count)
                with using_instruction_set(instruction_set):
                    results.append(getattr(ops, name)(*tensors, state(), 0.3)[1])
        for each in results[1:]:
            assert_same_bits(each, results[0])


def function_of(name, bias_shape=(6,), **options):
    """The function's tensors (input, bias and more), and the function of them with a fixed mask."""
    generator = torch.Generator().manual_seed(4)
    shapes = [(3, 4, 6), bias_shape, (3, 4, 6)][: 3 if name == "bias_dropout_add" else 2]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    act, approximate = name.removesuffix("_tanh_dropout"), {"approximate": "tanh"} if "tanh" in name else {}
    public = getattr(fused_dropout, act + "_dropout" if approximate else name)
    return tensors, lambda *xs: public(*xs, p=0.4, rng=(7, 8), **approximate, **options)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autograd_takes_one_pass_where_both_gradients_are_wanted(name):
    tensors, function = function_of(name)
    y = function(*tensors)
    with Called() as called:
        grads = torch.autograd.grad(y, tensors, torch.ones_like(y), retain_graph=True)
    assert sum(each.endswith("_and_sum") for each in called.names) == 1
    assert not any("sum" in each for each in called.names if not each.endswith("_and_sum"))
    assert_sum(grads[1], grads[0])
    with Called() as called:
        (alone,) = torch.autograd.grad(y, tensors[0], torch.ones_like(y), retain_graph=True)
    assert not any("sum" in each for each in called.names), "a frozen bias costs nothing"
    assert_same_bits(alone, grads[0])
    (bias_alone,) = torch.autograd.grad(y, tensors[1], torch.ones_like(y))
    torch.testing.assert_close(bias_alone, grads[1])


@pytest.mark.parametrize("bias_shape", [(), (1,), (1, 6), (4, 1), (4, 6), (3, 1, 1), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_biases_of_other_shapes(name, bias_shape):
    tensors, function = function_of(name, bias_shape)
    y = function(*tensors)
    grads = torch.autograd.grad(y, tensors, torch.ones_like(y))
    torch.testing.assert_close(grads[1], grads[0].sum_to_size(bias_shape))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_the_gradients(name):
    tensors, function = function_of(name)
    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_each_sample(name):
    tensors, function = function_of(name)
    x, bias, *rest = (t.detach() for t in tensors)

    def loss(bias, x, *rest):
        return (function(x, bias, *rest) ** 2).sum()

    per_sample = torch.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0, *[0] * len(rest)))(bias, x, *rest)
    for i in range(len(x)):
        want = torch.func.grad(loss, argnums=(0, 1))(bias, x[i], *(r[i] for r in rest))
        for got, each in zip(per_sample, want, strict=True):
            torch.testing.assert_close(got[i], each)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_gradients(name):
    tensors, function = function_of(name)
    y = torch.compile(function, fullgraph=True)(*tensors)
    grads = torch.autograd.grad(y, tensors, torch.ones_like(y))
    eager = function(*tensors)
    for got, want in zip(grads, torch.autograd.grad(eager, tensors, torch.ones_like(eager)), strict=True):
        assert_same_bits(got, want)


def test_complex_biases():
    x, bias = (torch.randn(s, dtype=torch.complex64, requires_grad=True) for s in ((40, 6), (6,)))
    y = fused_dropout.bias_dropout(x, bias, 0.4, rng=(7, 8))
    grads = torch.autograd.grad(y, (x, bias), torch.ones_like(y))
    torch.testing.assert_close(grads[1], grads[0].sum(0))
