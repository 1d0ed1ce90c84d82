"""PyTorch's own operations on the emulated GPU: its CPU kernels, in the memory where the tensors lie."""

import ctypes
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

# What hands out memory, or asks a tensor or the driver: as on a GPU.
KEPT = ("empty.", "empty_strided", "set_", "resize_", "record_stream", "_local_scalar_dense", "is_set_to", "is_pinned",
        "_pin_memory", "_efficientzerotensor")  # fmt: skip
Replay = Callable[[Callable[[], None]], None]


def install(replay: Replay) -> torch.library.Library:
    """`replay` is given what a captured graph is to do. What is returned must live as long as the process."""
    library = torch.library.Library("aten", "IMPL")
    generator = torch.Generator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that each of these stands before another one
        for name in ["aten::copy_", *torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")]:
            space, _, rest = name.partition("::")
            if space != "aten" or rest.startswith(KEPT):
                continue
            packet, _, overload = rest.partition(".")
            operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
            if not _is_view(operation):
                library.impl(rest, _by_the_cpu(operation, generator, replay), "CUDA")
    return library


def on_the_host(x: Tensor) -> Tensor:
    """The same memory, as a tensor of the CPU."""
    if x.device.type != "cuda":
        return x
    storage = x.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    there = torch.frombuffer((ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr()), dtype=torch.uint8)
    host = torch.empty(0, dtype=x.dtype).set_(there.untyped_storage(), x.storage_offset(), x.shape, x.stride())
    host = host.conj() if x.is_conj() else host
    return torch._neg_view(host) if x.is_neg() else host


def _of_the_host(x: Any, generator: torch.Generator) -> Any:
    if isinstance(x, Tensor):
        return on_the_host(x)
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return generator if isinstance(x, torch.Generator) else x


def _returned(x: Tensor, own: Tensor | None, device: torch.device) -> Tensor:
    """A result on the device: what was written into, if it has not been made larger for it, or a new tensor."""
    if own is not None and own.shape == x.shape:
        return own
    to = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device) if own is None else own.resize_(x.shape)
    on_the_host(to).copy_(x)
    return to


def _is_view(operation: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in operation._schema.returns)


def _by_the_cpu(operation: Any, generator: torch.Generator, replay: Replay) -> Callable[..., Any]:
    takes_tensors = [str(argument.type) for argument in operation._schema.arguments] == ["Tensor", "Tensor"]

    def run(*args: Any, **kwargs: Any) -> Any:
        flat, form = tree_flatten((args, kwargs))
        device = next(x.device for x in flat if isinstance(x, Tensor) and x.device.type == "cuda")
        there = [_of_the_host(x, generator) for x in flat]
        if takes_tensors and type(there[-1]) is int:  # a number, which Python's call does not take for a tensor
            there[-1] = torch.tensor(there[-1])
        own = {id(host): x for host, x in zip(there, flat, strict=True) if isinstance(x, Tensor)}
        host_args, host_kwargs = tree_unflatten(there, form)
        results, results_form = tree_flatten(operation(*host_args, **host_kwargs))
        results = [_returned(x, own.get(id(x)), device) if isinstance(x, Tensor) else x for x in results]

        def again() -> None:
            for to, x in zip(results, tree_flatten(operation(*host_args, **host_kwargs))[0], strict=True):
                if isinstance(x, Tensor) and x.data_ptr() != to.data_ptr():
                    on_the_host(to).copy_(x)

        if torch.cuda.is_current_stream_capturing():
            replay(again)
        return tree_unflatten(results, results_form)

    return run
