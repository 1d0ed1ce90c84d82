"""Calls in which an allocation fails, or that an interrupt ends: what is left behind. With `allocator.cpp` preloaded.

``python -m proof.failures.calls COUNT`` prints a JSON object of how many failures were injected, and what was wrong.
"""

import contextlib
import ctypes
import gc
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import fused_dropout
from proof import public

PACKAGE = str(Path(fused_dropout.__file__).parent)
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


@dataclass
class Found:
    injected: int
    wrong: dict[str, list[str]]  # of each kind, in which call and where

    def add(self, kind: str, where: str) -> None:
        self.wrong.setdefault(kind, []).append(where)


def tensors_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def targets() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any], bool]]:
    """A label, a function, its arguments, and whether it writes into its input."""
    for dtype in DTYPES:
        for name, function in public.functions().items():
            given = public.arguments(name, dtype)
            kind = str(dtype).removeprefix("torch.")
            yield f"{name}, {kind}", function, given, False
            if "inplace" in inspect.signature(function).parameters:
                yield f"{name} in place, {kind}", function, given | {"inplace": True}, True
            if name == "drop_block2d":
                yield f"{name} with noise, {kind}", function, given | {"with_noise": True}, False
                more = {"with_noise": True, "inplace": True}
                yield f"{name} with noise in place, {kind}", function, given | more, True


def fresh(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, of memory of their own."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()}


def whole(function: Callable[..., Any], given: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """The outputs of a call that nothing disturbs, and the state of the generator after it."""
    torch.manual_seed(5)
    outputs = tensors_of(function(**fresh(given)))
    return outputs, torch.get_rng_state()


def allocations(allocator: ctypes.CDLL, least: int) -> Found:
    """Every allocation of every call fails once, of its forward and of its backward."""
    found = Found(0, {})
    while found.injected < least:
        for label, function, given, in_place in targets():
            skipped = 0
            while _one_allocation(allocator, found, label, function, given, in_place, skipped):
                skipped += 1
            if not in_place:
                skipped = 0
                while _one_of_backward(allocator, found, label, function, given, skipped):
                    skipped += 1
    return found


def _one_allocation(allocator: ctypes.CDLL, found: Found, label: str, function: Callable[..., Any],
                    given: dict[str, Any], in_place: bool, skipped: int) -> bool:  # fmt: skip
    """False where the call has no allocation of that number."""
    arguments = fresh(given)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gc.collect()
    blocks = allocator.blocks_alive()
    allocator.fail_after(skipped)
    raised = False
    try:
        function(**arguments)
    except (RuntimeError, MemoryError):
        raised = True
    came = not allocator.is_to_come()
    allocator.fail_after(-1)
    if not came:
        return False
    found.injected += 1
    gc.collect()
    if not raised:
        found.add("silent", f"{label}, allocation {skipped}")
        return True
    if allocator.blocks_alive() != blocks:
        found.add("leak", f"{label}, allocation {skipped}")
    if not torch.equal(before, torch.get_rng_state()):
        found.add("generator", f"{label}, allocation {skipped}")
    if any(not torch.equal(arguments[key], value) for key, value in given.items() if isinstance(value, Tensor)):
        outputs, _ = whole(function, given)
        if not (in_place and torch.equal(arguments["input"], outputs[0])):
            found.add("input", f"{label}, allocation {skipped}")
    return True


def _one_of_backward(allocator: ctypes.CDLL, found: Found, label: str, function: Callable[..., Any],
                     given: dict[str, Any], skipped: int) -> bool:  # fmt: skip
    """Fails in the backward; a second one must give what an undisturbed one gives."""

    def gradients(fail: int) -> tuple[list[Tensor] | None, bool]:
        arguments = fresh(given)
        leaves = [v.requires_grad_() for v in arguments.values() if isinstance(v, Tensor) and v.is_floating_point()]
        torch.manual_seed(5)
        outputs = tensors_of(function(**arguments))
        if not leaves or not outputs[0].requires_grad:
            return None, False
        moved = torch.get_rng_state()
        total = torch.stack([y.sum() for y in outputs]).sum()
        allocator.fail_after(fail)
        with contextlib.suppress(RuntimeError, MemoryError):
            torch.autograd.grad(total, leaves, retain_graph=True)
        came = not allocator.is_to_come()
        allocator.fail_after(-1)
        if not torch.equal(moved, torch.get_rng_state()):
            found.add("generator", f"{label}, allocation {fail} of the backward")
        return list(torch.autograd.grad(total, leaves)), came

    disturbed, came = gradients(skipped)
    if disturbed is None or not came:
        return False
    found.injected += 1
    right, _ = gradients(-1)
    if right is None or not all(torch.equal(a, b) for a, b in zip(disturbed, right, strict=True)):
        found.add("backward", f"{label}, allocation {skipped} of the backward")
    return True


def interrupts(allocator: ctypes.CDLL, least: int) -> Found:
    """A KeyboardInterrupt at every line of the package that a call reaches."""
    found = Found(0, {})
    while found.injected < least:
        for label, function, given, in_place in targets():
            line = 0
            while _one_interrupt(allocator, found, label, function, given, in_place, line):
                line += 1
    return found


def _one_interrupt(allocator: ctypes.CDLL, found: Found, label: str, function: Callable[..., Any],
                   given: dict[str, Any], in_place: bool, line: int) -> bool:  # fmt: skip
    arguments = fresh(given)
    outputs, moved_once = whole(function, given)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gc.collect()
    blocks, left = allocator.blocks_alive(), line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            left -= 1
        return trace

    result = None
    sys.settrace(trace)
    try:
        result = function(**arguments)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    if result is not None:
        return False
    found.injected += 1
    gc.collect()
    if allocator.blocks_alive() != blocks:
        found.add("leak", f"{label}, line {line}")
    after = torch.get_rng_state()
    if not (torch.equal(after, before) or torch.equal(after, moved_once)):
        found.add("generator", f"{label}, line {line}")
    for key, value in given.items():
        written = in_place and key == "input"
        allowed = [value, outputs[0]] if written else [value]
        if isinstance(value, Tensor) and not any(torch.equal(arguments[key], one) for one in allowed):
            found.add("input", f"{label}, line {line}")
    return True


def main(least: int) -> None:
    torch.set_num_threads(1)
    allocator = ctypes.CDLL(None)
    allocator.is_to_come.restype = ctypes.c_bool
    allocator.fail_after.argtypes = [ctypes.c_long]
    allocator.blocks_alive.restype = ctypes.c_long
    for _, function, given, _ in targets():  # what is made once and kept
        whole(function, given)
    gc.freeze()  # what stands until the end need not be searched
    found = {"allocations": allocations(allocator, least), "interrupts": interrupts(allocator, least)}
    print(json.dumps({name: {"injected": each.injected, "wrong": each.wrong} for name, each in found.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
