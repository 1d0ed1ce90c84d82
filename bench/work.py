"""What is timed: inputs, the functions of each operation, and the ways to run a function.

A function takes tensors and returns one, or several. A way makes a factory of it: given inputs, it sets up what a user
has before the call, and returns the Task. The same way around `fused`, `native` and `oracle` makes subject, baseline
and check.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_dropout
from fused_dropout import reference

from .timing import Task

P = 0.1
SCALE = 1 / (1 - P)  # of the multiply that dropout is measured against
CHANNELS, SIDE = 64, 32  # of images: 2^16 elements each
FEATURES = 1024  # of a row, where a bias is added

Function: TypeAlias = Callable[..., Any]  # of tensors; returns one, or a tuple of them
Factory: TypeAlias = Callable[..., Task]
Way: TypeAlias = Callable[[Function], Factory]
Inputs: TypeAlias = Callable[[int, torch.dtype, str], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operation:
    """The same function three times: this library's, stock PyTorch's, and the reference that checks it."""

    fused: Function
    native: Function
    oracle: Function
    exact: bool = True  # whether it gives the reference's bits, and not only its mask and values to their rounding


def multiply(x: Tensor) -> Tensor:
    return torch.mul(x, SCALE)


def multiply_in_place(x: Tensor) -> Tensor:
    return x.mul_(SCALE)


def _in_place_oracle(x: Tensor) -> Tensor:
    reference.dropout_(x, P)
    return x


DROPOUT = Operation(
    lambda x: fused_dropout.dropout(x, P), lambda x: F.dropout(x, P), lambda x: reference.dropout(x, P)[0]
)
torch._dynamo.config.recompile_limit = 64  # a graph for each size and way
COMPILED = Operation(*(torch.compile(f, dynamic=False) for f in (DROPOUT.fused, DROPOUT.native)), DROPOUT.oracle)
DROPOUT_IN_PLACE = Operation(
    lambda x: fused_dropout.dropout(x, P, inplace=True), lambda x: F.dropout(x, P, inplace=True), _in_place_oracle
)


@dataclass(frozen=True)
class Pipeline:
    """Dropout with its neighbours: one pass, the chain of native functions, and that with a multiply for dropout."""

    name: str
    inputs: "Inputs"
    fused: Function
    native: Function
    unmasked: Function
    oracle: Function
    accesses: int = 2
    exact: bool = True

    @property
    def operation(self) -> Operation:
        return Operation(self.fused, self.native, self.oracle, self.exact)


@dataclass(frozen=True)
class Layer:
    """A member of the family: `fused(x, inplace)` and its mask; `native(x)`, what PyTorch or its users have for it."""

    name: str
    inputs: "Inputs"
    fused: Callable[[Tensor, bool], Tensor]
    native: Function
    noise_shape: Callable[[Tensor], tuple[int, ...]]
    reference: Callable[..., tuple[Tensor, Tensor]] = reference.dropout

    def _oracle(self, x: Tensor) -> Tensor:
        return self.reference(x, P, mask_strides=reference.row_major(self.noise_shape(x)))[0]

    @property
    def operation(self) -> Operation:
        return Operation(lambda x: self.fused(x, False), self.native, self._oracle)

    @property
    def operation_in_place(self) -> Operation:
        return Operation(lambda x: self.fused(x, True), self.native, lambda x: x.copy_(self._oracle(x)))


def _scaled_by_noise(x: Tensor, *shape: int) -> Tensor:
    """What timm's DropPath, torchvision's StochasticDepth and AWD-LSTM's LockedDropout do."""
    return x * x.new_empty(shape).bernoulli_(1 - P).div_(1 - P)


def _channels(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *[1] * (x.dim() - 2))


def _values(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Values around 1, far from denormals and infinities; their own generator leaves the default one alone."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(shape, dtype=dtype, device=device).uniform_(0.5, 1.5, generator=generator)


def flat(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((numel,), dtype, device),)


def pair(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    x = _values((numel,), dtype, device)
    return x, x.flip(0)


def rows(*features_of: str) -> "Inputs":
    """Matrices (N, FEATURES) for "x" and its like, (FEATURES,) for "bias" and "gain", a square for "weight"; "halves"
    is one matrix of rows of twice the length."""

    def inputs(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        count = max(1, numel // FEATURES)
        shapes = {"weight": (FEATURES, FEATURES), "halves": (count, 2 * FEATURES)}
        shapes |= dict.fromkeys(("bias", "gain"), (FEATURES,))
        default = (count, FEATURES)
        return tuple(_values(shapes.get(name, default), dtype, device) for name in features_of)

    return inputs


def images(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return (_values((max(1, numel // (CHANNELS * SIDE * SIDE)), CHANNELS, SIDE, SIDE), dtype, device),)


def channels_last(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return tuple(x.to(memory_format=torch.channels_last) for x in images(numel, dtype, device))


def _shaped(*shape: int) -> Inputs:
    """Tensors (N, *shape): the shape of one of many samples."""

    def inputs(numel: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        return (_values((max(1, numel // math.prod(shape)), *shape), dtype, device),)

    return inputs


LAYERS = (
    Layer(
        "dropout1d",
        _shaped(CHANNELS, 1024),
        lambda x, inplace: fused_dropout.dropout1d(x, P, True, inplace),
        lambda x: F.dropout1d(x, P),
        _channels,
    ),
    Layer(
        "dropout2d",
        images,
        lambda x, inplace: fused_dropout.dropout2d(x, P, True, inplace),
        lambda x: F.dropout2d(x, P),
        _channels,
    ),
    Layer(
        "dropout2d of 7 x 7",
        _shaped(CHANNELS, 7, 7),
        lambda x, inplace: fused_dropout.dropout2d(x, P, True, inplace),
        lambda x: F.dropout2d(x, P),
        _channels,
    ),
    Layer(
        "dropout2d channels_last",
        channels_last,
        lambda x, inplace: fused_dropout.dropout2d(x, P, True, inplace),
        lambda x: F.dropout2d(x, P),
        _channels,
    ),
    Layer(
        "dropout3d",
        _shaped(16, 16, 16, 16),
        lambda x, inplace: fused_dropout.dropout3d(x, P, True, inplace),
        lambda x: F.dropout3d(x, P),
        _channels,
    ),
    Layer(
        "alpha_dropout",
        flat,
        lambda x, inplace: fused_dropout.alpha_dropout(x, P, True, inplace),
        lambda x: F.alpha_dropout(x, P, True),
        lambda x: tuple(x.shape),
        reference.alpha_dropout,
    ),
    Layer(
        "feature_alpha_dropout",
        images,
        lambda x, inplace: fused_dropout.feature_alpha_dropout(x, P, True, inplace),
        lambda x: F.feature_alpha_dropout(x, P, True),
        _channels,
        reference.alpha_dropout,
    ),
    Layer(
        "drop_path",
        images,
        lambda x, inplace: fused_dropout.drop_path(x, P, True, inplace=inplace),
        lambda x: _scaled_by_noise(x, x.shape[0], 1, 1, 1),
        lambda x: (x.shape[0], 1, 1, 1),
    ),
    Layer(
        "locked_dropout (T, B, F)",
        _shaped(32, 512),
        lambda x, inplace: fused_dropout.locked_dropout(x, P, True, inplace),
        lambda x: _scaled_by_noise(x, 1, *x.shape[1:]),
        lambda x: (1, *x.shape[1:]),
    ),
    Layer(
        "locked_dropout (B, T, F)",
        _shaped(128, 512),
        lambda x, inplace: fused_dropout.locked_dropout(x, P, True, inplace, batch_first=True),
        lambda x: _scaled_by_noise(x, x.shape[0], 1, x.shape[2]),
        lambda x: (x.shape[0], 1, x.shape[2]),
    ),
)


def _paths(x: Tensor) -> list[int]:
    return reference.row_major((x.shape[0], 1))


def _norm(name: str, *others: str) -> Pipeline:
    """A norm behind a residual and a dropped input; both results count, as in pre-norm blocks."""
    fused, unfused = getattr(fused_dropout, f"dropout_add_{name}"), getattr(F, name)
    shape = (FEATURES,)

    def oracle(x: Tensor, residual: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        sum = reference.dropout_add(x, residual, P)[0]
        return unfused(sum, shape, *others), sum

    def chain(drop: Function) -> Function:
        def call(x: Tensor, residual: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
            sum = residual + drop(x)
            return unfused(sum, shape, *others), sum

        return call

    return Pipeline(
        f"dropout_add_{name}",
        rows("x", "residual", *others),
        lambda x, residual, *others: fused(x, residual, *others, p=P),
        chain(lambda x: F.dropout(x, P)),
        chain(multiply),
        oracle,
        accesses=4,
        exact=False,
    )


def _options(name: str) -> tuple[str, dict[str, str]]:
    """A public function's stem and options, of an operation's name."""
    return name.removesuffix("_tanh"), {"approximate": "tanh"} if name.endswith("_tanh") else {}


def _activation(name: str) -> Pipeline:
    act, (stem, options) = reference.ACTIVATIONS[name], _options(name)
    fused, oracle = getattr(fused_dropout, f"{stem}_dropout"), getattr(reference, f"{name}_dropout")
    return Pipeline(
        f"{name}_dropout",
        rows("x"),
        lambda x: fused(x, P, **options),
        lambda x: F.dropout(act(x), P),
        lambda x: act(x) * SCALE,
        lambda x: oracle(x, P)[0],
        exact=False,
    )


def _biased(name: str) -> Pipeline:
    act, (stem, options) = reference.ACTIVATIONS[name], _options(name)
    fused, oracle = getattr(fused_dropout, f"bias_{stem}_dropout"), getattr(reference, f"bias_{name}_dropout")
    return Pipeline(
        f"bias_{name}_dropout",
        rows("x", "bias"),
        lambda x, bias: fused(x, bias, P, **options),
        lambda x, bias: F.dropout(act(x + bias), P),
        lambda x, bias: act(x + bias) * SCALE,
        lambda x, bias: oracle(x, bias, P)[0],
        exact=False,
    )


def _gated(name: str, *tensors: str) -> Pipeline:
    halves = tensors == ("halves",)
    act, (stem, options) = reference.ACTIVATIONS[reference.GATED[name]], _options(name)
    fused = getattr(fused_dropout, f"{stem}_dropout")
    oracle = getattr(reference, f"{name}_dropout{'_halves' if halves else ''}")

    def gate(x: Tensor, up: Tensor | None = None) -> Tensor:
        x, up = x.chunk(2, -1) if up is None else (x, up)
        return act(x) * up

    return Pipeline(
        f"{name}_dropout" + (" of halves" if halves else ""),
        rows(*tensors),
        lambda *x: fused(x[0], x[1] if len(x) > 1 else None, P, **options),
        lambda *x: F.dropout(gate(*x), P),
        lambda *x: gate(*x) * SCALE,
        lambda *x: oracle(*x, P)[0],
        accesses=3,
        exact=False,
    )


PIPELINES = (
    Pipeline(
        "dropout_add",
        rows("x", "residual"),
        lambda x, residual: fused_dropout.dropout_add(x, residual, P),
        lambda x, residual: residual + F.dropout(x, P),
        lambda x, residual: residual + x * SCALE,
        lambda x, residual: reference.dropout_add(x, residual, P)[0],
        accesses=3,
    ),
    Pipeline(
        "bias_dropout",
        rows("x", "bias"),
        lambda x, bias: fused_dropout.bias_dropout(x, bias, P),
        lambda x, bias: F.dropout(x + bias, P),
        lambda x, bias: (x + bias) * SCALE,
        lambda x, bias: reference.bias_dropout(x, bias, P)[0],
    ),
    Pipeline(
        "bias_dropout_add",
        rows("x", "bias", "residual"),
        lambda x, bias, residual: fused_dropout.bias_dropout_add(x, bias, residual, P),
        lambda x, bias, residual: residual + F.dropout(x + bias, P),
        lambda x, bias, residual: residual + (x + bias) * SCALE,
        lambda x, bias, residual: reference.bias_dropout_add(x, bias, residual, P)[0],
        accesses=3,
    ),
    Pipeline(
        "drop_path_add",
        rows("x", "residual"),
        lambda x, residual: fused_dropout.drop_path_add(x, residual, P, True),
        lambda x, residual: residual + _scaled_by_noise(x, x.shape[0], 1),
        lambda x, residual: residual + x * SCALE,
        lambda x, residual: reference.dropout_add(x, residual, P, mask_strides=_paths(x))[0],
        accesses=3,
    ),
    *(_activation(name) for name in reference.ACTIVATIONS if name != "gelu_tanh"),
    *(_biased(name) for name in reference.ACTIVATIONS if name != "gelu_tanh"),
    *(_gated(name, "halves") for name in ("swiglu", "geglu")),
    _gated("swiglu", "x", "up"),
    _norm("layer_norm", "gain", "bias"),
    _norm("rms_norm", "gain"),
    Pipeline(
        "softmax_dropout",
        rows("x"),
        lambda x: fused_dropout.softmax_dropout(x, P),
        lambda x: F.dropout(torch.softmax(x, -1), P),
        lambda x: torch.softmax(x, -1) * SCALE,
        lambda x: reference.dropout(torch.softmax(x, -1), P)[0],
        exact=False,
    ),
)
DROPOUT_LINEAR = Pipeline(
    "dropout_linear",
    rows("x", "weight"),
    lambda x, weight: fused_dropout.dropout_linear(x, weight, None, P),
    lambda x, weight: F.linear(F.dropout(x, P), weight),
    lambda x, weight: F.linear(x * SCALE, weight),
    lambda x, weight: F.linear(reference.dropout(x, P)[0], weight),
)

try:  # FlashAttention's, a Triton kernel: on CUDA, where it is installed
    from flash_attn.ops.triton.layer_norm import layer_norm_fn
except ImportError:
    FLASH_LAYER_NORM: Function | None = None
else:

    def FLASH_LAYER_NORM(x: Tensor, residual: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return layer_norm_fn(x, gain, bias, residual=residual, dropout_p=P, prenorm=True)


BLOCK = 7
STDDEV = (P / (1 - P)) ** 0.5


def _block_of(x: Tensor) -> tuple[float, list[int], list[int]]:
    """gamma, the seeds' mask strides, and the operation's `block`."""
    (n, c, h, w), b = x.shape, BLOCK
    gamma = P * h * w / (b * b) / ((h - b + 1) * (w - b + 1))
    return gamma, reference.row_major([n, c, h - b + 1, w - b + 1]), [b, b, h - b + 1, w - b + 1]


def _native_drop_block(x: Tensor) -> Tensor:
    """The paper's algorithm, in the operations that torchvision's drop_block2d calls."""
    gamma, _, (_, _, height, width) = _block_of(x)
    seeds = torch.empty((*x.shape[:2], height, width), dtype=x.dtype, device=x.device).bernoulli_(gamma)
    covered = F.max_pool2d(F.pad(seeds, [BLOCK // 2] * 4), BLOCK, 1, BLOCK // 2)
    keep = 1 - covered
    return x * keep * (keep.numel() / (1e-6 + keep.sum()))


def _oracle_drop_block(x: Tensor) -> Tensor:
    gamma, strides, block = _block_of(x)
    return reference.dropout(x, gamma, mask_strides=strides, block=block)[0]


DROP_BLOCK = Operation(lambda x: fused_dropout.drop_block2d(x, P, BLOCK), _native_drop_block, _oracle_drop_block)
# The noise is what the extension's own operation gives: its last bits are not the reference's (tests/test_values.py).
GAUSSIAN_DROPOUT = Operation(
    lambda x: fused_dropout.gaussian_dropout(x, P),
    lambda x: x * torch.randn_like(x).mul_(STDDEV).add_(1),
    lambda x: x * (1 + STDDEV * fused_dropout.normal_noise(x.shape, fused_dropout.draw(), dtype=x.dtype)),
)
ZONEOUT = Operation(
    lambda x, previous: fused_dropout.zoneout(x, previous, P),
    lambda x, previous: torch.where(torch.rand_like(x) < P, previous, x),
    lambda x, previous: reference.zoneout(x, previous, P)[0],
)


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def forward(function: Function) -> Factory:
    """A call that returns a new tensor, or several."""
    return lambda *inputs: Task(lambda: function(*inputs))


def in_place(function: Function) -> Factory:
    """A call that overwrites its argument, refilled before each: repeated, the scale would run into infinity."""

    def factory(x: Tensor) -> Task:
        buffer = x.clone()
        return Task(lambda: function(buffer), before=lambda: buffer.copy_(x))

    return factory


def backward(function: Function) -> Factory:
    """The gradient alone, of a graph built beforehand."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        y, grad_y = function(x), torch.ones_like(x)
        return Task(lambda: torch.autograd.grad(y, x, grad_y, retain_graph=True)[0])

    return factory


def recorded(function: Function) -> Factory:
    """A forward call that records the graph of its gradient."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        return Task(lambda: function(x))

    return factory


def step(function: Function) -> Factory:
    """Forward and backward of all inputs, as a training step has them; the first one's gradient is what is checked."""

    def factory(*inputs: Tensor) -> Task:
        leaves = [x.detach().requires_grad_() for x in inputs]
        with torch.no_grad():
            grads = [torch.ones_like(y) for y in _listed(function(*leaves))]
        return Task(lambda: torch.autograd.grad(_listed(function(*leaves)), leaves, grads)[0])

    return factory


def round_trip(function: Function) -> Factory:
    """Forward and backward, as a small layer feels them: what is measured is mostly the calls."""

    def factory(x: Tensor) -> Task:
        x = x.detach().requires_grad_()
        grad_y = torch.ones_like(x)

        def call() -> Tensor:
            x.grad = None
            function(x).backward(grad_y)  # type: ignore[no-untyped-call]
            return x.grad  # type: ignore[return-value]

        return Task(call)

    return factory


def device_copy(x: Tensor) -> Task:
    """The limit of memory: x is read and y is written."""
    y = torch.empty_like(x)
    return Task(lambda: y.copy_(x))


def check(name: str, subject: Factory, oracle: Factory, inputs: tuple[Tensor, ...], exact: bool) -> None:
    """Raises unless both give the same, from the same seed of PyTorch's generator: the same bits, or the same zeros and
    values to a few roundings."""
    results = []
    for factory in (subject, oracle):
        torch.manual_seed(20)
        task = factory(*inputs)
        if task.before is not None:
            task.before()
        results.append([y.detach().clone() for y in _listed(task.call())])
    for ours, theirs in zip(*results, strict=True):
        eps = 64 * torch.finfo(ours.dtype).eps
        close = torch.equal(ours == 0, theirs == 0) and torch.allclose(ours, theirs, rtol=eps, atol=eps)
        if not (torch.equal(ours, theirs) if exact else close):
            raise RuntimeError(f"{name}: expected what fused_dropout.reference gives, but got something else")


def saved_bytes(function: Function, x: Tensor) -> int:
    """The bytes that autograd keeps between forward and backward, counted as they are packed."""
    packed: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        packed.append(saved.numel() * saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        function(x.detach().requires_grad_())
    return sum(packed)
