"""DTensors: every shard has its part of what one process makes of the whole tensor, forward and backward.

Most run as one rank after another, in a process group that communicates nothing; what needs communication in two
processes.
"""

import subprocess
import sys

import pytest
import torch
from test_values import assert_same_bits

import fused_dropout
from fused_dropout._extension import build_info
from fused_dropout.reference import GAIN_ONE

if not torch.distributed.is_available() or not build_info()["extension"]:
    pytest.skip("torch was built without distributed, or the extension is not built", allow_module_level=True)

import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

STATE = (2**63 + 7, 2**40 + 8)
RANKS = 4
SEEDED = torch.Generator().manual_seed(0)  # each process makes the same
X, R, IMAGES, BIAS, WEIGHT, ATTN_MASK = (
    torch.randn(shape, generator=SEEDED) for shape in ((6, 5, 16), (6, 5, 16), (4, 6, 5, 7), (16,), (16,), (5, 16))
)
P, RNG = 0.3, {"rng": STATE}
fd = fused_dropout
CALLS = {
    "dropout": (lambda x: fd.dropout(x, P, **RNG), X),
    "dropout noise_shape": (lambda x: fd.dropout(x, P, noise_shape=(None, 1, None), **RNG), X),
    "dropout1d": (lambda x: fd.dropout1d(x, P, **RNG), X),
    "dropout2d": (lambda x: fd.dropout2d(x, P, **RNG), IMAGES),
    "dropout tensor p": (lambda x: fd.dropout(x, torch.tensor(P), **RNG), X),
    "drop_path": (lambda x: fd.drop_path(x, P, **RNG), X),
    "alpha_dropout": (lambda x: fd.alpha_dropout(x, P, True, **RNG), X),
    "gaussian_dropout": (lambda x: fd.gaussian_dropout(x, P, **RNG), X),
    "zoneout": (lambda x, r: fd.zoneout(x, r, P, **RNG), X, R),
    "dropout_add": (lambda x, r: fd.dropout_add(x, r, P, **RNG), X, R),
    "drop_path_add": (lambda x, r: fd.drop_path_add(x, r, P, **RNG), X, R),
    "bias_dropout": (lambda x, b: fd.bias_dropout(x, b, P, **RNG), X, BIAS),
    "bias_dropout_add": (lambda x, b, r: fd.bias_dropout_add(x, b, r, P, **RNG), X, BIAS, R),
    "relu_dropout": (lambda x: fd.relu_dropout(x, P, **RNG), X),
    "gelu_dropout in evaluation": (lambda x: fd.gelu_dropout(x, P, False), X),
    "bias_gelu_dropout": (lambda x, b: fd.bias_gelu_dropout(x, b, P, **RNG), X, BIAS),
    "swiglu_dropout": (lambda x, r: fd.swiglu_dropout(x, r, P, **RNG), X, R),
    "swiglu_dropout of halves": (lambda x: fd.swiglu_dropout(x, p=P, **RNG), X),
    "drop_block2d unscaled": (lambda x: fd.drop_block2d(x, P, 3, scale_by_keep=False, **RNG), IMAGES),
    "dropout_add_layer_norm": (
        lambda x, r, w, b: fd.dropout_add_layer_norm(x, r, w, b, p=P, **RNG)[0], X, R, WEIGHT, BIAS),
    "dropout_add_rms_norm": (lambda x, r, w: fd.dropout_add_rms_norm(x, r, w, p=P, **RNG)[0], X, R, WEIGHT),
    "softmax_dropout": (lambda x, m: fd.softmax_dropout(x, P, attn_mask=m, **RNG), X, ATTN_MASK),
}  # fmt: skip
PLACEMENTS = [[Shard(0), Shard(1)], [Shard(1), Replicate()], [Shard(0), Shard(0)], [Replicate(), Replicate()]]


@pytest.fixture(params=range(RANKS))
def rank(request):
    dist.init_process_group("fake", rank=request.param, world_size=RANKS, store=FakeStore())
    _clear_sharding_prop_cache()  # which remembers meshes, and with them the rank before
    yield request.param
    dist.destroy_process_group()


@pytest.fixture
def mesh(rank):
    return DeviceMesh("cpu", torch.arange(RANKS).view(2, 2))


def part(x: torch.Tensor, mesh: DeviceMesh, placements) -> torch.Tensor:
    """This rank's, by torch.chunk. A dimension of size 1, and one that a smaller tensor lacks, are not sharded."""
    for n, coordinate, one in zip(mesh.shape, mesh.get_coordinate(), placements, strict=True):
        if one.is_shard():
            parts = x.chunk(n, one.dim)
            x = parts[coordinate] if coordinate < len(parts) else parts[0].narrow(one.dim, 0, 0)
    return x


def sharded(x: torch.Tensor, mesh: DeviceMesh, placements) -> DTensor:
    """A leaf; nothing is communicated."""
    local = part(x, mesh, placements).clone(memory_format=torch.preserve_format)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=x.shape, stride=x.stride()
    ).requires_grad_()


def of_bias(x: torch.Tensor, whole: torch.Tensor, placements) -> list:
    """The placements of a tensor that broadcasts to `whole`."""
    missing = whole.dim() - x.dim()
    return [Shard(s.dim - missing) if s.is_shard() and s.dim >= missing else Replicate() for s in placements]


@pytest.mark.parametrize("placements", PLACEMENTS, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_a_shard_is_a_part_of_what_one_process_makes(call, placements, mesh):
    function, *tensors = CALLS[call]
    whole = [x.clone().requires_grad_() for x in tensors]
    shards = [sharded(x, mesh, of_bias(x, tensors[0], placements)) for x in tensors]
    want, got = function(*whole), function(*shards)
    assert got.placements == tuple(placements)
    assert got.shape == want.shape
    assert got.stride() == want.stride()
    assert_same_bits(got.to_local(), part(want, mesh, placements))
    cotangent = torch.randn_like(want)
    want.backward(cotangent)
    got.backward(sharded(cotangent, mesh, placements).detach())
    for x, shard in zip(whole, shards, strict=True):
        assert shard.grad.shape == x.shape
        if x.shape == whole[0].shape:  # else it is a sum over shards, of which each rank has its own
            assert shard.grad.placements == tuple(placements)
            assert_same_bits(shard.grad.to_local(), part(x.grad, mesh, placements))


@pytest.mark.parametrize("dim", range(3))
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_uneven_and_empty_shards(rank, dim, size):
    mesh = DeviceMesh("cpu", torch.arange(RANKS))
    x = torch.randn([size if d == dim else 4 for d in range(3)])
    want = fused_dropout.dropout(x, P, **RNG)
    got = fused_dropout.dropout(sharded(x, mesh, [Shard(dim)]), P, **RNG)
    assert got.shape == want.shape
    assert_same_bits(got.to_local(), part(want, mesh, [Shard(dim)]))


def test_draws_are_those_of_one_process(mesh):
    x = sharded(X, mesh, PLACEMENTS[0])
    ends = []
    for input in (X, x):
        torch.manual_seed(5)
        outputs = [fused_dropout.dropout(input, P), fused_dropout.dropout1d(input, P), fused_dropout.Dropout(P)(input)]
        ends.append((outputs, torch.get_rng_state()))
    assert torch.equal(ends[0][1], ends[1][1])
    for want, got in zip(ends[0][0], ends[1][0], strict=True):
        assert_same_bits(got.to_local(), part(want, mesh, PLACEMENTS[0]))
    state = fused_dropout.draw(device=x.device)
    assert_same_bits(
        fused_dropout.dropout(x, P, rng=state).to_local(),
        part(fused_dropout.dropout(X, P, rng=state), mesh, PLACEMENTS[0]),
    )


def test_in_place(mesh):
    x = sharded(X, mesh, PLACEMENTS[0]).detach()
    assert fused_dropout.dropout(x, P, inplace=True, **RNG) is x
    assert_same_bits(x.to_local(), part(fused_dropout.dropout(X, P, **RNG), mesh, PLACEMENTS[0]))
    pending = DTensor.from_local(X.clone(), mesh, [Partial(), Replicate()], run_check=False)
    with pytest.raises(RuntimeError, match=r"^dropout: in place a DTensor cannot leave its placements \(Partial"):
        fused_dropout.dropout(pending, P, inplace=True, **RNG)
    assert_same_bits(pending.to_local(), X)


def test_a_tensor_that_is_sharded_more_decides(mesh):
    """A gradient that every rank has whole is cut, the input is not gathered."""
    shard, whole = sharded(X, mesh, PLACEMENTS[0]), sharded(R, mesh, PLACEMENTS[-1])
    got = fused_dropout.dropout_add(whole, shard, P, **RNG)
    assert got.placements == tuple(PLACEMENTS[0])
    assert_same_bits(got.to_local(), part(fused_dropout.dropout_add(R, X, P, **RNG), mesh, PLACEMENTS[0]))


def test_what_does_not_fit_is_refused(mesh):
    shard = sharded(X, mesh, PLACEMENTS[0])
    with pytest.raises(RuntimeError, match=r"^dropout_add: expected all tensors to be DTensors, but got a plain one"):
        fused_dropout.dropout_add(shard, R, P, **RNG)
    other = sharded(R, DeviceMesh("cpu", torch.arange(RANKS)), [Shard(0)])
    with pytest.raises(RuntimeError, match=r"^dropout_add: expected all DTensors to have one device mesh"):
        fused_dropout.dropout_add(shard, other, P, **RNG)


def test_compiled(mesh):
    def model(x, b, r):
        return fused_dropout.dropout(fused_dropout.bias_dropout_add(x, b, r, P), P)

    shards = [sharded(x, mesh, of_bias(x, X, PLACEMENTS[0])) for x in (X, BIAS, R)]
    torch.compiler.reset()  # another rank's graph
    results = []
    for function in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        output = function(*shards)
        output.to_local().square().sum().backward()
        results.append([output.to_local(), *(x.grad.to_local() for x in shards)])
        for x in shards:
            x.grad = None
    for want, got in zip(*results, strict=True):
        assert_same_bits(got, want)


LATER = """
import sys, torch, fused_dropout
assert "torch.distributed.tensor" not in sys.modules
import torch.distributed as dist
from torch.distributed.tensor import DTensor, DeviceMesh, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
x = DTensor.from_local(torch.ones(4, 8), DeviceMesh("cpu", [0, 1]), [Shard(0)], run_check=False)
drop = lambda x: fused_dropout.dropout(x, 0.5, rng=(1, 4))
if sys.argv[1] == "compiled":
    drop = torch.compile(drop, backend="aot_eager", fullgraph=True)
assert torch.equal(drop(x).to_local(), fused_dropout.dropout(torch.ones(8, 8), 0.5, rng=(1, 4))[4:])
"""


@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_torch_may_import_dtensor_later(way):
    subprocess.run([sys.executable, "-W", "ignore", "-c", LATER, way], check=True)


# With communication ---------------------------------------------------------------------------------------------------


def in_a_process(rank: int, store: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    globals()[name](init_device_mesh("cpu", (2,)))
    dist.destroy_process_group()


def gathered(mesh: DeviceMesh) -> None:
    for dim in range(3):
        for call, (function, *tensors) in CALLS.items():
            compare(call, function, tensors, [Shard(dim)], mesh)
    for dim in range(4):
        compare("drop_block2d", lambda x: fd.drop_block2d(x, P, 3, **RNG), [IMAGES], [Shard(dim)], mesh)
        compare("blocks", unscaled_blocks, [IMAGES], [Shard(dim)], mesh)


def unscaled_blocks(x: torch.Tensor) -> torch.Tensor:
    """Of which each shard of the batch or the channels decides for itself."""
    seeds = {"mask_strides": [210, 35, 7, 1], "block": [3, 3, 5, 7]}
    state = fused_dropout.draw(device="cpu", generator=torch.Generator().manual_seed(0))
    return torch.ops.fused_dropout.dropout_apply(x, state, P, gain=GAIN_ONE, **seeds)


def compare(call: str, function, tensors, placements, mesh: DeviceMesh) -> None:
    """Whole tensors, and whole gradients."""
    whole = [x.clone().requires_grad_() for x in tensors]
    shards = [distribute_tensor(x, mesh, of_bias(x, tensors[0], placements)).requires_grad_() for x in tensors]
    want, got = function(*whole), function(*shards)
    assert_same_bits(got.full_tensor(), want)
    cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    want.backward(cotangent)
    got.backward(distribute_tensor(cotangent, mesh, placements))
    for x, shard in zip(whole, shards, strict=True):
        if x.shape == whole[0].shape:
            assert_same_bits(shard.grad.full_tensor(), x.grad)
        else:  # sums in another order
            torch.testing.assert_close(shard.grad.full_tensor(), x.grad, msg=lambda text: f"{call}: {text}")


def pending(mesh: DeviceMesh) -> None:
    """A sum that is pending is taken before it is dropped from; both ranks have the mask of one process."""
    x = DTensor.from_local(X, mesh, [Partial()], run_check=False)
    torch.manual_seed(9)
    got = fused_dropout.dropout(x, P)
    torch.manual_seed(9)
    assert_same_bits(got.full_tensor(), fused_dropout.dropout(X + X, P))


def sequence_parallel(mesh: DeviceMesh) -> None:
    """A layer in torch's parallel styles."""
    layer = fused_dropout.Dropout(P)
    torch.manual_seed(9)
    want = layer(X)
    parallel = parallelize_module(torch.nn.Sequential(layer), mesh, {"0": SequenceParallel()})
    torch.manual_seed(9)
    got = parallel(distribute_tensor(X, mesh, [Shard(1)]))
    assert got.placements == (Shard(1),)
    assert_same_bits(got.full_tensor(), want)


@pytest.mark.parametrize("name", ["gathered", "pending", "sequence_parallel"])
def test_in_two_processes(name, tmp_path):
    torch.multiprocessing.spawn(in_a_process, (str(tmp_path / "store"), name), nprocs=2)
