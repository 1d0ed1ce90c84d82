"""The README's code runs, and its numbers are those of a result file."""

import re
from pathlib import Path

import pytest
import torch

from fused_dropout.bench import files, readme, series

ROOT = Path(__file__).parent.parent
RESULT_FILES = sorted((ROOT / "bench" / "results").glob("*.json"))
TEXT = (ROOT / "README.md").read_text()


def test_every_code_block_runs_in_order():
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["channels"].shape == names["images"].shape
    assert not torch.equal(names["h"], names["again"])


def test_measured_numbers_are_those_of_the_result_file():
    section = TEXT.split(readme.BEGIN)[1].split(readme.END)[0]
    (name,) = set(re.findall(r"bench/results/([\w.-]+\.json)", section))
    assert section == readme.readme(ROOT / "bench" / "results" / name)
    for path in RESULT_FILES:
        device = files.read_json(path)["provenance"]["device"]
        assert readme.RESULTS[device].read_text() == readme.results(path), path.name


def test_every_missed_target_is_marked():
    for path in RESULT_FILES:
        missed = sum(row["met"] is False for row in files.read_json(path)["rows"])
        assert len(re.findall(r"\d!|\)!", readme.results(path))) == missed


def test_plots_are_drawn_from_the_result_files():
    for path in RESULT_FILES:
        result = files.read_json(path)
        figures = {f"{series.stem(result)}-{figure.name}.svg": figure.digest for figure in series.figures(result)}
        assert {svg.name for svg in path.parent.glob(f"{path.stem}-*.svg")} == set(figures), "the data has other plots"
        for name, digest in figures.items():
            assert digest in (path.parent / name).read_text(), f"{name} was drawn from other data"


def test_plots_are_as_this_version_of_matplotlib_draws_them(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    from fused_dropout.bench import plots

    for path in RESULT_FILES:
        for drawn in plots.draw(files.read_json(path), tmp_path):
            committed = path.parent / drawn.name
            if drawn.suffix == ".svg" and f"Matplotlib v{matplotlib.__version__}," in committed.read_text():
                assert drawn.read_text() == committed.read_text(), drawn.name


def test_images_that_are_shown_exist():
    for document in (ROOT / "README.md", *(ROOT / "bench").glob("RESULTS*.md")):
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", document.read_text()):
            assert (document.parent / link).exists(), link


def test_commands_and_files_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in (TEXT, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"^    make ([\w-]+)", document, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for path in re.findall(r"`((?:tests|bench|csrc|examples|proof)/[\w./-]+\.\w+)`", document):
            assert (ROOT / path).exists(), path
