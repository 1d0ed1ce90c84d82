"""Runs a call in two ways, as PTX and on the host, and compares every byte of every buffer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .arithmetic import Array
from .calls import Call
from .device import Device
from .large import Large
from .memory import AccessError, Memory
from .shared import RaceError

BLOCKS = 32  # at once


@dataclass
class Outcome:
    """What is wrong, which is nothing where all is well, and how much was run."""

    wrong: str = ""
    elements: int = 0
    threads: int = 0
    executed: Counter[str] = field(default_factory=Counter)  # instructions of each kernel


def on_the_host(device: Device, call: Call) -> dict[str, Array]:
    """What the kernels' source leaves in the buffers, compiled for the host."""
    memory = {name: np.zeros(len(buffer.bytes) + 32, dtype=np.uint8) for name, buffer in call.buffers.items()}
    there, views = {}, {}
    for name, buffer in call.buffers.items():
        begin = -memory[name].ctypes.data % 16 + buffer.begin
        views[name] = memory[name][begin : begin + len(buffer.bytes)]
        views[name][:] = buffer.bytes
        there[name] = memory[name].ctypes.data + begin
    call.invoke(device.hosts[call.library], there)
    return views


def as_ptx(device: Device, call: Call) -> tuple[dict[str, Array], Outcome]:
    memory, there, views, regions = Memory(), {}, {}, {}
    for name, buffer in call.buffers.items():
        regions[name], there[name] = memory.allocate(name, len(buffer.bytes), buffer.begin, buffer.writable)
        views[name] = regions[name].bytes(0, len(buffer.bytes))
        views[name][:] = buffer.bytes
    launches = device.launches(call.library, lambda library: call.invoke(library, there))
    threads = sum(launch.blocks * launch.threads for launch in launches)
    outcome = Outcome("", call.elements, threads)
    try:
        for launch in launches:
            for first in range(0, launch.blocks, BLOCKS):
                some = range(first, min(first + BLOCKS, launch.blocks))
                outcome.executed[launch.kernel] += device.run(launch, memory, some)
    except (AccessError, RaceError, ZeroDivisionError) as error:
        outcome.wrong = f"{call.what}: {error}"
    for name, region in regions.items():
        if name.startswith("y") and region.written > region.size and not outcome.wrong:
            outcome.wrong = f"{call.what}: {name} is {region.size:,} bytes, and {region.written:,} are written"
        if call.width and region.widths - {call.width} and not outcome.wrong:
            outcome.wrong = f"{call.what}: {name} is written {sorted(region.widths)} bytes at a time"
    return views, outcome


def compared(device: Device, call: Call, oracle: Device | None) -> Outcome:
    """With what the extension has made, and with what the kernels of `oracle` make on the host."""
    got, outcome = as_ptx(device, call)
    wanted = [("the extension's", call.expected)] + ([("the host's", on_the_host(oracle, call))] if oracle else [])
    for whose, want in wanted:
        outcome.wrong = outcome.wrong or _difference(call, got, whose, want)
    return outcome


def _difference(call: Call, got: Mapping[str, Array], whose: str, want: Mapping[str, Array]) -> str:
    for name, right in want.items():
        differs = np.flatnonzero(got[name] != right)
        if len(differs):
            return f"{call.what}: {name} has not {whose} bytes, from {int(differs[0]):,} on"
    return ""


def compared_in_parts(device: Device, large: Large, oracle: Device) -> Outcome:
    """The blocks of its parts, each with what the extension and the host make of that part; nothing else is written."""
    memory, there, regions, written = Memory(), {}, {}, dict.fromkeys(large.sizes, 0)
    for name, size in large.sizes.items():
        buffer = large.parts[0].call.buffers[name]
        regions[name], there[name] = memory.allocate(name, size, buffer.begin, buffer.writable)
    for part in large.parts:
        for piece in part.pieces:
            buffer = part.call.buffers[piece.name]
            regions[piece.name].bytes(piece.whole, piece.whole + piece.count)[:] = buffer.bytes[
                piece.part : piece.part + piece.count
            ]
            written[piece.name] += piece.count * buffer.writable
    launches = device.launches(large.library, lambda library: large.invoke(library, there))
    numbers = [part.block for part in large.parts]
    elements = sum(part.call.elements for part in large.parts)
    outcome = Outcome("", elements, sum(len(numbers) * launch.threads for launch in launches))
    try:
        for launch in launches:
            device.run(launch, memory, numbers)
    except (AccessError, RaceError, ZeroDivisionError) as error:
        outcome.wrong = f"{large.what}: {error}"
        return outcome
    for part in large.parts:
        want = on_the_host(oracle, part.call) | part.call.expected
        for piece in part.pieces:
            got = regions[piece.name].bytes(piece.whole, piece.whole + piece.count)
            if not np.array_equal(got, want[piece.name][piece.part : piece.part + piece.count]):
                outcome.wrong = f"{large.what}: {piece.name} of block {part.block:,} has other bytes"
    for name, count in written.items():
        if count and regions[name].written != count and not outcome.wrong:
            outcome.wrong = f"{large.what}: {regions[name].written:,} bytes of {name} are written, and not {count:,}"
    return outcome
