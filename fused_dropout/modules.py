"""The modules: hyper-parameters, and a call of the function of the same name."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from . import functional as F
from . import pipelines
from ._calls import check_block, check_flags, check_mode, check_per, moved
from .rng import Rng, check_noise_shape, probability


class _Layer(_DropoutNd):
    """What every layer adds to torch's: a p that may be a tensor, and options.

    The options' defaults are class attributes, so that an instance of torch's class whose class is set to ours works.
    """

    _options: ClassVar[tuple[str, ...]] = ()
    p: Any

    def __init__(self, p: "float | Tensor", inplace: bool, **options: Any) -> None:
        name = type(self).__name__
        number, _ = probability(p, name)
        check_flags(name, inplace=inplace)
        if "mode" in options:
            check_mode(name, options["mode"])
        if options.get("noise_shape") is not None:
            check_noise_shape(options["noise_shape"], name)
            options["noise_shape"] = tuple(options["noise_shape"])
        super().__init__(number, inplace)
        self.p = p
        for option, value in options.items():
            setattr(self, option, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.p = moved(self.p, fn)
        return self

    def extra_repr(self) -> str:
        options = [(option, getattr(self, option)) for option in self._options]
        changed = [f"{option}={value!r}" for option, value in options if value != getattr(type(self), option)]
        return ", ".join([f"p={self.p}, inplace={self.inplace}", *changed])


class _Scaling(_Layer):
    """A layer that scales what it keeps by 1 / (1 - p), or everything by 1 - p in evaluation."""

    _options: ClassVar[tuple[str, ...]] = ("mode",)
    mode: str = "upscale_in_train"

    def __init__(self, p: "float | Tensor" = 0.5, inplace: bool = False, *, mode: str = "upscale_in_train") -> None:
        super().__init__(p, inplace, mode=mode)


class Dropout(_Layer, nn.Dropout):
    r"""Drop-in for :class:`torch.nn.Dropout`: one pass, 16 bytes saved for backward, the same mask on every device.

    Args:
        p: the probability of dropping, in [0, 1], or a 0-d floating-point tensor on the input's device. Both may be
            changed at run time; a tensor follows the module to another device and is not in its state dict.
        inplace: write into the input.
        noise_shape: share decisions along dimensions, see :func:`fused_dropout.dropout`.
        mode: ``"upscale_in_train"`` or ``"downscale_in_infer"``.

    Shape:
        Input and output: any, the same. Call it as ``module(x)``, or ``module(x, rng=state)`` for a mask of choice.

    Raises:
        ValueError: p outside [0, 1], or an unknown mode.
        TypeError: an argument of the wrong type.

    Equivalent to::

        options = {"noise_shape": module.noise_shape, "mode": module.mode}
        output = fused_dropout.dropout(input, module.p, module.training, module.inplace, rng=rng, **options)
    """

    _options = ("noise_shape", "mode")
    noise_shape: Sequence[int | None] | None = None
    mode: str = "upscale_in_train"

    def __init__(
        self,
        p: "float | Tensor" = 0.5,
        inplace: bool = False,
        *,
        noise_shape: Sequence[int | None] | None = None,
        mode: str = "upscale_in_train",
    ) -> None:
        super().__init__(p, inplace, noise_shape=noise_shape, mode=mode)

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.dropout(
            input, self.p, self.training, self.inplace, noise_shape=self.noise_shape, mode=self.mode, rng=rng
        )


class Dropout1d(_Scaling, nn.Dropout1d):
    r"""Drop-in for :class:`torch.nn.Dropout1d`: drops whole channels of sequences.

    See :func:`fused_dropout.dropout1d` for shapes, errors and the paper, :class:`Dropout` for the arguments.

    Shape:
        Input and output: (N, C, L) or (C, L).

    Equivalent to::

        output = fused_dropout.dropout1d(input, module.p, module.training, module.inplace, mode=module.mode, rng=rng)
    """

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace, mode=self.mode, rng=rng)


class Dropout2d(_Scaling, nn.Dropout2d):
    r"""Drop-in for :class:`torch.nn.Dropout2d`: drops whole channels of images.

    See :func:`fused_dropout.dropout2d` for shapes, errors and the paper, :class:`Dropout` for the arguments.

    Shape:
        Input and output: (N, C, H, W), or (N, C, L) with a warning.

    Equivalent to::

        output = fused_dropout.dropout2d(input, module.p, module.training, module.inplace, mode=module.mode, rng=rng)
    """

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace, mode=self.mode, rng=rng)


class Dropout3d(_Scaling, nn.Dropout3d):
    r"""Drop-in for :class:`torch.nn.Dropout3d`: drops whole channels of volumes.

    See :func:`fused_dropout.dropout3d` for shapes, errors and the paper, :class:`Dropout` for the arguments.

    Shape:
        Input and output: (N, C, D, H, W) or (C, D, H, W).

    Equivalent to::

        output = fused_dropout.dropout3d(input, module.p, module.training, module.inplace, mode=module.mode, rng=rng)
    """

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace, mode=self.mode, rng=rng)


class AlphaDropout(_Layer, nn.AlphaDropout):
    r"""Drop-in for :class:`torch.nn.AlphaDropout`, dropout for SELU networks.

    See :func:`fused_dropout.alpha_dropout` for errors and the paper, :class:`Dropout` for the arguments.
    ``inplace`` counts, which torch's own does not look at.

    Shape:
        Input and output: any, the same.

    Equivalent to::

        output = fused_dropout.alpha_dropout(input, module.p, module.training, module.inplace, rng=rng)
    """

    def __init__(self, p: "float | Tensor" = 0.5, inplace: bool = False) -> None:
        super().__init__(p, inplace)

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training, self.inplace, rng=rng)


class FeatureAlphaDropout(_Layer, nn.FeatureAlphaDropout):
    r"""Drop-in for :class:`torch.nn.FeatureAlphaDropout`: alpha dropout of whole channels.

    See :func:`fused_dropout.feature_alpha_dropout` for errors and the paper, :class:`Dropout` for the arguments.
    ``inplace`` counts, which torch's own does not look at.

    Shape:
        Input and output: (N, C, *).

    Equivalent to::

        output = fused_dropout.feature_alpha_dropout(input, module.p, module.training, module.inplace, rng=rng)
    """

    def __init__(self, p: "float | Tensor" = 0.5, inplace: bool = False) -> None:
        super().__init__(p, inplace)

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace, rng=rng)


class DropPath(_Scaling):
    r"""Stochastic depth: drops the whole residual branch of a sample (``per="row"``) or of the batch (``"batch"``).

    The first arguments are those of timm's ``DropPath``. See :func:`fused_dropout.drop_path` for the arguments, errors
    and the paper; p may be a tensor and may change, as in :class:`Dropout`.

    Shape:
        Input and output: (N, *).

    Equivalent to::

        options = {"per": module.per, "inplace": module.inplace, "mode": module.mode}
        output = fused_dropout.drop_path(input, module.p, module.training, module.scale_by_keep, rng=rng, **options)
    """

    _options = ("scale_by_keep", "per", "mode")
    scale_by_keep: bool = True
    per: str = "row"

    def __init__(
        self,
        p: "float | Tensor" = 0.0,
        scale_by_keep: bool = True,
        *,
        per: str = "row",
        inplace: bool = False,
        mode: str = "upscale_in_train",
    ) -> None:
        super().__init__(p, inplace, mode=mode)
        check_flags("DropPath", scale_by_keep=scale_by_keep)
        check_per("DropPath", per)
        self.scale_by_keep, self.per = scale_by_keep, per

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.drop_path(
            input,
            self.p,
            self.training,
            self.scale_by_keep,
            per=self.per,
            inplace=self.inplace,
            mode=self.mode,
            rng=rng,
        )


class LockedDropout(_Scaling):
    r"""Variational dropout for sequences: the time dimension shares the mask.

    Time is dimension 0 of (T, B, F), or dimension 1 of (B, T, F) with ``batch_first``. See
    :func:`fused_dropout.locked_dropout` for errors and the papers, :class:`Dropout` for the other arguments.

    Shape:
        Input and output: (T, B, F), (B, T, F) with ``batch_first``, or (T, F).

    Equivalent to::

        options = {"batch_first": module.batch_first, "mode": module.mode}
        output = fused_dropout.locked_dropout(input, module.p, module.training, module.inplace, rng=rng, **options)
    """

    _options = ("batch_first", "mode")
    batch_first: bool = False

    def __init__(
        self,
        p: "float | Tensor" = 0.5,
        inplace: bool = False,
        *,
        batch_first: bool = False,
        mode: str = "upscale_in_train",
    ) -> None:
        super().__init__(p, inplace, mode=mode)
        check_flags("LockedDropout", batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.locked_dropout(
            input, self.p, self.training, self.inplace, batch_first=self.batch_first, mode=self.mode, rng=rng
        )


class DropoutAdd(_Layer):
    r"""``residual + dropout(input)`` in one pass; see :func:`fused_dropout.dropout_add`.

    Args:
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor.

    Shape:
        ``layer(input, residual)``: tensors of one shape, which is the output's.

    Raises:
        ValueError: p outside [0, 1]; shapes that differ.

    Equivalent to::

        output = residual + fused_dropout.dropout(input, module.p, module.training, rng=rng)
    """

    def __init__(self, p: "float | Tensor" = 0.5) -> None:
        super().__init__(p, False)

    def forward(self, input: Tensor, residual: Tensor, *, rng: Rng = None) -> Tensor:
        return pipelines.dropout_add(input, residual, self.p, self.training, rng=rng)


class BiasDropoutAdd(_Layer):
    r"""``residual + dropout(input + bias)`` in one pass; see :func:`fused_dropout.bias_dropout_add`.

    Args:
        p: the probability of dropping, a number in [0, 1] or a 0-d tensor.

    Shape:
        ``layer(input, bias, residual)``: tensors of one shape, which is the output's, and a bias that broadcasts to it;
        such as that of the linear layer before, which then adds none.

    Raises:
        ValueError: p outside [0, 1]; shapes that do not fit.

    Equivalent to::

        output = residual + fused_dropout.dropout(input + bias, module.p, module.training, rng=rng)
    """

    def __init__(self, p: "float | Tensor" = 0.5) -> None:
        super().__init__(p, False)

    def forward(self, input: Tensor, bias: Tensor, residual: Tensor, *, rng: Rng = None) -> Tensor:
        return pipelines.bias_dropout_add(input, bias, residual, self.p, self.training, rng=rng)


class GaussianDropout(_Layer):
    r"""Multiplies by a normal variable of mean 1 and variance p / (1 - p).

    See :func:`fused_dropout.gaussian_dropout` for errors and the paper, :class:`Dropout` for the arguments.

    Shape:
        Input and output: any, the same.

    Equivalent to::

        options = {"noise_shape": module.noise_shape}
        output = fused_dropout.gaussian_dropout(input, module.p, module.training, module.inplace, rng=rng, **options)
    """

    _options = ("noise_shape",)
    noise_shape: Sequence[int | None] | None = None

    def __init__(
        self,
        p: "float | Tensor" = 0.5,
        inplace: bool = False,
        *,
        noise_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(p, inplace, noise_shape=noise_shape)

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.gaussian_dropout(input, self.p, self.training, self.inplace, noise_shape=self.noise_shape, rng=rng)


class DropBlock2d(_Layer):
    r"""DropBlock: drops square regions of feature maps.

    See :func:`fused_dropout.drop_block2d` for the arguments, errors, the paper, and what gives timm's and torchvision's
    layers; p may be a tensor and may change, as in :class:`Dropout`.

    Shape:
        Input and output: (N, C, H, W) or (C, H, W).

    Equivalent to::

        names = "gamma_scale", "couple_channels", "clip", "with_noise", "scale_by_keep"
        options = {name: getattr(module, name) for name in names}
        arguments = module.p, module.block_size, module.training, module.inplace
        output = fused_dropout.drop_block2d(input, *arguments, rng=rng, **options)
    """

    _options = ("block_size", "gamma_scale", "couple_channels", "clip", "with_noise", "scale_by_keep")
    block_size: int = 7
    gamma_scale: float = 1.0
    couple_channels: bool = False
    clip: bool = False
    with_noise: bool = False
    scale_by_keep: bool = True

    def __init__(
        self,
        p: "float | Tensor" = 0.1,
        block_size: int = 7,
        inplace: bool = False,
        *,
        gamma_scale: float = 1.0,
        couple_channels: bool = False,
        clip: bool = False,
        with_noise: bool = False,
        scale_by_keep: bool = True,
    ) -> None:
        flags = {
            "couple_channels": couple_channels,
            "clip": clip,
            "with_noise": with_noise,
            "scale_by_keep": scale_by_keep,
        }
        super().__init__(p, inplace, block_size=block_size, gamma_scale=gamma_scale, **flags)
        check_block("DropBlock2d", block_size, gamma_scale)
        check_flags("DropBlock2d", **flags)

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.drop_block2d(
            input,
            self.p,
            self.block_size,
            self.training,
            self.inplace,
            gamma_scale=self.gamma_scale,
            couple_channels=self.couple_channels,
            clip=self.clip,
            with_noise=self.with_noise,
            scale_by_keep=self.scale_by_keep,
            rng=rng,
        )
