"""Nested tensors of layout torch.jagged: what the operations do with them.

Its rows lie behind each other in ``values()``, and an operation on the nested tensor is that operation on them: the
mask index of an element is its index there. So there is no noise shape, which would need the rows one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._extension import NAMES, OF_STATES, extension, inputs_of, stem
from .reference import ROWS

try:
    from torch.nested._internal.nested_tensor import NestedTensor
except ImportError:  # private to torch: without it nested tensors are refused by torch itself
    NestedTensor = None  # type: ignore[assignment, misc]


def on_values(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation's ``__torch_dispatch__`` for nested tensors."""
    name = op.name().removeprefix("fused_dropout::")
    first = args[0]
    last = -1 if name.endswith("_halves_backward") else None  # a row of the gradient is a half of the input's
    for x in args[: inputs_of(name)]:
        if not isinstance(x, NestedTensor) or x.shape[:last] != first.shape[:last]:
            raise ValueError(
                f"{stem(name)}: expected all tensors to be nested, with the input's offsets, but got one of shape "
                f"{list(x.shape)} beside one of shape {list(first.shape)}"
            )
    if kwargs.get("mask_strides") is not None:
        raise ValueError(
            f"{stem(name)}: a nested tensor takes no noise shape: each element has its own decision; call it with "
            "values()"
        )
    result = op(*(x.values() if isinstance(x, NestedTensor) else x for x in args), **kwargs)
    if isinstance(result, tuple):
        output, other = result  # a state, or a second gradient
        return nested_like(first, output), nested_like(first, other) if name.endswith("_backward") else other
    return result if name.endswith("_") else nested_like(first, result)


def refused(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = stem(op.name().removeprefix("fused_dropout::"))
    raise RuntimeError(f"{name}: expected dense tensors, but got a nested one; call it with values()")


def nested_like(x: Any, values: Tensor) -> Tensor:
    return NestedTensor(
        values,
        offsets=x.offsets(),
        lengths=x.lengths(),
        _metadata_cache=x._metadata_cache,
        _ragged_idx=x._ragged_idx,
    )


def register() -> None:
    for name in set(NAMES).difference(OF_STATES):
        torch.library.register_torch_dispatch(
            f"fused_dropout::{name}", NestedTensor, refused if stem(name) in ROWS else on_values
        )


if extension is not None and NestedTensor is not None:
    register()
