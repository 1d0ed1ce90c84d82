"""What a proof finds: kept as a file a section, and made into a report in Markdown."""

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch

import fused_dropout


@dataclass(frozen=True)
class Finding:
    """A claim, the figure that was measured or counted, and the bar that it had to meet."""

    claim: str
    figure: str
    bar: str
    holds: bool


class Skipped(Exception):
    """A section cannot run here; the text says why."""


class Section(Protocol):
    """A module of this package."""

    TITLE: str
    METHOD: str

    def findings(self, quick: bool) -> Iterator[Finding]: ...


def save(folder: Path, name: str, findings: Sequence[Finding], minutes: float, commit: str) -> None:
    """As `folder`/NAME.json, with where the findings come from."""
    facts = {
        "commit": commit,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "torch": torch.__version__,
        "instruction_sets": fused_dropout.build_info()["cpu_instruction_sets"],
        "minutes": round(minutes, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # NumPy's truth values are not JSON's.
    data = {"facts": facts, "findings": [asdict(finding) | {"holds": bool(finding.holds)} for finding in findings]}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def commit() -> str:
    """What is checked out, and whether anything but reports was changed since."""
    if shutil.which("git") is None:
        return "unknown"
    here = Path(__file__).parent
    made = [f":(exclude,top){path}" for path in ("proof/results", "proof/REPORT.md")]
    head = ["git", "rev-parse", "--short=12", "HEAD"]
    changed = ["git", "status", "--porcelain", "--", ":(top)", *made]
    name, changes = (
        subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip() for command in (head, changed)
    )
    return (name + "-dirty" if changes else name) or "unknown"


def markdown(folder: Path, sections: Mapping[str, Section]) -> str:
    """Of the sections that have a file in `folder`."""
    found = {name: _load(folder / f"{name}.json") for name in sections if (folder / f"{name}.json").exists()}
    rows = [finding for _, findings in found.values() for finding in findings]
    missed = [finding.claim for finding in rows if not finding.holds]
    absent = [section.TITLE for name, section in sections.items() if name not in found]
    lines = [
        "# Proof",
        "",
        "Made by `python -m proof --save` from `proof/results`; a section says how to make it again.",
    ]
    lines += ["", f"{len(rows) - len(missed)} of {len(rows)} claims hold."]
    lines += [f"Missed: {'; '.join(missed)}."] if missed else []
    lines += [f"Not run: {', '.join(absent)}."] if absent else []
    for name, (facts, findings) in found.items():
        machine = f"{facts['machine']} ({', '.join(facts['instruction_sets'])}), torch {facts['torch']}"
        lines += ["", f"## {sections[name].TITLE}", "", sections[name].METHOD, ""]
        lines += [f"`python -m proof --only {name} --save`: {facts['minutes']:g} minutes on {machine}, "
                  f"commit {facts['commit']}, {facts['date']}.", ""]  # fmt: skip
        lines += ["| claim | found | bar | |", "| --- | --- | --- | --- |"]
        lines += [f"| {_cell(f.claim)} | {_cell(f.figure)} | {_cell(f.bar)} | {'holds' if f.holds else '**missed**'} |"
                  for f in findings]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _load(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    data = json.loads(path.read_text())
    return data["facts"], [Finding(**each) for each in data["findings"]]


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} cores"
