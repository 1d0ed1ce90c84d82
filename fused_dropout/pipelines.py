"""Dropout with its neighbours: chains of elementwise operations that end in dropout, in one pass over memory."""

import torch
from torch import Tensor

from ._calls import call, check, check_flags, check_per, leading, one_pass, together
from .reference import GAIN_ONE, GAIN_UPSCALE
from .rng import Rng


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Dropout and the addition of a residual, in one pass: 6 bytes an element in bfloat16, where two passes take 11.

    Args:
        input, residual: tensors of the same shape, dtype and device; see :func:`dropout` for the rest.

    Returns:
        Tensor of the input's shape and dtype; ``residual + input`` in evaluation, and where p is the number 0.

    Raises:
        ValueError: shapes that differ, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = residual + fused_dropout.dropout(input, p, training, rng=rng)
    """
    checked_p = check("dropout_add", input, p, training, False, generator, rng)
    input, residual = together("dropout_add", input, residual=residual)
    if not training or checked_p[0] == 0:
        return residual + input
    return call("dropout_add", (input, residual), checked_p, GAIN_UPSCALE, None, False, generator, rng)[0]


def bias_dropout(
    input: Tensor,
    bias: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Dropout of an input with its bias added, in one pass: 4 bytes an element in bfloat16, where two passes take 9.

    Backward, the gradient of a bias (features,) is summed up in the pass that makes the input's, with the same bits in
    every run and for any number of threads; so it is for every function here that adds a bias.

    Args:
        input: tensor of any shape; see :func:`dropout` for the rest.
        bias: tensor that broadcasts to the input's shape, such as (features,); of its dtype and device.

    Returns:
        Tensor of the input's shape and dtype; ``input + bias`` in evaluation, and where p is the number 0.

    Raises:
        ValueError: a bias that does not broadcast to the input's shape, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = fused_dropout.dropout(input + bias, p, training, rng=rng)
    """
    checked_p = check("bias_dropout", input, p, training, False, generator, rng)
    input, bias = together("bias_dropout", input, bias=bias)
    if not training or checked_p[0] == 0:
        return input + bias
    return call("bias_dropout", (input, bias), checked_p, GAIN_UPSCALE, None, False, generator, rng)[0]


def bias_dropout_add(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""The end of a transformer's sublayer in one pass: 6 bytes an element in bfloat16, where three passes take 15.

    Args:
        input: tensor of any shape; see :func:`dropout` for the rest.
        bias: tensor that broadcasts to the input's shape, such as (features,); of its dtype and device.
        residual: tensor of the input's shape, dtype and device.

    Returns:
        Tensor of the input's shape and dtype; in evaluation, and where p is the number 0, ``residual + (input + bias)``
        in one pass too.

    Raises:
        ValueError: a bias that does not broadcast to the input's shape, a residual of another shape, and as
            :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of three::

        output = residual + fused_dropout.dropout(input + bias, p, training, rng=rng)
    """
    checked_p = check("bias_dropout_add", input, p, training, False, generator, rng)
    inputs = input, bias, residual = together("bias_dropout_add", input, bias=bias, residual=residual)
    if (not training or checked_p[0] == 0) and not input.is_floating_point() and not input.is_complex():
        return residual + (input + bias)
    return one_pass("bias_dropout_add", inputs, checked_p, training, generator, rng)


def drop_path_add(
    input: Tensor,
    residual: Tensor,
    p: "float | Tensor" = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    *,
    per: str = "row",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A residual block with stochastic depth, in one pass; of a dropped sample only the residual is read.

    Args:
        input: the residual branch, as in :func:`drop_path`, whose arguments these are.
        residual: tensor of the input's shape, dtype and device.

    Returns:
        Tensor of the input's shape and dtype; ``residual + input`` in evaluation, and where p is the number 0.

    Raises:
        ValueError: shapes that differ, and as :func:`drop_path`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = residual + fused_dropout.drop_path(input, p, training, scale_by_keep, per=per, rng=rng)
    """
    checked_p = check("drop_path_add", input, p, training, False, generator, rng)
    if scale_by_keep is not True:
        check_flags("drop_path_add", scale_by_keep=scale_by_keep)
    check_per("drop_path_add", per)
    input, residual = together("drop_path_add", input, residual=residual)
    if not training or checked_p[0] == 0:
        return residual + input
    if input.dim() == 0:
        raise ValueError("drop_path_add: expected an input of at least 1 dimension, the first one the batch, but got 0")
    strides = leading(input, 1 if per == "row" else 0)
    gain = GAIN_UPSCALE if scale_by_keep else GAIN_ONE
    return call("dropout_add", (input, residual), checked_p, gain, strides, False, generator, rng)[0]
