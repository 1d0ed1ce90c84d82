"""Bad input: whatever the public functions are given, they answer, or raise one of a few exceptions."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .public import functions
from .report import Finding

TITLE = "Bad input"
METHOD = (
    "Hypothesis calls every public function of tensors with arguments that are mostly right, one by one or "
    "together wrong: other shapes, dtypes, layouts and devices, numbers out of range, objects of other types. "
    "Allowed are a result and the exceptions that tests/test_errors.py expects; a call that raises must leave the "
    "generator where it was. The texts of exceptions are that table's business."
)
ALLOWED = (TypeError, ValueError, RuntimeError, IndexError)
LIMIT = 20_000  # milliseconds a call, after which it counts as one without an end
SHAPES = ((), (1,), (5,), (0,), (3, 4), (2, 3, 4), (2, 3, 4, 4), (2, 3, 2, 4, 4), (2, 0, 4))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool)
NUMBERS = (0.5, 0.0, 1.0, 0.1, -0.1, 1.5, math.nan, math.inf, 1e-40, 0, 1, 2, True, 10**30)
THINGS = (
    None,
    "x",
    b"x",
    [],
    {},
    (1,),
    (1, 2),
    (2**64, 0),
    (-1, 4),
    [1, 2.5],
    3 + 4j,
    object(),
    torch.float32,
    slice(1),
)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    odd = draw(st.integers(0, 15))
    if odd == 0:
        shape = draw(st.sampled_from(SHAPES))
    if odd == 1:
        dtype = draw(st.sampled_from(DTYPES))
    if odd == 2:
        return draw(st.sampled_from(NUMBERS + THINGS))
    x = torch.ones(shape, dtype=dtype)
    if odd == 3:
        return x.to("meta")
    if odd == 4:
        return x.to_sparse() if x.dim() else x
    if odd == 5 and x.dim() > 1:
        return x.transpose(0, 1)
    if odd == 6:
        return x[:1].expand(shape) if x.dim() else x
    if odd == 7 and x.is_floating_point():
        return x.requires_grad_()
    return x


@st.composite
def arguments(draw: st.DrawFn, function: Callable[..., Any]) -> dict[str, Any]:
    """For its parameters, by their names and annotations; those with defaults are often left out."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES[:4]))
    row = shape[-1:]
    outputs = (2,) if function.__name__ == "dropout_linear" else ()
    right = {
        "p": st.sampled_from(NUMBERS[:4] * 3 + NUMBERS)
        | st.builds(torch.tensor, st.sampled_from([0.5, 2.0, math.nan])),
        "rng": st.sampled_from([(1, 2), (0, 2**63), torch.tensor([1, 4]), None]),
        "generator": st.sampled_from([None, torch.Generator()]),
        "noise_shape": st.sampled_from([None, shape, (1,) * len(shape), (None,) * len(shape), (7,), (-1, 2)]),
        "mode": st.sampled_from(["upscale_in_train", "downscale_in_infer", "both"]),
        "shape": st.sampled_from([shape, (2, -3), (2**40, 2**40)]),
        "bias": tensors(outputs or row, dtype), "weight": tensors(outputs + row, dtype),
        "block_size": st.sampled_from([1, 3, (2, 3), 0, -1, 100]),
        "attn_mask": st.none() | tensors(shape, torch.bool) | tensors(shape, dtype),
        "approximate": st.sampled_from(["none", "tanh", "erf"]),
        "per": st.sampled_from(["row", "batch", "column"]),
        "dtype": st.sampled_from(DTYPES),
        "device": st.sampled_from([None, "cpu", "meta", "nowhere"]),
    }  # fmt: skip
    chosen = {}
    for name, parameter in inspect.signature(function).parameters.items():
        optional = parameter.default is not inspect.Parameter.empty
        if optional and draw(st.integers(0, 2)):
            continue
        if draw(st.integers(0, 19)) == 0:
            chosen[name] = draw(st.sampled_from(NUMBERS + THINGS))
        elif name in right:
            chosen[name] = draw(right[name])
        elif "Tensor" in str(parameter.annotation):
            chosen[name] = draw(tensors(shape, dtype))
        elif isinstance(parameter.default, bool):
            chosen[name] = draw(st.booleans())
        else:
            chosen[name] = draw(st.sampled_from(NUMBERS))
    return chosen


def search(function: Callable[..., Any], count: int) -> tuple[str, int]:
    """What goes wrong first, if anything does, and how many calls raised one of the allowed exceptions."""
    refused = 0

    @settings(
        max_examples=count, deadline=LIMIT, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(arguments(function))
    def every(given: dict[str, Any]) -> None:
        nonlocal refused
        before = torch.get_rng_state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**given)
        except ALLOWED:
            refused += 1
            assert torch.equal(before, torch.get_rng_state()), f"raised, and moved the generator: {given}"

    try:
        every()
    except BaseException as error:  # of any type: that is the question
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", refused
    return "", refused


def findings(quick: bool) -> Iterator[Finding]:
    count = 150 if quick else 3_000
    for name, function in functions().items():
        wrong, refused = search(function, count)
        said = wrong or f"answered or refused ({refused:,} refused)"
        yield Finding(f"{name}: {count:,} calls", said, "no other exception", not wrong and refused > 0)
