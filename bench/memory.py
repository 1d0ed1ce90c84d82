"""The memory that a training step needs: networks of fused pipelines against the same ones of PyTorch's own layers.

    python -m fused_dropout.bench.memory

Each kind runs in a process of its own, whose peak counts: the largest resident set less what was resident before the
step on the CPU (of Linux), PyTorch's own count on CUDA. Saved for backward are the bytes of memory that autograd keeps
alive between the two passes, parameters excepted.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .models import Blocks, Mlp

TRANSFORMER = {"batch": 8, "steps": 512, "width": 512, "heads": 8, "blocks": 2}
MLP = {"batch": 16384, "width": 512, "layers": 4}
SHAPES: Mapping[str, Mapping[str, int]] = {"mlp": MLP, "transformer": TRANSFORMER}


def resident(which: str) -> int:
    """Bytes in memory, of this process: "VmRSS" now, "VmHWM" at most so far. (getrusage's maximum is inherited.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{which}:\s+(\d+) kB$", status, re.M)[1]) * 1024  # type: ignore[index]


def build(model: str, p: float, fused: bool) -> tuple[nn.Module, tuple[int, ...], tuple[int, ...]]:
    """A network, the shape of a small input and that of the one that is measured."""
    shape = SHAPES[model]
    width = shape["width"]
    if model == "mlp":
        return Mlp(width, shape["layers"], p, fused), (8, width), (shape["batch"], width)
    blocks = Blocks(width, shape["heads"], shape["blocks"], p, fused)
    return blocks, (1, 8, width), (shape["batch"], shape["steps"], width)


def step(network: nn.Module, x: Tensor) -> None:
    """Forward, backward, and the gradients' end."""
    network(x).sum().backward()
    network.zero_grad(set_to_none=True)


def saved(network: nn.Module, x: Tensor) -> int:
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(network, x)
    return sum(kept.values())


def measure(model: str, p: float, fused: bool, device: str) -> dict[str, int]:
    """In this process, which has done nothing of the kind before."""
    torch.manual_seed(0)
    network, small, large = build(model, p, fused)
    network.to(device)
    step(network, torch.randn(small, device=device))  # what the first call brings along
    x = torch.randn(large, device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(network, x)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        before = resident("VmRSS")
        step(network, x)
        peak = resident("VmHWM") - before
    return {"peak_bytes": peak, "saved_bytes": saved(network, x)}


def compare(model: str, p: float, device: str) -> dict[str, Any]:
    """Both kinds, each in a new process."""
    kinds = {}
    for kind in ("fused", "native"):
        command = [sys.executable, "-m", f"{__package__}.memory", "--kind", kind, "--device", device, "--model", model]
        output = subprocess.run([*command, "--p", str(p)], check=True, capture_output=True, text=True).stdout
        kinds[kind] = json.loads(output.splitlines()[-1])
    return {"model": model, "device": device, "p": p, **SHAPES[model], **kinds}


def line(memory: Mapping[str, Any]) -> str:
    """A sentence with both kinds' figures."""
    fused, native = memory["fused"], memory["native"]
    peak, native_peak, kept, native_kept = (
        f"{n[key] / 2**20:,.0f}" for key in ("peak_bytes", "saved_bytes") for n in (fused, native)
    )
    if memory["model"] == "mlp":
        sizes = f"batch {memory['batch']}, width {memory['width']}"
        what = f"{memory['layers']} layers of linear, relu and dropout ({sizes}"
    else:
        sizes = f"batch {memory['batch']}, {memory['steps']} steps, width {memory['width']}, {memory['heads']} heads"
        what = f"{memory['blocks']} transformer blocks of `bench/models.py`\n({sizes}"
    return (
        f"Training step of {what}, {memory['device']}): peak {peak} MiB, with native layers {native_peak} MiB; "
        f"kept for backward {kept} MiB and {native_kept} MiB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fused_dropout.bench.memory", description="Training steps' memory.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=tuple(SHAPES), help="this one alone")
    parser.add_argument("--p", type=float, default=0.1)
    parser.add_argument("--kind", choices=("fused", "native"), help="measure this one, of one model, in this process")
    options = parser.parse_args()
    if options.kind and options.model:
        print(json.dumps(measure(options.model, options.p, options.kind == "fused", options.device)))
        return
    for model in [options.model] if options.model else SHAPES:
        print(line(compare(model, options.p, options.device)))


if __name__ == "__main__":
    main()
