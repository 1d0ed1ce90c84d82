"""torch.func: what the operations do under its transforms that PyTorch does not see to.

torch.vmap: a batch dimension that an operation does not see.

An operation that applies a state gives every sample the mask of that state: along the batch dimension the mask's stride
is 0, so all samples are one call. Where the state (or p) is itself batched, each sample is a call of its own. An
operation that draws does as vmap's ``randomness`` says: refuses, draws one state for all samples, or one for each; also
where its input is not batched, as PyTorch's own random operations do.

Written in Python, since the headers that torch 2.13 ships for it cannot be included.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._extension import NAMES, OF_STATES, SUMMED, extension, inputs_of, is_pure, stem
from .reference import ROWS, and_sum, check, check_operands, row_major

try:
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
except ImportError:  # private to torch: without it vmap runs sample by sample, and does not ask for randomness
    retrieve_current_functorch_interpreter = None  # type: ignore[assignment]

KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched).add(torch._C.DispatchKey.FuncTorchVmapMode)


class Level:
    """The vmap that is running. What is called within ``below`` goes to the next one outside."""

    def __init__(self) -> None:
        interpreter: Any = retrieve_current_functorch_interpreter()
        self.id, self.size, self.randomness = interpreter.level(), interpreter.batch_size(), interpreter.randomness()

    def below(self) -> AbstractContextManager[Any]:
        return torch._C._ExcludeDispatchKeyGuard(KEYS)

    def unwrapped(self, tensor: "Tensor | None") -> "Unwrapped":
        if tensor is None:
            return Unwrapped(None, False)
        value, dim = torch._C._functorch._unwrap_batched(tensor, self.id)
        return Unwrapped(value, False) if dim is None else Unwrapped(value.movedim(dim, 0), True)

    def batched(self, output: Any) -> Any:
        """An operation's output, or each of two, or none, with its first dimension as the batch's."""
        if isinstance(output, tuple):
            return tuple(self.batched(each) for each in output)
        return output if output is None else torch._C._functorch._add_batch_dim(output, 0, self.id)

    def check_randomness(self) -> None:
        if self.randomness == "error":
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                "'different' randomness flags on vmap or perform the randomness operation out of vmap"
            )

    def draw(self, like: Tensor, generator: "torch.Generator | None") -> Tensor:
        """One state for all samples, or one for each along a batch dimension."""

        def one() -> Tensor:  # of a fresh tensor, so that no compiler merges two of them
            return torch.ops.fused_dropout.draw.default(torch.empty(0, device=like.device), generator=generator)

        if self.randomness == "same":
            return one()
        states = [one() for _ in range(self.size)]
        return self.batched(torch.stack(states) if states else torch.empty(0, 2, dtype=torch.int64, device=like.device))

    def by_sample(self, call: Callable[[int], Any]) -> Any:
        """What `call` makes of the sample of each number: a tensor, several or none. Of an empty batch one is made too,
        and left out."""

        def joined(outputs: list[Any]) -> Any:
            if isinstance(outputs[0], tuple):
                return tuple(joined(list(each)) for each in zip(*outputs, strict=True))
            return None if outputs[0] is None else self.batched(torch.stack(outputs)[: self.size])

        return joined([call(i) for i in range(max(1, self.size))])


class Unwrapped(NamedTuple):
    """A tensor without the batch dimension of a level, which then is its first one."""

    value: Any
    batched: bool

    def sample(self, i: int) -> Any:
        if not self.batched:
            return self.value
        return self.value[i] if self.value.shape[0] else self.value.new_zeros(self.value.shape[1:])

    @property
    def dims(self) -> int:
        return self.value.dim() - self.batched


def samples(level: Level, inputs: Sequence[Unwrapped]) -> list[Tensor]:
    """The inputs with their batch dimension, the first one; behind it a bias gets the dimensions that it lacks."""
    tensors = [x.value if x.batched else x.value.expand(level.size, *x.value.shape) for x in inputs]
    missing = [max(0, inputs[0].dims - x.dims) for x in inputs]
    return [t[(slice(None), *[None] * m)] if m else t for t, m in zip(tensors, missing, strict=True)]


def mask_shape(op: Any, tensors: Sequence[Tensor]) -> list[int]:
    """Without the batch dimension: the first tensor's, but of an operation on the halves of its rows."""
    shape = list(tensors[0].shape[1:])
    if "_halves" in op.name() and len(tensors) == 1:
        shape[-1] //= 2
    return shape


def apply(level: Level, op: Any, inputs: Sequence[Unwrapped], state: Tensor, p: float, **options: Any) -> Any:
    """The pure operation on every sample; in place, where `op` is, and then None."""
    given, p_tensor = level.unwrapped(state), level.unwrapped(options.pop("p_tensor", None))

    def run(tensors: Sequence[Tensor], state: Tensor, p_tensor: "Tensor | None", **changed: Any) -> Any:
        return op(*tensors, state, p, p_tensor=p_tensor, **options, **changed)

    each = given.batched or p_tensor.batched
    if not each and not any(x.batched for x in inputs):
        return run([x.value for x in inputs], given.value, p_tensor.value)
    if not each and options.get("block") is None:
        tensors = samples(level, inputs)
        strides = options.pop("mask_strides", None)
        strides = row_major(mask_shape(op, tensors)) if strides is None else strides
        output = run(tensors, given.value, p_tensor.value, mask_strides=[0, *strides])
        return level.batched(output)
    return level.by_sample(lambda i: run([x.sample(i) for x in inputs], given.sample(i), p_tensor.sample(i)))


def pure(name: str) -> Callable[..., Any]:
    """The rule of an operation that is given its state."""
    op = getattr(torch.ops.fused_dropout, name).default
    count = inputs_of(name)

    def rule(*args: Any, **options: Any) -> Any:
        level = Level()
        with level.below():
            inputs = [level.unwrapped(x) for x in args[:count]]
            each = level.unwrapped(args[count]).batched or level.unwrapped(options.get("p_tensor")).batched
            if name.endswith("_") and each and not inputs[0].batched:
                raise RuntimeError(
                    f"vmap: {name} cannot give an unbatched tensor a mask for each sample in place; "
                    f"call {name[:-1]} instead"
                )
            return apply(level, op, inputs, *args[count:], **options)

    return rule


def summed(name: str) -> Callable[..., Any]:
    """The rule of an operation that also sums its output over the rows: of each sample its own."""
    return and_sum(pure(SUMMED[name]))


def by_sample(name: str) -> Callable[..., Any]:
    """The rule of operations on rows, which sum up columns for each sample, and of what a state decides: each sample
    is a call of its own."""
    op = getattr(torch.ops.fused_dropout, name).default

    def rule(*args: Any, p_tensor: "Tensor | None" = None, **options: Any) -> Any:
        level = Level()
        with level.below():
            given = [level.unwrapped(x) if isinstance(x, Tensor) else Unwrapped(x, False) for x in args]
            p = level.unwrapped(p_tensor)

            def call(i: int) -> Any:
                if p_tensor is not None:
                    options["p_tensor"] = p.sample(i)
                return op(*(x.sample(i) for x in given), **options)

            return level.by_sample(call)

    return rule


def drawing_by_sample(name: str) -> Callable[..., Any]:
    """The rule of an operation on rows that draws: a state, then the operation that is given it."""
    op = getattr(torch.ops.fused_dropout, f"{name}_apply").default
    count = len(ROWS[name])

    def rule(*args: Any, generator: Any = None, call_id: Any = None, **options: Any) -> Any:
        level = Level()
        level.check_randomness()
        with level.below():
            operands = [level.unwrapped(x) for x in args[:count]]
            p_tensor = level.unwrapped(options.get("p_tensor"))
            check_operands(name, [x.sample(0) for x in operands], args[count], p_tensor.sample(0))
            state = level.draw(operands[0].value, generator)
        return *op(*args[:count], state, *args[count:], **options), state

    return rule


def random(name: str) -> Callable[..., Any]:
    """The rule of an operation that draws: a state, then the operation that is given it."""
    form = name.removesuffix("_")
    in_place = name != form
    op = getattr(torch.ops.fused_dropout, f"{form}_apply_" if in_place else f"{form}_apply").default
    count = inputs_of(name)

    def rule(*args: Any, generator: Any = None, call_id: Any = None, **options: Any) -> Any:
        level = Level()
        level.check_randomness()
        with level.below():
            inputs = [level.unwrapped(x) for x in args[:count]]
            if in_place and level.randomness == "different" and not inputs[0].batched:
                raise RuntimeError(
                    "vmap: Cannot ask for different inplace randomness on an unbatched tensor. This will appear like "
                    "same randomness. If this is necessary for your usage, please call it out of place."
                )
            p_tensor = level.unwrapped(options.get("p_tensor")).value
            check(form, samples(level, inputs), args[count], p_tensor)
            state = level.draw(inputs[0].value, generator)
            output = apply(level, op, inputs, state, *args[count:], **options)
            return state if in_place else (output, state)

    return rule


def draw(device_of: Tensor, *, generator: "torch.Generator | None" = None) -> Tensor:
    level = Level()
    level.check_randomness()
    with level.below():
        return level.draw(level.unwrapped(device_of).value, generator)


def transforming() -> bool:
    """Whether a transform of torch.func is under way."""
    return retrieve_current_functorch_interpreter is not None and torch._C._functorch.maybe_current_level() is not None


def check_captured(name: str, x: Tensor) -> None:
    """Refuses in place what a gradient or tangent transform has captured, as torch does.

    It looks for operations that return what they write to, and so does not find ours.
    """
    if not transforming():
        return
    interpreter: Any = retrieve_current_functorch_interpreter()
    kind = torch._C._functorch.TransformType
    if interpreter.key() not in (kind.Grad, kind.Jvp) or torch._C._functorch.maybe_get_level(x) == interpreter.level():
        return
    raise RuntimeError(
        f"During a grad (vjp, jvp, grad, etc) transform, the function provided attempted to call {name} in place that "
        "would mutate a captured Tensor. Rewrite the function to accept the mutated tensor as an input, or to return "
        "a new one"
    )


def register() -> torch.library.Library:
    library = torch.library.Library("fused_dropout", "IMPL")
    for name in NAMES:
        if name in ROWS:
            library.impl(name, drawing_by_sample(name), "FuncTorchVmapMode")
        elif stem(name) in ROWS or name in ("keep_mask", "normal_noise"):
            library.impl(name, by_sample(name), "FuncTorchBatched")
        elif name in SUMMED:
            library.impl(name, summed(name), "FuncTorchBatched")
        elif is_pure(name):
            library.impl(name, pure(name), "FuncTorchBatched")
        elif name not in OF_STATES:
            library.impl(name, random(name), "FuncTorchVmapMode")
    library.impl("draw", draw, "FuncTorchVmapMode")
    return library


# What a library registers lives as long as it does.
_registered = None if extension is None or retrieve_current_functorch_interpreter is None else register()
