"""The family of layers: PyTorch's six as drop-ins, the others against the code in their docstrings and the papers."""

import inspect
import itertools
import math
import re
import textwrap
import warnings
from unittest import mock

import pytest
import torch
from conftest import DTYPES
from test_values import assert_same_bits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout
from fused_dropout import activations, functional, modules, pipelines, reference, rng

STATE = torch.tensor([7, 16])
P64 = torch.tensor(0.3, dtype=torch.float64)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


# PyTorch's six ---------------------------------------------------------------------------------------------------

# function, module, the shapes that torch documents, and those that it takes with a warning, or refuses
SIX = [
    ("dropout", "Dropout", [(), (5,), (4, 3), (2, 3, 4, 5), (0, 3)]),
    ("dropout1d", "Dropout1d", [(4, 3, 5), (3, 5), (4,), (2, 3, 4, 5), ()]),
    ("dropout2d", "Dropout2d", [(4, 3, 2, 5), (4, 3, 5), (4, 3), (2, 3, 2, 2, 2), (4,), (), (0,), (0, 3, 2, 2)]),
    ("dropout3d", "Dropout3d", [(2, 3, 2, 2, 3), (3, 2, 2, 3), (4, 3, 5), (3, 2), (2, 2, 2, 2, 2, 2), (4,), ()]),
    ("alpha_dropout", "AlphaDropout", [(), (5,), (4, 3), (2, 3, 4, 5), (0, 3)]),
    ("feature_alpha_dropout", "FeatureAlphaDropout", [(2, 3, 2, 2, 3), (3, 2, 2, 3), (4, 3), (4,), (), (0,)]),
]
SIX_SHAPES = [(name, module, shape) for name, module, shapes in SIX for shape in shapes]
SIX_IDS = [f"{name} {list(shape)}" for name, _, shape in SIX_SHAPES]


def both(name, *arguments):
    """torch's function and ours, as functions of the input alone."""
    return [lambda x, f=f: f(x, *arguments) for f in (getattr(nn.functional, name), getattr(fused_dropout, name))]


def outcome(call, x):
    """What came of call(x): the result, or the exception's type and text; and the warnings, with their places."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(x)
        except (RuntimeError, ValueError, TypeError) as error:
            result = (type(error), str(error).splitlines()[0])
    return result, [(w.category, str(w.message), w.filename) for w in caught]


def assert_drop_in(theirs, ours, x, training, inplace, p, same_place=True):
    their_x, our_x = x.clone(), x.clone()
    want, their_warnings = outcome(theirs, their_x)
    got, our_warnings = outcome(ours, our_x)
    assert [w[:2] for w in our_warnings] == [w[:2] for w in their_warnings]
    if same_place:
        assert our_warnings == their_warnings, "a warning points to the caller"
    if isinstance(want, tuple):
        assert got == want
        return
    assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())
    assert our_x.shape == x.shape
    if not training or p == 0:
        assert got is our_x, "the input itself"
        assert torch.equal(got, want)
    elif inplace:
        assert got is our_x
    else:
        assert torch.equal(our_x, x), "the input is left alone"
    if p == 1:
        assert torch.equal(got, want)


@pytest.mark.parametrize(("name", "module", "shape"), SIX_SHAPES, ids=SIX_IDS)
def test_six_return_warn_and_raise_as_torch_does(name, module, shape):
    x = randn(*shape)
    for training, inplace, p, dtype in itertools.product([True, False], [True, False], [0.0, 0.4, 1.0], DTYPES):
        y = x.to(dtype)
        theirs, ours = both(name, p, training, inplace)
        assert_drop_in(theirs, ours, y, training, inplace, p)
        layers = [getattr(space, module)(p, inplace).train(training) for space in (nn, fused_dropout)]
        assert_drop_in(*layers, y, training, inplace, p, same_place=False)
    whole = torch.ones(shape, dtype=torch.int64)  # any dtype, where nothing is to be computed
    for training, p in ((False, 0.4), (True, 0.0)):
        theirs, ours = both(name, p, training)
        assert_drop_in(theirs, ours, whole, training, False, p)


def shared_decisions(call, x) -> list[int]:
    """For each element, the first one that fell as it did in every one of 64 calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fallen = torch.stack([call(x.clone()).flatten() for _ in range(64)]).t().tolist()
    return [fallen.index(row) for row in fallen]


@pytest.mark.parametrize(("name", "module", "shape"), SIX_SHAPES, ids=SIX_IDS)
def test_six_drop_the_same_groups_of_elements_to_the_same_values(name, module, shape):
    x = torch.ones(shape)
    torch.manual_seed(0)
    for inplace in (False, True):
        theirs, ours = both(name, 0.5, True, inplace)
        if isinstance(outcome(theirs, x.clone())[0], tuple):
            continue
        assert shared_decisions(ours, x) == shared_decisions(theirs, x)
        values = []
        for call in (ours, theirs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values.append(torch.cat([call(x.clone()).flatten() for _ in range(64)]).unique())
        torch.testing.assert_close(*values)


@pytest.mark.parametrize(("name", "module"), [row[:2] for row in SIX], ids=[row[0] for row in SIX])
def test_six_have_torchs_signatures_and_classes(name, module):
    for ours, theirs in (
        (getattr(fused_dropout, name), getattr(nn.functional, name)),
        (getattr(fused_dropout, module), getattr(nn, module)),
    ):
        mine, torchs = (list(inspect.signature(f).parameters.values()) for f in (ours, theirs))
        expected = [(p.name, p.default, p.kind) for p in torchs]
        assert [(p.name, p.default, p.kind) for p in mine[: len(torchs)]] == expected
        assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(torchs) :])
    assert issubclass(getattr(fused_dropout, module), getattr(nn, module))


@pytest.mark.parametrize("name", ["dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("lies", ["contiguous", "channels last", "transposed", "part"])
def test_six_in_any_layout_keep_strides_and_write_in_place(name, lies):
    shape = {"dropout1d": (4, 6, 5), "dropout3d": (2, 4, 3, 2, 5)}.get(name, (4, 6, 5, 3))
    x = {
        "contiguous": lambda t: t,
        "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
        "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "part": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    }[lies](randn(*shape))
    call = getattr(fused_dropout, name)
    y = call(x, 0.4, True, rng=STATE)
    theirs = getattr(nn.functional, name)(x, 0.4, True)
    assert y.stride() == theirs.stride()
    assert torch.equal(y, call(x.contiguous(), 0.4, True, rng=STATE)), "the mask is logical"
    assert call(x, 0.4, True, True, rng=STATE) is x
    assert torch.equal(x, y)


# Every public name ------------------------------------------------------------------------------------------------

SPACES = tuple(module.__name__ for module in (functional, pipelines, activations, modules, rng))
PUBLIC = [n for n in fused_dropout.__all__ if getattr(getattr(fused_dropout, n), "__module__", None) in SPACES]
FUNCTIONS = [n for n in PUBLIC if inspect.isfunction(getattr(fused_dropout, n))]
LAYERS = [n for n in PUBLIC if inspect.isclass(getattr(fused_dropout, n))]

# The arguments of each public name's "Equivalent to": the code takes the rest from the signature. `p` may be replaced.
IMAGES, VOLUME, SEQUENCE = (3, 4, 9, 10), (2, 3, 4, 5, 6), (7, 3, 8)
CASES = {
    "dropout": [{"input": randn(4, 6, 5)}, {"input": randn(4, 6, 5), "noise_shape": (None, 1, 5)}],
    "dropout1d": [{"input": randn(*SEQUENCE)}, {"input": randn(9, 8)}],
    "dropout2d": [{"input": randn(*IMAGES)}],
    "dropout3d": [{"input": randn(*VOLUME)}, {"input": randn(*VOLUME[1:])}],
    "alpha_dropout": [{"input": randn(4, 6, 5), "training": True}],
    "feature_alpha_dropout": [{"input": randn(*IMAGES), "training": True}, {"input": randn(4, 6), "training": True}],
    "drop_path": [{"input": randn(*IMAGES), "training": True}, {"input": randn(9), "training": True}],
    "locked_dropout": [{"input": randn(*SEQUENCE)}, {"input": randn(9, 8)}],
    "gaussian_dropout": [{"input": randn(4, 6, 5)}, {"input": randn(4, 6, 5), "noise_shape": (None, 1, 5)}],
    "drop_block2d": [
        {"input": randn(*IMAGES), "block_size": size, "gamma_scale": scale}
        for size, scale in ((1, 1.0), (2, 1.0), (3, 0.5), (7, 1.0), (10, 1.0))
    ]
    + [{"input": randn(*IMAGES[1:]), "block_size": 3}],
    "zoneout": [{"input": randn(4, 6), "previous": randn(6, 4).t()}],
    "dropout_add": [{"input": randn(4, 6), "residual": randn(6, 4).t()}],
    "bias_dropout": [{"input": randn(4, 6), "bias": randn(6)}, {"input": randn(6, 4).t(), "bias": randn(4, 1)}],
    "bias_dropout_add": [{"input": randn(4, 6), "bias": randn(6), "residual": randn(6, 4).t()}],
    "relu_dropout": [{"input": randn(4, 6)}],
    "bias_relu_dropout": [{"input": randn(6, 4).t(), "bias": randn(6)}],
    "squared_relu_dropout": [{"input": randn(6, 4).t()}],
    "bias_squared_relu_dropout": [{"input": randn(4, 6), "bias": randn(4, 1)}],
    "gelu_dropout": [{"input": randn(4, 6)}, {"input": randn(4, 6), "approximate": "tanh"}],
    "bias_gelu_dropout": [
        {"input": randn(4, 6), "bias": randn(6)},
        {"input": randn(4, 6), "bias": randn(6), "approximate": "tanh"},
    ],
    "silu_dropout": [{"input": randn(4, 6)}],
    "bias_silu_dropout": [{"input": randn(4, 6), "bias": randn(6)}],
    "swiglu_dropout": [{"input": randn(4, 6)}, {"input": randn(4, 6), "up": randn(6, 4).t()}],
    "geglu_dropout": [
        {"input": randn(3, 5, 8)},
        {"input": randn(4, 6), "up": randn(4, 6)},
        {"input": randn(4, 6), "approximate": "tanh"},
        {"input": randn(4, 6), "up": randn(4, 6), "approximate": "tanh"},
    ],
    "drop_path_add": [
        {"input": randn(*IMAGES), "residual": randn(*IMAGES), "training": True, "per": per, "scale_by_keep": scale}
        for per, scale in (("row", True), ("batch", False))
    ],
    "draw": [{}],
    "keep_mask": [{"shape": (4, 6)}, {"shape": (4, 6), "noise_shape": (4, 1)}],
    "normal_noise": [{"shape": (4, 6), "dtype": torch.float64}],
    "Dropout": [{"input": randn(4, 6)}, {"input": randn(4, 6), "noise_shape": (None, 1), "mode": "downscale_in_infer"}],
    "Dropout1d": [{"input": randn(*SEQUENCE)}, {"input": randn(9, 8), "mode": "downscale_in_infer"}],
    "Dropout2d": [{"input": randn(*IMAGES)}, {"input": randn(*IMAGES), "mode": "downscale_in_infer"}],
    "Dropout3d": [{"input": randn(*VOLUME)}, {"input": randn(*VOLUME[1:]), "mode": "downscale_in_infer"}],
    "AlphaDropout": [{"input": randn(4, 6)}],
    "FeatureAlphaDropout": [{"input": randn(*IMAGES)}],
    "DropPath": [
        {"input": randn(*IMAGES), "scale_by_keep": scale, "per": per, "mode": mode}
        for scale, per, mode in (
            (True, "row", "upscale_in_train"),
            (False, "row", "upscale_in_train"),
            (True, "batch", "downscale_in_infer"),
        )
    ],
    "LockedDropout": [{"input": randn(*SEQUENCE)}, {"input": randn(*SEQUENCE), "batch_first": True}],
    "DropoutAdd": [{"input": randn(4, 6), "residual": randn(4, 6)}],
    "BiasDropoutAdd": [{"input": randn(4, 6), "bias": randn(6), "residual": randn(4, 6)}],
    "GaussianDropout": [{"input": randn(4, 6)}, {"input": randn(4, 6), "noise_shape": (None, 1)}],
    "DropBlock2d": [
        {"input": randn(*IMAGES)},
        {"input": randn(*IMAGES), "block_size": 4, "couple_channels": True, "clip": True, "gamma_scale": 0.5},
        {"input": randn(*IMAGES), "block_size": 3, "with_noise": True},
        {"input": randn(*IMAGES), "block_size": 3, "scale_by_keep": False},
    ],
}
CASE_ROWS = [(name, i) for name in PUBLIC for i in range(len(CASES.get(name, [{}])))]
# Without the calls that draw or make a state: those that are called with an input.
CALLS = [(name, i) for name, i in CASE_ROWS if "input" in CASES.get(name, [{}])[i]]


OTHERS = ("bias", "residual", "up")  # what a layer's forward takes beside its input
ACTIVATED = [n for n in FUNCTIONS if getattr(fused_dropout, n).__module__ == activations.__name__]
IDENTITY = [  # in evaluation
    row for row in CALLS if row[0] not in ACTIVATED and not {"previous", *OTHERS} & set(CASES[row[0]][row[1]])
]


def ids(rows):
    return [f"{name} {i}" for name, i in rows]


def invoke(name: str, i: int, p=None, training=None, **options):
    """The public name on its case, with another p, another training flag, a state or a generator."""
    case = dict(CASES[name][i])
    p = 0.3 if p is None else p
    if name in FUNCTIONS:
        if training is not None:
            case["training"] = training
        return getattr(fused_dropout, name)(p=p, **case, **options)
    tensors = {key: case.pop(key) for key in ("input", *OTHERS) if key in case}
    return getattr(fused_dropout, name)(p, **case).train(training is not False)(**(tensors | options))


def equivalent(name: str) -> str:
    """The code that the docstring gives; the test fails where it gives none."""
    text = inspect.getdoc(getattr(fused_dropout, name))
    match = re.search(r"^Equivalent to[^\n]*::\n\n((?:    .*\n?|\n)+)", text, re.M)
    assert match, f"{name} has no 'Equivalent to::'"
    return textwrap.dedent(match[1])


@pytest.mark.parametrize(("name", "i"), CASE_ROWS, ids=ids(CASE_ROWS))
def test_docstring_code_runs_and_gives_the_same_output_and_gradient(name, i):
    code, thing = equivalent(name), getattr(fused_dropout, name)
    assert name in CASES, "a public name has its cases here"
    case = {key: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for key, v in CASES[name][i].items()}
    names = {"torch": torch, "math": math, "fused_dropout": fused_dropout}
    if name in LAYERS:
        tensors = {key: case.pop(key) for key in ("input", *OTHERS) if key in case}
        names |= {"module": thing(0.3, **case), "rng": STATE, **tensors}
        got, leaves = names["module"](**tensors, rng=STATE), list(tensors.values())
    else:
        defaults = {key: p.default for key, p in inspect.signature(thing).parameters.items()}
        given = {key: v for key, v in {"p": 0.3, "rng": STATE}.items() if key in defaults} | case
        if name == "draw":
            given = {"generator": torch.Generator().manual_seed(3)}
        got, leaves = thing(**given), [v for v in given.values() if isinstance(v, torch.Tensor) and v.requires_grad]
        names |= defaults | given
        if name == "draw":
            names["generator"] = torch.Generator().manual_seed(3)
    exec(code, names)
    want = names["output"]
    torch.testing.assert_close(got, want)
    assert torch.equal(got == 0, want == 0), "a mask has no tolerance"
    if leaves:
        g = randn(*got.shape)
        for ours, theirs in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g), strict=True):
            torch.testing.assert_close(ours, theirs)


ROWS = {  # what tests/test_norms.py and tests/test_softmax.py test: arguments, and how a module is made
    "dropout_add_layer_norm": ([randn(4, 6), randn(6, 4).t()], {"weight": randn(6), "bias": randn(6)}),
    "dropout_add_rms_norm": ([randn(4, 6), randn(4, 6)], {"weight": randn(6)}),
    "softmax_dropout": ([randn(4, 6)], {"attn_mask": randn(6) > -1, "softmax_scale": 0.5}),
    "DropoutAddLayerNorm": ([randn(4, 6), randn(4, 6)], {"normalized_shape": 6, "dtype": torch.float64}),
    "DropoutAddRMSNorm": ([randn(4, 6), randn(4, 6)], {"normalized_shape": 6, "dtype": torch.float64}),
    "SoftmaxDropout": ([randn(4, 6)], {"softmax_scale": 0.5}),
}


@pytest.mark.parametrize("name", ROWS)
def test_docstring_code_of_row_operations_runs_and_gives_the_same(name):
    tensors, options = ROWS[name]
    thing = getattr(fused_dropout, name)
    names = {
        "torch": torch,
        "fused_dropout": fused_dropout,
        "rng": STATE,
        "p": 0.3,
        "training": True,
        "input": tensors[0],
    }
    names |= dict(zip(("input", "residual"), tensors, strict=False))
    if inspect.isclass(thing):
        names["module"] = thing(p=0.3, **options)
        got = names["module"](*tensors, rng=STATE)
    else:
        names |= {
            key: q.default for key, q in inspect.signature(thing).parameters.items() if key not in names
        } | options
        got = thing(*tensors, p=0.3, rng=STATE, **options)
    exec(equivalent(name), names)
    torch.testing.assert_close(got, names["output"])


def test_every_public_name_has_its_code_run():
    elsewhere = {
        "dropout_linear",
        "DropoutLinear",
        "Zoneout",
        "WeightDrop",
        "monte_carlo",
        "predict",
        "convert",
        "revert",
    }
    without = {"RNG_VERSION", "build_info"}
    assert set(fused_dropout.__all__) == set(PUBLIC) | set(ROWS) | elsewhere | without


def test_a_docstring_without_code_is_noticed():
    assert {"dropout", "DropBlock2d", "normal_noise"} <= set(PUBLIC)
    assert set(CASES) == set(PUBLIC)
    with pytest.raises(AssertionError, match="has no 'Equivalent to::'"):
        equivalent("build_info")


@pytest.mark.parametrize(("name", "i"), CALLS, ids=ids(CALLS))
def test_each_call_draws_one_state_and_uses_it(name, i):
    for p in (0.3, 1.0, P64):
        torch.manual_seed(5)
        state = fused_dropout.draw()
        after = torch.get_rng_state()
        torch.manual_seed(5)
        drawn = invoke(name, i, p)
        assert torch.equal(torch.get_rng_state(), after), "exactly one draw"
        assert torch.equal(drawn, invoke(name, i, p, rng=state)), "of the state that the mask is made from"
        assert torch.equal(torch.get_rng_state(), after), "a given state draws none"


FUNCTION_CALLS = [row for row in CALLS if row[0] in FUNCTIONS]


@pytest.mark.parametrize(("name", "i"), FUNCTION_CALLS, ids=ids(FUNCTION_CALLS))
def test_generator_is_the_one_that_is_drawn_from(name, i):
    before = torch.get_rng_state()
    drawn = invoke(name, i, generator=torch.Generator().manual_seed(9))
    state = fused_dropout.draw(generator=torch.Generator().manual_seed(9))
    assert torch.equal(drawn, invoke(name, i, rng=state))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "i"), CALLS, ids=ids(CALLS))
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -0.5, 1.5, math.nan])
def test_tensor_p_equals_the_float_and_counts_as_one_outside(name, i, value):
    number = value if 0 <= value <= 1 else 1.0
    for dtype in (torch.float32, torch.float64):
        p = torch.tensor(value, dtype=dtype)
        number = p.item() if 0 <= value <= 1 else 1.0
        torch.manual_seed(1)
        got = invoke(name, i, p, rng=STATE)
        assert got is not CASES[name][i]["input"], "a tensor p is not read on the host"
        assert torch.equal(got, invoke(name, i, number, rng=STATE))


class NoHostRead(TorchDispatchMode):
    """Fails where a tensor's value reaches the host, which on a GPU would wait for the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "i"), CALLS, ids=ids(CALLS))
def test_tensor_p_and_state_are_never_read_on_the_host(name, i):
    p, rng = torch.tensor(0.3), fused_dropout.draw()
    case = {**CASES[name][i], "input": CASES[name][i]["input"].clone().requires_grad_()}
    with NoHostRead(), mock.patch.dict(CASES, {name: {i: case}}):
        invoke(name, i, p, rng=rng).sum().backward()
        if name in FUNCTIONS:
            invoke(name, i, p, False)


@pytest.mark.parametrize(("name", "i"), CALLS, ids=ids(CALLS))
def test_what_is_saved_for_backward_is_the_state(name, i):
    """16 bytes, whatever the size: no mask, no noise, no input; of an activation also what it is given, or returns."""
    saved = []
    case = {**CASES[name][i], "input": CASES[name][i]["input"].clone().requires_grad_()}
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with hooks, mock.patch.dict(CASES, {name: {i: case}}):
        output = invoke(name, i)
    assert [(t.dtype, t.shape) for t in saved[:1]] == [(torch.int64, (2,))]
    tensors = [t for t in case.values() if isinstance(t, torch.Tensor)]
    others = [output] if "relu" in name and "squared" not in name else tensors if name in ACTIVATED else []
    assert [t.data_ptr() for t in saved[1:]] == [t.data_ptr() for t in others]


@pytest.mark.parametrize(("name", "i"), CALLS, ids=ids(CALLS))
def test_evaluation_and_p_zero_draw_nothing(name, i):
    input, mode = CASES[name][i]["input"], CASES[name][i].get("mode")
    before = torch.get_rng_state()
    for p in (0.3, P64):
        evaluated = invoke(name, i, p, False)
        if mode == "downscale_in_infer":
            torch.testing.assert_close(evaluated, input * reference.kept(0.3), rtol=1e-15, atol=0)
        elif (name, i) in IDENTITY:
            assert evaluated is input
    if (name, i) in IDENTITY or name == "zoneout":
        assert invoke(name, i, 0.0) is input
    invoke(name, i, 0.0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "i"), IDENTITY, ids=ids(IDENTITY))
@pytest.mark.parametrize("p", [0.3, P64], ids=["float p", "tensor p"])
def test_in_place_writes_what_out_of_place_returns_with_the_same_gradient(name, i, p):
    case = CASES[name][i]
    x, g = case["input"].clone().requires_grad_(), randn(*case["input"].shape)
    options = {key: v for key, v in case.items() if key != "input"}
    results = []
    for inplace in (False, True):
        z = x * 1
        if name in FUNCTIONS:
            y = getattr(fused_dropout, name)(z, p=p, inplace=inplace, rng=STATE, **options)
        else:
            y = getattr(fused_dropout, name)(p, inplace=inplace, **options)(z, rng=STATE)
        assert (y is z) == inplace
        results.append((y, torch.autograd.grad(y, x, g)[0]))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "input" in CASES[n][0]])
def test_dtype_is_the_inputs(name, dtype):
    case = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in CASES[name][0].items()}
    call = getattr(fused_dropout, name)
    y = call(p=0.3, rng=STATE, **case)
    exact = call(p=0.3, rng=STATE, **{k: v.double() if isinstance(v, torch.Tensor) else v for k, v in case.items()})
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "input" in CASES[n][0]])
def test_in_a_full_graph_given_a_state_or_drawing_one(name):
    case = CASES[name][0]
    torch._dynamo.reset()
    compiled = torch.compile(getattr(fused_dropout, name), backend="aot_eager", fullgraph=True)
    for p in (0.3, P64):
        torch.testing.assert_close(compiled(p=p, rng=STATE, **case), invoke(name, 0, p, rng=STATE))
    torch.manual_seed(0)
    assert not torch.equal(compiled(p=0.3, **case), compiled(p=0.3, **case)), "each call draws"


# Rates, shared dimensions, conventions ------------------------------------------------------------------------------

# layer, call, shape, one element of each decision
BERNOULLI = {
    "Dropout": (fused_dropout.Dropout, (1 << 18,), lambda t: t),
    "Dropout1d": (fused_dropout.Dropout1d, (512, 512, 3), lambda t: t[..., :1]),
    "Dropout1d, no batch": (fused_dropout.Dropout1d, (1 << 16, 5), lambda t: t[..., :1]),
    "Dropout2d": (fused_dropout.Dropout2d, (512, 512, 2, 3), lambda t: t[..., :1, :1]),
    "Dropout3d": (fused_dropout.Dropout3d, (512, 512, 2, 1, 2), lambda t: t[..., :1, :1, :1]),
    "Dropout3d, no batch": (fused_dropout.Dropout3d, (1 << 16, 2, 1, 2), lambda t: t[..., :1, :1, :1]),
    "DropPath, row": (fused_dropout.DropPath, (1 << 16, 3, 2), lambda t: t[:, :1, :1]),
    "LockedDropout": (fused_dropout.LockedDropout, (3, 512, 512), lambda t: t[:1]),
    "LockedDropout, batch first": (
        lambda p, **o: fused_dropout.LockedDropout(p, batch_first=True, **o),
        (512, 3, 512),
        lambda t: t[:, :1],
    ),
    "LockedDropout, no batch": (fused_dropout.LockedDropout, (3, 1 << 16), lambda t: t[:1]),
}


@pytest.mark.parametrize("p", [0.1, 0.37, 0.9])
@pytest.mark.parametrize("name", BERNOULLI)
def test_keep_rate_is_the_one_that_is_honoured_and_dimensions_share_decisions(name, p):
    layer, shape, representative = BERNOULLI[name]
    y = layer(p)(torch.ones(shape), rng=(11, 4))
    decisions = representative(y)
    assert torch.equal(y, decisions.expand(shape))
    kept, n, q = int((decisions != 0).sum()), decisions.numel(), reference.kept(p)
    assert abs(kept - n * q) < 6 * math.sqrt(n * q * (1 - q))
    assert_same_bits(decisions.max(), torch.tensor(reference.gain_of(p, 0), dtype=torch.float32))
    bare = layer(p, mode="downscale_in_infer")
    assert torch.equal(bare(torch.ones(shape), rng=(11, 4)), (y != 0).float()), "the bare mask"
    x = torch.randn(shape[-1])
    x = x.expand(3, *x.shape) if len(shape) > 1 else x
    want = x * torch.tensor(q, dtype=torch.float32)
    assert_same_bits(fused_dropout.dropout(x, p, False, mode="downscale_in_infer"), want)


def test_one_decision_for_the_batch():
    layer = fused_dropout.DropPath(0.37, per="batch")
    kept = 0
    for seed in range(2000):
        values = layer(torch.ones(3, 2), rng=(seed, 0)).unique()
        assert len(values) == 1
        kept += int(values.item() != 0)
    assert abs(kept - 2000 * 0.63) < 6 * math.sqrt(2000 * 0.63 * 0.37)


def test_drop_path_without_scaling_is_the_bare_mask_and_the_identity():
    x = randn(64, 5)
    y = fused_dropout.drop_path(x, 0.3, True, scale_by_keep=False, rng=STATE)
    keep = fused_dropout.keep_mask(x.shape, 0.3, STATE, noise_shape=(None, 1))
    assert torch.equal(y, torch.where(keep, x, 0))
    assert fused_dropout.drop_path(x, 0.3, False, scale_by_keep=False) is x
    downscaled = fused_dropout.drop_path(x, 0.3, True, scale_by_keep=False, mode="downscale_in_infer", rng=STATE)
    assert torch.equal(downscaled, y)
    evaluated = fused_dropout.drop_path(x, 0.3, False, scale_by_keep=False, mode="downscale_in_infer")
    assert torch.equal(evaluated, x * reference.kept(0.3))


def z_of_mean(samples: torch.Tensor, mean: float) -> float:
    """How many standard errors the mean of independent samples lies from where it should."""
    return float((samples.mean() - mean) / (samples.std() / math.sqrt(samples.numel())))


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("layer", [fused_dropout.AlphaDropout, fused_dropout.FeatureAlphaDropout])
def test_alpha_layers_keep_mean_and_variance_of_selu_activations(layer, p):
    """SELU has its fixed point at mean 0 and variance 1 for a standard normal input."""
    x = nn.functional.selu(randn(512, 512, 4))
    y = layer(p)(x, rng=(1, 0))
    channels = y.flatten(2)  # independent of each other, whichever layer it is
    assert abs(z_of_mean(channels.mean(2), 0.0)) < 6
    assert abs(z_of_mean(channels.square().mean(2), 1.0)) < 6


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gaussian_dropout_has_mean_one_and_variance_p_over_one_minus_p(p, dtype):
    y = fused_dropout.gaussian_dropout(torch.ones(1 << 20, dtype=dtype), p, rng=(2, 0)).double()
    assert abs(z_of_mean(y, 1.0)) < 6
    assert abs(z_of_mean((y - 1).square(), p / (1 - p))) < 6


def test_gaussian_dropout_that_keeps_nothing_is_zero_whatever_it_was():
    x = torch.tensor([1.0, math.inf, math.nan, -3.0])
    for p in (1.0, torch.tensor(1.0), 1 - 2.0**-40):
        assert not fused_dropout.gaussian_dropout(x, p).any()


def test_gaussian_dropout_shares_its_factor_along_shared_dimensions():
    y = fused_dropout.gaussian_dropout(torch.ones(5, 7, 3), 0.5, noise_shape=(None, 1, 3), rng=STATE)
    small = fused_dropout.gaussian_dropout(torch.ones(5, 1, 3), 0.5, rng=STATE)
    assert torch.equal(y, small.expand_as(y))


@pytest.fixture(scope="module")
def normal() -> torch.Tensor:
    return fused_dropout.normal_noise((1 << 20,), (3, 8), dtype=torch.float64)


def test_normal_noise_has_the_moments_of_a_standard_normal(normal):
    n = normal.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((normal**power).mean() - moment) < 6 * math.sqrt(variance / n), power
    for lanes in (normal.view(-1, 8)[:, lane] for lane in range(8)):
        assert abs(lanes.mean()) < 6 / math.sqrt(lanes.numel())
        assert abs(lanes.square().mean() - 1) < 6 * math.sqrt(2 / lanes.numel())


def test_normal_noise_has_the_distribution_of_a_standard_normal(normal):
    n = normal.numel()
    for quantile in (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.1, 0.7, 1.5, 2.5, 3.5):
        q = 0.5 * math.erfc(-quantile / math.sqrt(2))
        assert abs((normal < quantile).sum() - n * q) < 6 * math.sqrt(n * q * (1 - q)), quantile
    uniform = torch.special.ndtr(normal.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max((uniform - steps[:-1]).abs().max(), (uniform - steps[1:]).abs().max())
    assert distance * math.sqrt(n) < 3, "Kolmogorov-Smirnov: 3 is exceeded once in 30 million"


def test_normal_noise_is_uncorrelated(normal):
    pairs = normal.view(-1, 2)
    for a, b in ((pairs[:, 0], pairs[:, 1]), (normal[:-2], normal[2:]), (normal[:-8], normal[8:])):
        assert abs(z_of_mean(a * b, 0.0)) < 6
        assert abs(z_of_mean((a.square() - 1) * (b.square() - 1), 0.0)) < 6, "nor are the squares"


def test_normal_noise_comes_from_the_words_of_the_mask():
    """The first word of a pair decides the radius, the second the angle; the half that is added matters at 1e-9."""
    words = reference.words(STATE, torch.arange(64)).tolist()
    want = []
    for first, second in zip(words[::2], words[1::2], strict=True):
        radius = math.sqrt(-2 * math.log((first + 0.5) / 2**32))
        angle = 2 * math.pi * (second + 0.5) / 2**32
        want += [radius * math.cos(angle), radius * math.sin(angle)]
    noise = fused_dropout.normal_noise((64,), STATE, dtype=torch.float64)
    torch.testing.assert_close(noise.tolist(), want, rtol=1e-13, atol=1e-14)
    assert fused_dropout.normal_noise((3,), (1, 0)).dtype == torch.get_default_dtype()
    for dtype in DTYPES:
        rounded = fused_dropout.normal_noise((1000,), STATE, dtype=dtype)
        exact = fused_dropout.normal_noise((1000,), STATE, dtype=torch.float64)
        torch.testing.assert_close(rounded, exact.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


# DropBlock ----------------------------------------------------------------------------------------------------------


def blocks_by_hand(shape, p, size, coupled, clip, state, gamma_scale=1.0) -> torch.Tensor:
    """The mask as the paper has it, seed by seed: True where an element is kept."""
    n, c, height, width = shape
    kh, kw = min(size, height), min(size, width)
    gamma = p / (kh * kw) * (height * width) / ((height - kh + 1) * (width - kw + 1)) * gamma_scale
    channels = 1 if coupled else c
    grid = (height, width) if clip else (height - kh + 1, width - kw + 1)
    seeds = ~fused_dropout.keep_mask((n, channels, *grid), min(gamma, 1.0), state)
    keep = torch.ones(n, channels, height, width, dtype=torch.bool)
    up, left = (kh // 2, kw // 2) if clip else (0, 0)
    for sample, channel, i, j in seeds.nonzero().tolist():
        # A grid of all elements is one of the blocks inside where they are as large: there nothing is cut off.
        top = i if grid[0] == height - kh + 1 else i - up
        begin = j if grid[1] == width - kw + 1 else j - left
        keep[sample, channel, max(top, 0) : top + kh, max(begin, 0) : begin + kw] = False
    return keep.expand(shape)


# shape, block_size, what it is for
BLOCKS = [
    ((3, 4, 9, 10), 1, "single elements"),
    ((3, 4, 9, 10), 2, "even"),
    ((3, 4, 9, 10), 3, "odd"),
    ((3, 4, 9, 10), 4, "even, larger"),
    ((2, 3, 16, 13), 7, "the default"),
    ((3, 4, 9, 10), 10, "higher than the map"),
    ((30, 4, 5, 6), 7, "larger than the map"),
    ((1, 1, 9, 10), 3, "one channel of one sample"),
    ((4, 2, 1, 20), 3, "a map of one row"),
]


@pytest.mark.parametrize("clip", [False, True], ids=["inside", "clipped"])
@pytest.mark.parametrize("coupled", [False, True], ids=["channels apart", "channels coupled"])
@pytest.mark.parametrize(("shape", "size", "why"), BLOCKS, ids=[row[2] for row in BLOCKS])
def test_drop_block_equals_the_paper(shape, size, why, coupled, clip):
    x, options = randn(*shape, dtype=torch.float32), {"couple_channels": coupled, "clip": clip}
    dropped_some = False
    for seed in range(8):
        state = (seed, 4)
        keep = blocks_by_hand(shape, 0.2, size, coupled, clip, state)
        dropped_some |= not keep.all()
        bare = fused_dropout.drop_block2d(x, 0.2, size, scale_by_keep=False, rng=state, **options)
        assert_same_bits(bare, torch.where(keep, x, 0.0))
        y = fused_dropout.drop_block2d(x, 0.2, size, rng=state, **options)
        count = int(keep.sum())
        assert torch.equal(y != 0, keep)
        torch.testing.assert_close(y, torch.where(keep, x * (keep.numel() / max(count, 1)), 0.0), rtol=1e-6, atol=0)
        last = x.to(memory_format=torch.channels_last)
        assert torch.equal(fused_dropout.drop_block2d(last, 0.2, size, rng=state, **options), y)
        noisy = fused_dropout.drop_block2d(x, 0.2, size, with_noise=True, rng=state, **options)
        assert torch.equal(noisy[keep], x[keep]), "nothing is rescaled"
        assert not (noisy == x)[~keep].any()
    assert dropped_some


def test_drop_block_covers_a_share_that_follows_from_gamma():
    """An element is kept where none of the seeds that reach it is dropped: known for each, averaged over many maps."""
    for clip, size in ((False, 3), (True, 3), (True, 4)):
        x, side = torch.ones(200, 50, 12, 12), 12
        y = fused_dropout.drop_block2d(x, 0.2, size, clip=clip, scale_by_keep=False, rng=(8, 0))
        inside = side - size + 1
        gamma = 0.2 * side**2 / size**2 / inside**2
        starts = range(-(size // 2), side - size // 2) if clip else range(inside)
        reach = torch.tensor([sum(s <= i < s + size for s in starts) for i in range(side)], dtype=torch.float64)
        expected = (1 - gamma) ** (reach[:, None] * reach)
        assert abs(z_of_mean(y.double().mean((2, 3)).flatten(), expected.mean().item())) < 6


def test_drop_block_noise_is_standard_normal_shared_as_the_mask_and_new():
    x = torch.full((500, 2, 9, 9), 7.0)
    for coupled in (False, True):
        options = {"couple_channels": coupled, "rng": (4, 4)}
        y = fused_dropout.drop_block2d(x, 0.3, 3, with_noise=True, **options)
        dropped = fused_dropout.drop_block2d(x, 0.3, 3, **options) == 0
        assert torch.equal(y[:, 0] == y[:, 1], ~dropped[:, 0] & ~dropped[:, 1] if not coupled else y[:, 0] == y[:, 0])
        noise = y[dropped] if not coupled else y[:, :1][dropped[:, :1]]
        assert abs(noise.mean()) * math.sqrt(noise.numel()) < 6
        assert abs(noise.square().mean() - 1) * math.sqrt(noise.numel() / 2) < 6
    x = torch.full((1, 1, 3, 7), 7.0)  # 5 * 7 seeds: an odd number, and noise is made of pairs of words
    seeds = 5
    y = fused_dropout.drop_block2d(x, 1.0, 3, with_noise=True, gamma_scale=9.0, rng=STATE)
    want = fused_dropout.normal_noise((3 * 7 + seeds + 1,), STATE)[seeds + 1 :].view_as(x)
    torch.testing.assert_close(y, want)


def test_drop_block_gradient_is_the_block_mask_also_with_noise():
    x = randn(2, 3, 8, 8).requires_grad_()
    for noise in (False, True):
        y = fused_dropout.drop_block2d(x, 0.3, 3, with_noise=noise, rng=STATE)
        y.sum().backward()
        want = fused_dropout.drop_block2d(torch.ones_like(x), 0.3, 3, scale_by_keep=not noise, rng=STATE)
        assert torch.equal(x.grad, want)
        x.grad = None


def test_drop_block_of_an_empty_batch_or_map_draws_a_state():
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8)):
        before = torch.get_rng_state()
        assert fused_dropout.drop_block2d(torch.ones(shape), 0.3).shape == shape
        assert not torch.equal(before, torch.get_rng_state())


def test_gamma_is_at_most_one():
    x = torch.ones(2, 3, 8, 8)
    for p in (0.9, torch.tensor(0.9)):
        assert not fused_dropout.drop_block2d(x, p, 3, gamma_scale=100.0).any(), "no element is kept, no nan made"


# Zoneout ------------------------------------------------------------------------------------------------------------


def test_zoneout_selects_and_leaks_no_nan_into_values_or_gradients():
    keep = fused_dropout.keep_mask((100,), 0.4, STATE)
    input = torch.where(keep, 1.0, math.nan).requires_grad_()
    previous = torch.where(keep, math.inf, 2.0).requires_grad_()
    y = fused_dropout.zoneout(input, previous, 0.4, rng=STATE)
    assert torch.equal(y, torch.where(keep, 1.0, 2.0))
    y.sum().backward()
    assert torch.equal(input.grad, keep.float())
    assert torch.equal(previous.grad, (~keep).float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.3, P64], ids=["float", "tensor"])
def test_zoneout_in_evaluation_is_the_expectation_rounded_product_by_product(p, dtype):
    input, previous = randn(50, dtype=dtype), randn(10, 5, dtype=dtype).flatten()
    wide = reference.compute(dtype)
    kept, dropped = (torch.tensor(round(share * 2**32) / 2**32, dtype=torch.float64).to(wide) for share in (0.7, 0.3))
    want = (input.to(wide) * kept + previous.to(wide) * dropped).to(dtype)
    assert_same_bits(fused_dropout.zoneout(input, previous, p, False), want)


@pytest.mark.parametrize("p", [0.3, P64], ids=["float", "tensor"])
def test_zoneout_of_complex_numbers_in_evaluation_is_that_of_their_parts(p):
    input, previous = torch.complex(randn(20), randn(4, 5).flatten()), torch.complex(randn(2, 10).flatten(), randn(20))
    input[3], previous[4] = complex(math.inf, 1), complex(2, math.nan)
    parts = fused_dropout.zoneout(torch.view_as_real(input), torch.view_as_real(previous), p, False)
    output = fused_dropout.zoneout(input, previous, p, False)
    assert_same_bits(torch.view_as_real(output), parts)
    conjugate = fused_dropout.zoneout(input.conj(), previous.conj(), p, False)
    torch.testing.assert_close(conjugate, output.conj(), rtol=0, atol=0, equal_nan=True)


def test_zoneout_in_evaluation_is_the_mean_of_training():
    samples = fused_dropout.zoneout(torch.full((1 << 20,), 5.0), torch.full((1 << 20,), -3.0), 0.3, rng=STATE)
    evaluated = fused_dropout.zoneout(torch.tensor(5.0), torch.tensor(-3.0), 0.3, False)
    assert abs(z_of_mean(samples.double(), evaluated.item())) < 6


def test_zoneout_of_p_one_is_the_previous_state():
    input, previous = randn(20), randn(4, 5).flatten()
    assert torch.equal(fused_dropout.zoneout(input, previous, 1.0), previous)
    assert fused_dropout.zoneout(input, previous, 0.0) is input
    assert fused_dropout.zoneout(input, previous, 0.0, False) is input
