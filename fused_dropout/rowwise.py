"""Dropout with its neighbours that look at whole rows: norms, and the softmax of attention."""

from typing import Any

import torch
from torch import Tensor

from ._calls import (
    Probability,
    call_id,
    check,
    check_beside,
    check_number,
    check_traced,
    dispatch_modes,
    unread_state,
    widened,
)
from ._extension import eager, ops
from .reference import ROWS, check_operands
from .rng import Rng, as_state, giving_back


def dropout_add_layer_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    eps: float = 1e-5,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> tuple[Tensor, Tensor]:
    r"""The end of a sublayer and the layer norm behind it in one pass, forward and backward; pre-norm and post-norm.

    Ba et al., "Layer normalization", 2016. Saved for the backward pass are the sum, which is an output, two float32 a
    row and 16 bytes. The gradients of weight and bias have the same bits in every run and for any number of threads.

    Args:
        input: tensor (*, F), of rows of F elements; float16, bfloat16, float32 or float64.
        residual: tensor of the input's shape, dtype and device.
        weight, bias: tensors (F,) of the input's dtype, or None.
        eps: what is added to the variance.
        p, training, generator, rng: see :func:`dropout`. In evaluation, and where p is the number 0, it is the same
            kernel without a mask.

    Returns:
        ``(normed, sum)``, tensors of the input's shape and dtype: in post-norm blocks the first one goes on, in
        pre-norm blocks the first one enters the next sublayer and the second one is its residual.

    Raises:
        ValueError: p outside [0, 1]; shapes that differ; a weight or bias that is not of shape (F,); a 0-d input.
        RuntimeError: dtypes or devices that differ, and other dtypes.

    Equivalent to, but for the rounding of the dropped input to the dtype::

        sum = residual + fused_dropout.dropout(input, p, training, rng=rng)
        output = torch.nn.functional.layer_norm(sum, sum.shape[-1:], weight, bias, eps), sum
    """
    name = "dropout_add_layer_norm"
    checked_p = check(name, input, p, training, False, generator, rng)
    input, residual, weight, bias = widened(input, residual, weight, bias)
    check_number(name, "eps", eps)
    normed, sum, *_ = _call(name, (input, residual, weight, bias), checked_p, float(eps), training, generator, rng)
    return normed, sum


def dropout_add_rms_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    eps: float = 1e-6,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> tuple[Tensor, Tensor]:
    r"""The same with an RMS norm: no mean, no bias. See :func:`dropout_add_layer_norm` for arguments and errors.

    Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019. One float32 a row is saved.

    Equivalent to, but for the rounding of the dropped input to the dtype::

        sum = residual + fused_dropout.dropout(input, p, training, rng=rng)
        output = torch.nn.functional.rms_norm(sum, sum.shape[-1:], weight, eps), sum
    """
    name = "dropout_add_rms_norm"
    checked_p = check(name, input, p, training, False, generator, rng)
    input, residual, weight = widened(input, residual, weight)
    check_number(name, "eps", eps)
    normed, sum, *_ = _call(name, (input, residual, weight), checked_p, float(eps), training, generator, rng)
    return normed, sum


def softmax_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    attn_mask: Tensor | None = None,
    softmax_scale: float = 1.0,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Dropout of attention probabilities in one pass over the scores, forward and backward.

    Nothing of the input's size is saved for the backward pass but the input: the probabilities are made again from it
    and from two float32 a row.

    Args:
        input: tensor (*, F) of scores; float16, bfloat16, float32 or float64.
        attn_mask: tensor that broadcasts to the input's shape: of bools, True where an element takes part, as in
            torch.nn.functional.scaled_dot_product_attention, or of the input's dtype, to be added. That one may require
            a gradient.
        softmax_scale: what the scores are multiplied by first.
        p, training, generator, rng: see :func:`dropout`. In evaluation, and where p is the number 0, it is the same
            kernel without a mask.

    Returns:
        Tensor of the input's shape and dtype. A row in which nothing takes part is zeros, and so is its gradient.

    Raises:
        ValueError: p outside [0, 1]; an attn_mask that does not broadcast to the input's shape; a 0-d input.
        RuntimeError: dtypes or devices that do not fit.

    Equivalent to, but for rows in which nothing takes part and for roundings to the dtype on the way::

        scores = input * softmax_scale
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        output = fused_dropout.dropout(torch.softmax(scores, -1), p, training, rng=rng)
    """
    name = "softmax_dropout"
    checked_p = check(name, input, p, training, False, generator, rng)
    input, attn_mask = widened(input, attn_mask)
    check_number(name, "softmax_scale", softmax_scale)
    return _call(name, (input, attn_mask), checked_p, float(softmax_scale), training, generator, rng)[0]


def _check(name: str, tensors: tuple[Any, ...], p: Probability) -> None:
    """What the operation refuses, in more words than it has."""
    for argument, x in zip(ROWS[name][1:], tensors[1:], strict=True):
        if not isinstance(x, Tensor) and not (x is None and argument != "residual"):
            raise TypeError(f"{name}(): argument '{argument}' must be a Tensor, not {type(x).__name__}")
    if any(x.is_nested for x in tensors if x is not None):
        raise RuntimeError(f"{name}: expected dense tensors, but got a nested one; call it with values()")
    if ROWS[name][1] == "residual":
        check_beside(name, "residual", tensors[1], tensors[0])
    check_operands(name, tensors, *p)


def _call(
    name: str,
    tensors: tuple[Any, ...],
    p: Probability,
    constant: float,
    training: bool,
    generator: torch.Generator | None,
    rng: Rng,
) -> tuple[Tensor, ...]:
    """The operation's results. It checks its tensors itself, before it draws."""
    try:
        number, p_tensor = p
        device = tensors[0].device
        traced = torch.compiler.is_compiling()
        own = ops if traced else eager
        apply = getattr(own, f"{name}_apply")
        if not training or (p_tensor is None and number == 0):
            return apply(*tensors, unread_state(device), 0.0, constant)
        options: dict[str, Any] = {} if p_tensor is None else {"p_tensor": p_tensor}
        if rng is not None:
            return apply(*tensors, as_state(rng, device, name), number, constant, **options)
        if traced:
            check_traced(name, generator)
        elif generator is not None:
            options["generator"] = generator
        if traced or dispatch_modes() > 0:
            options["call_id"] = call_id(tensors[0])
        with giving_back(device, generator, rng):  # the CPU's loops have buffers
            return getattr(own, name)(*tensors, number, constant, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise _in_words(name, tensors, p, error) from None


def _in_words(name: str, tensors: tuple[Any, ...], p: Probability, error: Exception) -> Exception:
    """What to say of a call that the operation has refused."""
    try:
        _check(name, tensors, p)
    except (RuntimeError, TypeError, ValueError) as said:
        return said
    return error
