"""Other implementations of dropout, measured beside this one; each is skipped, with a reason, where it is missing.

To add one, write a function of p and a device that returns its tasks by the operation's name, and name it in ADAPTERS.
What it gives is checked by `work.check_dropout`, since its random numbers are its own.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import Tensor

from . import operations, work
from .bit_mask import bit_mask_dropout
from .choice import Choice
from .timing import Task
from .work import Factory, Function

Tasks: TypeAlias = Mapping[str, Factory]  # by the name of the operation, in sweep.py


@dataclass(frozen=True)
class Peer:
    """How to make its tasks; or why there are none here."""

    name: str
    tasks: Tasks = field(default_factory=dict)
    skipped: str = ""


class Skipped(Exception):
    """The reason why an implementation is not measured here."""


def _required(module: str) -> Any:
    if find_spec(module.partition(".")[0]) is None:
        raise Skipped(f"{module.partition('.')[0]} is not installed")
    try:
        return import_module(module)
    except ImportError as error:
        raise Skipped(f"{module} cannot be imported: {error}") from None


def _ways(function: Function) -> Tasks:
    return {
        "dropout": work.forward(function),
        "dropout backward": work.backward(function),
        "dropout and backward": work.round_trip(function),
    }


def _native(p: float, device: str) -> Tasks:
    in_place = work.in_place(operations.dropout_in_place(p).native)
    return {**_ways(operations.dropout(p).native), "dropout in place": in_place}


def _compiled(p: float, device: str) -> Tasks:
    """As a user writes it. (Its backward alone cannot be repeated: the graph gives its buffers away.)"""
    function = torch.compile(operations.dropout(p).native)
    return {"dropout": work.forward(function), "dropout and backward": work.round_trip(function)}


def _bit_mask(p: float, device: str) -> Tasks:
    return _ways(lambda x: bit_mask_dropout(x, p))


def _triton(p: float, device: str) -> Tasks:
    if device != "cuda":
        raise Skipped("Triton's kernels need a GPU")
    _required("triton")
    function = import_module(".triton_dropout", __package__).seeded_dropout
    seeds = count(1)
    return _ways(lambda x: function(x, p, next(seeds)))


def _transformer_engine(p: float, device: str) -> Tasks:
    if device != "cuda":
        raise Skipped("TransformerEngine's kernels need a GPU")
    ops = _required("transformer_engine.pytorch.ops")
    if not hasattr(ops, "Dropout"):
        raise Skipped("this version of TransformerEngine has no Dropout")
    return _ways(ops.Dropout(p))


def _jax(p: float, device: str) -> Tasks:
    """jax.jit of a selection by jax.random.bernoulli. JAX chooses its threads itself."""
    if device != "cpu":
        raise Skipped("JAX is measured on the CPU only")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else it takes three quarters of a GPU's memory where it sees one
    jax = _required("jax")

    def dropout(x: Any, key: Any, call: int) -> Any:
        keep = jax.random.bernoulli(jax.random.fold_in(key, call), 1 - p, x.shape)
        return jax.numpy.where(keep, x / (1 - p), 0).astype(x.dtype)

    def gradient(x: Any, key: Any, call: int) -> Any:
        y, pull = jax.vjp(lambda x: dropout(x, key, call), x)
        return pull(jax.numpy.ones_like(y))[0], y  # y too, as a network would need it

    def of(function: Function, result: Callable[[Any], Any]) -> Factory:
        compiled, key = jax.jit(function), jax.random.key(0)

        def factory(x: Tensor) -> Task:
            array, calls = jax.numpy.from_dlpack(x), count()
            return Task(lambda: result(jax.block_until_ready(compiled(array, key, next(calls)))))

        return factory

    return {
        "dropout": of(dropout, lambda y: y),
        "dropout and backward": of(gradient, lambda results: results[0]),
    }


def flash_layer_norm(p: float, device: str) -> Function:
    """FlashAttention's dropout_add_layer_norm, a Triton kernel."""
    if device != "cuda":
        raise Skipped("FlashAttention's kernels need a GPU")
    layer_norm = _required("flash_attn.ops.triton.layer_norm").layer_norm_fn

    def norm(x: Tensor, residual: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return layer_norm(x, gain, bias, residual=residual, dropout_p=p, prenorm=True)

    return norm


def _flash_attention(p: float, device: str) -> Tasks:
    norm = flash_layer_norm(p, device)
    return {"dropout_add_layer_norm": work.forward(norm), "dropout_add_layer_norm step": work.step(norm)}


ADAPTERS: Mapping[str, Callable[[float, str], Tasks]] = {
    "F.dropout": _native,
    "compiled F.dropout": _compiled,
    "bit mask": _bit_mask,
    "jax.jit": _jax,
    "triton low-memory": _triton,
    "TransformerEngine": _transformer_engine,
    "flash_attn": _flash_attention,
}


def peers(choice: Choice) -> list[Peer]:
    """Those that are chosen, with their tasks or the reason for having none."""
    found = []
    for name, adapter in ADAPTERS.items():
        if choice.wants_peer(name):
            try:
                found.append(Peer(name, adapter(choice.p, choice.device)))
            except Skipped as reason:
                found.append(Peer(name, skipped=str(reason)))
    return found
