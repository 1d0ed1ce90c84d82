"""What of all there is, is measured."""

from dataclasses import dataclass
from enum import IntEnum

import torch


class Level(IntEnum):
    """How much: about a minute, some minutes, or what the repository's results have."""

    QUICK = 0
    DEFAULT = 1
    FULL = 2


@dataclass(frozen=True)
class Choice:
    """An empty tuple, or an empty `only`, leaves nothing out. `sizes` are elements; `only` is part of a label."""

    level: Level
    device: str
    threads: tuple[int, ...]
    p: float = 0.1
    dtypes: tuple[torch.dtype, ...] = ()
    sizes: tuple[int, ...] = ()
    operations: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    only: str = ""

    @property
    def filtered(self) -> bool:
        """Whether anything is left out but by the level."""
        return bool(self.dtypes or self.sizes or self.operations or self.peers or self.only)

    def wants(self, dtype: torch.dtype, numel: int, operation: str) -> bool:
        return (
            (not self.dtypes or dtype in self.dtypes)
            and (not self.sizes or numel in self.sizes)
            and (not self.operations or operation in self.operations)
        )

    def wants_peer(self, peer: str) -> bool:
        return not self.peers or peer in self.peers or kind(peer) in self.peers


def kind(peer: str) -> str:
    """Of "eager dropout_add" it is "eager": what is the same for every operation."""
    first, _, rest = peer.partition(" ")
    return first if rest and first in ("eager", "compiled", "unmasked", "native") else peer


def words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
