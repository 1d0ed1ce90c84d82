"""The bytes that a call saves for its backward pass, by operation and implementation."""

from collections.abc import Sequence
from typing import Any

import torch

from . import operations
from .bit_mask import bit_mask_dropout
from .pipelines import pipelines
from .work import Function, saved_bytes

NUMEL = 2**20


def saved_for_backward(p: float, device: str) -> list[dict[str, Any]]:
    """A record for each, of float32; inputs that a call keeps are counted, whoever else keeps them too."""
    dropout, ones = operations.dropout(p), (torch.ones(NUMEL, device=device),)
    records = [
        _record("dropout", name, saved_bytes(function, *ones)) for name, function in _of_dropout(dropout, p).items()
    ]
    for pipeline in pipelines(p):
        inputs = pipeline.inputs(NUMEL, torch.float32, device)
        for name, function in (("fused_dropout", pipeline.fused), ("eager", pipeline.native)):
            records.append(_record(pipeline.name, name, saved_bytes(function, *inputs)))
    return records


def line(records: Sequence[dict[str, Any]]) -> str:
    """Of dropout itself."""
    of_dropout = [record for record in records if record["name"] == "dropout"]
    numel, dtype = of_dropout[0]["numel"], of_dropout[0]["dtype"]
    each = ", ".join(f"{record['implementation']} {record['bytes']:,} bytes" for record in of_dropout)
    return f"Saved for backward, {numel:,} elements of {dtype}: {each}."


def _of_dropout(dropout: operations.Operation, p: float) -> dict[str, Function]:
    return {
        "fused_dropout": dropout.fused,
        "F.dropout": dropout.native,
        "bit mask": lambda x: bit_mask_dropout(x, p),
    }


def _record(name: str, implementation: str, size: int) -> dict[str, Any]:
    return {"name": name, "implementation": implementation, "dtype": "float32", "numel": NUMEL, "bytes": size}
