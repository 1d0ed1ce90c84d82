"""The harness: the only place with a clock.

What is compared is measured in one run, a sample of each in turn, so that whatever slows the machine slows all. The CPU
is timed with `time.perf_counter_ns`, around enough repeats that the clock's own cost does not show; what a call returns
is freed within the time, as in a loop of the user's. CUDA is timed with events. The CUDA half was written on a machine
without a GPU and has not been run there.
"""

import datetime
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch

MIN_SAMPLE = {"cpu": 2e-3, "cuda": 1e-4}  # seconds that a sample is repeated to; a CUDA event ticks in half a us
MAX_REPEATS = 10_000
GPU_HEAD_START = 2_000_000  # cycles for which a GPU is kept busy, about 1 ms, so that launches queue up behind it


@dataclass(frozen=True)
class Task:
    """Something to time: `call`, and `before`, which restores what a call has overwritten, outside of the time.

    With `before`, a sample is a single call.
    """

    call: Callable[[], Any]
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Effort:
    """How long to measure what is compared: for `seconds`, within `least` and `most` samples of each."""

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

    def scaled(self, unit: float) -> dict[str, float]:
        """As results have them; `unit` is 1e3 for milliseconds of seconds."""
        return {"median": self.median * unit, "p20": self.p20 * unit, "p80": self.p80 * unit}


@dataclass(frozen=True)
class Timing:
    """A task's seconds a call, and the quantiles of the first task's time divided by its own, turn by turn."""

    seconds: Quantiles
    first_to_this: Quantiles
    samples: int
    repeats: int


def measure(tasks: Sequence[Task], device: str, effort: Effort) -> list[Timing]:
    """Times tasks on "cpu" or "cuda": warm-up, then a sample of each in turn, again and again."""
    sample = _cuda_sample if device == "cuda" else _cpu_sample
    repeats, costs = zip(*(_warm_up(task, device, sample) for task in tasks), strict=True)
    count = min(max(int(effort.seconds / sum(costs)), effort.least), effort.most)
    readers: list[list[Callable[[], float]]] = []
    with _collector_off():
        if device == "cuda":
            torch.cuda._sleep(GPU_HEAD_START)  # type: ignore[no-untyped-call]
        for _ in range(count):
            readers.append([sample(task, often) for task, often in zip(tasks, repeats, strict=True)])
    turns = [[read() for read in turn] for turn in readers]
    return [
        Timing(Quantiles.of(seconds), Quantiles.of([turn[0] / turn[k] for turn in turns]), count, repeats[k])
        for k, seconds in enumerate(zip(*turns, strict=True))
    ]


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
