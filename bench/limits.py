"""What the machine can do: the roofs of the roofline, and what every output costs beside the arithmetic."""

from typing import Any

import torch

from . import operations, work
from .cases import CUDA_BYTES, LARGE
from .choice import Choice
from .inputs import flat, rings
from .timing import Effort, Task, measure, rotating

SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices whose product is the arithmetic's roof
NUMEL = {"cpu": LARGE, "cuda": CUDA_BYTES // 4}


def limits(choice: Choice, effort: Effort) -> dict[str, Any]:
    """Memory in GB/s, of float32 with all threads: `mul_` in place, `mul` into a new output, a copy into one that is
    there. Arithmetic in billions of operations a second: a float32 matrix product, whose multiplications and additions
    count as one each."""
    device, numel, side = choice.device, NUMEL[choice.device], SIDE[choice.device]
    if device == "cpu":
        torch.set_num_threads(choice.threads[-1])
    factories = {
        "mul": work.forward(operations.multiply(choice.p)),
        "copy": operations.device_copy,
        **({"mul_": work.in_place(operations.multiply_in_place(choice.p))} if device == "cpu" else {}),
    }
    sets = [flat(numel, torch.float32, device) for _ in range(rings(device, 4 * numel))]
    tasks = [rotating([factory(*inputs) for inputs in sets]) for factory in factories.values()]
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    product = Task(lambda: a @ b)
    *of_memory, of_arithmetic = measure([*tasks, product], device, effort)
    return {
        "device": device,
        "dtype": "float32",
        "threads": choice.threads[-1] if device == "cpu" else 0,
        "numel": numel,
        "gb_per_s": {
            name: 8e-9 * numel / timing.seconds.median for name, timing in zip(factories, of_memory, strict=True)
        },
        "matrix_side": side,
        "gop_per_s": 2e-9 * side**3 / of_arithmetic.seconds.median,
    }


def line(found: dict[str, Any]) -> str:
    memory = ", ".join(f"{name} {speed:.3g} GB/s" for name, speed in found["gb_per_s"].items())
    return f"limits of the machine: {memory}; matrix product {found['gop_per_s']:.3g} Gop/s"
