"""The mask contract in plain PyTorch operations: slow, obvious, and independent of the extension.

It is the oracle of the tests, and it takes the extension's place where that cannot be loaded: the functions at the end
have the names, arguments and results of the operations in csrc/ops.cpp. Words are int64 tensors that hold 32 bits, or
64 read as unsigned; every shift right is followed by the mask that makes it logical.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

RNG_VERSION = 1
GROUP = 8  # elements that one Philox block decides
GAIN_UPSCALE, GAIN_ONE, GAIN_ALPHA = 0, 1, 2
ALPHA_PRIME = -1.7580993408473766  # SELU's value at minus infinity (Klambauer et al. 2017)
LOW32 = 0xFFFFFFFF
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Chain = Callable[..., Tensor]
ACTIVATIONS: dict[str, Chain] = {
    "relu": torch.relu,
    "squared_relu": lambda x: torch.relu(x).square(),
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}
GATED = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}


def _biased(activation: Chain) -> Chain:
    return lambda x, bias: activation(x + bias)


def _gated(activation: Chain) -> Chain:
    return lambda x, up: activation(x) * up


def _of_halves(chain: Chain) -> Chain:
    return lambda x: chain(*x.chunk(2, -1))


# What is dropped by each operation that ends in dropout and is not affine, and how many tensors it takes.
CHAINS: dict[str, tuple[Chain, int]] = {
    **{f"{name}_dropout": (activation, 1) for name, activation in ACTIVATIONS.items()},
    **{f"bias_{name}_dropout": (_biased(activation), 2) for name, activation in ACTIVATIONS.items()},
    **{f"{name}_dropout": (_gated(ACTIVATIONS[act]), 2) for name, act in GATED.items()},
    **{f"{name}_dropout_halves": (_of_halves(_gated(ACTIVATIONS[act])), 1) for name, act in GATED.items()},
}
# Which of an operation's inputs is broadcast to the first.
BIAS = {
    "bias_dropout": 1,
    "bias_dropout_add": 1,
    **{f"bias_{name}_dropout": 1 for name in ACTIVATIONS},
    **{f"bias_{name}_dropout_backward": 2 for name in ACTIVATIONS},
}
COMPLEX = (torch.complex64, torch.complex128)


def compute(dtype: torch.dtype) -> torch.dtype:
    """The type computed in; of a complex number, that of its parts."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def high32(x: Tensor) -> Tensor:
    return (x >> 32) & LOW32


def philox4x32_10(counter: Sequence[Tensor], seed: Tensor) -> list[Tensor]:
    """Philox4x32 with ten rounds (Salmon et al., SC'11): four words from a counter of four and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & LOW32, high32(seed)
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps around 2^64, which keeps all bits
        c0, c1, c2, c3 = high32(product1) ^ c1 ^ k0, product1 & LOW32, high32(product0) ^ c3 ^ k1, product0 & LOW32
        k0, k1 = (k0 + 0x9E3779B9) & LOW32, (k1 + 0xBB67AE85) & LOW32
    return [c0, c1, c2, c3]


def words(state: Tensor, mask_index: Tensor) -> Tensor:
    """The 32-bit word of each mask index."""
    group = (mask_index >> 3) & (2**61 - 1)
    lane = mask_index & (GROUP - 1)
    step = (state[1] >> 2) & (2**62 - 1)

    def half(step: Tensor) -> Tensor:
        low, high = (step & LOW32).expand_as(group), high32(step).expand_as(group)
        block = torch.stack(philox4x32_10((low, high, group & LOW32, high32(group)), state[0]))
        return (block.gather(0, (lane >> 1)[None])[0] >> (16 * (lane & 1))) & 0xFFFF

    return (half(step) << 16) | half(step + 1)


def drop_below(p: float | Tensor) -> int | Tensor:
    """The threshold: round-half-even of p * 2^32, an exact product. A tensor outside [0, 1] counts as 1."""
    if isinstance(p, Tensor):
        p = p.double()
        return torch.where((p >= 0) & (p <= 1), torch.round(p * 2.0**32), 2.0**32).to(torch.int64)
    return round(p * 2.0**32)


def kept(p: float | Tensor) -> float | Tensor:
    """The probability of keeping that is honoured, 1 - drop_below / 2^32."""
    left = 2**32 - drop_below(p)
    return left.double() / 2.0**32 if isinstance(left, Tensor) else left / 2**32


def dropped(p: float | Tensor) -> float | Tensor:
    """The probability of dropping that is honoured, drop_below / 2^32."""
    below = drop_below(p)
    return below.double() / 2.0**32 if isinstance(below, Tensor) else below / 2**32


def gain_of(p: float | Tensor, gain: int) -> float | Tensor:
    """What a kept element is multiplied by: 1 / (1 - p), 1, or alpha dropout's a. 0 where nothing is kept.

    For a tensor p alpha dropout's a may be off by an ulp of float64, as torch.sqrt is.
    """
    q = kept(p)
    if isinstance(q, Tensor):
        alpha = 1 / torch.sqrt(q * (1 + (1 - q) * ALPHA_PRIME * ALPHA_PRIME)) if gain == GAIN_ALPHA else 1 / q
        return torch.ones_like(q) if gain == GAIN_ONE else torch.where(q > 0, alpha, 0.0)
    if gain == GAIN_ONE:
        return 1.0
    if q == 0:
        return 0.0
    return 1 / math.sqrt(q * (1 + (1 - q) * ALPHA_PRIME * ALPHA_PRIME)) if gain == GAIN_ALPHA else 1 / q


def stddev_of(p: float | Tensor) -> float | Tensor:
    """The standard deviation of Gaussian dropout's factor, sqrt(p / (1 - p)). 0 where nothing is kept."""
    q = kept(p)
    if isinstance(q, Tensor):
        return torch.where(q > 0, torch.sqrt(dropped(p) / q), 0.0)
    return math.sqrt(dropped(p) / q) if q > 0 else 0.0


def row_major(noise_shape: Sequence[int]) -> list[int]:
    """The mask strides of a noise shape: row-major, 0 along its dimensions of size 1, which share a decision."""
    strides, numel = [], 1
    for size in reversed(noise_shape):
        strides.append(0 if size == 1 else numel)
        numel = numel * size
    return strides[::-1]


def mask_indices(shape: Sequence[int], mask_strides: Sequence[int], mask_base: int, device: torch.device) -> Tensor:
    """base + sum of coordinate * mask stride, of every element; int64 that holds 64 unsigned bits."""
    index = torch.full(tuple(shape), _signed(mask_base), dtype=torch.int64, device=device)
    for dim, stride in enumerate(mask_strides):
        steps = torch.arange(shape[dim], dtype=torch.int64, device=device) * _signed(stride)
        index = index + steps.view([-1 if d == dim else 1 for d in range(len(shape))])
    return index


def _signed(word: int) -> int:
    return word - 2**64 if isinstance(word, int) and word >= 2**63 else word


def keep_mask(
    state: Tensor,
    shape: Sequence[int],
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    mask_strides: Sequence[int] | None = None,
    mask_base: int = 0,
) -> Tensor:
    """A bool tensor of `shape`, True where the element is kept."""
    _check_state(state, state.device)
    strides = row_major(shape) if mask_strides is None else mask_strides
    index = mask_indices(shape, strides, mask_base, state.device)
    return words(state, index) >= drop_below(p if p_tensor is None else p_tensor)


def standard_normal(state: Tensor, mask_index: Tensor) -> Tensor:
    """Box-Muller on the words of each pair of lanes, in float64: the even lane has the cosine, the odd one the sine."""
    radius_word, angle_word = (
        (words(state, index).double() + 0.5) / 2.0**32 for index in (mask_index & ~1, mask_index | 1)
    )
    radius, angle = torch.sqrt(-2 * torch.log(radius_word)), 2 * math.pi * angle_word
    return radius * torch.where(mask_index & 1 == 0, torch.cos(angle), torch.sin(angle))


def normal_noise(
    state: Tensor,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    mask_strides: Sequence[int] | None = None,
    mask_base: int = 0,
) -> Tensor:
    """Standard normal noise of `shape`, rounded to the type computed in and then to `dtype`."""
    _check_state(state, state.device)
    if dtype not in FLOATS:
        raise RuntimeError(f"normal_noise: expected dtype float16, bfloat16, float32 or float64, but got {dtype}")
    strides = row_major(shape) if mask_strides is None else mask_strides
    return standard_normal(state, mask_indices(shape, strides, mask_base, state.device)).to(compute(dtype)).to(dtype)


def draw(device_of: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """A state from the generator of the tensor's device."""
    if device_of.device.type == "cuda":
        index = device_of.device.index if device_of.device.index is not None else torch.cuda.current_device()
        generator = torch.cuda.default_generators[index] if generator is None else generator
        offset = generator.get_offset()
        generator.set_offset(offset + GROUP)
        return make_state(device_of, generator.initial_seed(), offset)
    state = torch.empty(2, dtype=torch.int64, device=device_of.device).random_(-(2**63), None, generator=generator)
    state[1] &= ~3
    return state


def make_state(device_of: Tensor, seed: int, offset: int) -> Tensor:
    return torch.tensor([_signed(seed), _signed(offset)], dtype=torch.int64, device=device_of.device)


# The operations. Differentiable as they are: torch.where gives the mask its gradient. `mapping` is mask_strides and
# mask_base, as keep_mask and normal_noise take them.


def _scaled(x: Tensor, keep: Tensor, factor: float | Tensor) -> Tensor:
    """keep ? x * factor : 0, in the type computed in; of a complex number, each part by itself."""
    if x.is_complex():
        parts = torch.view_as_real(x.resolve_conj())
        factor = factor[..., None] if isinstance(factor, Tensor) else factor
        return torch.view_as_complex(_scaled(parts, keep[..., None], factor))
    wide = compute(x.dtype)
    factor = factor.to(wide) if isinstance(factor, Tensor) else factor
    return torch.where(keep, x.to(wide) * factor, 0.0)


def _constant(value: float | Tensor, x: Tensor) -> Tensor:
    """A float64 value rounded once to the type that x is computed in."""
    return torch.as_tensor(value, dtype=torch.float64, device=x.device).to(compute(x.dtype))


def block_keep_mask(
    state: Tensor,
    shape: Sequence[int],
    p: float | Tensor,
    block: Sequence[int],
    mask_strides: Sequence[int] | None,
    mask_base: int,
) -> Tensor:
    """DropBlock's mask of an (N, C, H, W) tensor: False where the block of a dropped seed covers the element.

    Block (i, j) begins at its seed where the seeds' grid is that of the blocks inside, and block // 2 before it where
    every element has a seed. So the element at y is covered by the seeds from y - top - block + 1 to y - top.
    """
    if len(shape) != 4 or len(block) != 4 or mask_strides is None:
        raise ValueError(
            "dropout: expected a block (height, width, seeds' height, seeds' width) with an input (N, C, H, W) and the "
            f"mask strides of its seeds, but got {list(block)} with an input of shape {list(shape)}"
        )
    seeds_shape = [*shape[:2], *block[2:]]
    p_float, p_tensor = (1.0, p) if isinstance(p, Tensor) else (p, None)
    seeds = keep_mask(state, seeds_shape, p_float, p_tensor=p_tensor, mask_strides=mask_strides, mask_base=mask_base)
    covered = ~seeds
    for dim, size, seeds_size in ((2, block[0], block[2]), (3, block[1], block[3])):
        top = 0 if seeds_size == shape[dim] - size + 1 else -(size // 2)
        before, after = size - 1 + top, shape[dim] - top - seeds_size
        padding = [0, 0] * (3 - dim) + [before, after]
        covered = torch.nn.functional.pad(covered, padding).unfold(dim, size, 1).any(-1)
    return ~covered


def dropout_apply(
    input: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    mask_strides: Sequence[int] | None = None,
    mask_base: int = 0,
    block: Sequence[int] | None = None,
) -> Tensor:
    check("dropout", [input], p, p_tensor, state)
    honoured = p if p_tensor is None else p_tensor
    if block is None:
        keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, mask_strides=mask_strides, mask_base=mask_base)
    else:
        keep = block_keep_mask(state, input.shape, honoured, block, mask_strides, mask_base)
        honoured = (~keep).sum().double() / keep.numel()  # what blocks dropped, not what was asked of their seeds
    return _scaled(input, keep, gain_of(honoured, gain)).to(input.dtype)


def alpha_dropout_apply(
    input: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    check("alpha_dropout", [input], p, p_tensor, state)
    keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, **mapping)
    honoured = p if p_tensor is None else p_tensor
    a, q = gain_of(honoured, GAIN_ALPHA), kept(honoured)
    kept_value = input.to(compute(input.dtype)) * _constant(a, input) + _constant(-a * (1 - q) * ALPHA_PRIME, input)
    return torch.where(keep, kept_value, _constant(a * q * ALPHA_PRIME, input)).to(input.dtype)


def dropout_add_apply(
    input: Tensor,
    residual: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    check("dropout_add", [input, residual], p, p_tensor, state)
    keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, **mapping)
    scaled = _scaled(input, keep, gain_of(p if p_tensor is None else p_tensor, gain))
    return (residual.to(scaled.dtype) + scaled).to(input.dtype)


def bias_dropout_apply(
    input: Tensor,
    bias: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    check("bias_dropout", [input, bias], p, p_tensor, state)
    return _bias_dropout(input, bias, state, p, p_tensor, gain, mapping).to(input.dtype)


def bias_dropout_add_apply(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    check("bias_dropout_add", [input, bias, residual], p, p_tensor, state)
    dropped = _bias_dropout(input, bias, state, p, p_tensor, gain, mapping)
    return (residual.to(dropped.dtype) + dropped).to(input.dtype)


def _bias_dropout(
    x: Tensor, bias: Tensor, state: Tensor, p: float, p_tensor: Tensor | None, gain: int, mapping: dict[str, Any]
) -> Tensor:
    wide = x.dtype if x.is_complex() else compute(x.dtype)
    return _dropped(x.to(wide) + bias.to(wide), state, p, p_tensor, gain, mapping)


def _dropped(x: Tensor, state: Tensor, p: float, p_tensor: Tensor | None, gain: int, mapping: dict[str, Any]) -> Tensor:
    keep = keep_mask(state, x.shape, p, p_tensor=p_tensor, **mapping)
    return _scaled(x, keep, gain_of(p if p_tensor is None else p_tensor, gain))


def gaussian_dropout_apply(
    input: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    """x * (1 + stddev * z), each step rounded in the type computed in."""
    check("gaussian_dropout", [input], p, p_tensor, state)
    honoured = p if p_tensor is None else p_tensor
    wide = compute(input.dtype)
    noise = normal_noise(state, input.shape, dtype=wide, **mapping)
    factor = 1 + _constant(stddev_of(honoured), input) * noise
    return _scaled(input, _constant(kept(honoured), input) > 0, factor).to(input.dtype)


def zoneout_apply(
    input: Tensor,
    previous: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    check("zoneout", [input, previous], p, p_tensor, state)
    keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, **mapping)
    return torch.where(keep, input, previous)


def dropped_apply(
    input: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    """The other half of the mask: the derivative of zoneout by `previous`."""
    check("dropped", [input], p, p_tensor, state)
    keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, **mapping)
    return torch.where(keep, 0.0, input)


# The operations on rows. The forward ones are differentiable as they are; the backward ones say what autograd finds.


def dropout_add_layer_norm_apply(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    state: Tensor,
    p: float,
    eps: float,
    *,
    p_tensor: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Layer norm of the rounded sum, its statistics in the type computed in; the sum; mean and 1 / deviation."""
    check_rows("dropout_add_layer_norm", [input, residual], p, p_tensor, state, weight=weight, bias=bias)
    sum = dropout_add_apply(input, residual, state, p, p_tensor=p_tensor, **options)
    mean, rstd, normal = _normal(sum, True, eps)
    return _affine(normal, weight, bias).to(input.dtype), sum, mean.squeeze(-1), rstd.squeeze(-1)


def dropout_add_rms_norm_apply(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    state: Tensor,
    p: float,
    eps: float,
    *,
    p_tensor: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    check_rows("dropout_add_rms_norm", [input, residual], p, p_tensor, state, weight=weight)
    sum = dropout_add_apply(input, residual, state, p, p_tensor=p_tensor, **options)
    _, rstd, normal = _normal(sum, False, eps)
    return _affine(normal, weight, None).to(input.dtype), sum, rstd.squeeze(-1)


def _normal(x: Tensor, centred: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.to(compute(x.dtype))
    mean = wide.mean(-1, keepdim=True) if centred else wide.new_zeros(())
    deviation = wide - mean
    rstd = torch.rsqrt(deviation.square().mean(-1, keepdim=True) + eps)
    return mean, rstd, deviation * rstd


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight.to(x.dtype)
    return x if bias is None else x + bias.to(x.dtype)


def dropout_add_layer_norm_backward(
    grad_normed: Tensor,
    grad_sum: Tensor | None,
    sum: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    state: Tensor,
    p: float,
    eps: float,
    wanted: Sequence[bool],
    **options: Any,
) -> tuple[Tensor | None, ...]:
    """The gradients of input, residual, weight and bias; None of what is not wanted."""
    return _norm_backward(grad_normed, grad_sum, sum, weight, mean[..., None], rstd, state, p, wanted, options)


def dropout_add_rms_norm_backward(
    grad_normed: Tensor,
    grad_sum: Tensor | None,
    sum: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    state: Tensor,
    p: float,
    eps: float,
    wanted: Sequence[bool],
    **options: Any,
) -> tuple[Tensor | None, ...]:
    return _norm_backward(grad_normed, grad_sum, sum, weight, None, rstd, state, p, wanted, options)


def _norm_backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor,
    state: Tensor,
    p: float,
    wanted: Sequence[bool],
    options: dict[str, Any],
) -> tuple[Tensor | None, ...]:
    wide = compute(x.dtype)
    normal = (x.to(wide) - (0 if mean is None else mean)) * rstd[..., None]
    g = grad.to(wide)
    u = _affine(g, weight, None)
    centre = 0 if mean is None else u.mean(-1, keepdim=True)
    r = rstd[..., None] * (u - centre - normal * (u * normal).mean(-1, keepdim=True))
    r = r if grad_sum is None else r + grad_sum.to(wide)
    rows = tuple(range(x.dim() - 1))
    grads = (
        lambda: dropout_apply(r, state, p, **options).to(x.dtype),
        lambda: r.to(x.dtype),
        lambda: (g * normal).sum(rows).to(x.dtype) if rows else (g * normal).to(x.dtype),
        lambda: g.sum(rows).to(x.dtype) if rows else g.to(x.dtype),
    )
    return tuple(grad() if want else None for grad, want in zip(grads, wanted, strict=False))


def softmax_dropout_apply(
    input: Tensor,
    attn_mask: Tensor | None,
    state: Tensor,
    p: float,
    softmax_scale: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output; of each row the maximum and 1 / the sum of e^(z - maximum), or 0 and 0 where nothing takes part."""
    check_rows("softmax_dropout", [input], p, p_tensor, state, attn_mask=attn_mask)
    keep = keep_mask(state, input.shape, p, p_tensor=p_tensor, **mapping)
    s, maximum, inverse = _softmax(input, attn_mask, softmax_scale)
    y = _scaled(s, keep, gain_of(p if p_tensor is None else p_tensor, gain))
    return y.to(input.dtype), maximum.detach().squeeze(-1), inverse.detach().squeeze(-1)


def _softmax(x: Tensor, attn_mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    z = x.to(compute(x.dtype)) * scale
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        z = z.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        z = z + attn_mask.to(z.dtype)
    if z.shape[-1] == 0:
        return z, z.new_zeros((*z.shape[:-1], 1)), z.new_zeros((*z.shape[:-1], 1))
    maximum = z.detach().amax(-1, keepdim=True)
    maximum = torch.where(maximum == -math.inf, 0.0, maximum)
    e = torch.exp(z - maximum)
    sum = e.sum(-1, keepdim=True)
    inverse = torch.where(sum == 0, 0.0, 1 / torch.where(sum == 0, 1.0, sum))
    return e * inverse, maximum, inverse


def softmax_dropout_backward(
    grad_output: Tensor,
    input: Tensor,
    attn_mask: Tensor | None,
    maximum: Tensor,
    inverse: Tensor,
    state: Tensor,
    p: float,
    softmax_scale: float,
    wanted: Sequence[bool],
    **options: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the input and of z = input * softmax_scale + attn_mask."""
    s = _softmax(input, attn_mask, softmax_scale)[0]
    g = dropout_apply(grad_output.to(s.dtype), state, p, **options)
    scores = s * (g - (g * s).sum(-1, keepdim=True))
    grad_input = (scores * softmax_scale).to(input.dtype) if wanted[0] else None
    return grad_input, scores.to(input.dtype) if wanted[1] else None


def _drawing(name, apply, inputs=1):  # type: ignore[no-untyped-def]
    """The operation that draws a state, from the one that is given it."""

    def operation(*args, generator=None, call_id=None, **kwargs):  # type: ignore[no-untyped-def]
        check(name, args[:inputs], args[inputs], kwargs.get("p_tensor"))
        state = draw(args[0], generator=generator)
        return apply(*args[:inputs], state, *args[inputs:], **kwargs), state

    return operation


def _drawing_rows(name, apply):  # type: ignore[no-untyped-def]
    """The same of an operation on rows, which has several results."""
    count = len(ROWS[name])

    def operation(*args, generator=None, call_id=None, **kwargs):  # type: ignore[no-untyped-def]
        check_operands(name, args[:count], args[count], kwargs.get("p_tensor"))
        state = draw(args[0], generator=generator)
        return *apply(*args[:count], state, *args[count:], **kwargs), state

    return operation


def _in_place(apply):  # type: ignore[no-untyped-def]
    def operation(self: Tensor, state: Tensor, p: float, **kwargs) -> None:  # type: ignore[no-untyped-def]
        _check_writable(self)
        self.copy_(apply(self, state, p, **kwargs))

    return operation


def _drawing_in_place(name, apply):  # type: ignore[no-untyped-def]
    def operation(self: Tensor, p: float, *, generator=None, call_id=None, **kwargs):  # type: ignore[no-untyped-def]
        check(name, [self], p, kwargs.get("p_tensor"))
        _check_writable(self)
        state = draw(self, generator=generator)
        self.copy_(apply(self, state, p, **kwargs))
        return state

    return operation


def _chained_apply(name: str, chain: Chain, count: int) -> Callable[..., Tensor]:
    """chain(tensors), then dropout, in the type computed in; (tensors, state, p) are its arguments."""

    def apply(*args: Any, p_tensor: Tensor | None = None, gain: int = GAIN_UPSCALE, **mapping: Any) -> Tensor:
        tensors, (state, p) = args[:count], args[count:]
        check(name, tensors, p, p_tensor, state)
        y = chain(*(x.to(compute(x.dtype)) for x in tensors))
        return _dropped(y, state, p, p_tensor, gain, mapping).to(tensors[0].dtype)

    return apply


def _chained_backward(name: str, chain: Chain, count: int) -> Callable[..., Any]:
    """The gradient of the chain's tensors, but for a bias, whose gradient is the sum of the first one's.

    Arguments are (grad, tensors, state, p).
    """
    biased = name.startswith("bias_")

    def backward(*args: Any, p_tensor: Tensor | None = None, gain: int = GAIN_UPSCALE, **mapping: Any) -> Any:
        grad, tensors, (state, p) = args[0], args[1 : count + 1], args[count + 1 :]
        check(f"{name}_backward", [grad] if count == 1 else args[: count + 1], p, p_tensor, state)
        grad_y = _dropped(grad.to(compute(grad.dtype)), state, p, p_tensor, gain, mapping)
        with torch.enable_grad():
            wide = [x.detach().to(grad_y.dtype).requires_grad_() for x in tensors]
            y = chain(*wide)
        grads = [g.to(grad.dtype) for g in torch.autograd.grad(y, wide[: 1 if biased else None], grad_y)]
        return grads[0] if len(grads) == 1 else tuple(grads)

    return backward


def relu_dropout_backward(
    grad: Tensor,
    output: Tensor,
    state: Tensor,
    p: float,
    *,
    p_tensor: Tensor | None = None,
    gain: int = GAIN_UPSCALE,
    **mapping: Any,
) -> Tensor:
    """What was dropped, or not positive, is 0 in the output."""
    check("relu_dropout_backward", [grad, output], p, p_tensor, state)
    return _scaled(grad, ~(output <= 0), gain_of(p if p_tensor is None else p_tensor, gain)).to(grad.dtype)


def and_sum(operation: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The output, and its sum over all dimensions but the last."""

    def both(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        output = operation(*args, **options)
        return output, output.flatten(0, -2).sum(0) if output.dim() > 1 else output.clone()

    return both


dropout, dropout_apply_ = _drawing("dropout", dropout_apply), _in_place(dropout_apply)
dropout_ = _drawing_in_place("dropout", dropout_apply)
alpha_dropout, alpha_dropout_apply_ = _drawing("alpha_dropout", alpha_dropout_apply), _in_place(alpha_dropout_apply)
alpha_dropout_ = _drawing_in_place("alpha_dropout", alpha_dropout_apply)
dropout_add = _drawing("dropout_add", dropout_add_apply, inputs=2)
bias_dropout = _drawing("bias_dropout", bias_dropout_apply, inputs=2)
bias_dropout_add = _drawing("bias_dropout_add", bias_dropout_add_apply, inputs=3)
gaussian_dropout = _drawing("gaussian_dropout", gaussian_dropout_apply)
gaussian_dropout_apply_ = _in_place(gaussian_dropout_apply)
gaussian_dropout_ = _drawing_in_place("gaussian_dropout", gaussian_dropout_apply)
zoneout = _drawing("zoneout", zoneout_apply, inputs=2)
# Operations on rows, and the names of the tensors that they take.
ROWS = {
    "dropout_add_layer_norm": ("input", "residual", "weight", "bias"),
    "dropout_add_rms_norm": ("input", "residual", "weight"),
    "softmax_dropout": ("input", "attn_mask"),
}
for _name in ROWS:
    globals()[_name] = _drawing_rows(_name, globals()[f"{_name}_apply"])
for _name, (_chain, _count) in CHAINS.items():
    _apply = _chained_apply(_name, _chain, _count)
    globals().update({f"{_name}_apply": _apply, _name: _drawing(_name, _apply, _count)})
    if "relu_dropout" not in _name or "squared" in _name:
        globals()[f"{_name}_backward"] = _chained_backward(_name, _chain, _count)
# The gradients of what adds a bias, with the bias's own.
SUMMED = ("dropout_apply", "relu_dropout_backward", *(f"bias_{n}_dropout_backward" for n in ACTIVATIONS if n != "relu"))
for _name in SUMMED:
    globals()[f"{_name.removesuffix('_apply')}_and_sum"] = and_sum(globals()[_name])


def check(name: str, inputs: Sequence[Tensor], p: float, p_tensor: Tensor | None, state: Tensor | None = None) -> None:
    """What csrc/border.cpp refuses, before a state is drawn."""
    x = inputs[0]
    real = name == "alpha_dropout" or name.removesuffix("_backward") in CHAINS
    if x.dtype not in (FLOATS if real else FLOATS + COMPLEX):
        raise RuntimeError(
            f"{name}: expected a tensor of dtype float16, bfloat16, float32 or float64"
            f"{'' if real else ', or a complex one of float32 or float64'}, but got {x.dtype}"
        )
    if name.endswith("_halves") and (inputs[-1].dim() == 0 or inputs[-1].shape[-1] % 2):
        raise ValueError(
            f"{name}: expected an input whose last dimension has two halves, but got one of shape "
            f"{list(inputs[-1].shape)}"
        )
    for k, other in enumerate(inputs[1:], 1):
        if k == BIAS.get(name):
            if not broadcasts(other, x):
                raise ValueError(
                    f"{name}: expected a bias that broadcasts to the input's shape {list(x.shape)}, "
                    f"but got one of shape {list(other.shape)}"
                )
        elif other.shape != x.shape:
            raise ValueError(
                f"{name}: expected all tensors to have the input's shape {list(x.shape)}, "
                f"but got one of shape {list(other.shape)}"
            )
        if other.dtype != x.dtype or other.device != x.device:
            raise RuntimeError(
                f"{name}: expected all tensors to be {x.dtype} on {x.device}, as the input is, "
                f"but got one of {other.dtype} on {other.device}"
            )
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p_tensor is not None and p_tensor.device != x.device:
        raise ValueError(f"{name}: expected p on the input's device {x.device}, but it is on {p_tensor.device}")
    if p_tensor is not None and p_tensor.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(f"{name}: p is not differentiable; pass p.detach()")
    if state is not None:
        _check_state(state, x.device)


def check_rows(
    name: str,
    inputs: Sequence[Tensor],
    p: float,
    p_tensor: Tensor | None,
    state: Tensor | None = None,
    *,
    attn_mask: Tensor | None = None,
    **columns: Tensor | None,
) -> None:
    """What csrc/rowwise_border.cpp refuses."""
    x = inputs[0]
    if x.dtype not in FLOATS:
        raise RuntimeError(
            f"{name}: expected a tensor of dtype float16, bfloat16, float32 or float64, but got {x.dtype}"
        )
    for dense in (*inputs, *columns.values(), attn_mask):
        if dense is not None and dense.layout != torch.strided:
            raise RuntimeError(f"{name}: expected dense tensors, but got one of layout {dense.layout}; call to_dense()")
    if x.dim() == 0:
        raise ValueError(f"{name}: expected an input of at least 1 dimension, the last one a row, but got 0")
    if x.dim() > 64:
        raise ValueError(f"{name}: expected at most 64 dimensions, but got {x.dim()}")
    for what, column in columns.items():
        if column is not None and column.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: expected a {what} of shape {list(x.shape[-1:])}, as the input's last dimension, but got one "
                f"of shape {list(column.shape)}"
            )
    if attn_mask is not None and not broadcasts(attn_mask, x):
        raise ValueError(
            f"{name}: expected an attn_mask that broadcasts to the input's shape {list(x.shape)}, "
            f"but got one of shape {list(attn_mask.shape)}"
        )
    beside = {**columns, "attn_mask": attn_mask}
    for what, other in beside.items():
        if other is None:
            continue
        if other.dtype != x.dtype and not (what == "attn_mask" and other.dtype == torch.bool):
            either = "of bools or " if what == "attn_mask" else ""
            raise RuntimeError(
                f"{name}: expected {what} {either}of the input's dtype {x.dtype}, but got one of {other.dtype}"
            )
        if other.device != x.device:
            raise RuntimeError(
                f"{name}: expected {what} on the input's device {x.device}, but got one on {other.device}"
            )
    check(name, inputs, p, p_tensor, state)


def check_operands(name: str, operands: Sequence[Any], p: float, p_tensor: Tensor | None) -> None:
    """The same of a call's tensors, in the operation's order."""
    others = dict(zip(ROWS[name], operands, strict=True))
    inputs = [others.pop(key) for key in ("input", "residual") if key in others]
    check_rows(name, inputs, p, p_tensor, **others)


def broadcasts(bias: Tensor, x: Tensor) -> bool:
    own, shape = bias.shape, x.shape
    missing = len(shape) - len(own)
    return missing >= 0 and all(size in (1, shape[missing + d]) for d, size in enumerate(own))


def _check_state(state: Tensor, device: torch.device) -> None:
    if state.dtype != torch.int64 or state.shape != (2,):
        raise ValueError(
            "dropout: expected rng to be an int64 tensor of 2 elements, as fused_dropout.draw() returns, "
            f"but got {state.dtype} of shape {list(state.shape)}"
        )
    if state.device != device:
        raise ValueError(f"dropout: expected rng on the input's device {device}, but it is on {state.device}")


def _check_writable(x: Tensor) -> None:
    """copy_ would refuse too, in these words, but only after a state has been drawn."""
    if torch.is_grad_enabled() and x.requires_grad:
        if x.is_leaf:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        if x._base is not None and x._base.is_leaf:
            raise RuntimeError("a view of a leaf Variable that requires grad is being used in an in-place operation.")
    if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
