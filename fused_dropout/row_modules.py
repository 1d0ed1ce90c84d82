"""The modules of the functions on rows."""

from typing import Any

import torch
from torch import Tensor, nn

from . import rowwise
from ._calls import check_flags, check_number
from .modules import _Layer
from .rng import Rng


class _Norm(_Layer):
    """A norm's parameters, as torch's own norms have them."""

    _options = ("eps", "elementwise_affine")
    eps: float
    elementwise_affine: bool = True
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        normalized_shape: int,
        p: "float | Tensor",
        eps: float,
        elementwise_affine: bool,
        bias: bool,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        name = type(self).__name__
        if isinstance(normalized_shape, bool) or not hasattr(type(normalized_shape), "__index__"):
            kind = type(normalized_shape).__name__
            raise TypeError(f"{name}(): argument 'normalized_shape' must be int, not {kind}")
        check_number(name, "eps", eps)
        check_flags(name, elementwise_affine=elementwise_affine, bias=bias)
        super().__init__(p, False)
        self.normalized_shape, self.eps, self.elementwise_affine = normalized_shape, eps, elementwise_affine

        def parameter(wanted: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(normalized_shape, device=device, dtype=dtype)) if wanted else None

        self.register_parameter("weight", parameter(elementwise_affine))
        self.register_parameter("bias", parameter(elementwise_affine and bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, p={self.p}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class DropoutAddLayerNorm(_Norm):
    r"""Dropout, a residual's addition and a layer norm in one pass; see :func:`fused_dropout.dropout_add_layer_norm`.

    Args:
        normalized_shape: the size F of the last dimension, an int.
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor.
        eps, elementwise_affine, bias, device, dtype: see torch.nn.LayerNorm, whose parameters these are.

    Shape:
        ``layer(input, residual)``: tensors (*, F) of one shape; ``(normed, sum)`` of that shape.

    Raises:
        ValueError: p outside [0, 1]; shapes that do not fit.
        TypeError: an argument of the wrong type.

    Equivalent to::

        sum = residual + fused_dropout.dropout(input, module.p, module.training, rng=rng)
        output = torch.nn.functional.layer_norm(sum, sum.shape[-1:], module.weight, module.bias, module.eps), sum
    """

    def __init__(
        self,
        normalized_shape: int,
        p: "float | Tensor" = 0.5,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape, p, eps, elementwise_affine, bias, device, dtype)

    def forward(self, input: Tensor, residual: Tensor, *, rng: Rng = None) -> tuple[Tensor, Tensor]:
        return rowwise.dropout_add_layer_norm(
            input, residual, self.weight, self.bias, self.p, self.training, self.eps, rng=rng
        )


class DropoutAddRMSNorm(_Norm):
    r"""The same with an RMS norm; see :func:`fused_dropout.dropout_add_rms_norm`.

    Args:
        normalized_shape: the size F of the last dimension, an int.
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor.
        eps: what is added to the mean square; a number, where torch.nn.RMSNorm has None, the dtype's own.
        elementwise_affine, device, dtype: see torch.nn.RMSNorm, whose parameter this is.

    Shape:
        ``layer(input, residual)``: tensors (*, F) of one shape; ``(normed, sum)`` of that shape.

    Raises:
        ValueError: p outside [0, 1]; shapes that do not fit.
        TypeError: an argument of the wrong type.

    Equivalent to::

        sum = residual + fused_dropout.dropout(input, module.p, module.training, rng=rng)
        output = torch.nn.functional.rms_norm(sum, sum.shape[-1:], module.weight, module.eps), sum
    """

    def __init__(
        self,
        normalized_shape: int,
        p: "float | Tensor" = 0.5,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape, p, eps, elementwise_affine, False, device, dtype)

    def forward(self, input: Tensor, residual: Tensor, *, rng: Rng = None) -> tuple[Tensor, Tensor]:
        return rowwise.dropout_add_rms_norm(input, residual, self.weight, self.p, self.training, self.eps, rng=rng)


class SoftmaxDropout(_Layer):
    r"""Dropout of attention probabilities; see :func:`fused_dropout.softmax_dropout`.

    Args:
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor.
        softmax_scale: what the scores are multiplied by first.

    Shape:
        ``layer(input, attn_mask)``: scores (*, F), and None or a tensor that broadcasts to them; the output is like the
        scores.

    Raises:
        ValueError: p outside [0, 1]; an attn_mask that does not broadcast to the scores.
        TypeError: an argument of the wrong type.

    Equivalent to, without an attn_mask::

        probabilities = torch.softmax(input * module.softmax_scale, -1)
        output = fused_dropout.dropout(probabilities, module.p, module.training, rng=rng)
    """

    _options = ("softmax_scale",)
    softmax_scale: float = 1.0

    def __init__(self, p: "float | Tensor" = 0.5, softmax_scale: float = 1.0) -> None:
        check_number("SoftmaxDropout", "softmax_scale", softmax_scale)
        super().__init__(p, False, softmax_scale=softmax_scale)

    def forward(self, input: Tensor, attn_mask: Tensor | None = None, *, rng: Rng = None) -> Tensor:
        return rowwise.softmax_dropout(
            input, self.p, self.training, attn_mask=attn_mask, softmax_scale=self.softmax_scale, rng=rng
        )
