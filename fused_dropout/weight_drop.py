"""WeightDrop: dropout on the parameters of any module, for the length of a call."""

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from . import functional as F
from ._calls import check_mode, moved
from .rng import probability


class WeightDrop(nn.Module):
    r"""Calls a module with some of its parameters dropped, elementwise: DropConnect.

    Wan et al., "Regularization of neural networks using DropConnect", 2013; on the hidden-to-hidden weights of an LSTM,
    Merity et al., "Regularizing and optimizing LSTM language models" (AWD-LSTM), 2018.

    Each call draws one mask for each parameter, so that all rows of a batch and all time steps of a sequence meet the
    same weights. The parameters stay where they are, and as they are: initialisation, optimizers, weight decay and
    tying see the raw ones, under ``module.<name>`` in the state dict; gradients reach them through the mask.

    Args:
        module: the module to call; changed for the length of a call only, also where the call raises.
        names: the parameters to drop, as ``module.named_parameters()`` names them, dotted ones too. By default the
            hidden-to-hidden weights of a recurrent layer (``weight_hh_l0``, ...) or cell (``weight_hh``), and
            ``weight`` of any other module. A parameter that is named twice, being tied, has one mask.
        p: the probability of dropping, in [0, 1], or a 0-d floating-point tensor on the parameters' device. Both may
            be changed at run time.
        mode: ``"upscale_in_train"`` (in evaluation the module is called as it is) or ``"downscale_in_infer"`` (in
            evaluation every named weight is multiplied by 1 - p, as in DropConnect's paper, but for its sampling).

    Shape:
        ``forward(*args, **kwargs)``: the module's own.

    Raises:
        ValueError: a name that the module has no parameter of, p outside [0, 1], or an unknown mode.
        TypeError: an argument of the wrong type.

    Threads may share one: calls that drop parameters of the same module take turns, each with a mask of its own. What
    else reads that module meanwhile (a call of it that goes past WeightDrop, of compiled code, or in evaluation; a copy
    of it) may meet the dropped weights.

    ``torch.compile`` takes it whole from torch 2.13 on (in 2.11 Dynamo breaks the graph), but for nn.RNN, LSTM and GRU,
    where it breaks as it does without WeightDrop. On CUDA, cuDNN warns that the weights of such a layer are not one
    chunk of memory: it copies them.

    Equivalent to::

        dropped = {name: fused_dropout.dropout(module.get_parameter(name), p) for name in names}
        output = torch.func.functional_call(module, dropped, (input,))
    """

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str] | None = None,
        p: "float | Tensor" = 0.5,
        *,
        mode: str = "upscale_in_train",
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"WeightDrop(): argument 'module' must be a torch.nn.Module, not {type(module).__name__}")
        probability(p, "WeightDrop")
        check_mode("WeightDrop", mode)
        self.module = module
        self.names = _names(module, names)
        self.p: Any = p
        self.mode = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training and self.mode == "upscale_in_train":
            return self.module(*args, **kwargs)
        places = [_place(self.module, name) for name in self.names]
        if torch.compiler.is_compiling():  # Dynamo does not trace a lock
            return self._call_dropped(places, args, kwargs)
        with ExitStack() as turn:
            for lock in _locks([owner for owner, _ in places]):
                turn.enter_context(lock)
            return self._call_dropped(places, args, kwargs)

    def _call_dropped(self, places: list[tuple[nn.Module, str]], args: Any, kwargs: Any) -> Any:
        raw = [_get(*place) for place in places]  # within one's turn: the parameters, or what a WeightDrop around put
        dropped: dict[Tensor, Tensor] = {}  # a tensor's hash is its identity: tied names share an entry, and so a mask
        for weight in raw:
            if weight not in dropped:
                dropped[weight] = F.dropout(weight, self.p, self.training, mode=self.mode)
        try:
            for place, weight in zip(places, raw, strict=True):
                _put(*place, dropped[weight])
            return self.module(*args, **kwargs)
        finally:
            for place, weight in zip(places, raw, strict=True):
                _put(*place, weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.p = moved(self.p, fn)
        return self

    def extra_repr(self) -> str:
        parts = [f"names={self.names}", f"p={self.p}"]
        if self.mode != "upscale_in_train":
            parts.append(f"mode={self.mode!r}")
        return ", ".join(parts)


def _names(module: nn.Module, names: Sequence[str] | None) -> tuple[str, ...]:
    there = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    if names is None:
        if isinstance(module, nn.RNNBase):
            names = [name for name in there if name.startswith("weight_hh_l")]
        else:
            names = ["weight_hh" if isinstance(module, nn.RNNCellBase) else "weight"]
    elif not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"WeightDrop(): argument 'names' must be a sequence of str, not {names!r}")
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        raise ValueError(
            f"WeightDrop: expected names of parameters of {type(module).__name__}, which has "
            f"{', '.join(there) or 'none'}, but got {', '.join(unknown) or 'none'}"
        )
    return tuple(names)


# By the module that has the parameter, since two WeightDrops may name the same; here, since no lock can be copied or
# pickled with a module; reentrant, since one WeightDrop may call another.
_LOCKS: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


def _locks(owners: list[nn.Module]) -> "list[threading.RLock]":
    """Each once, and in one order for all threads, so that no two wait for each other."""
    with _LOCKS_GUARD:
        return [_LOCKS.setdefault(owner, threading.RLock()) for owner in sorted(set(owners), key=id)]


# Where a module's forward finds a weight. A plain attribute hides the registered parameter of its name, which stays
# registered. RNN, LSTM and GRU look in a list of their own, which torch.func.functional_call does not restore.


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _get(owner: nn.Module, leaf: str) -> Any:
    if isinstance(owner, nn.RNNBase):
        owner._update_flat_weights()  # its forward does so first of all, and would undo what is put there
        return owner._flat_weights[owner._flat_weights_names.index(leaf)]
    return getattr(owner, leaf)


def _put(owner: nn.Module, leaf: str, tensor: Tensor) -> None:
    if isinstance(owner, nn.RNNBase):
        owner._flat_weights[owner._flat_weights_names.index(leaf)] = tensor
    elif owner._parameters.get(leaf) is tensor:
        owner.__dict__.pop(leaf, None)
    else:
        owner.__dict__[leaf] = tensor
