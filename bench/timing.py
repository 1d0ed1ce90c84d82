"""The harness: the only place with a clock.

A subject and its baseline are measured in one run, a sample of one after a sample of the other, so that whatever slows
the machine slows both. The CPU is timed with `time.perf_counter_ns`, around enough repeats that the clock's own cost
does not show; what a call returns is freed within the time, as in a loop of the user's. CUDA is timed with events.
The CUDA half was written on a machine without a GPU and has not been run there.
"""

import datetime
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

MIN_SAMPLE = {"cpu": 2e-3, "cuda": 1e-4}  # seconds that a sample is repeated to; a CUDA event ticks in half a us
MAX_REPEATS = 10_000
GPU_HEAD_START = 2_000_000  # cycles for which a GPU is kept busy, about 1 ms, so that launches queue up behind it


@dataclass(frozen=True)
class Task:
    """Something to time: `call`, and `before`, which restores what a call has overwritten, outside of the time.

    With `before`, a sample is a single call.
    """

    call: Callable[[], Tensor]
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Effort:
    """How long to measure a pair: for `seconds`, within `least` and `most` samples of each side."""

    seconds: float
    least: int
    most: int


@dataclass(frozen=True)
class Quantiles:
    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quantiles":
        p20, _, _, p80 = statistics.quantiles(values, n=5, method="inclusive")
        return cls(statistics.median(values), p20, p80)


@dataclass(frozen=True)
class Timing:
    """Seconds a call of both sides; `ratio` is that of the medians, `pairs` the quantiles of the ratio of each pair."""

    subject: Quantiles
    baseline: Quantiles
    pairs: Quantiles
    samples: int
    repeats: tuple[int, int]

    @property
    def ratio(self) -> float:
        return self.subject.median / self.baseline.median


def measure(subject: Task, baseline: Task, device: str, effort: Effort) -> Timing:
    """Times two tasks on "cpu" or "cuda": warm-up, then samples in the order subject, baseline, subject, baseline."""
    sample = _cuda_sample if device == "cuda" else _cpu_sample
    (subject_repeats, subject_cost), (baseline_repeats, baseline_cost) = (
        _warm_up(task, device, sample) for task in (subject, baseline)
    )
    count = int(effort.seconds / (subject_cost + baseline_cost))
    count = min(max(count, effort.least), effort.most)
    readers: list[tuple[Callable[[], float], Callable[[], float]]] = []
    with _collector_off():
        if device == "cuda":
            torch.cuda._sleep(GPU_HEAD_START)  # type: ignore[no-untyped-call]
        for _ in range(count):
            readers.append((sample(subject, subject_repeats), sample(baseline, baseline_repeats)))
    times = [(read_subject(), read_baseline()) for read_subject, read_baseline in readers]
    return Timing(
        subject=Quantiles.of([ours for ours, _ in times]),
        baseline=Quantiles.of([theirs for _, theirs in times]),
        pairs=Quantiles.of([ours / theirs for ours, theirs in times]),
        samples=count,
        repeats=(subject_repeats, baseline_repeats),
    )


def rotating(tasks: Sequence[Task]) -> Task:
    """The tasks one after another, each on its own buffers: on a GPU, what a call finds in L2 is another's."""
    if len(tasks) == 1:
        return tasks[0]
    if any(task.before is not None for task in tasks):
        raise ValueError("rotating: expected tasks without `before`, which would be within the time")
    turn = cycle(task.call for task in tasks)
    return Task(lambda: next(turn)())


def utc_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _warm_up(task: Task, device: str, sample: Callable[[Task, int], Callable[[], float]]) -> tuple[int, float]:
    """Calls a task until it is warm; the repeats that fill a sample, and the seconds that such a sample takes."""
    sample(task, 1)()
    once = sample(task, 1)()
    repeats = 1
    if task.before is None:
        # Twice: what a first estimate calls short is timed over many calls before it is believed.
        for _ in range(2):
            repeats = min(max(round(MIN_SAMPLE[device] / max(once, 1e-9)), 1), MAX_REPEATS)
            once = sample(task, repeats)()
    begin = time.perf_counter_ns()
    sample(task, repeats)()
    return repeats, max(time.perf_counter_ns() - begin, 1) * 1e-9


def _cpu_sample(task: Task, repeats: int) -> Callable[[], float]:
    """Takes a sample; returns what reads its seconds a call."""
    if task.before is not None:
        task.before()
    call, rounds = task.call, range(repeats)
    begin = time.perf_counter_ns()
    for _ in rounds:
        call()
    seconds = (time.perf_counter_ns() - begin) * 1e-9 / repeats
    return lambda: seconds


def _cuda_sample(task: Task, repeats: int) -> Callable[[], float]:
    """Enqueues a sample; returns what waits for it and reads its seconds a call."""
    if task.before is not None:
        task.before()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeats):
        task.call()
    end.record()

    def read() -> float:
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 / repeats

    return read


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
