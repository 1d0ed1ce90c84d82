"""DTensor (torch.distributed.tensor): what the operations do with tensors that are sharded over a mesh of devices.

A shard's mask is its part of the whole tensor's: the mask's strides are the whole tensor's, and its base is where the
shard begins. So nothing is communicated, but where an operation needs what lies elsewhere: the rows of a norm or a
softmax, both halves of a gated unit's rows, a map that DropBlock counts; and sums that are pending.

A drawing operation draws on every rank from that rank's generator, as SPMD code has it: ranks of one seed draw the same
states. Imported where a call meets a tensor that may be one (`_calls.py`), since torch.distributed.tensor takes longer
to import than all of this package.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from ._extension import NAMES, OF_STATES, extension, stem
from .reference import GAIN_UPSCALE, ROWS, row_major

NOT_SHARDED = ("state", "p_tensor", "call_id")  # arguments that are whole on every rank
STATISTICS = ("mean", "rstd", "maximum", "inverse")  # tensors of one number for each row
SUMS = ("grad_weight", "grad_bias")  # results that are sums over the rows
Placements = tuple[Placement, ...]  # one for each dimension of the mesh


def on_shards(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation's ``__torch_dispatch__`` for DTensors."""
    name = op.name().removeprefix("fused_dropout::")
    arguments, results = ([each.name for each in some] for some in (op._schema.arguments, op._schema.returns))
    given = dict(zip(arguments, args, strict=False)) | kwargs
    sharded = [each for each in arguments if isinstance(given.get(each), Tensor) and each not in NOT_SHARDED]
    tensors = [given[each] for each in sharded]
    check(stem(name), tensors)
    first = tensors[0]
    shape = list(first.shape)  # of the mask
    if "_halves" in name and len(tensors) == 1:
        shape[-1] //= 2
    placements = placements_of(tensors, splits(name, given, first.dim()))
    if name.endswith("_") and placements != first.placements:
        raise RuntimeError(f"{stem(name)}: in place a DTensor cannot leave its placements {first.placements}")

    with torch.no_grad():  # this is below autograd
        for each in NOT_SHARDED:
            if isinstance(given.get(each), DTensor):
                given[each] = given[each].full_tensor()
        for each, x in zip(sharded, tensors, strict=True):
            at = placements if each in STATISTICS else beside(x, first.shape, placements)
            given[each] = x.redistribute(first.device_mesh, at).to_local()
        strides = given.get("mask_strides")
        given["mask_strides"] = strides = row_major(shape) if strides is None else strides
        begin = first_of_shard(first.device_mesh, placements, shape)
        given["mask_base"] = given.get("mask_base", 0) + sum(i * by for i, by in zip(begin, strides, strict=False))
        made = op(**given)

        def whole(result: str, part: "Tensor | None") -> Any:
            if part is None or result == "state":
                return part
            if result in SUMS:
                return whole_of(part, first.device_mesh, summed(placements, len(shape)), first.shape[-1:])
            return whole_of(part, first.device_mesh, placements, shape)

        if isinstance(made, tuple):
            if name.endswith("_and_sum"):
                results = ["", "grad_bias"]
            return tuple(map(whole, results, made))
        return made if name.endswith("_") else whole("", made)


def check(name: str, tensors: Sequence[Any]) -> None:
    for x in tensors:
        if not isinstance(x, DTensor):
            raise RuntimeError(f"{name}: expected all tensors to be DTensors, but got a plain one beside one")
        if x.device_mesh != tensors[0].device_mesh:
            raise RuntimeError(
                f"{name}: expected all DTensors to have one device mesh, but got another beside the first"
            )


def splits(name: str, given: dict[str, Any], dims: int) -> int:
    """Along how many of so many dimensions an operation takes shards; the first ones. The share that blocks drop is
    counted over the whole tensor, where what is kept makes up for it."""
    if given.get("block") is not None:
        return 0 if given.get("gain", GAIN_UPSCALE) == GAIN_UPSCALE else dims - 2
    return dims - 1 if stem(name) in ROWS or "_halves" in name else dims


def placements_of(tensors: Sequence[DTensor], split: int) -> Placements:
    """Where to compute: as the tensor lies that is sharded most, along the dimensions that may be."""
    possible = [
        tuple(one if type(one) is Shard and one.dim < split else Replicate() for one in x.placements)
        for x in tensors
        if x.dim() == tensors[0].dim()
    ]
    return max(possible, key=lambda some: sum(one.is_shard() for one in some))


def first_of_shard(mesh: Any, placements: Placements, shape: Sequence[int]) -> list[int]:
    """The coordinates of this rank's first element. A dimension of the mesh has the parts of torch.chunk."""
    sizes, first = list(shape), [0] * len(shape)
    for part, parts, one in zip(mesh.get_coordinate() or (), mesh.shape, placements, strict=False):
        if isinstance(one, Shard):
            most = -(-sizes[one.dim] // parts)
            before = min(part * most, sizes[one.dim])
            first[one.dim] += before
            sizes[one.dim] = min(most, sizes[one.dim] - before)
    return first


def beside(x: DTensor, shape: Sequence[int], placements: Placements) -> Placements:
    """The placements of a tensor that broadcasts to one of this shape and these placements."""
    missing = len(shape) - x.dim()

    def of(one: Placement) -> Placement:
        if not isinstance(one, Shard) or one.dim < missing or x.shape[one.dim - missing] != shape[one.dim]:
            return Replicate()
        return Shard(one.dim - missing)

    return tuple(map(of, placements))


def summed(placements: Placements, dims: int) -> Placements:
    """The placements of a sum over all of so many dimensions but the last."""

    def of(one: Placement) -> Placement:
        if not isinstance(one, Shard):
            return one
        return Shard(0) if one.dim == dims - 1 else Partial()

    return tuple(map(of, placements))


def whole_of(part: Tensor, mesh: Any, placements: Placements, shape: Sequence[int]) -> DTensor:
    """The DTensor of which `part` is this rank's, in the order of memory that the part has; `shape` says what size the
    dimensions have that are sharded."""
    sharded = {one.dim for one in placements if isinstance(one, Shard)}
    sizes = [shape[d] if d in sharded else size for d, size in enumerate(part.shape)]
    strides, numel = [0] * len(sizes), 1
    for d in sorted(range(len(sizes)), key=lambda d: (part.stride(d), -d)):
        strides[d], numel = numel, numel * max(1, sizes[d])
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(sizes), stride=tuple(strides))


def on_device_of(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Of an operation that makes a state: a tensor says where."""
    return op(*(x.to_local() if isinstance(x, DTensor) else x for x in args), **kwargs)


if extension is not None:
    for operation in NAMES:
        rule = on_device_of if operation in OF_STATES else on_shards
        torch.library.register_torch_dispatch(f"fused_dropout::{operation}", DTensor, rule)
