"""What a training step of a transformer needs: blocks of fused pipelines against the same blocks of native layers.

    python -m bench.memory

The blocks are those of examples/transformer.py. Each kind runs in a process of its own, whose peak counts: the largest
resident set less what was resident before the step on the CPU (of Linux), PyTorch's own count on CUDA. Saved for
backward are the bytes of memory that autograd keeps alive between the two passes, parameters excepted.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = {"batch": 8, "steps": 512, "width": 512, "heads": 8, "blocks": 2}
P = 0.1


def resident(which: str) -> int:
    """Bytes in memory, of this process: "VmRSS" now, "VmHWM" at most so far. (getrusage's maximum is inherited.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{which}:\s+(\d+) kB$", status, re.M)[1]) * 1024  # type: ignore[index]


def step(blocks: nn.ModuleList, x: Tensor) -> None:
    """Forward, backward, and the gradients' end."""
    normed, residual = x, x
    for block in blocks:
        normed, residual = block(normed, residual)
    normed.sum().backward()
    blocks.zero_grad(set_to_none=True)


def saved(blocks: nn.ModuleList, x: Tensor) -> int:
    own = {p.untyped_storage().data_ptr() for p in blocks.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(blocks, x)
    return sum(kept.values())


def measure(fused: bool, device: str) -> dict[str, int]:
    """In this process, which has done nothing of the kind before."""
    from examples.transformer import Block  # here, since it needs what the examples need

    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(SHAPE["width"], SHAPE["heads"], P, fused) for _ in range(SHAPE["blocks"])).to(device)
    sizes = SHAPE["batch"], SHAPE["steps"], SHAPE["width"]
    step(blocks, torch.randn(1, 8, SHAPE["width"], device=device))  # what the first call brings along
    x = torch.randn(sizes, device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(blocks, x)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        before = resident("VmRSS")
        step(blocks, x)
        peak = resident("VmHWM") - before
    return {"peak_bytes": peak, "saved_bytes": saved(blocks, x)}


def compare(device: str) -> dict[str, Any]:
    """Both kinds, each in a new process."""
    kinds = {}
    for kind in ("fused", "native"):
        command = [sys.executable, "-m", "bench.memory", "--kind", kind, "--device", device]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kinds[kind] = json.loads(output.splitlines()[-1])
    return {"device": device, "p": P, **SHAPE, **kinds}


def line(memory: dict[str, Any]) -> str:
    """A sentence with both kinds' figures."""
    fused, native = memory["fused"], memory["native"]
    mebibytes = [f"{n[key] / 2**20:,.0f}" for key in ("peak_bytes", "saved_bytes") for n in (fused, native)]
    sizes = f"batch {memory['batch']}, {memory['steps']} steps, width {memory['width']}, {memory['heads']} heads"
    return (
        f"Training step of {memory['blocks']} transformer blocks of `examples/transformer.py`\n({sizes}, "
        f"{memory['device']}): peak {mebibytes[0]} MiB, with native layers {mebibytes[1]} MiB; kept for backward "
        f"{mebibytes[2]} MiB and {mebibytes[3]} MiB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="A training step's memory.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kind", choices=("fused", "native"), help="measure this one in this process")
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.kind == "fused", options.device)))
    else:
        print(line(compare(options.device)))


if __name__ == "__main__":
    main()
