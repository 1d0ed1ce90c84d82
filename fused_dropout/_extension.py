"""Loads the extension, or says why not and puts the reference in its place.

`ops` holds the operations of csrc/ops.cpp, and `eager` the same for calls outside of a graph, whose arguments are read
faster (csrc/eager_calls.h); nothing else is called. Importing never fails.
"""

import json
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from . import reference

REMEDY = "rebuild it with `pip install --no-build-isolation --force-reinstall --no-deps .` in a checkout"
IN_PLACE = ("dropout", "alpha_dropout", "gaussian_dropout")
# Tensors before the state, where an operation takes more than one.
INPUTS = {
    "dropout_add": 2,
    "bias_dropout": 2,
    "bias_dropout_add": 3,
    "zoneout": 2,
    **{name: count for name, (_, count) in reference.CHAINS.items()},
}
OF_STATES = ("draw", "make_state", "keep_mask", "normal_noise")  # the operations that no tensor goes through
BACKWARD = [f"{name}_backward" for name in reference.CHAINS if hasattr(reference, f"{name}_backward")]
# Operations that also sum their output over its rows, and what they do otherwise.
SUMMED = {f"{name.removesuffix('_apply')}_and_sum": name for name in reference.SUMMED}
NAMES = [
    *(f"{name}{form}" for name in IN_PLACE for form in ("", "_", "_apply", "_apply_")),
    *(f"{name}{form}" for name in INPUTS for form in ("", "_apply")),
    "dropped_apply",
    *BACKWARD,
    *SUMMED,
    *(f"{name}{form}" for name in reference.ROWS for form in ("", "_apply", "_backward")),
    *OF_STATES,
]


def stem(name: str) -> str:
    """The name of an operation without what tells its forms apart: the public function's."""
    for ending in ("_", "_apply", "_and_sum", "_backward", "_halves"):
        name = name.removesuffix(ending)
    return name


def inputs_of(name: str) -> int:
    name = name.removesuffix("_and_sum")
    if name.endswith("_backward"):
        return 1 + INPUTS[name.removesuffix("_backward")]
    return INPUTS.get(name.removesuffix("_").removesuffix("_apply"), 1)


def is_pure(name: str) -> bool:
    """Whether an operation is given its state."""
    return "_apply" in name or name.endswith(("_backward", "_and_sum"))


def load(folder: Path, torch_version: str) -> Any:
    """The extension module in `folder`; ImportError, in words, where it is missing or was built for another torch.

    The versions are compared before the library is opened: what an extension for another torch does then is undefined.
    """
    try:
        built_for = json.loads((folder / "_build.json").read_text())["torch"]
    except FileNotFoundError:
        checkout = (folder.parent / "setup.py").exists()
        where = f" in {folder}, a checkout's folder, which is imported in place of an installed package" * checkout
        raise ImportError(f"the extension has not been built{where}") from None
    if built_for != torch_version:
        raise ImportError(f"the extension was built for torch {built_for}, and this is torch {torch_version}")
    return import_module("fused_dropout._C")


def operations(extension: Any) -> SimpleNamespace:
    if extension is None:
        return SimpleNamespace(**{name: getattr(reference, name) for name in NAMES})
    if torch.version.cuda is not None and extension.build_info()["cuda"] is None:
        _reference_on_cuda()
    return SimpleNamespace(**{name: getattr(torch.ops.fused_dropout, name).default for name in NAMES})


_registered: list[torch.library.Library] = []  # what a library registers lives as long as it does


def _reference_on_cuda() -> None:
    """A torch with CUDA and an extension without: CUDA tensors get the reference, and one warning."""

    def with_warning(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(
                f"fused_dropout was built without CUDA: its slow reference runs on CUDA tensors; {REMEDY}, with nvcc",
                stacklevel=2,
            )
            return getattr(reference, name)(*args, **kwargs)

        return call

    library = torch.library.Library("fused_dropout", "IMPL")
    for name in NAMES:
        library.impl(name, with_warning(name), "CUDA")
    _registered.append(library)


def build_info() -> dict[str, Any]:
    """What the extension was built against, and what it uses here.

    Returns:
        ``torch`` and ``cuda`` (versions built against, ``cuda`` None without), ``cuda_architectures`` (list),
        ``cpu_instruction_sets`` (those of this processor that were built, best first), ``cpu_instruction_set`` (the one
        in use), ``compiler``; with the reference in place of the extension, ``extension`` is False and the rest None.
    """
    keys = ("torch", "cuda", "cuda_architectures", "cpu_instruction_sets", "cpu_instruction_set", "compiler")
    info = dict.fromkeys(keys) if extension is None else extension.build_info()
    return {"extension": extension is not None, "rng_version": reference.RNG_VERSION, **info}


try:
    extension: Any = load(Path(__file__).parent, torch.__version__)
except (ImportError, OSError, ValueError, KeyError) as error:
    extension = None
    warnings.warn(
        f"fused_dropout: {error}. The masks stay the same, and values but for roundings, computed by a slow reference; "
        f"{REMEDY}.",
        stacklevel=2,
    )
ops = operations(extension)
eager = ops if extension is None else SimpleNamespace(**{**vars(ops), **extension.eager_calls(vars(ops))})
