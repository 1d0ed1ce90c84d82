"""The functions: arguments checked, identities returned, and one operation called."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._extension import ops
from .reference import GAIN_ALPHA, GAIN_ONE, GAIN_UPSCALE, kept
from .rng import Rng, as_state, mask_strides, probability

GAINS = {"upscale_in_train": GAIN_UPSCALE, "downscale_in_infer": GAIN_ONE}


def dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    noise_shape: Sequence[int | None] | None = None,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops each element with probability p and scales the others by 1 / (1 - p); in one pass, storing no mask.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    Args:
        input: tensor of any shape and strides; float16, bfloat16, float32 or float64.
        p: the probability of dropping, in [0, 1]. A 0-d floating-point tensor on the input's device is read there,
            without synchronising, so that a schedule of p needs no recompilation; outside [0, 1] it counts as 1.
        training: apply dropout if True, else return the input (see ``mode``).
        inplace: write into ``input``.
        noise_shape: the mask's shape. An entry is the input's size, None for it, or 1, which shares one decision
            along that dimension: ``(N, C, 1, 1)`` drops whole channels.
        mode: ``"upscale_in_train"`` (kept elements are scaled in training) or ``"downscale_in_infer"`` (the bare mask
            in training, every element times 1 - p in evaluation, as in the paper).
        generator: draw the state from this generator instead of the device's own.
        rng: use this state and no generator: an int64 tensor of 2 as :func:`fused_dropout.draw` returns, or two ints
            ``(seed, offset)`` in [0, 2**64), the offset a multiple of 4.

    Returns:
        Tensor of the input's shape, dtype and, where that is dense, strides. The input itself in evaluation with
        ``"upscale_in_train"``, and where p is the number 0.

    Raises:
        ValueError: p outside [0, 1]; a noise shape that does not fit; an unknown mode; a state of the wrong dtype or
            size; ``rng`` together with ``generator``.
        TypeError: an argument of the wrong type.
        RuntimeError: an unsupported dtype in training; in-place on a leaf that requires grad, a view of one, or an
            expanded tensor; a generator of another device.

    Equivalent to::

        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=noise_shape)
        output = torch.where(keep, input / (1 - p), 0)
    """
    if not isinstance(mode, str) or mode not in GAINS:
        raise ValueError(f"dropout: expected mode to be one of {', '.join(map(repr, GAINS))}, but got {mode!r}")
    p_number, p_tensor = probability(p, "dropout")
    _check_call("dropout", input, training, inplace, generator, rng)
    if not training:
        return input if mode == "upscale_in_train" else _times(input, kept(p), inplace)
    if p_number == 0:
        return input
    strides = None if noise_shape is None else mask_strides(input.shape, noise_shape)
    return _call("dropout", (input,), p_number, p_tensor, GAINS[mode], strides, inplace, generator, rng)


def alpha_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Dropout for SELU networks: dropped elements take SELU's negative saturation value, mean and variance are kept.

    Klambauer et al., "Self-Normalizing Neural Networks", 2017. Arguments, result and errors are those of
    :func:`dropout`; ``training`` is False by default, as in torch.nn.functional.alpha_dropout.

    Equivalent to::

        alpha = -1.7580993408473766
        a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
        keep = fused_dropout.keep_mask(input.shape, p, rng)
        output = torch.where(keep, a * input - a * p * alpha, a * (1 - p) * alpha)
    """
    p_number, p_tensor = probability(p, "alpha_dropout")
    _check_call("alpha_dropout", input, training, inplace, generator, rng)
    if not training or p_number == 0:
        return input
    return _call("alpha_dropout", (input,), p_number, p_tensor, GAIN_ALPHA, None, inplace, generator, rng)


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

    Raises:
        ValueError: shapes that differ, and as :func:`dropout`.

    Equivalent to, but for one rounding to the dtype instead of two::

        output = residual + fused_dropout.dropout(input, p, training, rng=rng)
    """
    p_number, p_tensor = probability(p, "dropout_add")
    _check_call("dropout_add", input, training, False, generator, rng)
    if not isinstance(residual, Tensor):
        raise TypeError(f"dropout_add(): argument 'residual' must be a Tensor, not {type(residual).__name__}")
    if residual.shape != input.shape:
        raise ValueError(
            f"dropout_add: expected all tensors to have the input's shape {list(input.shape)}, "
            f"but got one of shape {list(residual.shape)}"
        )
    if residual.dtype != input.dtype:
        raise RuntimeError(
            f"dropout_add: expected all tensors to have the input's dtype {input.dtype}, "
            f"but got one of {residual.dtype}"
        )
    if not training or p_number == 0:
        return residual + input
    return _call("dropout_add", (input, residual), p_number, p_tensor, GAIN_UPSCALE, None, False, generator, rng)


def _check_call(name: str, input: Any, training: Any, inplace: Any, generator: Any, rng: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be a Tensor, not {type(input).__name__}")
    if training is not True and training is not False:
        raise TypeError(f"{name}(): argument 'training' must be bool, not {type(training).__name__}")
    if inplace is not True and inplace is not False:
        raise TypeError(f"{name}(): argument 'inplace' must be bool, not {type(inplace).__name__}")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            kind = type(generator).__name__
            raise TypeError(f"{name}(): argument 'generator' must be a torch.Generator, not {kind}")
        if rng is not None:
            raise ValueError(f"{name}: expected rng or generator, not both: a given state draws from no generator")


def _call(
    name: str,
    inputs: tuple[Tensor, ...],
    p: float,
    p_tensor: Tensor | None,
    gain: int,
    strides: list[int] | None,
    inplace: bool,
    generator: torch.Generator | None,
    rng: Rng,
) -> Tensor:
    options: dict[str, Any] = {}  # only what differs from the default: each argument costs its parsing
    if p_tensor is not None:
        options["p_tensor"] = p_tensor
    if gain:
        options["gain"] = gain
    if strides is not None:
        options["mask_strides"] = strides
    if torch.compiler.is_compiling():
        return _traced(name, inputs, p, options, inplace, generator, rng)
    if rng is not None:
        state = as_state(rng, inputs[0].device, name)
        if not inplace:
            return getattr(ops, f"{name}_apply")(*inputs, state, p, **options)
        getattr(ops, f"{name}_apply_")(*inputs, state, p, **options)
        return inputs[0]
    if generator is not None:
        options["generator"] = generator
    if not inplace:
        return getattr(ops, name)(*inputs, p, **options)[0]
    getattr(ops, f"{name}_")(*inputs, p, **options)
    return inputs[0]


def _traced(
    name: str,
    inputs: tuple[Tensor, ...],
    p: float,
    options: dict[str, Any],
    inplace: bool,
    generator: torch.Generator | None,
    rng: Rng,
) -> Tensor:
    """In a graph: a fresh tensor makes each draw distinct (AOTAutograd of torch 2.13 merges equal random calls), and
    in place is a copy into the input, which functionalization turns into what the compiler likes best."""
    if rng is not None:
        state = as_state(rng, inputs[0].device, name)
        output = getattr(ops, f"{name}_apply")(*inputs, state, p, **options)
    else:
        if generator is not None:
            raise RuntimeError(
                f"{name}: a torch.Generator cannot enter a compiled graph; draw outside of it with "
                "fused_dropout.draw(generator=...) and pass the state as rng"
            )
        output, _ = getattr(ops, name)(*inputs, p, call_id=torch.empty(0, device=inputs[0].device), **options)
    return inputs[0].copy_(output) if inplace else output


def _times(input: Tensor, factor: "float | Tensor", inplace: bool) -> Tensor:
    """input * factor, computed in float32 (float64 for float64) and rounded once."""
    if not isinstance(factor, Tensor):
        return input.mul_(factor) if inplace else input.mul(factor)
    if not input.is_floating_point():
        factor = factor.to(torch.get_default_dtype())
        return input.mul_(factor) if inplace else input.mul(factor)
    compute = torch.float64 if input.dtype == torch.float64 else torch.float32
    output = (input.to(compute) * factor.to(compute)).to(input.dtype)
    return input.copy_(output) if inplace else output
