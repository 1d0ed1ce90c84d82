"""Activations and dropout in one pass over memory, with a bias or a gate before them.

For the backward pass the input is kept, which two calls keep too, and not the activation between them; relu keeps its
output alone, which the next layer keeps anyway. In evaluation, and where p is the number 0, it is one pass as well.
"""

import torch
from torch import Tensor

from ._calls import check, check_approximate, check_gate, one_pass, together
from .rng import Rng


def relu_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Relu and dropout in one pass: 4 bytes an element in bfloat16, where two take 9; backward 6, without a mask.

    Args:
        input: tensor of any shape and strides; float16, bfloat16, float32 or float64.
        p, training, generator, rng: see :func:`dropout`.

    Returns:
        Tensor of the input's shape and dtype.

    Raises:
        As :func:`dropout`.

    Equivalent to::

        output = fused_dropout.dropout(torch.nn.functional.relu(input), p, training, rng=rng)
    """
    checked_p = check("relu_dropout", input, p, training, False, generator, rng)
    return one_pass("relu_dropout", (input,), checked_p, training, generator, rng)


def bias_relu_dropout(
    input: Tensor,
    bias: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A bias, relu and dropout in one pass: 4 bytes an element in bfloat16, where three take 13.

    Args:
        input: tensor of any shape and strides; float16, bfloat16, float32 or float64.
        bias: tensor that broadcasts to the input's shape, such as (features,); of its dtype and device.
        p, training, generator, rng: see :func:`dropout`.

    Returns:
        Tensor of the input's shape and dtype.

    Raises:
        ValueError: a bias that does not broadcast to the input's shape, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = fused_dropout.dropout(torch.nn.functional.relu(input + bias), p, training, rng=rng)
    """
    checked_p = check("bias_relu_dropout", input, p, training, False, generator, rng)
    inputs = together("bias_relu_dropout", input, bias=bias)
    return one_pass("bias_relu_dropout", inputs, checked_p, training, generator, rng)


def squared_relu_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""The square of relu, and dropout, in one pass: 4 bytes an element in bfloat16, where three take 13.

    So et al., "Primer: searching for efficient transformers for language modeling", NeurIPS 2021. Arguments, result and
    errors are those of :func:`relu_dropout`.

    Equivalent to, but for one rounding to the dtype instead of three::

        output = fused_dropout.dropout(torch.nn.functional.relu(input).square(), p, training, rng=rng)
    """
    checked_p = check("squared_relu_dropout", input, p, training, False, generator, rng)
    return one_pass("squared_relu_dropout", (input,), checked_p, training, generator, rng)


def bias_squared_relu_dropout(
    input: Tensor,
    bias: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A bias, the square of relu, and dropout, in one pass: 4 bytes an element in bfloat16, where four take 17.

    See :func:`squared_relu_dropout`; arguments, result and errors are those of :func:`bias_relu_dropout`.

    Equivalent to, but for one rounding to the dtype instead of four::

        output = fused_dropout.dropout(torch.nn.functional.relu(input + bias).square(), p, training, rng=rng)
    """
    checked_p = check("bias_squared_relu_dropout", input, p, training, False, generator, rng)
    inputs = together("bias_squared_relu_dropout", input, bias=bias)
    return one_pass("bias_squared_relu_dropout", inputs, checked_p, training, generator, rng)


def gelu_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    approximate: str = "none",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Gelu and dropout in one pass: 4 bytes an element in bfloat16, where two take 9.

    Hendrycks and Gimpel, "Gaussian error linear units (GELUs)", 2016. Values have the same bits on every
    instruction set.

    Args:
        approximate: ``"none"``, the normal distribution to a few ulp, or ``"tanh"``, the paper's approximation.
        input, p, training, generator, rng: see :func:`relu_dropout`.

    Returns:
        Tensor of the input's shape and dtype.

    Raises:
        ValueError: an unknown ``approximate``, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        gelu = torch.nn.functional.gelu(input, approximate=approximate)
        output = fused_dropout.dropout(gelu, p, training, rng=rng)
    """
    checked_p = check("gelu_dropout", input, p, training, False, generator, rng)
    name = f"gelu{check_approximate('gelu_dropout', approximate)}_dropout"
    return one_pass(name, (input,), checked_p, training, generator, rng)


def bias_gelu_dropout(
    input: Tensor,
    bias: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    approximate: str = "none",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A bias, gelu and dropout in one pass: 4 bytes an element in bfloat16, where three take 13.

    See :func:`gelu_dropout` for ``approximate``; the other arguments, result and errors are those of
    :func:`bias_relu_dropout`.

    Equivalent to, but for one rounding to the dtype instead of three::

        gelu = torch.nn.functional.gelu(input + bias, approximate=approximate)
        output = fused_dropout.dropout(gelu, p, training, rng=rng)
    """
    checked_p = check("bias_gelu_dropout", input, p, training, False, generator, rng)
    input, bias = together("bias_gelu_dropout", input, bias=bias)
    name = f"bias_gelu{check_approximate('bias_gelu_dropout', approximate)}_dropout"
    return one_pass(name, (input, bias), checked_p, training, generator, rng)


def silu_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Silu, also called swish, and dropout in one pass: 4 bytes an element in bfloat16, where two take 9.

    Elfwing et al., "Sigmoid-weighted linear units for neural network function approximation in reinforcement
    learning", 2017. Arguments, result and errors are those of :func:`relu_dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = fused_dropout.dropout(torch.nn.functional.silu(input), p, training, rng=rng)
    """
    checked_p = check("silu_dropout", input, p, training, False, generator, rng)
    return one_pass("silu_dropout", (input,), checked_p, training, generator, rng)


def bias_silu_dropout(
    input: Tensor,
    bias: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A bias, silu and dropout in one pass: 4 bytes an element in bfloat16, where three take 13.

    See :func:`silu_dropout`; arguments, result and errors are those of :func:`bias_relu_dropout`.

    Equivalent to, but for one rounding to the dtype instead of three::

        output = fused_dropout.dropout(torch.nn.functional.silu(input + bias), p, training, rng=rng)
    """
    checked_p = check("bias_silu_dropout", input, p, training, False, generator, rng)
    inputs = together("bias_silu_dropout", input, bias=bias)
    return one_pass("bias_silu_dropout", inputs, checked_p, training, generator, rng)


def swiglu_dropout(
    input: Tensor,
    up: Tensor | None = None,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A gated linear unit with silu, and dropout, in one pass: 6 bytes an element in bfloat16, where three take 15.

    Shazeer, "GLU variants improve transformer", 2020. Without ``up`` the input's gradient is written as one tensor,
    which the halves of two calls would have to be put together for.

    Args:
        input: what goes through the activation, tensor of any shape; without ``up``, tensor (*, 2 F) whose first half
            goes through the activation and whose second half is multiplied with it.
        up: what is multiplied with it, tensor of the input's shape, dtype and device.
        p, training, generator, rng: see :func:`dropout`.

    Returns:
        Tensor of the shape of one of both, and their dtype.

    Raises:
        ValueError: shapes that differ, a last dimension without halves, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of three::

        x, up = (input, up) if up is not None else input.chunk(2, -1)
        output = fused_dropout.dropout(torch.nn.functional.silu(x) * up, p, training, rng=rng)
    """
    checked_p = check("swiglu_dropout", input, p, training, False, generator, rng)
    name, inputs = check_gate("swiglu_dropout", input, up)
    return one_pass(name, inputs, checked_p, training, generator, rng)


def geglu_dropout(
    input: Tensor,
    up: Tensor | None = None,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    approximate: str = "none",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A gated linear unit with gelu, and dropout, in one pass: 6 bytes an element in bfloat16, where three take 15.

    See :func:`swiglu_dropout`, whose arguments, result and errors these are, and :func:`gelu_dropout` for
    ``approximate``.

    Equivalent to, but for one rounding to the dtype instead of three::

        x, up = (input, up) if up is not None else input.chunk(2, -1)
        gelu = torch.nn.functional.gelu(x, approximate=approximate)
        output = fused_dropout.dropout(gelu * up, p, training, rng=rng)
    """
    checked_p = check("geglu_dropout", input, p, training, False, generator, rng)
    form = check_approximate("geglu_dropout", approximate)
    name, inputs = check_gate("geglu_dropout", input, up, form)
    return one_pass(name, inputs, checked_p, training, generator, rng)
