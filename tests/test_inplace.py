"""In place, as torch's own x.mul_() is: versions, views, graphs and refusals."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import fused_dropout

STATE = (31, 8)
GIVEN = pytest.mark.parametrize("rng", [STATE, None], ids=["given state", "drawn state"])


# Versions ------------------------------------------------------------------------------------------------------------

# (layer in place, shape of an input)
LAYERS = {
    "Dropout": (fused_dropout.Dropout(0.4, True), (4, 6)),
    "Dropout of rows": (fused_dropout.Dropout(0.4, True, noise_shape=(None, 1)), (4, 6)),
    "Dropout by a tensor": (fused_dropout.Dropout(torch.tensor(0.4), True), (4, 6)),
    "Dropout1d": (fused_dropout.Dropout1d(0.4, True), (4, 3, 5)),
    "Dropout2d": (fused_dropout.Dropout2d(0.4, True), (4, 3, 5, 5)),
    "Dropout3d": (fused_dropout.Dropout3d(0.4, True), (4, 3, 2, 5, 5)),
    "AlphaDropout": (fused_dropout.AlphaDropout(0.4, True), (4, 6)),
    "FeatureAlphaDropout": (fused_dropout.FeatureAlphaDropout(0.4, True), (4, 3, 5)),
    "DropPath": (fused_dropout.DropPath(0.4, inplace=True), (9, 6)),
    "LockedDropout": (fused_dropout.LockedDropout(0.4, True), (4, 3, 5)),
    "GaussianDropout": (fused_dropout.GaussianDropout(0.4, True), (4, 6)),
    "DropBlock2d": (fused_dropout.DropBlock2d(0.4, 3, True), (2, 3, 8, 8)),
    "DropBlock2d without a batch": (fused_dropout.DropBlock2d(0.4, 3, True), (3, 8, 8)),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


def test_the_table_has_every_layer_that_works_in_place():
    public = [getattr(fused_dropout, name) for name in fused_dropout.__all__]
    layers = {c for c in public if inspect.isclass(c) and "inplace" in inspect.signature(c).parameters}
    assert {type(layer) for layer, _ in LAYERS.values()} == layers
    assert all(layer.inplace for layer, _ in LAYERS.values())


@EVERY_LAYER
@GIVEN
def test_a_call_counts_one_version(name, rng):
    """Of a plain tensor, of one in a graph, and of the base of a view, which share it."""
    layer, shape = LAYERS[name]
    plain, leaf = torch.ones(shape), torch.ones(shape, requires_grad=True)
    for x in (plain, leaf * 1, plain.view_as(plain), plain.detach()):
        base = plain if x.data_ptr() == plain.data_ptr() else x
        before = base._version
        assert layer(x, rng=rng) is x
        assert (x._version, base._version) == (before + 1, before + 1)


def test_blocks_of_noise_count_the_two_writes_that_they_are():
    x = torch.ones(2, 3, 8, 8)
    fused_dropout.drop_block2d(x, 0.4, 3, inplace=True, with_noise=True)
    assert x._version == 2


@EVERY_LAYER
def test_what_returns_the_input_counts_no_version(name):
    layer, shape = LAYERS[name]
    function = getattr(fused_dropout, re.sub(r"\B(?=[A-Z])", "_", type(layer).__name__).lower())
    x = torch.ones(shape)
    assert function(x, p=0.0, training=True, inplace=True) is x
    assert function(x, p=0.4, training=False, inplace=True) is x
    assert x._version == 0


@pytest.mark.parametrize("p", [0.4, torch.tensor(0.4)], ids=["float p", "tensor p"])
def test_evaluation_that_scales_counts_one_version(p):
    x = torch.ones(4, 6)
    assert fused_dropout.dropout(x, p, False, True, mode="downscale_in_infer") is x
    assert x._version == 1


THROUGH = {"itself": lambda w: w, "a view": lambda w: w.view_as(w), "a detached tensor": lambda w: w.detach()}


@EVERY_LAYER
@GIVEN
@pytest.mark.parametrize("through", THROUGH)
def test_a_saved_tensor_that_was_dropped_in_place_is_noticed_as_after_mul(name, rng, through):
    layer, shape = LAYERS[name]
    texts = []
    for write in (lambda x: x.mul_(2), lambda x: layer(x, rng=rng)):
        x = torch.ones(shape, requires_grad=True)
        w = (x * 1).exp()  # saves its output
        write(THROUGH[through](w))
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation.* is at version 1;") as error:
            w.sum().backward()
        texts.append(re.sub(r"output 0 of \w+", "", str(error.value)))
    assert texts[0] == texts[1]


# Views ---------------------------------------------------------------------------------------------------------------

DROPS = {
    "dropout": lambda x, **options: fused_dropout.dropout(x, 0.4, **options),
    "shared": lambda x, **options: fused_dropout.dropout(x, 0.4, noise_shape=(1,) * x.dim(), **options),
    "alpha_dropout": lambda x, **options: fused_dropout.alpha_dropout(x, 0.4, True, **options),
    "gaussian_dropout": lambda x, **options: fused_dropout.gaussian_dropout(x, 0.4, **options),
}
VIEWS = {
    "rows": lambda b: b[1:3],
    "every second column": lambda b: b[:, ::2],
    "a row": lambda b: b[2],
    "an element": lambda b: b[2, 3],
    "nothing": lambda b: b[2:2],
    "transposed": lambda b: b.t()[1:],
    "flat": lambda b: b.view(-1)[3:29],
    "the diagonal": lambda b: b.diagonal(),
    "with one dimension more": lambda b: b[:, None],
    "strides of its own": lambda b: b.as_strided((3, 4), (7, 2), 1),
    "a view of a view": lambda b: b[1:][:, 2:].t()[::2],
    "all of it": lambda b: b.view_as(b),
}


def dropped_by_index(drop, view, x, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """What in place should give, out of place: the base and the view."""
    index = view(torch.arange(x.numel()).view(x.shape))
    part = drop(x.flatten()[index], rng=rng)
    return x.flatten().index_put((index,), part).view(x.shape), part


@GIVEN
@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_dropped_in_place_writes_through_to_its_base_and_its_graph(view, name, rng):
    """Values, and derivatives of two orders, taken through the base, the view and both."""
    leaf = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    for take in (lambda b, v: b, lambda b, v: v, lambda b, v: torch.cat([b.flatten(), v.flatten()])):
        results = []
        for in_place in (True, False):
            x = leaf.sin()
            torch.manual_seed(2)
            if in_place:
                v = VIEWS[view](x)
                assert DROPS[name](v, inplace=True, rng=rng) is v
                got = take(x, v)
            else:
                got = take(*dropped_by_index(DROPS[name], VIEWS[view], x, rng))
            (first,) = torch.autograd.grad((got**3).sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(first.exp().sum(), leaf)
            results.append((got, first, second))
        for ours, want in zip(*results, strict=True):
            torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DROPS)
def test_views_taken_before_see_the_write_in_their_graphs(name):
    """An overlapping sibling, and a view of what is dropped whole."""
    leaf = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    for view in (lambda b: b[1:4], lambda b: b):
        x = leaf * 2
        before = x[3:]
        DROPS[name](view(x), inplace=True, rng=STATE)
        want = dropped_by_index(DROPS[name], view, leaf * 2, STATE)[0][3:]
        assert torch.equal(before, want)
        g = torch.randn_like(want)
        assert torch.equal(torch.autograd.grad(before, leaf, g)[0], torch.autograd.grad(want, leaf, g)[0])


# What is allowed and what is refused ----------------------------------------------------------------------------------


class View(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def leaf():
    return torch.ones(4, 6, requires_grad=True)


def under(mode, x, view):
    with mode():
        return view(x)


TARGETS = {
    "a leaf": leaf,
    "a view of a leaf": lambda: leaf()[1:],
    "a detached leaf": lambda: leaf().detach(),
    "the data of a leaf": lambda: leaf().data,
    "an expanded tensor": lambda: torch.ones(1, 6).expand(4, 6),
    "an expanded tensor of a graph": lambda: (torch.ones(1, 6, requires_grad=True) * 1).expand(4, 6),
    "an expanded leaf": lambda: torch.ones(1, 6, requires_grad=True).expand(4, 6),
    "an output of unbind": lambda: (leaf() * 1).unbind(1)[2],
    "an output of unbind of a leaf": lambda: leaf().unbind(1)[2],
    "an output of unbind without a graph": lambda: torch.ones(4, 6).unbind(1)[2],
    "a view of an output of unbind": lambda: (leaf() * 1).unbind(1)[2][1:],
    "an output of split": lambda: (leaf() * 1).split(2)[1],
    "an output of chunk": lambda: (leaf() * 1).chunk(2, 1)[0],
    "a view made under no_grad": lambda: under(torch.no_grad, leaf() * 1, lambda x: x[1:]),
    "a view of a leaf made under no_grad": lambda: under(torch.no_grad, leaf(), lambda x: x[1:]),
    "a view made in inference mode": lambda: under(torch.inference_mode, leaf() * 1, lambda x: x[1:]),
    "a view that a custom function made": lambda: View.apply(leaf() * 1),
    "a zero tensor": lambda: torch._efficientzerotensor(4, 6),
    "an empty leaf": lambda: torch.ones(0, requires_grad=True),
}
GENERATOR = torch.Generator()  # the one that is given
WRITES = {
    "dropout": lambda x: fused_dropout.dropout(x, 0.5, inplace=True),
    "dropout of a state": lambda x: fused_dropout.dropout(x, 0.5, inplace=True, rng=STATE),
    "dropout of a generator": lambda x: fused_dropout.dropout(x, 0.5, inplace=True, generator=GENERATOR),
    "alpha_dropout": lambda x: fused_dropout.alpha_dropout(x, 0.5, True, True),
    "gaussian_dropout": lambda x: fused_dropout.gaussian_dropout(x, 0.5, inplace=True),
}


def outcome(write, x) -> tuple:
    """What was raised; or what became of a tensor that was written to, and what its graph says of that."""
    try:
        written = write(x) is x, x._version, x.requires_grad
    except RuntimeError as error:
        return type(error), str(error)
    try:
        return *written, x.grad_fn is None
    except RuntimeError as error:
        return *written, str(error)


def held() -> tuple[bytes, bytes]:
    """What the generators hold."""
    return bytes(torch.get_rng_state().tolist()), bytes(GENERATOR.get_state().tolist())


def memory(x) -> bytes:
    return b"" if x._is_zerotensor() else bytes(x.untyped_storage())


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("target", TARGETS)
def test_in_place_is_refused_where_mul_is_and_with_its_words(target, grad):
    """Then nothing is written, counted or drawn, be it a leaf, several views' memory or one of many outputs."""
    x = TARGETS[target]()
    with torch.set_grad_enabled(grad):
        want = outcome(lambda x: x.mul_(2), x)
    for write, call in WRITES.items():
        x = TARGETS[target]()
        before = held(), memory(x)
        with torch.set_grad_enabled(grad):
            assert outcome(call, x) == want, write
        if isinstance(want[0], type):
            assert ((held(), memory(x)), x._version) == (before, 0), write
        else:
            assert (held() == before[0]) == (write == "dropout of a state"), write


def test_a_leaf_written_to_under_no_grad_stays_a_leaf():
    values = torch.randn(4, 6)
    parameter = nn.Parameter(values.clone())
    with torch.no_grad():
        assert fused_dropout.dropout(parameter, 0.4, inplace=True, rng=STATE) is parameter
    assert torch.equal(parameter, fused_dropout.dropout(values, 0.4, rng=STATE))
    assert parameter.is_leaf
    fused_dropout.dropout(parameter, 0.4, rng=STATE).sum().backward()
    assert torch.equal(parameter.grad, fused_dropout.dropout(torch.ones(4, 6), 0.4, rng=STATE))


def inference_tensor():
    with torch.inference_mode():
        return torch.ones(4, 6)


@pytest.mark.parametrize("write", WRITES)
def test_an_inference_tensor_is_refused_outside_with_the_words_of_mul(write):
    texts = []
    for call in (lambda x: x.mul_(2), WRITES[write]):
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode") as error:
            call(inference_tensor())
        texts.append(str(error.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("write", WRITES)
def test_an_inference_tensor_that_is_refused_is_left_alone(write):
    x = inference_tensor()
    before = held(), memory(x)
    with pytest.raises(RuntimeError, match="inference tensor"):
        WRITES[write](x)
    assert (held(), memory(x)) == before


@GIVEN
def test_a_tensor_that_a_transform_captured_is_refused_as_by_mul(rng):
    captured = torch.ones(8)
    for write in (lambda x: x.mul_(2), lambda x: fused_dropout.dropout(x, 0.5, inplace=True, rng=rng)):
        with pytest.raises(RuntimeError, match="would mutate a captured Tensor"):
            torch.func.grad(lambda x, write=write: (x * write(captured)).sum())(torch.ones(8))


@GIVEN
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_p_that_lies_in_the_input_is_refused_as_by_mul(dtype, rng):
    """It would be read by one thread while another writes there."""
    texts = []
    for call in (lambda x: x.mul_(x[0]), lambda x: fused_dropout.dropout(x, x[0], inplace=True, rng=rng)):
        x = torch.full((64,), 0.5, dtype=dtype)
        before = held(), memory(x)
        with pytest.raises(RuntimeError, match="refer to a single memory location") as error:
            call(x)
        assert (held(), memory(x)) == before
        texts.append(str(error.value))
    assert texts[0] == texts[1]


# In every place where torch multiplies in place -----------------------------------------------------------------------

VALUES = torch.arange(1.0, 9)


def graph():
    x = VALUES.clone().requires_grad_()
    return x, x * 3


def retained_gradient(write):
    x, z = graph()
    z.retain_grad()
    write(z)
    (z * 2).sum().backward()
    return z.grad, x.grad


def hooks(write):
    """The first on what was written over, the second on what was written."""
    _, z = graph()
    seen = []
    z.register_hook(lambda grad: seen.append(grad))
    write(z)
    z.register_hook(lambda grad: seen.append(grad))
    (z * 2).sum().backward()
    return seen


def mutation_of_saved_tensors(write):
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        x, z = graph()
        square, w = z**2, z.exp()
        write(z)
        write(w)
        return torch.autograd.grad(square.sum() + z.sum() + w.sum(), x)


def dirty_input(write):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.mark_dirty(write(z))
            return z

        @staticmethod
        def backward(ctx, grad):
            return grad * 5

    x, z = graph()
    y = Function.apply(z)
    assert y is z
    return y, torch.tensor(y._version), *torch.autograd.grad(y.sum(), x)


def view_under_no_grad(write):
    x, z = graph()
    with torch.no_grad():
        write(z.view(2, 4).view(8))
    return z, *torch.autograd.grad(z.sum(), x)


def gradient_transform(write):
    def f(x):
        y = torch.cat([x, x]).sin()
        write(y[4:12])
        return (y**2).sum()

    return (torch.func.grad(f)(VALUES),)


def output_written_again(write):
    x, z = graph()
    write(z).mul_(3).add_(1)
    return z, *torch.autograd.grad(z.sum(), x)


def tangent(write):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(VALUES.clone(), VALUES.clone())
        write(dual)
        return tuple(forward_ad.unpack_dual(dual))


def tangent_of_a_view(write):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(VALUES.repeat(2), VALUES.repeat(2))
        write(dual[4:12])
        return tuple(forward_ad.unpack_dual(dual))


def forward_transform(write):
    return torch.func.jvp(lambda x: write(x * 3), (VALUES,), (VALUES,))


def negative_view(write):
    x = torch.complex(VALUES, VALUES).conj().imag
    assert x.is_neg()
    write(x)
    return (x.clone(),)


def negative_view_in_inference_mode(write):
    with torch.inference_mode():
        return negative_view(write)


def conjugate_view(write):
    x = torch.complex(VALUES, VALUES)
    write(x.conj())
    return (x,)


def functionalization(write):
    return (torch.func.functionalize(lambda x: write(x * 3))(VALUES),)


def functionalization_of_a_view(write):
    def f(x):
        y = torch.cat([x, x])
        write(y[4:12])
        return y

    return (torch.func.functionalize(f)(VALUES),)


PLACES = [
    pytest.param(retained_gradient, id="retain_grad"),
    pytest.param(hooks, id="hooks"),
    pytest.param(mutation_of_saved_tensors, id="allow_mutation_on_saved_tensors"),
    pytest.param(dirty_input, id="mark_dirty"),
    pytest.param(view_under_no_grad, id="a view under no_grad"),
    pytest.param(gradient_transform, id="func.grad"),
    pytest.param(output_written_again, id="written again"),
    pytest.param(tangent, id="forward mode"),
    pytest.param(tangent_of_a_view, id="forward mode of a view"),
    pytest.param(forward_transform, id="func.jvp"),
    pytest.param(negative_view, id="a negative view"),
    pytest.param(negative_view_in_inference_mode, id="a negative view, inference mode"),
    pytest.param(conjugate_view, id="a conjugate view"),
    pytest.param(functionalization, id="func.functionalize"),
    pytest.param(functionalization_of_a_view, id="func.functionalize of a view"),
]


@GIVEN
@pytest.mark.parametrize("place", PLACES)
def test_dropping_in_place_does_what_mul_by_its_mask_does(place, rng):
    torch.manual_seed(6)
    factor = fused_dropout.dropout(torch.ones(8), 0.5, rng=rng)
    assert set(factor.tolist()) == {0.0, 2.0}
    want = place(lambda x: x.mul_(factor))

    def write(x):
        torch.manual_seed(6)
        return fused_dropout.dropout(x, 0.5, inplace=True, rng=rng)

    for ours, theirs in zip(place(write), want, strict=True):
        assert torch.equal(ours, theirs)
