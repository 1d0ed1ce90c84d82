"""The modules: hyper-parameters, and a call of the function of the same name."""

from collections.abc import Sequence

from torch import Tensor, nn

from . import functional as F
from .rng import Rng, check_noise_shape, probability


class Dropout(nn.Dropout):
    r"""Drop-in for :class:`torch.nn.Dropout`: one pass, 16 bytes saved for backward, the same mask on every device.

    Args:
        p: the probability of dropping, in [0, 1], or a 0-d floating-point tensor on the input's device. Both may be
            changed at run time.
        inplace: write into the input.
        noise_shape: share decisions along dimensions, see :func:`fused_dropout.dropout`.
        mode: ``"upscale_in_train"`` or ``"downscale_in_infer"``.

    Shape:
        Input and output: any, the same. Call it as ``module(x)``, or ``module(x, rng=state)`` for a mask of choice.

    Raises:
        ValueError: p outside [0, 1], or an unknown mode.
        TypeError: an argument of the wrong type.

    Equivalent to::

        fused_dropout.dropout(x, module.p, module.training, module.inplace)
    """

    # Class attributes, so that a torch.nn.Dropout whose class is set to this one works.
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
        number, _ = probability(p, "Dropout")
        super().__init__(number, inplace)
        self.p = p  # type: ignore[assignment]
        if noise_shape is not None:
            check_noise_shape(noise_shape)
            self.noise_shape = tuple(noise_shape)
        if mode != "upscale_in_train":
            if not isinstance(mode, str) or mode not in F.GAINS:
                raise ValueError(
                    f"Dropout: expected mode to be one of {', '.join(map(repr, F.GAINS))}, but got {mode!r}"
                )
            self.mode = mode

    def forward(self, input: Tensor, *, rng: Rng = None) -> Tensor:
        return F.dropout(
            input, self.p, self.training, self.inplace, noise_shape=self.noise_shape, mode=self.mode, rng=rng
        )

    def extra_repr(self) -> str:
        parts = [super().extra_repr()]
        if self.noise_shape is not None:
            parts.append(f"noise_shape={self.noise_shape}")
        if self.mode != "upscale_in_train":
            parts.append(f"mode={self.mode!r}")
        return ", ".join(parts)
