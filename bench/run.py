"""Measures what was chosen: rows, the sweep, the machine's limits and memory, with a progress bar."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from . import limits, memory, peers, report, saved, sweep, work
from .cases import Case, cases, families
from .choice import Choice, Level, kind
from .inputs import rings
from .provenance import provenance
from .timing import Effort, Task, measure, rotating

EFFORT = {Level.QUICK: Effort(0.5, 5, 40), Level.DEFAULT: Effort(1.0, 7, 60), Level.FULL: Effort(1.8, 9, 100)}
Labelled = TypeVar("Labelled", Case, sweep.Point)


def run(choice: Choice) -> dict[str, Any]:
    """The result as it is written. What was not chosen by name, size or peer is left out, and so are, where something
    was, the limits of the machine and memory. Interrupted, it is what was measured until then, and says so."""
    chosen, points = list(cases(choice)), list(sweep.points(choice))
    others = peers.peers(choice)
    facts, threads = provenance(choice), torch.get_num_threads()
    result: dict[str, Any] = {"provenance": facts, "peers": {peer.name: peer.skipped for peer in others}}
    result |= {"rows": [], "sweep": [], "refused": [], "cut_short": False}
    try:
        check_all(chosen)
        with tqdm(total=len(chosen) + len(points), unit="case", leave=False, disable=None) as bar:
            for case in _each(chosen, bar):
                row = _row(case, choice)
                result["refused" if "refused" in row else "rows"].append(row)
            for point in _each(points, bar):
                result["sweep"] += sweep.measure_point(point, others, choice)
        if not choice.filtered:
            result["limits"] = limits.limits(choice, EFFORT[choice.level])
            result["saved_for_backward"] = saved.saved_for_backward(choice.p, choice.device)
            if choice.level > Level.QUICK:
                result["training_steps"] = [memory.compare(name, choice.p, choice.device) for name in memory.SHAPES]
    except KeyboardInterrupt:
        if not result["rows"] and not result["sweep"]:
            raise
        result["cut_short"] = True
    finally:
        torch.set_num_threads(threads)
    return result


def check_all(chosen: Iterable[Case]) -> None:
    """Checks every subject against the reference, before anything is timed."""
    for case in chosen:
        if case.threads:
            torch.set_num_threads(case.threads)
        few = case.inputs(min(case.numel, work.CHECKED), case.dtype, case.device)
        work.check(case.label, case.subject, case.oracle, few, case.exact)


def unknown(choice: Choice) -> str:
    """What is wrong with the choice: a name that does not exist, or nothing left to measure; or nothing."""
    names, versus = sweep.names(choice)
    for family in families(choice.device, choice.p):
        names.add(family.name)
        versus |= {family.versus, kind(family.versus)}
    shown = {kind(peer) for peer in versus}
    for option, given, may, known in (
        ("operations", choice.operations, names, names),
        ("peers", choice.peers, versus, shown),
    ):
        if wrong := set(given) - may:
            return f"--{option}: expected some of {', '.join(sorted(known))}; but got {', '.join(sorted(wrong))}"
    if not any(cases(choice)) and not any(sweep.points(choice)):
        return "nothing is left to measure: --dtype, --sizes, --operations, --peers and --only must leave something"
    return ""


def _each(items: Iterable[Labelled], bar: Any) -> Iterator[Labelled]:
    for item in items:
        bar.set_postfix_str(item.label)
        yield item
        bar.update()


def _row(case: Case, choice: Choice) -> dict[str, Any]:
    """Measures a case's subject beside its baseline; or says why that one cannot run."""
    if case.threads:
        torch.set_num_threads(case.threads)
    subject = _cold(case, case.subject)
    try:
        baseline = _cold(case, case.baseline)
        baseline.call()
    except Exception as error:  # another library's, as in the sweep
        return report.refused(case, error)
    return report.row_of(case, choice.p, *measure([subject, baseline], case.device, EFFORT[choice.level]))


def _cold(case: Case, factory: work.Factory) -> Task:
    """A task on inputs of its own; on CUDA one of several in turn."""
    sets = rings(case.device, case.numel * case.dtype.itemsize)
    return rotating([factory(*case.inputs(case.numel, case.dtype, case.device)) for _ in range(sets)])
