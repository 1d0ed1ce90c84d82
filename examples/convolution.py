"""Dropout in a convolutional network: channels, residual branches and squares, on scikit-learn's handwritten digits.

    python -m examples.convolution

Neighbouring pixels of a feature map say nearly the same, so that dropping them one by one takes away little. Three
remedies, each in a small residual network:

- Dropout2d drops whole channels (Tompson et al., "Efficient object localization using convolutional networks", 2015);
- DropPath drops a block's residual branch, the more often the deeper it lies (Huang et al., "Deep networks with
  stochastic depth", 2016);
- DropBlock2d drops squares of each channel (Ghiasi et al., "DropBlock: a regularization method for convolutional
  networks", 2018).

A fifth of the training labels is wrong, the test labels are right: what learns the wrong ones by heart pays for it. The
networks normalise by groups of channels: a batch's statistics while branches are being dropped are not those of
evaluation, which in a network as small as this would do more harm than DropPath does good. With --strict the exit
status is 1 unless each of the three narrows the gap between training and test error and lowers the test error.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from fused_dropout import DropBlock2d, Dropout2d, DropPath

from .experiment import compare, conclude, digits, improvements, plot_errors, print_errors, read_options

TRAINING_SIZE, MISLABELLED = 300, 60
BATCH, LEARNING, CHANNELS, GROUPS, BLOCKS = 50, 3e-3, 16, 4, 4
P_CHANNEL, P_PATH, P_BLOCK, BLOCK_SIZE = 0.3, 0.7, 0.3, 3


class Residual(nn.Module):
    """x + path(convolutions of x), ``drop`` standing between the two convolutions."""

    def __init__(self, drop: nn.Module, path: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, CHANNELS), nn.ReLU()),
            drop,
            *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, CHANNELS)),
        )
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.path(self.branch(x)))


def network(
    drop: Callable[[], nn.Module] = nn.Identity, path: Callable[[float], nn.Module] = nn.Identity
) -> nn.Sequential:
    """``drop`` makes what stands within each block, ``path`` what its branch goes through, from how deep it lies."""
    first, *others = (Residual(drop(), path((depth + 1) / BLOCKS)) for depth in range(BLOCKS))
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, CHANNELS, 3, padding=1), nn.GroupNorm(GROUPS, CHANNELS), nn.ReLU()),
        *(first, nn.MaxPool2d(2), *others),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 10)),
    )


VARIANTS = {
    "no dropout": network,
    "Dropout2d": partial(network, partial(Dropout2d, P_CHANNEL)),
    "DropPath": partial(network, path=lambda depth: DropPath(P_PATH * depth)),
    "DropBlock2d": partial(network, partial(DropBlock2d, P_BLOCK, BLOCK_SIZE)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(__file__, __doc__, arguments, seeds=6, epochs=40)
    training, test = digits(TRAINING_SIZE, MISLABELLED, options.device)
    errors, _ = compare(VARIANTS, training, test, options, batch=BATCH, learning=LEARNING)
    title = f"{MISLABELLED} of {TRAINING_SIZE} training labels are wrong: learnt by heart, without dropout"
    plot_errors(errors, title, "wrong answers (%)", (-1, 50), options.plot)
    print_errors(errors, "Wrong answers, in %,")
    claims = [claim for name in list(VARIANTS)[1:] for claim in improvements(errors, name, "no dropout")]
    return conclude(claims, "in percentage points", options, "convolution")


if __name__ == "__main__":
    sys.exit(main())
