"""What a proof finds, and the report of it in Markdown."""

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

import fused_dropout


@dataclass(frozen=True)
class Finding:
    """A claim, the figure that was measured or counted, and the bar that it had to meet."""

    claim: str
    figure: str
    bar: str
    holds: bool


class Section(Protocol):
    """A module of this package."""

    TITLE: str
    METHOD: str

    def findings(self, quick: bool) -> Iterator[Finding]: ...


def markdown(found: Mapping[str, tuple[Section, Sequence[Finding]]], command: str, minutes: float) -> str:
    rows = [finding for _, findings in found.values() for finding in findings]
    missed = [finding.claim for finding in rows if not finding.holds]
    lines = [
        "# Proof",
        "",
        f"Made by `{command}` in {minutes:.0f} minutes, at commit {_commit()}, on {_processor()}, "
        f"torch {torch.__version__}, {', '.join(fused_dropout.build_info()['cpu_instruction_sets'])}.",
        "",
        f"{len(rows) - len(missed)} of {len(rows)} claims hold." + (f" Missed: {'; '.join(missed)}." if missed else ""),
    ]
    for name, (section, findings) in found.items():
        lines += ["", f"## {section.TITLE}", "", section.METHOD, "", f"Alone: `python -m proof --only {name}`.", ""]
        lines += ["| claim | found | bar | |", "| --- | --- | --- | --- |"]
        lines += [f"| {f.claim} | {f.figure} | {f.bar} | {'holds' if f.holds else '**missed**'} |" for f in findings]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
