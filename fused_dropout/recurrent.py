"""Zoneout: a recurrent cell whose units keep their previous value at random."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from . import functional as F
from ._calls import moved
from .rng import Rng, probability

State: TypeAlias = Tensor | tuple[Tensor, Tensor]  # h, or (h, c)


class Zoneout(nn.Module):
    r"""Wraps a recurrent cell: each unit of its state keeps its previous value with probability p, anew at each step.

    Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", 2016.

    Args:
        cell: nn.LSTMCell, GRUCell, RNNCell, or any module that maps ``(input, hx)`` to a new h or ``(h, c)``.
        p: the probability that a unit of h is zoned out, in [0, 1], or a 0-d floating-point tensor on its device.
        p_cell: the same for c, the cell state of an LSTM; by default p. All may be changed at run time.

    Shape:
        ``forward(input, hx=None, *, rng=None)``: the cell's own; without hx the previous state is zeros, as in the
        cells. For a mask of choice ``rng`` is a state, or for a cell of h and c a pair of states, in this order.

    In evaluation a unit is the expectation, p times its previous value and 1 - p times its new one.

    Raises:
        ValueError: p or p_cell outside [0, 1], p_cell for an nn.GRUCell or RNNCell, or one rng for h and c.
        TypeError: an argument of the wrong type.

    Equivalent to::

        h, c = cell(input, (h0, c0))
        h = fused_dropout.zoneout(h, h0, p, training)
        c = fused_dropout.zoneout(c, c0, p_cell, training)
    """

    def __init__(self, cell: nn.Module, p: "float | Tensor" = 0.1, p_cell: "float | Tensor | None" = None) -> None:
        super().__init__()
        if not isinstance(cell, nn.Module):
            raise TypeError(f"Zoneout(): argument 'cell' must be a torch.nn.Module, not {type(cell).__name__}")
        probability(p, "Zoneout")
        if p_cell is not None:
            probability(p_cell, "Zoneout")
            if isinstance(cell, (nn.GRUCell, nn.RNNCell)):
                raise ValueError(f"Zoneout: expected no p_cell, since {type(cell).__name__} has no cell state")
        self.cell = cell
        self.p: Any = p
        self.p_cell: Any = p_cell

    def forward(self, input: Tensor, hx: State | None = None, *, rng: Any = None) -> State:
        new = self.cell(input, hx)
        if isinstance(new, Tensor):
            return self._zoneout(new, hx, self.p, rng)
        (h, c), (rng_h, rng_c) = new, _pair(rng)
        previous_h, previous_c = (None, None) if hx is None else hx
        p_cell = self.p if self.p_cell is None else self.p_cell
        return self._zoneout(h, previous_h, self.p, rng_h), self._zoneout(c, previous_c, p_cell, rng_c)

    def _zoneout(self, new: Tensor, previous: Any, p: "float | Tensor", rng: Rng) -> Tensor:
        # Under autocast a cell's new state may have another dtype than the one it was given.
        previous = torch.zeros_like(new) if previous is None else previous.to(new.dtype)
        return F.zoneout(new, previous, p, self.training, rng=rng)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.p, self.p_cell = moved(self.p, fn), moved(self.p_cell, fn)
        return self

    def extra_repr(self) -> str:
        return f"p={self.p}" if self.p_cell is None else f"p={self.p}, p_cell={self.p_cell}"


def _pair(rng: Any) -> tuple[Rng, Rng]:
    if rng is None:
        return None, None
    two = not isinstance(rng, Tensor) and isinstance(rng, Sequence) and len(rng) == 2
    if not two or any(isinstance(word, int) for word in rng):
        raise ValueError(f"Zoneout: expected rng to be a pair of states, one for h and one for c, but got {rng!r}")
    return rng[0], rng[1]
