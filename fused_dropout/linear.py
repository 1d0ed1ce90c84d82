"""Dropout before a linear layer, without keeping the dropped copy of its input for the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import reference
from ._calls import Probability, autocasts, call, check, check_flags, dispatch_modes, moved
from ._extension import ops
from ._transforms import transforming
from .rng import Rng, as_state, draw, giving_back, probability

# Private to torch: the hooks on saved tensors that are in force.
outer_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: None
)


def dropout_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""A linear layer of a dropped input. The dropped copy is made again in the backward pass, from 16 bytes.

    Two calls keep it for the weight's gradient, beside the input, which others keep too: the cost of LoRA's dropout in
    memory (Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022). Of the input nothing is saved
    where the weight needs no gradient. (In a graph compiled by torch 2.11 the copy is kept.)

    Args:
        input: tensor (*, in_features); float16, bfloat16, float32 or float64.
        weight: tensor (out_features, in_features).
        bias: tensor (out_features,), or None.
        p, training, generator, rng: see :func:`dropout`.

    Returns:
        Tensor (*, out_features).

    Raises:
        ValueError: shapes that do not fit, and as :func:`dropout`; a weight of one dimension and a bias that would be
            broadcast are not taken.
        RuntimeError: dtypes or devices that differ (dtypes may, under autocast).

    Equivalent to::

        output = torch.nn.functional.linear(fused_dropout.dropout(input, p, training, rng=rng), weight, bias)
    """
    checked_p = check("dropout_linear", input, p, training, False, generator, rng)
    check_linear(input, weight, bias)
    if not training or checked_p[0] == 0:
        return F.linear(input, weight, bias)
    number, p_tensor = checked_p
    reference.check("dropout_linear", [input], number, p_tensor)
    with giving_back(input.device, generator, rng):
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            state = draw(input.device, generator) if rng is None else as_state(rng, input.device, "dropout_linear")
            return _traced_linear(input, weight, bias, state, checked_p)
        return _eager_linear(input, weight, bias, checked_p, generator, rng)


def _autocast(input: Tensor) -> Callable[[Tensor], Tensor]:
    """What becomes of a dropped input. Asked in the forward pass: the backward pass runs without autocast."""
    if not autocasts(input) or input.dtype == torch.float64:
        return lambda y: y
    dtype = torch.get_autocast_dtype(input.device.type)
    return lambda y: y.to(dtype)


def _traced_linear(input: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, p: Probability) -> Tensor:
    number, p_tensor = p
    cast = _autocast(input)

    def whole(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(cast(ops.dropout_apply(x, state, number, p_tensor=p_tensor)), weight, bias)

    if torch.compiler.is_exporting():
        return whole(input, weight, bias)
    return checkpoint(whole, input, weight, bias, use_reentrant=False, preserve_rng_state=False)


def _eager_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, p: Probability, generator: torch.Generator | None, rng: Rng
) -> Tensor:
    number, p_tensor = p
    cast = _autocast(input)
    y, state = call("dropout", (input,), p, reference.GAIN_UPSCALE, None, False, generator, rng)
    y = cast(y)
    if not (torch.is_grad_enabled() and weight.requires_grad) or not plain(input, weight):
        return F.linear(y, weight, bias)

    def again() -> Tensor:  # compiled autograd traces it
        return cast(ops.dropout_apply(input.detach(), state, number, p_tensor=p_tensor))

    hooks = Remade(y, again, [input, state] if p_tensor is None else [input, state, p_tensor])
    with torch.autograd.graph.saved_tensors_hooks(hooks.pack, hooks.unpack):
        return F.linear(y, weight, bias)


def check_linear(input: Tensor, weight: Any, bias: Any) -> None:
    """What torch.nn.functional.linear would find out only after a state has been drawn."""
    for argument, tensor in (("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and not (argument == "bias" and tensor is None):
            raise TypeError(f"dropout_linear(): argument '{argument}' must be a Tensor, not {type(tensor).__name__}")
    for tensor in (input, weight, bias):
        if tensor is not None and tensor.layout not in (torch.strided, torch.jagged):
            raise RuntimeError(f"dropout_linear: expected dense tensors, but got one of layout {tensor.layout}")
    if weight.dim() != 2 or input.dim() < 1 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            "dropout_linear: expected an input (*, in_features) and a weight (out_features, in_features), but got "
            f"shapes {list(input.shape)} and {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"dropout_linear: expected a bias of shape {list(weight.shape[:1])}, but got one of shape "
            f"{list(bias.shape)}"
        )
    for tensor in (weight, bias):
        if tensor is None or autocasts(input):
            continue
        if tensor.dtype != input.dtype or tensor.device != input.device:
            raise RuntimeError(
                f"dropout_linear: expected weight and bias to be {input.dtype} on {input.device}, as the input is, but "
                f"got {tensor.dtype} on {tensor.device}"
            )


def plain(*tensors: Tensor) -> bool:
    """Whether what autograd saves is ours to choose, and can be told by its memory: no transform, no trace, no hooks of
    others (of a checkpoint, which keeps nothing anyway), no tensor without a storage."""
    return (
        not transforming()
        and dispatch_modes() == 0
        and outer_hooks(False) is None
        and all(type(x) in (Tensor, nn.Parameter) and x.device.type != "meta" for x in tensors)
    )


class Remade:
    """Hooks that keep, in place of a tensor, how to make it again, from others that have not been written to since."""

    def __init__(self, y: Tensor, make: Callable[[], Tensor], of: Sequence[Tensor]) -> None:
        self.memory, self.make = y.untyped_storage().data_ptr(), make
        self.of = [(x, x._version) for x in of if not x.is_inference()]

    def pack(self, saved: Tensor) -> Any:
        if saved.untyped_storage().data_ptr() != self.memory:
            return saved
        return saved.shape, saved.stride(), saved.storage_offset()

    def unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        for x, version in self.of:
            if x._version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"dropout_linear drops its input again in the backward pass, but a tensor of shape {list(x.shape)} "
                    f"is at version {x._version}; expected version {version} instead"
                )
        return self.make().as_strided(*packed)


class DropoutLinear(nn.Linear):
    r"""A torch.nn.Linear whose input is dropped first; see :func:`dropout_linear`.

    Args:
        in_features, out_features, bias, device, dtype: see torch.nn.Linear.
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor, which follows the module to another device.

    Shape:
        Input (*, in_features), output (*, out_features).

    Equivalent to, but for the dropped copy that is not kept::

        torch.nn.Sequential(fused_dropout.Dropout(p), torch.nn.Linear(in_features, out_features, bias))

    Raises:
        ValueError: p outside [0, 1].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: "float | Tensor" = 0.5,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        probability(p, "DropoutLinear")
        check_flags("DropoutLinear", bias=bias)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.p = p

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.p = moved(self.p, fn)  # type: ignore[assignment]
        return self

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return dropout_linear(input, self.weight, self.bias, self.p, self.training, rng=rng)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"
