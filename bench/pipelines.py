"""Dropout with its neighbours, as one pass and as chains."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_dropout
from fused_dropout import reference

from .inputs import FEATURES, Inputs, rows
from .layers import scaled_by_noise
from .operations import DROPOUT, MASKED, Operation, multiply
from .work import Function

# 32-bit operations an element, as bench/NOTES.md counts them: e^x, the normal distribution, and what is made of them.
EXPONENTIAL, DISTRIBUTION = 25, 60
ACTIVATION = {"relu": 1, "squared_relu": 2, "silu": EXPONENTIAL + 3, "gelu": DISTRIBUTION + 1}
FEW = 10  # features: as many as a classifier's classes, not a multiple of any vector
NORM = {"layer_norm": 8, "rms_norm": 4}  # mean and variance, or mean square; subtract, multiply, gain and bias


@dataclass(frozen=True)
class Pipeline:
    """Dropout with its neighbours: one pass, the chain of native functions, and that with a multiply for dropout.

    `accesses` is how often an element is moved, reads and writes; `arithmetic`, how many 32-bit operations it takes,
    the mask's among them.
    """

    name: str
    inputs: Inputs
    fused: Function
    native: Function
    unmasked: Function
    oracle: Function
    accesses: int = 2
    arithmetic: float = DROPOUT
    exact: bool = True

    @property
    def operation(self) -> Operation:
        return Operation(self.fused, self.native, self.oracle, self.exact)


def _paths(x: Tensor) -> list[int]:
    return reference.row_major((x.shape[0], 1))


def _norm(p: float, name: str, *others: str) -> Pipeline:
    """A norm behind a residual and a dropped input; both results count, as in pre-norm blocks."""
    fused, unfused = getattr(fused_dropout, f"dropout_add_{name}"), getattr(F, name)
    shape = (FEATURES,)

    def oracle(x: Tensor, residual: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        sum = reference.dropout_add(x, residual, p)[0]
        return unfused(sum, shape, *others), sum

    def chain(drop: Function) -> Function:
        def call(x: Tensor, residual: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
            sum = residual + drop(x)
            return unfused(sum, shape, *others), sum

        return call

    return Pipeline(
        f"dropout_add_{name}",
        rows("x", "residual", *others),
        lambda x, residual, *others: fused(x, residual, *others, p=p),
        chain(lambda x: F.dropout(x, p)),
        chain(multiply(p)),
        oracle,
        accesses=4,
        arithmetic=DROPOUT + 1 + NORM[name],
        exact=False,
    )


def _options(name: str) -> tuple[str, dict[str, str]]:
    """A public function's stem and options, of an operation's name."""
    return name.removesuffix("_tanh"), {"approximate": "tanh"} if name.endswith("_tanh") else {}


def _activation(p: float, name: str) -> Pipeline:
    act, minimal, (stem, options) = reference.ACTIVATIONS[name], multiply(p), _options(name)
    fused, oracle = getattr(fused_dropout, f"{stem}_dropout"), getattr(reference, f"{name}_dropout")
    return Pipeline(
        f"{name}_dropout",
        rows("x"),
        lambda x: fused(x, p, **options),
        lambda x: F.dropout(act(x), p),
        lambda x: minimal(act(x)),
        lambda x: oracle(x, p)[0],
        arithmetic=DROPOUT + ACTIVATION[name],
        exact=False,
    )


def _biased(p: float, name: str) -> Pipeline:
    act, minimal, (stem, options) = reference.ACTIVATIONS[name], multiply(p), _options(name)
    fused, oracle = getattr(fused_dropout, f"bias_{stem}_dropout"), getattr(reference, f"bias_{name}_dropout")
    return Pipeline(
        f"bias_{name}_dropout",
        rows("x", "bias"),
        lambda x, bias: fused(x, bias, p, **options),
        lambda x, bias: F.dropout(act(x + bias), p),
        lambda x, bias: minimal(act(x + bias)),
        lambda x, bias: oracle(x, bias, p)[0],
        arithmetic=DROPOUT + 1 + ACTIVATION[name],
        exact=False,
    )


def _gated(p: float, name: str, *tensors: str) -> Pipeline:
    halves = tensors == ("halves",)
    act, minimal, (stem, options) = reference.ACTIVATIONS[reference.GATED[name]], multiply(p), _options(name)
    fused = getattr(fused_dropout, f"{stem}_dropout")
    oracle = getattr(reference, f"{name}_dropout{'_halves' if halves else ''}")

    def gate(x: Tensor, up: Tensor | None = None) -> Tensor:
        x, up = x.chunk(2, -1) if up is None else (x, up)
        return act(x) * up

    return Pipeline(
        f"{name}_dropout" + (" of halves" if halves else ""),
        rows(*tensors),
        lambda *x: fused(x[0], x[1] if len(x) > 1 else None, p, **options),
        lambda *x: F.dropout(gate(*x), p),
        lambda *x: minimal(gate(*x)),
        lambda *x: oracle(*x, p)[0],
        accesses=3,
        arithmetic=DROPOUT + 1 + ACTIVATION[reference.GATED[name]],
        exact=False,
    )


def _bias_dropout_add(p: float, name: str, features: int = FEATURES) -> Pipeline:
    minimal = multiply(p)
    return Pipeline(
        name,
        rows("x", "bias", "residual", features=features),
        lambda x, bias, residual: fused_dropout.bias_dropout_add(x, bias, residual, p),
        lambda x, bias, residual: residual + F.dropout(x + bias, p),
        lambda x, bias, residual: residual + minimal(x + bias),
        lambda x, bias, residual: reference.bias_dropout_add(x, bias, residual, p)[0],
        accesses=3,
        arithmetic=DROPOUT + 2,
    )


def pipelines(p: float) -> tuple[Pipeline, ...]:
    minimal = multiply(p)
    return (
        Pipeline(
            "dropout_add",
            rows("x", "residual"),
            lambda x, residual: fused_dropout.dropout_add(x, residual, p),
            lambda x, residual: residual + F.dropout(x, p),
            lambda x, residual: residual + minimal(x),
            lambda x, residual: reference.dropout_add(x, residual, p)[0],
            accesses=3,
            arithmetic=DROPOUT + 1,
        ),
        Pipeline(
            "bias_dropout",
            rows("x", "bias"),
            lambda x, bias: fused_dropout.bias_dropout(x, bias, p),
            lambda x, bias: F.dropout(x + bias, p),
            lambda x, bias: minimal(x + bias),
            lambda x, bias: reference.bias_dropout(x, bias, p)[0],
            arithmetic=DROPOUT + 1,
        ),
        _bias_dropout_add(p, "bias_dropout_add"),
        _bias_dropout_add(p, f"bias_dropout_add of {FEW} features", FEW),
        Pipeline(
            "drop_path_add",
            rows("x", "residual"),
            lambda x, residual: fused_dropout.drop_path_add(x, residual, p, True),
            lambda x, residual: residual + scaled_by_noise(p, x, x.shape[0], 1),
            lambda x, residual: residual + minimal(x),
            lambda x, residual: reference.dropout_add(x, residual, p, mask_strides=_paths(x))[0],
            accesses=3,
            arithmetic=MASKED + 1,
        ),
        *(_activation(p, name) for name in reference.ACTIVATIONS if name != "gelu_tanh"),
        *(_biased(p, name) for name in reference.ACTIVATIONS if name != "gelu_tanh"),
        *(_gated(p, name, "halves") for name in ("swiglu", "geglu")),
        _gated(p, "swiglu", "x", "up"),
        _norm(p, "layer_norm", "gain", "bias"),
        _norm(p, "rms_norm", "gain"),
        Pipeline(
            "softmax_dropout",
            rows("x"),
            lambda x: fused_dropout.softmax_dropout(x, p),
            lambda x: F.dropout(torch.softmax(x, -1), p),
            lambda x: minimal(torch.softmax(x, -1)),
            lambda x: reference.dropout(torch.softmax(x, -1), p)[0],
            arithmetic=DROPOUT + 4 + EXPONENTIAL,
            exact=False,
        ),
    )


def dropout_linear(p: float) -> Pipeline:
    minimal = multiply(p)
    return Pipeline(
        "dropout_linear",
        rows("x", "weight"),
        lambda x, weight: fused_dropout.dropout_linear(x, weight, None, p),
        lambda x, weight: F.linear(F.dropout(x, p), weight),
        lambda x, weight: F.linear(minimal(x), weight),
        lambda x, weight: F.linear(reference.dropout(x, p)[0], weight),
    )
