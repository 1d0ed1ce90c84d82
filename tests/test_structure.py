"""The arrows: core <- cpu, cuda <- operations <- functional <- modules <- tools; and sizes that keep files readable."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"


def includes(path: Path) -> list[str]:
    return re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())


def is_torch(header: str) -> bool:
    return header.split("/")[0] in ("torch", "ATen", "c10", "pybind11")


@pytest.mark.parametrize("path", sorted((CSRC / "core").iterdir()), ids=lambda p: p.name)
def test_core_knows_neither_torch_nor_cuda_nor_its_users(path):
    for header in includes(path):
        assert not is_torch(header)
        assert "cuda" not in header
        assert ".." not in header


@pytest.mark.parametrize("path", sorted([*(CSRC / "cuda").glob("*.cu*"), *(CSRC / "cuda").glob("*.h"),
                                         *(CSRC / "cpu").glob("*.h"), *(CSRC / "cpu").glob("kernels_*.cpp")]),
                         ids=lambda p: p.name)  # fmt: skip
def test_kernels_and_launchers_carry_no_torch_header(path):
    assert not any(is_torch(header) for header in includes(path))


def test_backends_do_not_know_each_other():
    for backend, other in (("cpu", "cuda"), ("cuda", "cpu")):
        for path in (CSRC / backend).iterdir():
            assert not any(f"{other}/" in header for header in includes(path) if header.startswith("."))


def test_python_arrows():
    allowed = {
        "reference": set(),
        "_extension": {"reference"},
        "rng": {"_extension", "reference"},
        "_transforms": {"_extension", "reference"},
        "_nested": {"_extension", "reference"},
        "_dtensor": {"_extension", "reference"},
        "_calls": {"_extension", "_transforms", "reference", "rng"},
        "functional": {"_calls", "_extension", "reference", "rng"},
        "pipelines": {"_calls", "reference", "rng"},
        "activations": {"_calls", "rng"},
        "linear": {"_calls", "_extension", "_transforms", "reference", "rng"},
        "modules": {"_calls", "functional", "pipelines", "rng"},
    }
    allowed["rowwise"] = {"_calls", "_extension", "reference", "rng"}
    allowed["row_modules"] = {"_calls", "modules", "rng", "rowwise"}
    layers = {"_calls", "functional", "modules", "reference", "rng"}
    allowed |= {"weight_drop": layers, "recurrent": layers, "conversion": layers}
    allowed["prediction"] = layers | {"conversion", "weight_drop", "recurrent"}
    files = {path.stem for path in (ROOT / "fused_dropout").glob("*.py")}
    assert files == {*allowed, "__init__"}, "every file has its place among the arrows"
    for name, may in allowed.items():
        text = (ROOT / "fused_dropout" / f"{name}.py").read_text()
        used = set(re.findall(r"^from \.(\w+) import", text, re.M)) | {
            m
            for names in re.findall(r"^from \. import (.+)$", text, re.M)
            for m in re.findall(r"(\w+)(?: as \w+)?", names)
        }
        assert used & set(allowed) <= may, name


@pytest.mark.parametrize("file", ["functional.py", "pipelines.py", "activations.py"])
def test_a_file_of_functions_holds_public_ones_only(file):
    text = (ROOT / "fused_dropout" / file).read_text()
    names = re.findall(r"^(?:def|class) (\w+)", text, re.M)
    public = (ROOT / "fused_dropout" / "__init__.py").read_text()
    assert names
    for name in names:
        assert f'"{name}"' in public, name


def test_files_stay_readable():
    limits = [
        ("csrc/core/*.h", 125),
        ("csrc/c*/*.cu", 220),
        ("csrc/c*/*loops.h", 220),
        ("setup.py", 90),
        ("README.md", 200),
    ]
    for pattern, limit in limits:
        for path in ROOT.glob(pattern):
            assert len(path.read_text().splitlines()) <= limit, path.name


def test_the_polarity_of_p_is_decided_in_one_header():
    """Nobody else subtracts from 1 or divides by what is left, and no other name for p or for keep exists."""
    for path in [*CSRC.rglob("*.*"), *(ROOT / "fused_dropout").glob("*.py")]:
        if path.suffix in (".so", ".json"):
            continue
        code = re.sub(r'//.*|#.*|"""(?:.|\n)*?"""', "", path.read_text()) if path.suffix != ".cu" else path.read_text()
        if path.name == "conversion.py":
            code = code.replace('"drop_prob"', "")  # the attribute of another library, as data
        assert not re.search(r"keep_prob|drop_prob|drop_rate|\brate\b", code), path.name
        if path.name not in ("probability.h", "reference.py"):
            assert not re.search(r"\b1(\.0f?)? ?- ?p\b", code), path.name
