"""How a function is run: each way makes a factory of it, which sets up what a user has before the call and returns the
Task.

A function takes tensors and returns one, or several. The same way around an operation's `fused`, `native` and `oracle`
makes subject, baseline and check.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .timing import Task

CHECKED = 2**17  # elements on which a subject is checked, at most: enough that several threads share them

Function: TypeAlias = Callable[..., Any]  # of tensors; returns one, or a tuple of them
Factory: TypeAlias = Callable[..., Task]
Way: TypeAlias = Callable[[Function], Factory]


def _listed(outputs: Any) -> list[Tensor]:
    """As tensors: a function returns one, or several; JAX's arrays share their memory with one."""
    each = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [y if isinstance(y, Tensor) else torch.from_dlpack(y) for y in each]


def forward(function: Function) -> Factory:
    """A call that returns a new tensor, or several."""
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


def backward_of_sum(function: Function) -> Factory:
    """The gradient of the output's sum, from which it comes as one number, expanded."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        y, grad_y = function(x), torch.ones((), dtype=x.dtype, device=x.device).expand_as(x)
        return Task(lambda: torch.autograd.grad(y, x, grad_y, retain_graph=True)[0])

    return factory


def recorded(function: Function) -> Factory:
    """A forward call that records the graph of its gradient."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        return Task(lambda: function(x))

    return factory


def step(function: Function) -> Factory:
    """Forward and backward of all inputs, as a training step has them; the first one's gradient is what is checked."""

    def factory(*inputs: Tensor) -> Task:
        leaves = [x.detach().requires_grad_() for x in inputs]
        with torch.no_grad():
            grads = [torch.ones_like(y) for y in _listed(function(*leaves))]
        return Task(lambda: torch.autograd.grad(_listed(function(*leaves)), leaves, grads)[0])

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


def check(name: str, subject: Factory, oracle: Factory, inputs: tuple[Tensor, ...], exact: bool) -> None:
    """Raises unless both give the same, from the same seed of PyTorch's generator: the same bits, or the same zeros and
    values to a few roundings."""
    results = []
    for factory in (subject, oracle):
        torch.manual_seed(20)
        task = factory(*inputs)
        if task.before is not None:
            task.before()
        results.append([y.detach().clone() for y in _listed(task.call())])
    for ours, theirs in zip(*results, strict=True):
        if not (torch.equal(ours, theirs) if exact or not ours.is_floating_point() else _close(ours, theirs)):
            raise RuntimeError(f"{name}: expected what fused_dropout.reference gives, but got something else")


def _close(ours: Tensor, theirs: Tensor) -> bool:
    eps = 64 * torch.finfo(ours.dtype).eps
    return torch.equal(ours == 0, theirs == 0) and torch.allclose(ours, theirs, rtol=eps, atol=eps)


def check_dropout(factory: Factory, inputs: tuple[Tensor, ...], p: float) -> None:
    """Raises unless each element of the output is 0 or what a kept one becomes, and as many are kept as p says, to six
    standard deviations. A gradient, of ones, is 0 or the scale."""
    (x,) = inputs
    task = factory(x)
    if task.before is not None:
        task.before()
    (y,) = (y.detach().to(torch.float64) for y in _listed(task.call()))
    scaled = x.to(torch.float64) / (1 - p)
    tolerance = 4 * torch.finfo(x.dtype).eps
    kept = torch.isclose(y, scaled, rtol=tolerance) | torch.isclose(y, torch.tensor(1 / (1 - p)).to(y), rtol=tolerance)
    if not bool((kept | (y == 0)).all()):
        raise ValueError("expected every element to be dropped, or kept and scaled, but some are neither")
    off = abs(kept.double().mean().item() - (1 - p))
    if off > 6 * (p * (1 - p) / x.numel()) ** 0.5:
        raise ValueError(f"expected a share {1 - p:g} of elements to be kept, but it is off by {off:g}")


def saved_bytes(function: Function, *inputs: Tensor) -> int:
    """The bytes that autograd keeps between forward and backward, counted as they are packed."""
    packed: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        packed.append(saved.numel() * saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        function(*(x.detach().requires_grad_() for x in inputs))
    return sum(packed)
