"""Fixtures: the frozen answers, the devices there are, and the instruction sets of this processor."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fused_dropout import build_info
from fused_dropout._extension import extension

INSTRUCTION_SETS = build_info()["cpu_instruction_sets"] or []
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def pytest_configure(config: pytest.Config) -> None:
    if extension is None:
        pytest.exit("the tests need the extension: build it first (make build)", returncode=2)
    torch.set_num_threads(1)  # several test processes share the cores; `threads` is for the tests that want more


def moved(t: torch.Tensor, device: str) -> torch.Tensor:
    """A copy that lies in its storage as `t` does: Tensor.to keeps neither gaps nor an offset. Still lazily conjugated
    and negative, where `t` is."""
    if device == t.device.type:
        return t
    storage = t.new_empty(0).set_(t.untyped_storage())
    copy = storage.to(device).as_strided(t.shape, t.stride(), t.storage_offset())
    copy = copy.conj() if t.is_conj() else copy
    return torch._neg_view(copy) if t.is_neg() else copy


class Called(TorchDispatchMode):
    """The names of the operations that run."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().removeprefix("fused_dropout::"))
        return func(*args, **(kwargs or {}))

    def ours(self) -> list[str]:
        return [name for name in self.names if "::" not in name]


@pytest.fixture(scope="session")
def golden() -> dict:
    return json.loads((Path(__file__).parent / "data" / "golden.json").read_text())


@contextmanager
def using_instruction_set(name: str) -> Iterator[None]:
    before = build_info()["cpu_instruction_set"]
    extension.use_instruction_set(name)
    try:
        yield
    finally:
        extension.use_instruction_set(before)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set that this processor has."""
    with using_instruction_set(request.param):
        yield request.param


@pytest.fixture
def threads():
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
