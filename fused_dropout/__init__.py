"""Dropout in one pass: the mask is recomputed, never stored, and the same on every device.

import fused_dropout

layer = fused_dropout.Dropout(0.1)          # where torch.nn.Dropout stood
y = fused_dropout.dropout(x, p=0.1)         # where torch.nn.functional.dropout stood
y = fused_dropout.dropout_add(x, residual, p=0.1)
"""

from ._extension import build_info
from .functional import alpha_dropout, dropout, dropout_add
from .modules import Dropout
from .reference import RNG_VERSION
from .rng import draw, keep_mask

__version__ = "0.1.0"
__all__ = [
    "RNG_VERSION",
    "Dropout",
    "alpha_dropout",
    "build_info",
    "draw",
    "dropout",
    "dropout_add",
    "keep_mask",
]
