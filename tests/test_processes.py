"""Threads, forked and spawned processes, DataLoader's workers: no draw is lost, none repeated, and seeds decide."""

import multiprocessing
import os
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import fused_dropout
from fused_dropout._extension import ops

TIMEOUT = 60  # seconds after which a thread or a process counts as hanging
THREADS = 16
CALLS = 1000  # a thread
X = torch.ones(64)  # small, so that no loop asks for more threads; a mask of 64 bits, so that no two states share one
MODULE = fused_dropout.Dropout(0.5)
STATE = (2**63 + 5, 16)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # by torch's threads


def mask(y: torch.Tensor) -> bytes:
    return bytes((y != 0).tolist())


# Threads -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy():
    """Python changes threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work) -> list:
    """work(i) in 16 threads that begin together; one that raises or hangs fails the test and blocks nothing."""
    begin, results, deadline = threading.Barrier(THREADS), {}, time.monotonic() + TIMEOUT

    def run(i):
        begin.wait(TIMEOUT)
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert sorted(results) == list(range(THREADS)), "the other threads raised, or hang"
    return [results[i] for i in range(THREADS)]


SHARED = {
    "a generator": lambda generator: fused_dropout.dropout(X, generator=generator),
    "the default generator": lambda _: fused_dropout.dropout(X),
    "a module": lambda _: MODULE(X),
    "in place": lambda _: fused_dropout.dropout(X.clone(), inplace=True),
}


@pytest.mark.parametrize("shared", SHARED)
def test_threads_that_share_a_generator_lose_no_draw_and_repeat_none(shared, busy):
    """Whole calls: their masks are those of as many calls in sequence, and the generator stands where it would."""
    call = SHARED[shared]
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    masks = in_threads(lambda i: [mask(call(generator)) for _ in range(CALLS)])
    stands = torch.get_rng_state(), generator.get_state()
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    want = [mask(call(generator)) for _ in range(THREADS * CALLS)]
    assert sorted(chain(*masks)) == sorted(want)
    assert len(set(want)) == len(want)
    assert torch.equal(stands[0], torch.get_rng_state())
    assert torch.equal(stands[1], generator.get_state())


def test_threads_with_different_layers_advance_a_generator_once_a_call(busy):
    calls = [
        fused_dropout.dropout,
        fused_dropout.gaussian_dropout,
        lambda x, **options: fused_dropout.alpha_dropout(x, 0.5, True, **options),
        lambda x, **options: fused_dropout.dropout_add(x, x, **options),
    ]
    generator = torch.Generator().manual_seed(3)
    in_threads(lambda i: [calls[i % 4](X, generator=generator) for _ in range(CALLS)])
    alone = torch.Generator().manual_seed(3)
    for _ in range(THREADS * CALLS):
        fused_dropout.draw(generator=alone)
    assert torch.equal(generator.get_state(), alone.get_state())


def test_each_threads_outputs_and_gradients_are_those_of_the_states_it_drew(busy):
    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(257, requires_grad=True) for _ in range(THREADS)]

    def work(i):
        rows = []
        for _ in range(CALLS // 8):
            y, state = ops.dropout(inputs[i], 0.3, generator=generator)
            rows.append((y, state, *torch.autograd.grad(y.sum(), inputs[i])))
        return rows

    drawn = set()
    for x, rows in zip(inputs, in_threads(work), strict=True):
        for y, state, grad in rows:
            drawn.add(tuple(state.tolist()))
            assert torch.equal(y, ops.dropout_apply(x, state, 0.3))
            assert torch.equal(y != 0, fused_dropout.keep_mask(x.shape, 0.3, state))
            assert torch.equal(grad, ops.dropout_apply(torch.ones_like(x), state, 0.3))
    alone = torch.Generator().manual_seed(4)
    assert drawn == {tuple(fused_dropout.draw(generator=alone).tolist()) for _ in range(THREADS * (CALLS // 8))}


def test_threads_that_share_a_graph_each_get_their_own_gradient(busy):
    """One node, run by all of them at once."""
    x, gradients = torch.randn(257, requires_grad=True), torch.randn(THREADS, 257)
    y, state = ops.dropout(x, 0.3)

    def work(i):
        return [torch.autograd.grad(y, x, gradients[i], retain_graph=True)[0] for _ in range(CALLS // 8)]

    for gradient, rows in zip(gradients, in_threads(work), strict=True):
        want = ops.dropout_apply(gradient, state, 0.3)
        assert all(torch.equal(row, want) for row in rows)


def test_threads_with_generators_of_their_own_repeat_their_sequential_runs(busy):
    def work(i):
        generator = torch.Generator().manual_seed(i)
        return [mask(fused_dropout.dropout(X, generator=generator)) for _ in range(CALLS)]

    before = torch.get_rng_state()
    got = in_threads(work)
    assert got == [work(i) for i in range(THREADS)]
    assert len(set(chain(*got))) == THREADS * CALLS
    assert torch.equal(before, torch.get_rng_state())


def test_threads_that_each_use_more_threads_get_the_same_bits(threads):
    x = torch.randn(1 << 17)
    want = fused_dropout.dropout(x, 0.3, rng=STATE)
    threads(2)
    for rows in in_threads(lambda i: [fused_dropout.dropout(x, 0.3, rng=STATE) for _ in range(4)]):
        assert all(torch.equal(row, want) for row in rows)


FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a global interpreter lock")
def test_the_import_leaves_the_interpreter_lock_off():
    """A module that does not say that it can do without turns it on, for all."""
    code = "import sys, torch; print(sys._is_gil_enabled()); import fused_dropout; print(sys._is_gil_enabled())"
    env = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}  # which would decide it
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=TIMEOUT)
    assert result.stdout.split() == ["False", "False"], result.stderr


# Processes -----------------------------------------------------------------------------------------------------------


def answer(connection, work, arguments) -> None:
    """What a child does: no tensor goes through the pipe, only what it holds."""
    try:
        connection.send((work(*arguments), None))
    except BaseException:
        connection.send((None, traceback.format_exc()))


def in_processes(method, work, rows) -> list:
    """work(*row) of each row in a child; one that raises or hangs fails the test, and none outlives it."""
    context = multiprocessing.get_context(method)
    children, answers = [], []
    try:
        for row in rows:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=answer, args=(sender, work, row), daemon=True)
            child.start()
            sender.close()
            children.append((child, receiver))
        for child, receiver in children:
            assert receiver.poll(TIMEOUT), f"a child of {method} hangs"
            result, error = receiver.recv()
            assert error is None, error
            child.join(TIMEOUT)
            assert child.exitcode == 0
            answers.append(result)
    finally:
        for child, _ in children:
            if child.is_alive():
                child.kill()
            child.join(TIMEOUT)
    return answers


def draws(generator=None) -> dict:
    """What dropout and torch.rand draw in turn."""
    drawn = [(fused_dropout.dropout(X, generator=generator), torch.rand(4, generator=generator)) for _ in range(3)]
    return {"masks": [mask(y) for y, _ in drawn], "rand": [r.tolist() for _, r in drawn]}


def seeded(seed) -> dict:
    torch.manual_seed(seed)
    return draws()


@pytest.mark.parametrize("which", ["the default generator", "a generator"])
def test_forked_children_draw_what_the_parent_draws_next(which):
    """All of them the same, as with torch.rand: a fork copies the generator."""
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(5) if which == "a generator" else None
    draws(generator)  # somewhere in the stream
    children = in_processes("fork", draws, [(generator,), (generator,)])
    parent = draws(generator)
    assert [child["rand"] for child in children] == [parent["rand"]] * 2
    assert [child["masks"] for child in children] == [parent["masks"]] * 2
    assert len({*parent["masks"], *draws(generator)["masks"]}) == 6, "the stream goes on"


def test_forked_children_that_seed_by_their_rank_differ_and_are_reproducible():
    rows = [(7 + rank,) for rank in range(2)]
    first, second = (in_processes("fork", seeded, rows) for _ in range(2))
    assert first == second == [seeded(*row) for row in rows]
    assert len({*first[0]["masks"], *first[1]["masks"]}) == 6


def spawned(two_ints, tensor, seed) -> dict:
    unseeded = draws()
    given = [mask(fused_dropout.dropout(X, rng=rng)) for rng in (two_ints, tensor)]
    return {"unseeded": unseeded, "two ints": given[0], "tensor": given[1], "seeded": seeded(seed)}


def test_spawned_children_make_the_masks_of_their_states_and_seeds():
    """And each its own where it is given none. One test, since to import torch is most of what a child costs."""
    tensor = fused_dropout.draw()
    children = in_processes("spawn", spawned, [(STATE, tensor, 8), (STATE, tensor, 8)])
    for name, rng in (("two ints", STATE), ("tensor", tensor)):
        assert [child[name] for child in children] == [mask(fused_dropout.dropout(X, rng=rng))] * 2
    unseeded = [draws(), *(child["unseeded"] for child in children)]
    assert len(set(chain(*(drawn["masks"] for drawn in unseeded)))) == 9
    assert [child["seeded"] for child in children] == [seeded(8)] * 2


# DataLoader ----------------------------------------------------------------------------------------------------------


class Augmented(Dataset):
    """Dropout as an augmentation: the worker, its seed, and what it made of an element."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        worker = get_worker_info()
        return worker.id, worker.seed, fused_dropout.dropout(X)


def epochs(seed, method="fork", persistent=False, count=2) -> list:
    """Of each epoch a list of (worker, seed, mask); two workers, which take turns."""
    loader = DataLoader(
        Augmented(),
        batch_size=None,
        num_workers=2,
        generator=torch.Generator().manual_seed(seed),
        multiprocessing_context=method,
        persistent_workers=persistent,
        timeout=TIMEOUT,
    )
    return [[(worker, own, mask(y)) for worker, own, y in loader] for _ in range(count)]


@pytest.mark.parametrize("persistent", [False, True], ids=["workers of an epoch", "persistent workers"])
def test_dataloader_masks_follow_its_generator_and_never_repeat(persistent):
    """Not in another worker, not in another epoch, and not by another seed; whatever the parent has drawn meanwhile."""
    first, other = epochs(1, persistent=persistent), epochs(2, persistent=persistent)
    draws()
    assert epochs(1, persistent=persistent) == first
    rows = list(chain(*first, *other))
    assert [worker for worker, _, _ in first[0]] == [0, 1] * 6
    assert len({drawn for _, _, drawn in rows}) == len(rows) == 48


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_draw_from_the_seed_that_torch_gave_them(method):
    (epoch,) = epochs(3, method, count=1)
    seeds = [next(own for at, own, _ in epoch if at == worker) for worker in range(2)]
    assert seeds[1] == seeds[0] + 1
    for worker, seed in enumerate(seeds):
        torch.manual_seed(seed)
        assert [drawn for at, _, drawn in epoch if at == worker] == [mask(fused_dropout.dropout(X)) for _ in range(6)]
