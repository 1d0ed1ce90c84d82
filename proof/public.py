"""Every public function of tensors, and arguments that it takes."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

import fused_dropout

NOT_OF_TENSORS = ("build_info", "convert", "revert", "draw", "monte_carlo", "predict")
SHAPES: dict[str, tuple[int, ...]] = {  # of the input, where (4, 6) would be too few dimensions
    "dropout1d": (2, 3, 8), "dropout2d": (2, 3, 8, 8), "dropout3d": (1, 2, 3, 8, 8), "drop_block2d": (2, 3, 8, 8),
    "locked_dropout": (3, 2, 6),
}  # fmt: skip


def functions() -> dict[str, Callable[..., Any]]:
    public = {name: getattr(fused_dropout, name) for name in fused_dropout.__all__}
    return {name: f for name, f in public.items() if inspect.isfunction(f) and name not in NOT_OF_TENSORS}


def arguments(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A training call that draws: what the function needs, of ones, and p = 0.5."""
    shape = SHAPES.get(name, (4, 6))
    known: dict[str, Any] = dict.fromkeys(("input", "residual", "previous"))
    known = {key: torch.ones(shape, dtype=dtype) for key in known}
    outputs = (2,) if name == "dropout_linear" else ()
    known |= {"weight": torch.ones((*outputs, shape[-1]), dtype=dtype), "shape": shape, "rng": (1, 8)}
    known |= {"bias": torch.ones(outputs or shape[-1:], dtype=dtype)}
    parameters = inspect.signature(functions()[name]).parameters
    chosen = {key: known[key] for key, q in parameters.items() if q.default is q.empty and key in known}
    return chosen | {key: value for key, value in (("p", 0.5), ("training", True)) if key in parameters}
