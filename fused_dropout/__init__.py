"""Dropout in one pass: the mask is recomputed, never stored, and the same on every device.

import fused_dropout

layer = fused_dropout.Dropout(0.1)          # where torch.nn.Dropout stood
y = fused_dropout.dropout(x, p=0.1)         # where torch.nn.functional.dropout stood
y = fused_dropout.dropout_add(x, residual, p=0.1)
"""

from . import _nested, _transforms  # noqa: F401  register their rules
from ._extension import build_info
from .activations import (
    bias_gelu_dropout,
    bias_relu_dropout,
    bias_silu_dropout,
    bias_squared_relu_dropout,
    geglu_dropout,
    gelu_dropout,
    relu_dropout,
    silu_dropout,
    squared_relu_dropout,
    swiglu_dropout,
)
from .conversion import convert, revert
from .functional import (
    alpha_dropout,
    drop_block2d,
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
    gaussian_dropout,
    locked_dropout,
    zoneout,
)
from .linear import DropoutLinear, dropout_linear
from .modules import (
    AlphaDropout,
    BiasDropoutAdd,
    DropBlock2d,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropoutAdd,
    DropPath,
    FeatureAlphaDropout,
    GaussianDropout,
    LockedDropout,
)
from .pipelines import bias_dropout, bias_dropout_add, drop_path_add, dropout_add
from .prediction import monte_carlo, predict
from .recurrent import Zoneout
from .reference import RNG_VERSION
from .rng import draw, keep_mask, normal_noise
from .row_modules import DropoutAddLayerNorm, DropoutAddRMSNorm, SoftmaxDropout
from .rowwise import dropout_add_layer_norm, dropout_add_rms_norm, softmax_dropout
from .weight_drop import WeightDrop

__version__ = "0.1.0"
__all__ = [
    "RNG_VERSION",
    "AlphaDropout",
    "BiasDropoutAdd",
    "DropBlock2d",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "DropoutAddLayerNorm",
    "DropoutAddRMSNorm",
    "DropoutLinear",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "LockedDropout",
    "SoftmaxDropout",
    "WeightDrop",
    "Zoneout",
    "alpha_dropout",
    "bias_dropout",
    "bias_dropout_add",
    "bias_gelu_dropout",
    "bias_relu_dropout",
    "bias_silu_dropout",
    "bias_squared_relu_dropout",
    "build_info",
    "convert",
    "draw",
    "drop_block2d",
    "drop_path",
    "drop_path_add",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_add_layer_norm",
    "dropout_add_rms_norm",
    "dropout_linear",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "geglu_dropout",
    "gelu_dropout",
    "keep_mask",
    "locked_dropout",
    "monte_carlo",
    "normal_noise",
    "predict",
    "relu_dropout",
    "revert",
    "silu_dropout",
    "softmax_dropout",
    "squared_relu_dropout",
    "swiglu_dropout",
    "zoneout",
]
