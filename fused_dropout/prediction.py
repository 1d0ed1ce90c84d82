"""Monte Carlo dropout: dropout alone turned on in a trained model, and the mean and variance of its predictions."""

import operator
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import modules
from .conversion import is_ours, known_type, speaks_of_dropout
from .weight_drop import WeightDrop

CHUNK_NUMEL = 2**18  # elements of input, and of output, up to which samples share a pass: 1 MB of float32 each


class Prediction(NamedTuple):
    """What :func:`predict` returns."""

    mean: Tensor
    variance: Tensor


@contextmanager
def monte_carlo(model: nn.Module) -> Iterator[nn.Module]:
    r"""Turns on dropout, and nothing else, for the length of a ``with`` block.

    Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", 2016.

    Within the block ``training`` is True for the modules that drop: ours (WeightDrop and Zoneout themselves, not what
    they wrap), torch.nn's, timm's and torchvision's, those without children that are named after dropout, and
    nn.MultiheadAttention, nn.RNN, LSTM and GRU with dropout > 0. The flags of all others, BatchNorm's above all, stay
    as they are, and so does what they drop by torch.nn.functional.dropout. Afterwards, also where an exception leaves
    the block, every flag is what it was. Blocks may be nested, and those of one thread or of several may overlap in any
    order: dropout stays on while one is open, and leaving the last restores the flags.

    nn.TransformerEncoderLayer and MultiheadAttention have a fused path for evaluation that skips dropout without a
    word; it is switched off within the block, for the whole process (``torch.backends.mha.set_fastpath_enabled``).

    Args:
        model: any module, usually in evaluation. A UserWarning says that it has nothing to turn on.

    Raises:
        TypeError: the model is not a torch.nn.Module.

    Equivalent to, where there is nn.Dropout alone::

        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"monte_carlo(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    with _turned_on(_dropping("monte_carlo", model, 4)):
        yield model


def predict(
    model: nn.Module, x: Tensor, samples: int = 32, *, seed: int | None = None, chunk: int | None = None
) -> Prediction:
    r"""Mean and variance of a model's output over its dropout masks, everything else in evaluation.

    Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", 2016.

    Args:
        model: any module that maps a tensor to a floating-point tensor; its flags are restored.
        x: the model's input, which is not written to. No gradient is recorded.
        samples: how many masks, at least 2.
        seed: with it, the result is a function of seed and chunk (and of model and x): the generators of the CPU and of
            the input's device are seeded for the call, and restored. Without it they are used, and advance.
        chunk: how many samples share a forward pass, x being repeated along dimension 0, where other elements have
            other masks. By default as many as keep input and output within 2**18 elements, if the model allows it: no
            dropout shares a decision along dimension 0 (WeightDrop, ``per="batch"``, a noise shape that names it,
            LockedDropout with the time first) or a scale (DropBlock2d), and a row depends neither on its neighbours nor
            on its position, which a trial in evaluation shows. Otherwise 1, also where another thread has dropout on
            during the trial. What modules of unknown types share is not known.

    Returns:
        ``(mean, variance)``: the sample mean and the unbiased sample variance, as torch.mean and torch.var over the
        samples, accumulated by Welford's method without holding them. Of the output's shape, and of its dtype but
        float32 for float16 and bfloat16.

    Raises:
        ValueError: samples or chunk too small; a chunk above 1 where a layer shares decisions along dimension 0, or
            where the output's dimension 0 is not the input's.
        TypeError: an argument of the wrong type, or an output that is not a floating-point tensor.

    Equivalent to, with chunk=1::

        with torch.no_grad(), fused_dropout.monte_carlo(model.eval()):
            outputs = torch.stack([model(x) for _ in range(samples)])
        mean, variance = outputs.mean(0), outputs.var(0)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"predict(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(
            f"predict(): argument 'x' must be a Tensor, not {type(x).__name__}; wrap a model of other arguments in a "
            "module of one"
        )
    samples = _at_least(2, "samples", samples)
    chunk = None if chunk is None else _at_least(1, "chunk", chunk)
    sharing = next((type(module).__name__ for module in model.modules() if _shares_rows(module)), None)
    if chunk is not None and chunk > 1 and sharing:
        raise ValueError(f"predict: expected chunk to be 1, since rows share what {sharing} draws, but got {chunk}")
    dropping = _dropping("predict", model, 3)
    with torch.no_grad(), _flags(list(model.modules()), False), _forked_generators(x, seed) as start:
        if chunk is None:
            chunk = 1 if sharing else _largest_chunk(model, x, samples)
        start()
        with _turned_on(dropping):
            return _moments(model, x, samples, chunk)


def _at_least(least: int, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"predict(): argument '{name}' must be int, not {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"predict: expected {name} to be at least {least}, but got {value}")
    return number


def _dropping(name: str, model: nn.Module, caller: int) -> list[nn.Module]:
    """What is to be turned on; where that is nothing, a warning at the line so many frames up."""
    dropping = [module for module in model.modules() if _drops(module)]
    if not dropping:
        warnings.warn(f"{name}: {type(model).__name__} has no dropout to turn on", stacklevel=caller)
    return dropping


def _drops(module: nn.Module) -> bool:
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    if is_ours(module) or isinstance(module, nn.modules.dropout._DropoutNd):
        return True
    if any(known_type(cls) is not None for cls in type(module).__mro__):
        return True
    return speaks_of_dropout(module) and next(module.children(), None) is None


def _shares_rows(module: nn.Module) -> bool:
    """Whether rows of a batch share a decision, or the scale that follows from all of them."""
    known = known_type(type(module))
    kind = type(module) if known is None else known.ours

    def option(name: str) -> Any:
        return getattr(module, name) if known is None else known.options(module)[name]

    if issubclass(kind, modules.DropPath):
        return option("per") == "batch"
    if issubclass(kind, modules.LockedDropout):
        return not option("batch_first")
    if issubclass(kind, modules.DropBlock2d):
        return option("scale_by_keep")
    if issubclass(kind, (modules.Dropout, modules.GaussianDropout)):
        noise_shape = option("noise_shape")
        return bool(noise_shape) and noise_shape[0] is not None
    return issubclass(kind, WeightDrop)


class _Flag(NamedTuple):
    """A module's training flag while blocks are open that set it."""

    before: bool
    blocks: dict[object, tuple[int, bool]]  # the thread of each, and what it asks for; the latest last

    def value(self) -> bool:
        """What a thread asks for is what its latest block does; dropout is on while one of them has it on."""
        return any(dict(self.blocks.values()).values())


# What blocks of all threads share. The lock is reentrant, since the collector may close a block that was abandoned.
_LOCK = threading.RLock()
_FLAGS: "weakref.WeakKeyDictionary[nn.Module, _Flag]" = weakref.WeakKeyDictionary()
_FAST: list[bool] = []  # whether the fast path was on before the first open block, once for each


@contextmanager
def _flags(modules: list[nn.Module], training: bool) -> Iterator[None]:
    """Sets the modules' flags alone (.train() would reach the children too); the last block restores them."""
    block, entered = object(), []
    try:
        with _LOCK:
            for module in modules:
                flag = _FLAGS.setdefault(module, _Flag(module.training, {}))
                flag.blocks[block] = threading.get_ident(), training
                entered.append(module)
                module.training = flag.value()
        yield
    finally:
        with _LOCK:
            for module in entered:
                flag = _FLAGS[module]
                del flag.blocks[block]
                module.training = flag.value() if flag.blocks else flag.before
                if not flag.blocks:
                    del _FLAGS[module]


@contextmanager
def _turned_on(dropping: list[nn.Module]) -> Iterator[None]:
    with _flags(dropping, True):
        with _LOCK:
            _FAST.append(_FAST[0] if _FAST else torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            with _LOCK:
                fast = _FAST.pop()
                if not _FAST:
                    torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _forked_generators(x: Tensor, seed: int | None) -> Iterator[Callable[[], None]]:
    """Yields what seeds the generators; afterwards they are where they were. Without a seed, nothing."""
    if seed is None:
        yield lambda: None
        return
    generators = [torch.default_generator]
    if x.is_cuda:
        generators.append(torch.cuda.default_generators[x.get_device()])

    def start() -> None:
        for generator in generators:
            generator.manual_seed(seed)

    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        yield start


def _largest_chunk(model: nn.Module, x: Tensor, samples: int) -> int:
    chunk = min(samples, CHUNK_NUMEL // max(1, x.numel()))
    if chunk < 2 or x.dim() == 0:
        return 1
    output = _output(model, x.clone())
    chunk = min(chunk, CHUNK_NUMEL // max(1, output.numel()))
    return chunk if chunk > 1 and _rows_are_independent(model, x, output) else 1


def _rows_are_independent(model: nn.Module, x: Tensor, output: Tensor) -> bool:
    """x twice in one batch, other rows between: a model that mixes rows, or counts them, gives itself away."""
    rows = x.shape[0]
    try:
        among_others = _output(model, torch.cat([x, torch.zeros_like(x), x]))
    except Exception:  # whatever a model raises that takes this batch size and no other
        return False
    if output.numel() == 0 or among_others.shape != (3 * rows, *output.shape[1:]):
        return False
    rounding = torch.finfo(output.dtype).eps ** 0.5 * output.abs().max()
    return all((among_others[at : at + rows] - output).abs().max() <= rounding for at in (0, 2 * rows))


def _output(model: nn.Module, x: Tensor) -> Tensor:
    output = model(x)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        what = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"predict: expected the model to return a floating-point tensor, but got {what}; "
            "wrap it in a module that does"
        )
    return output


def _moments(model: nn.Module, x: Tensor, samples: int, chunk: int) -> Prediction:
    """Welford's method, one sample at a time; where all are equal the variance is exactly 0."""
    mean = squares = torch.empty(0)
    for done in range(0, samples, chunk):
        share = min(chunk, samples - done)
        output = _output(model, x.clone() if share == 1 else x.repeat(share, *[1] * (x.dim() - 1)))
        if share > 1:
            if output.dim() == 0 or output.shape[0] != share * x.shape[0]:
                raise ValueError(
                    f"predict: expected an output of {share * x.shape[0]} rows for a chunk of {share}, as the input "
                    f"has, but got one of shape {list(output.shape)}; use chunk=1"
                )
            output = output.unflatten(0, (share, x.shape[0]))
        compute = torch.float64 if output.dtype == torch.float64 else torch.float32
        for count, sample in enumerate(output.to(compute) if share > 1 else [output.to(compute)], done + 1):
            if count == 1:
                mean, squares = torch.zeros_like(sample), torch.zeros_like(sample)
            difference = sample - mean
            mean += difference / count
            squares += difference * (sample - mean)
    return Prediction(mean, squares / (samples - 1))
