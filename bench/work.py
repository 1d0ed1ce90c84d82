"""What is timed: inputs, the functions of each operation, and the ways to run a function.

A function takes tensors and returns one. A way makes a factory of it: given inputs, it sets up what a user has before
the call, and returns the Task. The same way around `fused`, `native` and `oracle` makes subject, baseline and check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_dropout
from fused_dropout import reference

from .timing import Task

P = 0.1
SCALE = 1 / (1 - P)  # of the multiply that dropout is measured against
CHANNELS, SIDE = 64, 32  # of images: 2^16 elements each

Function: TypeAlias = Callable[..., Tensor]
Factory: TypeAlias = Callable[..., Task]
Way: TypeAlias = Callable[[Function], Factory]
Inputs: TypeAlias = Callable[[int, torch.dtype, str], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operation:
    """The same function three times: this library's, stock PyTorch's, and the reference that checks it."""

    fused: Function
    native: Function
    oracle: Function


def multiply(x: Tensor) -> Tensor:
    return torch.mul(x, SCALE)


def multiply_in_place(x: Tensor) -> Tensor:
    return x.mul_(SCALE)


def _in_place_oracle(x: Tensor) -> Tensor:
    reference.dropout_(x, P)
    return x


def _whole_channels(x: Tensor) -> list[int]:
    return [x.shape[0], x.shape[1], 1, 1]


DROPOUT = Operation(
    lambda x: fused_dropout.dropout(x, P), lambda x: F.dropout(x, P), lambda x: reference.dropout(x, P)[0]
)
DROPOUT_IN_PLACE = Operation(
    lambda x: fused_dropout.dropout(x, P, inplace=True), lambda x: F.dropout(x, P, inplace=True), _in_place_oracle
)
DROPOUT_ADD = Operation(
    lambda x, residual: fused_dropout.dropout_add(x, residual, P),
    lambda x, residual: residual + F.dropout(x, P),
    lambda x, residual: reference.dropout_add(x, residual, P)[0],
)
ALPHA_DROPOUT = Operation(
    lambda x: fused_dropout.alpha_dropout(x, P, training=True),
    lambda x: F.alpha_dropout(x, P, training=True),
    lambda x: reference.alpha_dropout(x, P)[0],
)
CHANNEL_DROPOUT = Operation(
    lambda x: fused_dropout.dropout(x, P, noise_shape=_whole_channels(x)),
    lambda x: F.dropout2d(x, P),
    lambda x: reference.dropout(x, P, mask_strides=reference.row_major(_whole_channels(x)))[0],
)


def _values(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Values around 1, far from denormals and infinities; their own generator leaves the default one alone."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(shape, dtype=dtype, device=device).uniform_(0.5, 1.5, generator=generator)


def flat(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((numel,), dtype, device),)


def pair(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    x = _values((numel,), dtype, device)
    return x, x.flip(0)


def images(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((numel // (CHANNELS * SIDE * SIDE), CHANNELS, SIDE, SIDE), dtype, device),)


def channels_last(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return tuple(x.to(memory_format=torch.channels_last) for x in images(numel, dtype, device))


def forward(function: Function) -> Factory:
    """A call that returns a new tensor."""
    return lambda *inputs: Task(lambda: function(*inputs))


def in_place(function: Function) -> Factory:
    """A call that overwrites its argument, refilled before each: repeated, the scale would run into infinity."""

    def factory(x: Tensor) -> Task:
        buffer = x.clone()
        return Task(lambda: function(buffer), before=lambda: buffer.copy_(x))

    return factory


def backward(function: Function) -> Factory:
    """The gradient alone, of a graph built beforehand."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        y, grad_y = function(x), torch.ones_like(x)
        return Task(lambda: torch.autograd.grad(y, x, grad_y, retain_graph=True)[0])

    return factory


def round_trip(function: Function) -> Factory:
    """Forward and backward, as a small layer feels them: what is measured is mostly the calls."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        grad_y = torch.ones_like(x)

        def call() -> Tensor:
            x.grad = None
            function(x).backward(grad_y)  # type: ignore[no-untyped-call]
            return x.grad  # type: ignore[return-value]

        return Task(call)

    return factory


def device_copy(x: Tensor) -> Task:
    """The limit of memory: x is read and y is written."""
    y = torch.empty_like(x)
    return Task(lambda: y.copy_(x))


def check(name: str, subject: Factory, oracle: Factory, inputs: tuple[Tensor, ...]) -> None:
    """Raises unless both give exactly the same, from the same seed of PyTorch's generator."""
    results = []
    for factory in (subject, oracle):
        torch.manual_seed(20)
        task = factory(*inputs)
        if task.before is not None:
            task.before()
        results.append(task.call().clone())
    if not torch.equal(*results):
        raise RuntimeError(f"{name}: expected exactly what fused_dropout.reference gives, but got something else")


def saved_bytes(function: Function, x: Tensor) -> int:
    """The bytes that autograd keeps between forward and backward, counted as they are packed."""
    packed: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        packed.append(saved.numel() * saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        function(x.detach().requires_grad_())
    return sum(packed)
