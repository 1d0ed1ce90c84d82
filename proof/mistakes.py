"""Mistakes chosen by hand, in the Python package, in the C++ that binds the kernels and in headers of csrc/core.

The tests must notice each of them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import extension, host
from .report import Finding

TITLE = "Mistakes by hand"
METHOD = (
    "One line is changed in a copy of the project, and the tests of its subject run there, with the extension that the "
    "project has: a header is compiled by the tests that run the CUDA kernels on the host, and a file of the binding "
    "is compiled again and linked with the project's other objects. `core/host_device.h` holds the compilers' words "
    "for functions and nothing that could be wrong in silence."
)


@dataclass(frozen=True)
class Mistake:
    file: str
    right: str
    wrong: str
    tests: str  # that must fail
    unit: str = ""  # what includes a header of the binding


MISTAKES = (
    Mistake("fused_dropout/rng.py", "if offset % 4:", "if offset % 2:", "test_errors.py"),
    Mistake(
        "fused_dropout/rng.py", "if noise is None else noise for", "if noise is None else size for", "test_layers.py"
    ),
    Mistake(
        "fused_dropout/_calls.py",
        "return min(1.0, number * factor), None",
        "return max(1.0, number * factor), None",
        "test_layers.py",
    ),
    Mistake("fused_dropout/_calls.py", "[input.shape[1], 1] if own == 2", "[1, 1] if own == 2", "test_layers.py"),
    Mistake(
        "fused_dropout/_calls.py",
        'options["mask_strides"] = strides',
        'options["mask_strides"] = strides[::-1]',
        "test_layers.py",
    ),
    Mistake("fused_dropout/functional.py", "mask_base=used + used % 2", "mask_base=0", "test_layers.py"),
    Mistake(
        "fused_dropout/_transforms.py", "mask_strides=[0, *strides]", "mask_strides=[1, *strides]", "test_transforms.py"
    ),
    Mistake("fused_dropout/_nested.py", "lengths=x.lengths(),", "lengths=None,", "test_tensor_kinds.py"),
    Mistake("fused_dropout/linear.py", "if x._version != version:", "if x._version < version:", "test_pipelines.py"),
    Mistake(
        "fused_dropout/recurrent.py", "self.p if self.p_cell is None else self.p_cell", "self.p", "test_recurrent.py"
    ),
    Mistake("fused_dropout/prediction.py", "squares / (samples - 1)", "squares / samples", "test_prediction.py"),
    Mistake("fused_dropout/conversion.py", "vars(module).update(values)", "pass", "test_conversion.py"),
    Mistake(
        "fused_dropout/rowwise.py",
        "if not training or (p_tensor is None and number == 0):",
        "if p_tensor is None and number == 0:",
        "test_norms.py",
    ),
    Mistake("fused_dropout/weight_drop.py", "self.training", "True", "test_weight_drop.py"),
    Mistake(
        "csrc/core/pipeline.h",
        "static constexpr Noise kNoise = Noise::kBernoulli;",
        "static constexpr Noise kNoise = Noise::kNone;",
        "test_cuda_on_host.py",
    ),
    Mistake("csrc/core/block.h", "- block_width + 1 + part", "- block_width + part", "test_cuda_on_host.py"),
    Mistake(
        "csrc/core/elementwise.h",
        "visit.template operator()<Pipeline<float>, BFloat16>()",
        "visit.template operator()<Pipeline<float>, Half>()",
        "test_cuda_on_host.py",
    ),
    Mistake("csrc/core/table.h", "if (id > 0)", "if (id > 1)", "test_cuda_on_host.py"),
    Mistake("csrc/core/norm.h", "kept[1] * V(mean_nu)", "kept[1] * V(mean_u)", "test_rows_on_host.py"),
    Mistake("csrc/core/softmax.h", "sum[0] == C(0) ? C(0) : C(1) / sum[0]", "C(1) / sum[0]", "test_rows_on_host.py"),
    Mistake(
        "csrc/core/rowwise.h",
        "features(static_cast<C>(a.features))",
        "features(static_cast<C>(a.rows))",
        "test_rows_on_host.py",
    ),
    Mistake(
        "csrc/core/row_operations.h",
        "visit_dtype<LayerNormBackward>",
        "visit_dtype<RmsNormBackward>",
        "test_rows_on_host.py",
    ),
    Mistake(
        "csrc/in_place.cpp",
        "void written() { torch::autograd::increment_version(self_); }",
        "void written() {}",
        "test_inplace.py",
    ),
    Mistake(
        "csrc/in_place.cpp", "void written() { self_.copy_(resolved_); }", "void written() {}", "test_tensor_kinds.py"
    ),
    Mistake("csrc/eager_calls.cpp", "at::impl::torch_function_mode_enabled() ||", "", "test_eager_calls.py"),
    Mistake("csrc/eager_calls.cpp", "if (positional != known.required) return false;", "", "test_eager_calls.py"),
    Mistake("csrc/eager_calls.cpp", "PyList_GET_ITEM(object, i)", "PyList_GET_ITEM(object, 0)", "test_eager_calls.py"),
    Mistake(
        "csrc/eager_calls.cpp", "other.sizes() == input.sizes()", "other.dim() == input.dim()", "test_eager_calls.py"
    ),
    Mistake("csrc/generator_mark.cpp", "kNumbersOfState = 4", "kNumbersOfState = 2", "test_errors.py"),
    Mistake(
        "csrc/meta.cpp",
        "at::empty_symint({all[0].sym_size(-1)}",
        "at::empty_symint({all[0].sym_size(0)}",
        "test_pytorch.py",
    ),
    Mistake(
        "csrc/border.cpp", "t.stride(d - missing) * (complex_ ? 2 : 1)", "t.stride(d - missing)", "test_tensor_kinds.py"
    ),
    Mistake("csrc/autograd.cpp", "known < k && same(call, known, k) ?", "known < k ?", "test_pipelines.py"),
    Mistake("csrc/autograd.cpp", "t = inputs[0]._fw_grad(0).copy_(t);", "t = t.clone();", "test_inplace.py"),
    Mistake("csrc/rowwise_autograd.cpp", "if (none && wanted[0]) out[0] = out[1];", "", "test_norms.py"),
    Mistake(
        "csrc/rowwise_border.cpp",
        "if (mask.stride(-1) != 1 && mask.size(-1) > 1) mask = mask.contiguous();",
        "",
        "test_softmax.py",
    ),
    Mistake("csrc/ops.cpp", "  refuse_other_tensors(m, schema);\n", "", "test_tensor_kinds.py"),
    Mistake("csrc/refusal.cpp", "if (stem.back() == '_') stem.pop_back();", "", "test_tensor_kinds.py"),
    Mistake(
        "csrc/cpu_generator.h",
        "gen->random64() & ~uint64_t{3}",
        "gen->random64()",
        "test_contract.py",
        unit="csrc/cpu/elementwise.cpp",
    ),
    Mistake(
        "csrc/rowwise_ops.h",
        "if (args.masked || state.generator)",
        "if (args.masked)",
        "test_launches.py",
        unit="csrc/cpu/rowwise.cpp",
    ),
    Mistake(
        "csrc/rowwise_ops.h",
        "if (wanted[3]) grads.bias = sums.back();",
        "if (wanted[3]) grads.bias = sums.front();",
        "test_norms.py",
        unit="csrc/cpu/rowwise.cpp",
    ),
    Mistake("fused_dropout/rowwise.py", 'options["call_id"] = call_id(tensors[0])', "pass", "test_compile.py"),
)


def caught(mistake: Mistake | None, tests: str, *arguments: str, **variables: str) -> str:
    """The first test that fails in a copy of the project, or ""; pytest is given further arguments and variables."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("fused_dropout", "tests", "proof", "csrc"):
            shutil.copytree(host.ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(host.ROOT / "pyproject.toml", copy)
        if mistake is not None:
            host.plant(copy, (mistake.file, mistake.right, mistake.wrong))
            source = Path(mistake.unit or mistake.file)
            if source.suffix == ".cpp":
                extension.link(copy, {source: extension.compile_again(source, copy)})
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments, f"tests/{tests}"]
        environment = {**os.environ, **variables, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", ran.stdout, flags=re.MULTILINE)
        if ran.returncode and failed is None:
            return "the tests do not start"
        return failed[1] if failed else ""


def finding(mistake: Mistake, test: str) -> Finding:
    """Of a mistake, and of what `caught` said."""
    claim = f"{mistake.file}: `{mistake.right}` -> `{mistake.wrong}`"
    return Finding(claim, test or "not caught", "a test fails", bool(test) and test != "the tests do not start")


def findings(quick: bool) -> Iterator[Finding]:
    for tests in sorted({mistake.tests for mistake in MISTAKES}):
        failed = caught(None, tests)
        yield Finding(f"as it is: {tests}", failed or "passes", "passes", not failed)
    for mistake in MISTAKES:
        yield finding(mistake, caught(mistake, mistake.tests))
