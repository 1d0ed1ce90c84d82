"""States: the 16 bytes that a mask is made from, and the masks themselves."""

import operator
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._extension import extension, ops
from .reference import FLOATS, row_major

Rng: TypeAlias = "Tensor | Sequence[int] | None"


def draw(device: torch.device | str | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Draws a state, as every training call of a dropout does.

    Args:
        device: where the state lives; by default the generator's device, or PyTorch's default device.
        generator: the generator to draw from; by default the device's own.

    Returns:
        int64 tensor of shape (2,): seed and offset, read as unsigned.

    Raises:
        TypeError: a generator that is no torch.Generator.
        RuntimeError: a generator of another device.

    Equivalent to (on CPU)::

        output = torch.empty(2, dtype=torch.int64).random_(-2**63, None, generator=generator)
        output[1] &= ~3

    On CUDA it reserves 8 words of the generator's Philox stream; during graph capture each replay draws anew.

    Example::

        rng = fused_dropout.draw()
        y1 = fused_dropout.dropout(x1, 0.1, rng=rng)
        y2 = fused_dropout.dropout(x2, 0.1, rng=rng)   # the same mask
    """
    check_generator(generator, "draw")
    if device is None and generator is not None:
        device = generator.device
    return ops.draw(torch.empty(0, device=device), generator=generator)


def keep_mask(
    shape: Sequence[int],
    p: "float | Tensor",
    rng: Rng,
    *,
    noise_shape: Sequence[int | None] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The mask that dropout with this state applies to a tensor of this shape.

    Args:
        shape: the tensor's shape.
        p: the probability of dropping, a float or a 0-d floating-point tensor on the state's device.
        rng: a state, see :func:`draw`.
        noise_shape: as in :func:`fused_dropout.dropout`.
        device: where to make the mask if ``rng`` is two ints; a state tensor decides it otherwise.

    Returns:
        bool tensor of ``shape``, True where the element is kept.

    Raises:
        ValueError: p outside [0, 1], a state of the wrong dtype or size, a noise shape that does not fit, or
            ``device`` other than the state's.
        TypeError: an argument of the wrong type.

    Equivalent to::

        output = fused_dropout.dropout(torch.ones(shape), p, rng=rng, noise_shape=noise_shape) != 0
    """
    shape = _size(shape, "keep_mask")
    p, p_tensor = probability(p, "keep_mask")
    state = _given_state(rng, device, "keep_mask")
    return ops.keep_mask(state, shape, p, p_tensor=p_tensor, mask_strides=mask_strides(shape, noise_shape, "keep_mask"))


def normal_noise(
    shape: Sequence[int],
    rng: Rng,
    *,
    noise_shape: Sequence[int | None] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal noise from a state, as :func:`fused_dropout.gaussian_dropout` multiplies with.

    Box and Muller, "A note on the generation of random normal deviates", 1958. The same words as those of
    :func:`keep_mask`, two for two values: use another state where noise and mask must not depend on each other.

    Args:
        shape: the tensor's shape.
        rng: a state, see :func:`draw`.
        noise_shape: as in :func:`fused_dropout.dropout`; one value along each dimension that is shared.
        dtype: float16, bfloat16, float32 or float64; by default PyTorch's default dtype. Computed in float32 (float64
            for float64) and rounded once.
        device: where to make the noise if ``rng`` is two ints; a state tensor decides it otherwise.

    Returns:
        Tensor of ``shape`` and ``dtype``; the same bits on every instruction set; those of the reference differ by a
        few ulp, as log, sqrt, cos and sin are rounded.

    Raises:
        ValueError: a state of the wrong dtype or size, a noise shape that does not fit, or ``device`` other than the
            state's.
        TypeError: an argument of the wrong type.
        RuntimeError: an unsupported dtype.

    Equivalent to, for a state tensor and an even number of elements::

        index = torch.arange(math.prod(shape))
        word = fused_dropout.reference.words(rng, index)
        u, v = ((word.double() + 0.5) / 2**32).view(-1, 2).unbind(1)
        radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * torch.pi * v
        output = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1).view(shape)
    """
    shape = _size(shape, "normal_noise")
    state = _given_state(rng, device, "normal_noise")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if isinstance(dtype, torch.dtype) and dtype not in FLOATS:
        raise RuntimeError(f"normal_noise: expected dtype float16, bfloat16, float32 or float64, but got {dtype}")
    return ops.normal_noise(state, shape, dtype=dtype, mask_strides=mask_strides(shape, noise_shape, "normal_noise"))


class _GivingBack:
    """Of a CPU generator."""

    __slots__ = ("mark",)

    def __init__(self, generator: torch.Generator | None) -> None:
        self.mark = extension.GeneratorMark(generator)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.mark.give_back()


def giving_back(device: torch.device, generator: torch.Generator | None, rng: Rng) -> AbstractContextManager[None]:
    """Around a call of several operations that draws one state: where it raises, a CPU generator is put back, unless
    others have drawn from it since. A CUDA generator is left where it is."""
    if rng is not None or device.type != "cpu" or extension is None or torch.compiler.is_compiling():
        return nullcontext()
    return _GivingBack(generator)


def check_generator(generator: Any, name: str) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise TypeError(f"{name}(): argument 'generator' must be a torch.Generator, not {kind}")


def _size(shape: Sequence[int], name: str) -> torch.Size:
    if not isinstance(shape, Iterable):
        raise TypeError(f"{name}(): argument 'shape' must be a sequence of ints, not {type(shape).__name__}")
    return torch.Size(shape)


def _given_state(rng: Rng, device: torch.device | str | None, name: str) -> Tensor:
    if rng is None:
        raise TypeError(f"{name}(): argument 'rng' must be a state (an int64 tensor of 2, or two ints), not None")
    if isinstance(rng, Tensor) and device is not None and torch.empty(0, device=device).device != rng.device:
        raise ValueError(f"{name}: expected device to be that of rng, {rng.device}, but got {device}")
    return as_state(rng, device, name)


def as_state(rng: Rng, device: torch.device | str | None, name: str) -> Tensor:
    """A state tensor from what a caller gave. A tensor's values are never read here; ints are checked."""
    if isinstance(rng, Tensor):
        return rng
    signed = [word - 2**64 if word >= 2**63 else word for word in given_words(rng, name)]
    return ops.make_state(torch.empty(0, device=device), *signed)


def given_words(rng: Any, name: str) -> tuple[int, int]:
    """Seed and offset from what a caller gave and is no tensor."""
    if not isinstance(rng, Sequence) or isinstance(rng, (str, bytes)):
        raise TypeError(f"{name}(): argument 'rng' must be an int64 tensor of 2 or two ints, not {type(rng).__name__}")
    if len(rng) != 2:
        raise ValueError(f"{name}: expected rng to be (seed, offset), but got {len(rng)} values")
    try:
        seed, offset = (operator.index(word) for word in rng)
    except TypeError:
        kinds = ", ".join(type(word).__name__ for word in rng)
        raise TypeError(f"{name}(): argument 'rng' must hold two ints, not {kinds}") from None
    for what, word in (("seed", seed), ("offset", offset)):
        if not 0 <= word < 2**64:
            raise ValueError(f"{name}: expected the {what} of rng in [0, 2**64), but got {word}")
    if offset % 4:
        raise ValueError(f"{name}: expected the offset of rng to be a multiple of 4, but got {offset}")
    return seed, offset


def mask_strides(shape: Sequence[int], noise_shape: Sequence[int | None] | None, name: str) -> list[int] | None:
    """The affine map of a noise shape; None where every element has its own decision."""
    if noise_shape is None:
        return None
    check_noise_shape(noise_shape, name)
    fits = len(noise_shape) == len(shape)
    sizes = [size if noise is None else noise for size, noise in zip(shape, noise_shape, strict=False)]
    if not fits or any(noise not in (1, size) for size, noise in zip(shape, sizes, strict=False)):
        raise ValueError(
            f"{name}: expected a noise_shape that broadcasts to the input's shape {tuple(shape)}, each entry 1, None "
            f"or the input's size, but got {tuple(noise_shape)}"
        )
    return row_major(sizes)


def check_noise_shape(noise_shape: Sequence[int | None], name: str) -> None:
    if not isinstance(noise_shape, Sequence) or isinstance(noise_shape, (str, bytes)):
        kind = type(noise_shape).__name__
    else:
        wrong = [entry for entry in noise_shape if not (entry is None or hasattr(type(entry), "__index__"))]
        if not wrong:
            return
        kind = f"one that holds a {type(wrong[0]).__name__}"
    raise TypeError(f"{name}(): argument 'noise_shape' must be a sequence of ints and None, not {kind}")


def probability(p: "float | Tensor", name: str) -> "tuple[float, Tensor | None]":
    """p as the operations take it: a checked float, or a placeholder beside a tensor that is never read here."""
    if type(p) is float:  # asked first: isinstance of a Tensor costs more than the rest
        number = p
    elif isinstance(p, Tensor):
        if p.dim() or not p.is_floating_point():
            raise ValueError(
                f"{name}: expected p to be a 0-d floating-point tensor, but got {p.dtype} of shape {list(p.shape)}"
            )
        return 1.0, p
    elif hasattr(type(p), "__float__"):
        number = float(p)
    else:
        raise TypeError(f"{name}(): argument 'p' must be a number or a 0-d tensor, not {type(p).__name__}")
    if not 0 <= number <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return number, None
