"""The README's code runs, and its numbers are those of a result file."""

import re
from pathlib import Path

import torch

from fused_dropout.bench import readme

ROOT = Path(__file__).parent.parent
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
    assert readme.RESULTS.read_text() == readme.results(ROOT / "bench" / "results" / name)


def test_commands_and_files_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in (TEXT, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"^    make ([\w-]+)", document, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for path in re.findall(r"`((?:tests|bench|csrc|examples|proof)/[\w./-]+\.\w+)`", document):
            assert (ROOT / path).exists(), path
