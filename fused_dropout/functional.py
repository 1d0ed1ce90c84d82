"""The functions: arguments checked, identities returned, and one operation called."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ._calls import (
    GAINS,
    call,
    check,
    check_block,
    check_call,
    check_features,
    check_flags,
    check_mode,
    check_per,
    evaluated,
    expectation,
    leading,
    leaves_open,
    scaled,
    shared,
    together,
    unread_state,
)
from ._extension import ops
from .reference import GAIN_ALPHA, GAIN_ONE, GAIN_UPSCALE, row_major
from .rng import Rng, giving_back, mask_strides, probability


def dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    noise_shape: Sequence[int | None] | None = None,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops each element with probability p and scales the others by 1 / (1 - p); in one pass, storing no mask.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    Args:
        input: tensor of any shape and strides; float16, bfloat16, float32 or float64.
        p: the probability of dropping, in [0, 1]. A 0-d floating-point tensor on the input's device is read there,
            without synchronising, so that a schedule of p needs no recompilation; outside [0, 1] it counts as 1.
        training: apply dropout if True, else return the input (see ``mode``).
        inplace: write into ``input``.
        noise_shape: the mask's shape. An entry is the input's size, None for it, or 1, which shares one decision
            along that dimension: ``(N, C, 1, 1)`` drops whole channels.
        mode: ``"upscale_in_train"`` (kept elements are scaled in training) or ``"downscale_in_infer"`` (the bare mask
            in training, every element times 1 - p in evaluation, as in the paper).
        generator: draw the state from this generator instead of the device's own; inside a checkpoint, which does not
            restore it, draw outside with ``fused_dropout.draw(generator=g)`` and pass ``rng=``.
        rng: use this state and no generator: an int64 tensor of 2 as :func:`fused_dropout.draw` returns, or two ints
            ``(seed, offset)`` in [0, 2**64), the offset a multiple of 4.

    Returns:
        Tensor of the input's shape, dtype and, where that is dense, strides. The input itself in evaluation with
        ``"upscale_in_train"``, and where p is the number 0.

    Raises:
        ValueError: p outside [0, 1]; a noise shape that does not fit; an unknown mode; a state of the wrong dtype or
            size; ``rng`` together with ``generator``.
        TypeError: an argument of the wrong type.
        RuntimeError: an unsupported dtype in training; in-place on a leaf that requires grad, a view of one, or an
            expanded tensor; a generator of another device.

    Equivalent to::

        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=noise_shape)
        output = torch.where(keep, input / (1 - p), 0)
    """
    check_mode("dropout", mode)
    checked_p = probability(p, "dropout")
    check_call("dropout", input, training, inplace, generator, rng)
    if not training:
        return evaluated(input, checked_p, inplace, mode)
    if checked_p[0] == 0:
        return input
    strides = None if noise_shape is None else mask_strides(input.shape, noise_shape, "dropout")
    return call("dropout", (input,), checked_p, GAINS[mode], strides, inplace, generator, rng)[0]


def dropout1d(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops whole channels of a sequence, as :func:`torch.nn.functional.dropout1d` does.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015. Arguments, result and
    errors are those of :func:`dropout`.

    Shape:
        Input and output: (N, C, L), or (C, L) without a batch; each channel has one decision.

    Raises:
        RuntimeError: an input of another rank.

    Equivalent to::

        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=(*input.shape[:-1], 1))
        output = torch.where(keep, input / (1 - p), 0)
    """
    checked_p = check("dropout1d", input, p, training, inplace, generator, rng, mode)
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input. "
            "Note that dropout1d exists to provide channel-wise dropout on inputs with 1 "
            "spatial dimension, a channel dimension, and an optional batch dimension "
            "(i.e. 2D or 3D inputs)."
        )
    return shared(input, checked_p, training, inplace, leading(input, input.dim() - 1), mode, generator, rng)


def dropout2d(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops whole channels of an image, as :func:`torch.nn.functional.dropout2d` does.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015. Arguments, result and
    errors are those of :func:`dropout`.

    Shape:
        Input and output: (N, C, H, W); each channel of each sample has one decision. As in PyTorch three dimensions
        count as (N, C, L), with a warning, and so does any other rank from two on.

    Raises:
        RuntimeError: an input of fewer than two dimensions.

    Equivalent to::

        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=(*input.shape[:2], 1, 1))
        output = torch.where(keep, input / (1 - p), 0)
    """
    checked_p = check("dropout2d", input, p, training, inplace, generator, rng, mode)
    dims = input.dim()
    if dims not in (3, 4):
        warnings.warn(
            f"dropout2d: Received a {dims}-D input to dropout2d, which is deprecated "
            "and will result in an error in a future release. To retain the behavior "
            "and silence this warning, please use dropout instead. Note that dropout2d "
            "exists to provide channel-wise dropout on inputs with 2 spatial dimensions, "
            "a channel dimension, and an optional batch dimension (i.e. 3D or 4D inputs).",
            stacklevel=2,
        )
    if dims == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise "
            "1D dropout behavior is desired - input is interpreted as shape (N, C, L), where C "
            "is the channel dim. This behavior will change in a future release to interpret the "
            "input as one without a batch dimension, i.e. shape (C, H, W). To maintain the 1D "
            "channel-wise dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    if dims < 2:
        check_features(input, 2, checked_p, training)
    return shared(input, checked_p, training, inplace, leading(input, 2), mode, generator, rng)


def dropout3d(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops whole channels of a volume, as :func:`torch.nn.functional.dropout3d` does.

    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015. Arguments, result and
    errors are those of :func:`dropout`.

    Shape:
        Input and output: (N, C, D, H, W), or (C, D, H, W) without a batch; each channel has one decision. As in PyTorch
        any other rank from one on counts as one without a batch, with a warning.

    Raises:
        RuntimeError: an input without dimensions.

    Equivalent to::

        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=(*input.shape[:-3], 1, 1, 1))
        output = torch.where(keep, input / (1 - p), 0)
    """
    checked_p = check("dropout3d", input, p, training, inplace, generator, rng, mode)
    if input.dim() not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, which is deprecated "
            "and will result in an error in a future release. To retain the behavior "
            "and silence this warning, please use dropout instead. Note that dropout3d "
            "exists to provide channel-wise dropout on inputs with 3 spatial dimensions, "
            "a channel dimension, and an optional batch dimension (i.e. 4D or 5D inputs).",
            stacklevel=2,
        )
    own = 2 if input.dim() == 5 else 1
    check_features(input, own, checked_p, training)
    return shared(input, checked_p, training, inplace, leading(input, own), mode, generator, rng)


def alpha_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Dropout for SELU networks: dropped elements take SELU's negative saturation value, mean and variance are kept.

    Klambauer et al., "Self-Normalizing Neural Networks", 2017. Arguments, result and errors are those of
    :func:`dropout`; ``training`` is False by default, as in torch.nn.functional.alpha_dropout.

    Equivalent to::

        alpha = -1.7580993408473766
        a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
        keep = fused_dropout.keep_mask(input.shape, p, rng)
        output = torch.where(keep, a * input - a * p * alpha, a * (1 - p) * alpha)
    """
    checked_p = check("alpha_dropout", input, p, training, inplace, generator, rng)
    if not training or checked_p[0] == 0:
        return input
    return call("alpha_dropout", (input,), checked_p, GAIN_ALPHA, None, inplace, generator, rng)[0]


def feature_alpha_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r""":func:`alpha_dropout` of whole channels, as :func:`torch.nn.functional.feature_alpha_dropout` does.

    Klambauer et al., "Self-Normalizing Neural Networks", 2017. Arguments, result and errors are those of
    :func:`dropout`; ``training`` is False by default, as in PyTorch.

    Shape:
        Input and output: (N, C, *) with any number of dimensions after them; each channel of each sample has one
        decision. As in PyTorch there is no form without a batch: (C, D, H, W) counts as (N, C, H, W).

    Raises:
        RuntimeError: an input of fewer than two dimensions.

    Equivalent to::

        alpha = -1.7580993408473766
        a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
        noise_shape = (*input.shape[:2], *[1] * (input.dim() - 2))
        keep = fused_dropout.keep_mask(input.shape, p, rng, noise_shape=noise_shape)
        output = torch.where(keep, a * input - a * p * alpha, a * (1 - p) * alpha)
    """
    checked_p = check("feature_alpha_dropout", input, p, training, inplace, generator, rng)
    if not training or checked_p[0] == 0:
        return input
    check_features(input, 2, checked_p, training)
    strides = leading(input, 2)
    return call("alpha_dropout", (input,), checked_p, GAIN_ALPHA, strides, inplace, generator, rng)[0]


def drop_path(
    input: Tensor,
    p: "float | Tensor" = 0.0,
    training: bool = False,
    scale_by_keep: bool = True,
    *,
    per: str = "row",
    inplace: bool = False,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Stochastic depth: drops the whole residual branch of a sample, or of the batch.

    Huang et al., "Deep networks with stochastic depth", ECCV 2016; called drop path in FractalNet (Larsson et al.,
    2017). The order of the arguments is timm's; ``per`` is torchvision's ``mode``. Arguments that are not named here,
    result and errors are those of :func:`dropout`.

    Args:
        scale_by_keep: scale what is kept by 1 / (1 - p). False: the bare mask in training, and the identity in
            evaluation. With ``mode="downscale_in_infer"``, which scales nothing in training, it changes nothing.
        per: ``"row"``: one decision for each index of dimension 0; ``"batch"``: one for all.

    Shape:
        Input and output: (N, *), of at least one dimension where something may be dropped.

    Raises:
        ValueError: an unknown ``per``; an input without dimensions.

    Equivalent to, with the defaults::

        keep = fused_dropout.keep_mask((input.shape[0], *[1] * (input.dim() - 1)), p, rng)
        output = torch.where(keep, input / (1 - p), 0)
    """
    checked_p = check("drop_path", input, p, training, inplace, generator, rng, mode)
    if scale_by_keep is not True:  # asked first: the call costs more than the rest
        check_flags("drop_path", scale_by_keep=scale_by_keep)
    check_per("drop_path", per)
    if input.dim() == 0 and training and checked_p[0] != 0:
        raise ValueError("drop_path: expected an input of at least 1 dimension, the first one the batch, but got 0")
    strides = leading(input, 1 if per == "row" else 0)
    gain = GAINS[mode] if scale_by_keep else GAIN_ONE
    return shared(input, checked_p, training, inplace, strides, mode, generator, rng, gain)


def locked_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_first: bool = False,
    mode: str = "upscale_in_train",
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Drops the same features at every time step: the time dimension shares the mask.

    Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NeurIPS 2016
    (variational dropout); "locked" in AWD-LSTM (Merity et al., ICLR 2018). Each sample and each feature has a decision
    of its own, and that decision holds for the whole sequence. Arguments that are not named here, result and errors are
    those of :func:`dropout`.

    Args:
        batch_first: False, as in torch.nn.LSTM: time is dimension 0, which shares the mask. True: time is dimension 1.

    Shape:
        Input and output: (T, B, F); (B, T, F) with ``batch_first``; or (T, F) without a batch, where time is dimension
        0 either way.

    Raises:
        ValueError: an input of another rank.

    Equivalent to, with the defaults::

        keep = fused_dropout.keep_mask((1, *input.shape[1:]), p, rng)
        output = torch.where(keep, input / (1 - p), 0)
    """
    checked_p = check("locked_dropout", input, p, training, inplace, generator, rng, mode)
    if batch_first is not False:
        check_flags("locked_dropout", batch_first=batch_first)
    dims = input.dim()
    if dims not in (2, 3):
        layout = "(batch, time, features)" if batch_first else "(time, batch, features)"
        raise ValueError(
            f"locked_dropout: expected an input {layout} or (time, features), but got one of shape {list(input.shape)}"
        )
    features = input.shape[-1]
    strides = [0, 1] if dims == 2 else [features, 0, 1] if batch_first else [0, features, 1]
    return shared(input, checked_p, training, inplace, strides, mode, generator, rng)


def gaussian_dropout(
    input: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    noise_shape: Sequence[int | None] | None = None,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Multiplies each element by a normal variable of mean 1 and variance p / (1 - p), that of dropout's own factor.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014, section 10;
    Keras' ``GaussianDropout``. Evaluation is the identity. Where p rounds to 1 the output is zero. Arguments, result
    and errors are those of :func:`dropout`; ``noise_shape`` shares one factor along the dimensions that it shares.

    Equivalent to::

        noise = fused_dropout.normal_noise(input.shape, rng, noise_shape=noise_shape, dtype=input.dtype)
        output = input * (1 + (p / (1 - p)) ** 0.5 * noise)
    """
    checked_p = check("gaussian_dropout", input, p, training, inplace, generator, rng)
    if not training or checked_p[0] == 0:
        return input
    strides = None if noise_shape is None else mask_strides(input.shape, noise_shape, "gaussian_dropout")
    return call("gaussian_dropout", (input,), checked_p, GAIN_UPSCALE, strides, inplace, generator, rng)[0]


def drop_block2d(
    input: Tensor,
    p: "float | Tensor" = 0.1,
    block_size: int = 7,
    training: bool = True,
    inplace: bool = False,
    *,
    gamma_scale: float = 1.0,
    couple_channels: bool = False,
    clip: bool = False,
    with_noise: bool = False,
    scale_by_keep: bool = True,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""DropBlock: drops square regions of each channel and scales the rest by the share that was kept.

    Ghiasi et al., "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. Every place where a
    block may begin is dropped with probability gamma, chosen so that about a share p of the elements is covered.
    torchvision's layer is ``couple_channels=False, clip=False`` (the defaults), timm's is ``couple_channels=True,
    clip=True``. Arguments that are not named here and errors are those of :func:`dropout`.

    Args:
        p: the share of elements to drop, a number or a 0-d floating-point tensor.
        block_size: the side of a block; a map that is smaller is covered by one block of its own height or width.
        gamma_scale: multiplies gamma, which is at most 1 after that.
        couple_channels: all channels of a sample share their blocks.
        clip: blocks begin anywhere and are cut off at the border; otherwise all lie inside whole.
        with_noise: dropped elements become standard normal noise, and nothing is rescaled (timm).
        scale_by_keep: multiply kept elements by the number of elements over the number kept, counted over the whole
            batch, and by 0 where nothing is kept.

    Shape:
        Input and output: (N, C, H, W), or (C, H, W) without a batch.

    Returns:
        Tensor of the input's shape and dtype. The input itself in evaluation, and where p is the number 0.

    Raises:
        ValueError: an input of another rank; a block size below 1; a gamma_scale that is negative or not finite.
        RuntimeError: complex numbers, with noise.

    Equivalent to, with the defaults::

        height, width = input.shape[-2:]
        block = min(block_size, height), min(block_size, width)
        inside = height - block[0] + 1, width - block[1] + 1  # where a block may begin
        gamma = gamma_scale * p * height * width / (block[0] * block[1]) / (inside[0] * inside[1])
        seeds = ~fused_dropout.keep_mask((*input.shape[:-2], *inside), min(1, gamma), rng)
        seeds = torch.nn.functional.pad(seeds.float(), 2 * [block[1] - 1] + 2 * [block[0] - 1])
        keep = torch.nn.functional.max_pool2d(seeds, block, stride=1) == 0
        output = torch.where(keep, input * (keep.numel() / keep.sum()), 0)
    """
    checked_p = check("drop_block2d", input, p, training, inplace, generator, rng)
    check_block("drop_block2d", block_size, gamma_scale)
    check_flags(
        "drop_block2d",
        couple_channels=couple_channels,
        clip=clip,
        with_noise=with_noise,
        scale_by_keep=scale_by_keep,
    )
    if input.dim() not in (3, 4):
        raise ValueError(
            "drop_block2d: expected an input (batch, channels, height, width) or (channels, height, width), "
            f"but got one of shape {list(input.shape)}"
        )
    if not training or checked_p[0] == 0:
        return input
    if with_noise and input.is_complex():
        raise RuntimeError(f"drop_block2d: expected a real tensor to add noise to, but got {input.dtype}")
    gain = GAIN_UPSCALE if scale_by_keep and not with_noise else GAIN_ONE
    if input.numel() == 0:  # a map without height has no block; the state is drawn all the same
        return call("dropout", (input,), checked_p, gain, None, inplace, generator, rng)[0]
    x = input if input.dim() == 4 else input.unsqueeze(0)
    batch, channels, height, width = x.shape
    masks = 1 if couple_channels else channels
    block_h, block_w = min(block_size, height), min(block_size, width)
    inside_h, inside_w = height - block_h + 1, width - block_w + 1
    seeds_h, seeds_w = (height, width) if clip else (inside_h, inside_w)
    first: float | Tensor = gamma_scale
    if leaves_open(height, width):  # as a number the product would be frozen in the graph
        first = torch.full((), gamma_scale, dtype=torch.float64, device=x.device)
    scale = first * height * width / (block_h * block_w) / (inside_h * inside_w)
    gamma = scaled(checked_p, scale)
    strides = row_major([batch, masks, seeds_h, seeds_w])
    block = [block_h, block_w, seeds_h, seeds_w]
    at_once = inplace and not with_noise  # two passes in place would leave the first alone where the second fails
    if inplace and with_noise:  # what may not be written is refused before a state is drawn
        call("dropout", (x,), (0.0, None), GAIN_ONE, None, True, None, unread_state(x.device))
    with giving_back(input.device, generator, rng):
        output, state = call("dropout", (x,), gamma, gain, strides, at_once, generator, rng, block)
        if with_noise:
            used = batch * masks * seeds_h * seeds_w
            shape = [batch, masks, height, width]  # noise is made of pairs of words, and no word serves twice
            noise = ops.normal_noise(state, shape, dtype=x.dtype, mask_base=used + used % 2)
            filling = noise - call("dropout", (noise,), gamma, GAIN_ONE, strides, False, None, state, block)[0]
            output = output + filling
        if inplace:
            if with_noise:
                x.copy_(output)
            return input
        return output if input.dim() == 4 else output.squeeze(0)


def zoneout(
    input: Tensor,
    previous: Tensor,
    p: "float | Tensor" = 0.5,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
    rng: Rng = None,
) -> Tensor:
    r"""Keeps the previous value of an element with probability p, instead of dropping it.

    Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017. In evaluation the
    expectation: (1 - p) * input + p * previous, each product rounded to float32 (float64 for float64). Arguments that
    are not named here and errors are those of :func:`dropout`.

    Args:
        input: the new state, of any shape.
        previous: the state before it; of the same shape, dtype and device.
        p: the probability that an element of ``input`` gives way to that of ``previous``.

    Returns:
        Tensor of the input's shape and dtype. The input itself where p is the number 0.

    Raises:
        ValueError: shapes that differ.
        RuntimeError: dtypes that differ, but under autocast, or that are neither floating-point nor complex.

    Equivalent to::

        output = torch.where(fused_dropout.keep_mask(input.shape, p, rng), input, previous)
    """
    checked_p = check("zoneout", input, p, training, False, generator, rng)
    input, previous = together("zoneout", input, previous=previous)
    if checked_p[0] == 0:
        return input
    if not input.is_floating_point() and not input.is_complex():
        raise RuntimeError(f"zoneout: expected tensors of a floating-point dtype, but got {input.dtype}")
    if training:
        return call("zoneout", (input, previous), checked_p, GAIN_UPSCALE, None, False, generator, rng)[0]
    return expectation(input, previous, p)
