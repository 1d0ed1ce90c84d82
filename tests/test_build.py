"""Loading, falling back, and what the build says of itself."""

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import fused_dropout
from fused_dropout import _extension, reference

ROOT = Path(__file__).parent.parent


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip


def copy_of_the_package(tmp_path: Path, built_for: str | None) -> Path:
    """The package without its extension, or with a record that it was built for another torch."""
    package = tmp_path / "fused_dropout"
    shutil.copytree(
        ROOT / "fused_dropout", package, ignore=shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    )
    if built_for is not None:
        (package / "_build.json").write_text(json.dumps({"torch": built_for}))
    return tmp_path


USE_IT = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import fused_dropout, torch
        torch.manual_seed(42)
        x = torch.arange(1.0, 65.0, requires_grad=True)
        outputs = [
            fused_dropout.dropout(x, 0.3),
            fused_dropout.dropout(x, 0.3, rng=(5, 8)),
            fused_dropout.alpha_dropout(x, 0.3, True),
            fused_dropout.dropout_add(x, x, 0.3),
            fused_dropout.Dropout(0.2, inplace=True)(x * 1),
            fused_dropout.dropout(x, 0.3, noise_shape=(1,)),
            fused_dropout.dropout(x, torch.tensor(0.3, dtype=torch.float64), rng=fused_dropout.draw()),
            fused_dropout.dropout(x, 0.3, False, mode="downscale_in_infer"),
        ]
        outputs += [g for y in outputs for g in torch.autograd.grad(y.sum(), x)]
    print([y.tolist() for y in outputs])
    print(fused_dropout.build_info()["extension"], [str(w.message) for w in caught])
"""


@pytest.mark.parametrize(
    ("built_for", "reason"),
    [
        (None, "the extension has not been built"),
        ("1.13.1", f"built for torch 1.13.1, and this is torch {torch.__version__}"),
    ],
)
def test_the_reference_takes_over_with_one_warning_and_the_same_results(built_for, reason, tmp_path):
    path = str(copy_of_the_package(tmp_path, built_for))
    code = f"import sys; sys.path.insert(0, {path!r})\n" + textwrap.dedent(USE_IT)
    fallback, native = python(code), python(USE_IT)
    assert native.returncode == 0, native.stderr
    assert fallback.returncode == 0, fallback.stderr
    values, said = fallback.stdout.splitlines()
    assert native.stdout.splitlines()[1] == "True []"
    got, want = (torch.tensor(ast.literal_eval(text)) for text in (values, native.stdout.splitlines()[0]))
    assert torch.equal(got, want)
    extension, warnings = said.split(" ", 1)
    (warning,) = ast.literal_eval(warnings)
    assert extension == "False"
    assert reason in warning
    assert "pip install --no-build-isolation" in warning


def test_a_checkout_says_that_it_hides_what_is_installed(tmp_path):
    package = copy_of_the_package(tmp_path, None)
    (package / "setup.py").touch()
    said = python(f"import sys; sys.path.insert(0, {str(package)!r}); import fused_dropout").stderr
    assert "a checkout's folder, which is imported in place of an installed package" in said


def test_wrong_calls_of_the_fallback_raise_as_the_extension_does(tmp_path):
    path = str(copy_of_the_package(tmp_path, None))
    result = python(f"""
        import sys, warnings; sys.path.insert(0, {path!r}); warnings.simplefilter("ignore")
        import torch, fused_dropout
        leaf = torch.ones(3, requires_grad=True)
        before = torch.get_rng_state()
        for call in (
            lambda: fused_dropout.dropout(torch.ones(3), 1.5),
            lambda: fused_dropout.dropout(torch.ones(3).long()),
            lambda: fused_dropout.dropout(leaf, inplace=True),
            lambda: fused_dropout.dropout(torch.ones(3), rng=torch.ones(2)),
        ):
            try: call()
            except Exception as e: print(type(e).__name__, e)
        assert torch.equal(before, torch.get_rng_state())
    """)
    assert result.returncode == 0, result.stderr
    kinds = [line.split()[0] for line in result.stdout.splitlines()]
    assert kinds == ["ValueError", "RuntimeError", "RuntimeError", "ValueError"]


def test_build_info():
    info = fused_dropout.build_info()
    assert info["torch"] == torch.__version__
    assert info["extension"] is True
    assert info["cpu_instruction_sets"][-1] == "portable"
    assert info["cpu_instruction_set"] in info["cpu_instruction_sets"]
    assert (info["cuda"] is None) == (not info["cuda_architectures"])


@pytest.mark.parametrize("name", fused_dropout.build_info()["cpu_instruction_sets"])
def test_environment_chooses_the_instruction_set(name):
    code = "import fused_dropout; print(fused_dropout.build_info()['cpu_instruction_set'])"
    assert python(code, FUSED_DROPOUT_CPU_CAPABILITY=name).stdout.strip() == name


def test_an_unknown_instruction_set_in_the_environment_is_refused():
    result = python("import fused_dropout; fused_dropout.build_info()", FUSED_DROPOUT_CPU_CAPABILITY="mmx")
    assert "CPU instruction set 'mmx' is not available here" in result.stderr


def test_fallback_offers_every_operation():
    schemas = {
        name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "fused_dropout::" in name
    }
    assert schemas == set(_extension.NAMES)
    assert all(callable(getattr(reference, name)) for name in _extension.NAMES)


@pytest.mark.skipif(
    torch.version.cuda is not None and Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc").exists(),
    reason="nothing is missing here",
)
def test_force_cuda_says_what_is_missing():
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "FORCE_CUDA": "1"},
    )  # fmt: skip
    assert result.returncode != 0
    assert "FORCE_CUDA is set, but there is no" in result.stderr


def test_missing_torch_gives_one_line_with_the_remedy(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode != 0
    assert (
        result.stderr.strip().splitlines()[-1].startswith("fused_dropout builds against the torch you use: pip install")
    )
    assert "Traceback" not in result.stderr
