"""The same wrong argument to every public name that takes it: the exact type and text, nothing drawn."""

import inspect

import pytest
import torch

import fused_dropout
from proof import public

X, ROW = torch.ones(4, 6), torch.ones(6)
LINEAR = torch.nn.Linear(6, 6)

# (argument, its wrong value, exception, text)
WRONG = [
    ("p", 1.5, ValueError, "dropout probability has to be between 0 and 1, but got 1.5"),
    ("p", -1e-9, ValueError, "dropout probability has to be between 0 and 1, but got -1e-09"),
    ("p", float("nan"), ValueError, "dropout probability has to be between 0 and 1, but got nan"),
    ("p", "0.5", TypeError, "{name}(): argument 'p' must be a number or a 0-d tensor, not str"),
    ("p", torch.ones(2), ValueError,
     "{name}: expected p to be a 0-d floating-point tensor, but got torch.float32 of shape [2]"),
    ("p", torch.tensor(1), ValueError,
     "{name}: expected p to be a 0-d floating-point tensor, but got torch.int64 of shape []"),
    ("training", 1, TypeError, "{name}(): argument 'training' must be bool, not int"),
    ("inplace", None, TypeError, "{name}(): argument 'inplace' must be bool, not NoneType"),
    ("generator", 3, TypeError, "{name}(): argument 'generator' must be a torch.Generator, not int"),
    ("rng", 7, TypeError, "{name}(): argument 'rng' must be an int64 tensor of 2 or two ints, not int"),
    ("rng", (1.0, 8), TypeError, "{name}(): argument 'rng' must hold two ints, not float, int"),
    ("rng", (1, 8, 3), ValueError, "{name}: expected rng to be (seed, offset), but got 3 values"),
    ("rng", (1, 6), ValueError, "{name}: expected the offset of rng to be a multiple of 4, but got 6"),
    ("rng", (-1, 0), ValueError, "{name}: expected the seed of rng in [0, 2**64), but got -1"),
    ("input", 3.0, TypeError, "{name}(): argument 'input' must be a Tensor, not float"),
    ("residual", [1.0], TypeError, "{name}(): argument 'residual' must be a Tensor, not list"),
    ("residual", X[0], ValueError,
     "{name}: expected all tensors to have the input's shape [4, 6], but got one of shape [6]"),
    ("residual", X.half(), RuntimeError,
     "{name}: expected all tensors to have the input's dtype torch.float32, but got one of torch.float16"),
    ("bias", "zero", TypeError, "{name}(): argument 'bias' must be a Tensor, not str"),
    ("weight", "one", TypeError, "{name}(): argument 'weight' must be a Tensor, not str"),
    ("up", 1, TypeError, "{name}(): argument 'up' must be a Tensor, not int"),
    ("approximate", "erf", ValueError, "{name}: expected approximate to be 'none' or 'tanh', but got 'erf'"),
    ("mode", "both", ValueError,
     "{name}: expected mode to be one of 'upscale_in_train', 'downscale_in_infer', but got 'both'"),
    ("per", "column", ValueError, "{name}: expected per to be one of 'row', 'batch', but got 'column'"),
    ("scale_by_keep", 0, TypeError, "{name}(): argument 'scale_by_keep' must be bool, not int"),
    ("noise_shape", 3, TypeError, "{name}(): argument 'noise_shape' must be a sequence of ints and None, not int"),
    ("noise_shape", (2, 6), ValueError,
     "{name}: expected a noise_shape that broadcasts to the input's shape (4, 6), each entry 1, None or the input's "
     "size, but got (2, 6)"),
]  # fmt: skip
# Of those without p or rng: a call that is wrong in its own way.
OTHERS = [
    ("RNG_VERSION", lambda: fused_dropout.RNG_VERSION(), TypeError, "'int' object is not callable"),
    ("build_info", lambda: fused_dropout.build_info("cuda"), TypeError,
     "build_info() takes 0 positional arguments but 1 was given"),
    ("convert", lambda: fused_dropout.convert(torch.relu), TypeError,
     "convert(): argument 'model' must be a torch.nn.Module, not builtin_function_or_method"),
    ("revert", lambda: fused_dropout.revert(None), TypeError,
     "revert(): argument 'model' must be a torch.nn.Module, not NoneType"),
    ("draw", lambda: fused_dropout.draw(generator=3), TypeError,
     "draw(): argument 'generator' must be a torch.Generator, not int"),
    ("monte_carlo", lambda: fused_dropout.monte_carlo(X).__enter__(), TypeError,
     "monte_carlo(): argument 'model' must be a torch.nn.Module, not Tensor"),
    ("predict", lambda: fused_dropout.predict(LINEAR, X, samples=0), ValueError,
     "predict: expected samples to be at least 2, but got 0"),
    ("WeightDrop", lambda: fused_dropout.WeightDrop(LINEAR, ["no"]), ValueError,
     "WeightDrop: expected names of parameters of Linear, which has weight, bias, but got no"),
    ("Zoneout", lambda: fused_dropout.Zoneout(X), TypeError,
     "Zoneout(): argument 'cell' must be a torch.nn.Module, not Tensor"),
]  # fmt: skip
PUBLIC = {name: getattr(fused_dropout, name) for name in fused_dropout.__all__ if name != "RNG_VERSION"}


def parameters(name):
    return inspect.signature(PUBLIC[name]).parameters


FUNCTIONS = [*public.functions()]
MODULES = [name for name, f in PUBLIC.items() if inspect.isclass(f)]
MADE_OF = {"normalized_shape": 6, "in_features": 6, "out_features": 2, "module": LINEAR,
           "names": ["weight"], "cell": torch.nn.GRUCell(6, 6)}  # fmt: skip


def cases(names):
    return [
        pytest.param(name, *row, id=f"{name}, {row[0]} {tuple(row[1].shape) if torch.is_tensor(row[1]) else row[1]}")
        for name in names for row in WRONG if row[0] in parameters(name)
    ]  # fmt: skip


def of_modules():
    """A flag has the name of a function's tensor, and whether a noise shape fits only a call can know."""
    kept = [case for case in cases(MODULES) if case.values[1] != "bias" and case.values[2] != (2, 6)]
    text = "{name}(): argument 'bias' must be bool, not Tensor"
    flags = [name for name in MODULES if "bias" in parameters(name)]
    return kept + [pytest.param(name, "bias", ROW, TypeError, text, id=f"{name}, bias") for name in flags]


def refused(call, exception, text):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(exception) as raised:
        call()
    assert raised.type is exception
    assert str(raised.value).splitlines()[0] == text
    assert torch.equal(before, torch.get_rng_state()), "a call that raises draws none"


@pytest.mark.parametrize(("name", "argument", "value", "exception", "text"), cases(FUNCTIONS))
def test_function_refuses_the_argument_by_name(name, argument, value, exception, text):
    refused(lambda: PUBLIC[name](**public.arguments(name) | {argument: value}), exception, text.format(name=name))


@pytest.mark.parametrize(("name", "argument", "value", "exception", "text"), of_modules())
def test_module_refuses_the_argument_when_it_is_made(name, argument, value, exception, text):
    needed = {key: MADE_OF[key] for key in parameters(name) if key in MADE_OF}
    refused(lambda: PUBLIC[name](**needed | {argument: value}), exception, text.format(name=name))


@pytest.mark.parametrize(("name", "call", "exception", "text"), OTHERS, ids=[row[0] for row in OTHERS])
def test_other_names(name, call, exception, text):
    refused(call, exception, text)


def test_every_public_name_has_a_row():
    covered = {case.values[0] for case in [*cases(FUNCTIONS), *of_modules()]} | {row[0] for row in OTHERS}
    assert covered == set(fused_dropout.__all__)
