"""What the functions are made of: arguments checked, identities and evaluation, and one call of an operation."""

import functools
import operator
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ._extension import eager, extension, ops
from ._transforms import check_captured
from .reference import GAIN_ONE, GAIN_UPSCALE, broadcasts, compute, dropped, kept
from .rng import Rng, as_state, check_generator, given_words, probability

GAINS = {"upscale_in_train": GAIN_UPSCALE, "downscale_in_infer": GAIN_ONE}
PER = ("row", "batch")
dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)  # private to torch
Probability = tuple[float, Tensor | None]  # as `probability` returns it: a number, or a placeholder beside a tensor


def check_mode(name: str, mode: Any) -> None:
    if not isinstance(mode, str) or mode not in GAINS:
        raise ValueError(f"{name}: expected mode to be one of {', '.join(map(repr, GAINS))}, but got {mode!r}")


def check_per(name: str, per: Any) -> None:
    if not isinstance(per, str) or per not in PER:
        raise ValueError(f"{name}: expected per to be one of {', '.join(map(repr, PER))}, but got {per!r}")


def check_flags(name: str, **flags: Any) -> None:
    for argument, value in flags.items():
        if value is not True and value is not False:
            raise TypeError(f"{name}(): argument '{argument}' must be bool, not {type(value).__name__}")


def check_number(name: str, argument: str, value: Any) -> None:
    if isinstance(value, (Tensor, str)) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name}(): argument '{argument}' must be a number, not {type(value).__name__}")


def check_block(name: str, block_size: Any, gamma_scale: Any) -> None:
    try:
        size = operator.index(block_size)
    except TypeError:
        raise TypeError(f"{name}(): argument 'block_size' must be int, not {type(block_size).__name__}") from None
    if size < 1:
        raise ValueError(f"{name}: expected block_size to be at least 1, but got {block_size}")
    check_number(name, "gamma_scale", gamma_scale)
    if not 0 <= gamma_scale < float("inf"):
        raise ValueError(f"{name}: expected gamma_scale to be finite and at least 0, but got {gamma_scale}")


def know_dtensor() -> bool:
    """Imports what the operations do with DTensors, where torch has imported them; whether it did."""
    return "torch.distributed.tensor" in sys.modules and import_module("._dtensor", __package__) is not None


# What torch.compiler.assume_constant_result does, which imports Dynamo: called while a graph is traced, never in it.
know_dtensor._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_call(name: str, input: Any, training: Any, inplace: Any, generator: Any, rng: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be a Tensor, not {type(input).__name__}")
    if type(input) is not Tensor:
        know_dtensor()
    if training is not True and training is not False:
        raise TypeError(f"{name}(): argument 'training' must be bool, not {type(training).__name__}")
    if inplace is not True and inplace is not False:
        raise TypeError(f"{name}(): argument 'inplace' must be bool, not {type(inplace).__name__}")
    if generator is not None:
        check_generator(generator, name)
        if rng is not None:
            raise ValueError(f"{name}: expected rng or generator, not both: a given state draws from no generator")
    if rng is not None and not isinstance(rng, Tensor):
        given_words(rng, name)


def check(
    name: str,
    input: Any,
    p: Any,
    training: Any,
    inplace: Any,
    generator: Any,
    rng: Any,
    mode: Any = "upscale_in_train",
) -> Probability:
    """What every function asks of its arguments, in the order in which torch asks; p as the operations take it."""
    check_mode(name, mode)
    checked_p = probability(p, name)
    check_call(name, input, training, inplace, generator, rng)
    return checked_p


def widened(input: Tensor, *others: Any) -> tuple[Any, ...]:
    """Under autocast all in the widest of their dtypes, as PyTorch's own operations of several tensors are there; else,
    and whatever is no floating-point tensor, as they are."""
    if not autocasts(input):
        return (input, *others)
    dtypes = {t.dtype for t in (input, *others) if isinstance(t, Tensor) and t.is_floating_point()}
    if len(dtypes) < 2:
        return (input, *others)
    dtype = functools.reduce(torch.promote_types, dtypes)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in (input, *others))


def autocasts(input: Tensor) -> bool:
    """Whether autocast is on for its device, which may be one that autocast does not know."""
    device = input.device.type
    # Of these it need not be asked, which takes time and which Dynamo of torch 2.11 cannot trace.
    known = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    return known and torch.is_autocast_enabled(device)


def check_shaped(name: str, *tensors: Tensor) -> None:
    """A nested tensor of strided layout has no shape to compare."""
    for x in tensors:
        if x.is_nested and x.layout == torch.strided:
            raise RuntimeError(
                f"{name}: expected a dense tensor, but got a nested one of strided layout; make it with "
                "layout=torch.jagged"
            )


def check_beside(name: str, argument: str, tensor: Any, input: Tensor) -> None:
    """A tensor that stands beside the input."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}(): argument '{argument}' must be a Tensor, not {type(tensor).__name__}")
    check_shaped(name, input, tensor)
    if argument == "bias":
        fits, wanted = broadcasts(tensor, input), "a bias that broadcasts to the input's shape"
    else:
        fits, wanted = tensor.shape == input.shape, "all tensors to have the input's shape"
    if not fits:
        raise ValueError(f"{name}: expected {wanted} {list(input.shape)}, but got one of shape {list(tensor.shape)}")
    if tensor.dtype != input.dtype:
        raise RuntimeError(
            f"{name}: expected all tensors to have the input's dtype {input.dtype}, but got one of {tensor.dtype}"
        )


def together(name: str, input: Tensor, **others: Any) -> tuple[Tensor, ...]:
    """The input and the tensors beside it, checked, in evaluation too, where no operation would: a bias broadcasts to
    the input's shape, any other has it. Under autocast in the widest of their dtypes."""
    if extension is not None and not torch.compiler.is_compiling() and extension.agree(input, **others):
        return (input, *others.values())
    input, *tensors = widened(input, *others.values())
    for argument, tensor in zip(others, tensors, strict=True):
        check_beside(name, argument, tensor, input)
    return (input, *tensors)


def check_gate(name: str, input: Tensor, up: Any, form: str = "") -> tuple[str, tuple[Tensor, ...]]:
    """The operation of a gated unit, and its tensors: two, or one whose rows have halves."""
    operation = name.replace("_dropout", f"{form}_dropout")
    if up is not None:
        return operation, together(name, input, up=up)
    check_shaped(name, input)
    if input.dim() == 0 or input.shape[-1] % 2:
        raise ValueError(
            f"{name}: expected up, or an input whose last dimension has two halves, but got one of shape "
            f"{list(input.shape)}"
        )
    return f"{operation}_halves", (input,)


def check_approximate(name: str, approximate: Any) -> str:
    """How gelu is computed, as the operations' names have it."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        raise ValueError(f"{name}: expected approximate to be 'none' or 'tanh', but got {approximate!r}")
    return "_tanh" if approximate == "tanh" else ""


def check_features(input: Tensor, own: int, p: Probability, training: bool) -> None:
    """ATen's check, made where ATen makes it: not in evaluation, for p of 0 or 1, nor for an empty tensor."""
    number, tensor = p
    if training and input.dim() < own and input.numel() and (tensor is not None or 0 < number < 1):
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")


def leading(input: Tensor, own: int) -> list[int]:
    """The mask strides of decisions that only the first `own` dimensions, at most two, have for themselves."""
    return [input.shape[1], 1] if own == 2 and input.dim() > 1 else [1] * min(own, input.dim())


def moved(p: "float | Tensor | None", fn: Callable[[Tensor], Tensor]) -> "float | Tensor | None":
    """A module's p after ``module._apply(fn)``: a tensor follows to another device, but keeps the dtype, which decides
    the mask. From the meta device there is no value to bring: what to_empty makes of parameters it makes of p."""
    if not isinstance(p, Tensor):
        return p
    device = fn(p).device
    return torch.empty_like(p, device=device) if p.is_meta and device.type != "meta" else p.to(device)


def scaled(p: Probability, factor: "float | Tensor") -> Probability:
    """p * factor, at most 1."""
    number, tensor = p
    if tensor is None:
        if isinstance(factor, Tensor):
            return 1.0, (number * factor).clamp(max=1.0)
        return min(1.0, number * factor), None
    exact = tensor.double()
    counted = torch.where((exact >= 0) & (exact <= 1), exact, 1.0)
    return number, (counted * factor).clamp(max=1.0)


def leaves_open(*sizes: Any) -> bool:
    """Whether a graph is being traced that may be run with other sizes."""
    return torch.compiler.is_compiling() or any(isinstance(size, torch.SymInt) for size in sizes)


def evaluated(input: Tensor, p: Probability, inplace: bool, mode: str) -> Tensor:
    """Evaluation of a layer that drops to zero: the input itself, or the input times the probability of keeping."""
    if mode == "upscale_in_train":
        return input
    number, tensor = p
    return times(input, kept(number if tensor is None else tensor), inplace)


def call(
    name: str,
    inputs: tuple[Tensor, ...],
    p: Probability,
    gain: int,
    strides: list[int] | None,
    inplace: bool,
    generator: torch.Generator | None,
    rng: Rng,
    block: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The operation's output and the state that it used; in place, the output is the first input."""
    number, p_tensor = p
    options: dict[str, Any] = {}  # only what differs from the default: each argument costs its parsing
    if p_tensor is not None:
        options["p_tensor"] = p_tensor
    if gain:
        options["gain"] = gain
    if strides is not None:
        options["mask_strides"] = strides
    if block is not None:
        options["block"] = block
    if torch.compiler.is_compiling():
        return _traced(name, inputs, number, options, inplace, generator, rng)
    if inplace:
        check_captured(name, inputs[0])
    if rng is not None:
        state = as_state(rng, inputs[0].device, name)
        if not inplace:
            return getattr(eager, f"{name}_apply")(*inputs, state, number, **options), state
        getattr(eager, f"{name}_apply_")(*inputs, state, number, **options)
        return inputs[0], state
    if generator is not None:
        options["generator"] = generator
    if dispatch_modes() > 0:  # perhaps a trace: make_fx, aot_function
        options["call_id"] = call_id(inputs[0])
    if not inplace:
        return getattr(eager, name)(*inputs, number, **options)
    return inputs[0], getattr(eager, f"{name}_")(*inputs, number, **options)


def one_pass(
    name: str,
    inputs: tuple[Tensor, ...],
    p: Probability,
    training: bool,
    generator: torch.Generator | None,
    rng: Rng,
) -> Tensor:
    """The operation's output; in evaluation too, without a mask, so that it stays one pass over memory."""
    if training and p[0] != 0:
        return call(name, inputs, p, GAIN_UPSCALE, None, False, generator, rng)[0]
    return call(name, inputs, (0.0, None), GAIN_UPSCALE, None, False, None, unread_state(inputs[0].device))[0]


def shared(
    input: Tensor,
    p: Probability,
    training: bool,
    inplace: bool,
    strides: list[int],
    mode: str,
    generator: torch.Generator | None,
    rng: Rng,
    gain: int | None = None,
) -> Tensor:
    """Dropout of which elements share decisions as the mask strides say; the arguments have been checked."""
    if not training:
        return evaluated(input, p, inplace, mode)
    if p[0] == 0:
        return input
    gain = GAINS[mode] if gain is None else gain
    return call("dropout", (input,), p, gain, strides, inplace, generator, rng)[0]


def _traced(
    name: str,
    inputs: tuple[Tensor, ...],
    p: float,
    options: dict[str, Any],
    inplace: bool,
    generator: torch.Generator | None,
    rng: Rng,
) -> tuple[Tensor, Tensor]:
    """In a graph, which no generator can enter."""
    if rng is not None:
        state = as_state(rng, inputs[0].device, name)
        if inplace:
            getattr(ops, f"{name}_apply_")(*inputs, state, p, **options)
            return inputs[0], state
        output = getattr(ops, f"{name}_apply")(*inputs, state, p, **options)
    else:
        check_traced(name, generator)
        options["call_id"] = call_id(inputs[0])
        if inplace:
            return inputs[0], getattr(ops, f"{name}_")(*inputs, p, **options)
        output, state = getattr(ops, name)(*inputs, p, **options)
    return output, state


def check_traced(name: str, generator: torch.Generator | None) -> None:
    if generator is not None:
        raise RuntimeError(
            f"{name}: a torch.Generator cannot enter a compiled graph; draw outside of it with "
            "fused_dropout.draw(generator=...) and pass the state as rng"
        )


def unread_state(device: torch.device) -> Tensor:
    """Room for a state, for a call that drops nothing: no operation reads it, and no kernel is launched to write it. On
    the CPU the same for all calls."""
    if extension is not None and device.type == "cpu" and not torch.compiler.is_compiling() and dispatch_modes() == 0:
        return extension.UNREAD_STATE
    return torch.empty(2, dtype=torch.int64, device=device)


def call_id(x: Tensor) -> Tensor:
    """A fresh tensor, which makes each draw of a graph distinct: AOTAutograd of torch 2.13 merges equal ones."""
    return torch.empty(0, device=x.device)


def times(input: Tensor, factor: "float | Tensor", inplace: bool) -> Tensor:
    """input * factor, computed in float32 (float64 for float64) and rounded once; of a complex number, each part."""
    if input.is_complex():  # as a product of complex numbers, infinity would leave nan in the other part
        parts = torch.view_as_real(input.resolve_conj())
        output = torch.view_as_complex(times(parts, factor, False))
        return input.copy_(output) if inplace else output
    if not isinstance(factor, Tensor):
        return input.mul_(factor) if inplace else input.mul(factor)
    if not input.is_floating_point():
        factor = factor.to(torch.get_default_dtype())
        return input.mul_(factor) if inplace else input.mul(factor)
    wide = compute(input.dtype)
    output = (input.to(wide) * factor.to(wide)).to(input.dtype)
    return input.copy_(output) if inplace else output


def expectation(input: Tensor, previous: Tensor, p: "float | Tensor") -> Tensor:
    """(1 - p) * input + p * previous; of complex numbers, of each part."""
    if input.is_complex():
        parts = [torch.view_as_real(x.resolve_conj()) for x in (input, previous)]
        return torch.view_as_complex(expectation(parts[0], parts[1], p))
    wide = compute(input.dtype)
    shares = [share.to(wide) if isinstance(share, Tensor) else share for share in (kept(p), dropped(p))]
    return (input.to(wide) * shares[0] + previous.to(wide) * shares[1]).to(input.dtype)
