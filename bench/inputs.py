"""The tensors that an operation is measured on: functions of a number of elements, a dtype and a device."""

import math
from collections.abc import Callable
from math import ceil
from typing import TypeAlias

import torch
from torch import Tensor

CHANNELS, SIDE = 64, 32  # of images: 2^16 elements each
FEATURES = 1024  # of a row, where a bias is added

Inputs: TypeAlias = Callable[[int, torch.dtype, str], tuple[Tensor, ...]]


def _values(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Values around 1, far from denormals and infinities; their own generator leaves the default one alone."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(shape, dtype=dtype, device=device).uniform_(0.5, 1.5, generator=generator)


def flat(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((numel,), dtype, device),)


def pair(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    x = _values((numel,), dtype, device)
    return x, x.flip(0)


def rows(*features_of: str, features: int = FEATURES) -> Inputs:
    """Matrices (N, features) for "x" and its like, (features,) for "bias" and "gain", a square for "weight"; "halves"
    is one matrix of rows of twice the length."""

    def inputs(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        count = max(1, numel // features)
        shapes: dict[str, tuple[int, ...]] = {"bias": (features,), "gain": (features,)}
        shapes |= {"weight": (features, features), "halves": (count, 2 * features)}
        default = (count, features)
        return tuple(_values(shapes.get(name, default), dtype, device) for name in features_of)

    return inputs


def images(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((max(1, numel // (CHANNELS * SIDE * SIDE)), CHANNELS, SIDE, SIDE), dtype, device),)


def channels_last(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return tuple(x.to(memory_format=torch.channels_last) for x in images(numel, dtype, device))


def shaped(*shape: int) -> Inputs:
    """Tensors (N, *shape): the shape of one of many samples."""

    def inputs(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        return (_values((max(1, numel // math.prod(shape)), *shape), dtype, device),)

    return inputs


def rings(device: str, size: int) -> int:
    """How many sets of inputs of `size` bytes are used in turn: on CUDA so many that they exceed L2 four times, where
    512 are enough for that; below, a call is all that is measured."""
    return min(1 + ceil(4 * torch.cuda.get_device_properties(0).L2_cache_size / size), 512) if device == "cuda" else 1
