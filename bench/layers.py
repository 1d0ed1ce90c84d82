"""The layers that share decisions: Dropout1d, DropPath and their like, with what PyTorch or its users have for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

import fused_dropout
from fused_dropout import reference

from .inputs import CHANNELS, Inputs, channels_last, flat, images, shaped
from .operations import Operation
from .work import Function


@dataclass(frozen=True)
class Layer:
    """A member of the family: `fused(x, inplace)` and its mask; `native(x)`; `reference(x, p)`."""

    name: str
    inputs: Inputs
    fused: Callable[[Tensor, bool], Tensor]
    native: Function
    noise_shape: Callable[[Tensor], tuple[int, ...]]
    reference: Callable[..., tuple[Tensor, Tensor]] = reference.dropout
    p: float = 0.0

    def _oracle(self, x: Tensor) -> Tensor:
        return self.reference(x, self.p, mask_strides=reference.row_major(self.noise_shape(x)))[0]

    @property
    def operation(self) -> Operation:
        return Operation(lambda x: self.fused(x, False), self.native, self._oracle)

    @property
    def operation_in_place(self) -> Operation:
        return Operation(lambda x: self.fused(x, True), self.native, lambda x: x.copy_(self._oracle(x)))


def scaled_by_noise(p: float, x: Tensor, *shape: int) -> Tensor:
    """What timm's DropPath, torchvision's StochasticDepth and AWD-LSTM's LockedDropout do."""
    return x * x.new_empty(shape).bernoulli_(1 - p).div_(1 - p)


def _channels(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *[1] * (x.dim() - 2))


def layers(p: float) -> tuple[Layer, ...]:
    family = (
        Layer(
            "dropout1d",
            shaped(CHANNELS, 1024),
            lambda x, inplace: fused_dropout.dropout1d(x, p, True, inplace),
            lambda x: F.dropout1d(x, p),
            _channels,
        ),
        Layer(
            "dropout2d",
            images,
            lambda x, inplace: fused_dropout.dropout2d(x, p, True, inplace),
            lambda x: F.dropout2d(x, p),
            _channels,
        ),
        Layer(
            "dropout2d of 7 x 7",
            shaped(CHANNELS, 7, 7),
            lambda x, inplace: fused_dropout.dropout2d(x, p, True, inplace),
            lambda x: F.dropout2d(x, p),
            _channels,
        ),
        Layer(
            "dropout2d channels_last",
            channels_last,
            lambda x, inplace: fused_dropout.dropout2d(x, p, True, inplace),
            lambda x: F.dropout2d(x, p),
            _channels,
        ),
        Layer(
            "dropout3d",
            shaped(16, 16, 16, 16),
            lambda x, inplace: fused_dropout.dropout3d(x, p, True, inplace),
            lambda x: F.dropout3d(x, p),
            _channels,
        ),
        Layer(
            "alpha_dropout",
            flat,
            lambda x, inplace: fused_dropout.alpha_dropout(x, p, True, inplace),
            lambda x: F.alpha_dropout(x, p, True),
            lambda x: tuple(x.shape),
            reference.alpha_dropout,
        ),
        Layer(
            "feature_alpha_dropout",
            images,
            lambda x, inplace: fused_dropout.feature_alpha_dropout(x, p, True, inplace),
            lambda x: F.feature_alpha_dropout(x, p, True),
            _channels,
            reference.alpha_dropout,
        ),
        Layer(
            "drop_path",
            images,
            lambda x, inplace: fused_dropout.drop_path(x, p, True, inplace=inplace),
            lambda x: scaled_by_noise(p, x, x.shape[0], 1, 1, 1),
            lambda x: (x.shape[0], 1, 1, 1),
        ),
        Layer(
            "locked_dropout (T, B, F)",
            shaped(32, 512),
            lambda x, inplace: fused_dropout.locked_dropout(x, p, True, inplace),
            lambda x: scaled_by_noise(p, x, 1, *x.shape[1:]),
            lambda x: (1, *x.shape[1:]),
        ),
        Layer(
            "locked_dropout (B, T, F)",
            shaped(128, 512),
            lambda x, inplace: fused_dropout.locked_dropout(x, p, True, inplace, batch_first=True),
            lambda x: scaled_by_noise(p, x, x.shape[0], 1, x.shape[2]),
            lambda x: (x.shape[0], 1, x.shape[2]),
        ),
    )
    return tuple(replace(layer, p=p) for layer in family)
