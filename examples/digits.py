"""Dropout against overfitting, on scikit-learn's handwritten digits; and fused_dropout's beside PyTorch's own.

    python -m examples.digits

A network with far more weights than examples learns its training set by heart, dropout keeps it from that: Srivastava
et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014. Here a tenth of the training
labels is wrong, so that learning by heart costs something: with none wrong, digits this easy hardly need dropout. The
test labels are right. The same network is trained without dropout, with torch.nn.Dropout ("native") and with
fused_dropout.Dropout ("fused"). With --strict the exit status is 1 unless both narrow the gap between training and test
error, both lower the test error, and they agree with each other within 3 standard errors: not so by chance alone in
about three runs of a hundred, on machines that round differently.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

import fused_dropout

from .experiment import Claim, compare, conclude, digits, improvements, plot_errors, print_errors, read_options

TRAINING_SIZE, MISLABELLED = 300, 30
BATCH, LEARNING, HIDDEN, P_INPUT, P_HIDDEN = 50, 2e-3, 256, 0.1, 0.5


def network(dropout: Callable[[float], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        *(dropout(P_INPUT), nn.Linear(64, HIDDEN), nn.ReLU()),
        *(dropout(P_HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
        *(dropout(P_HIDDEN), nn.Linear(HIDDEN, 10)),
    )


VARIANTS = {
    "no dropout": partial(network, nn.Identity),
    "native": partial(network, nn.Dropout),
    "fused": partial(network, fused_dropout.Dropout),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(__file__, __doc__, arguments, seeds=10, epochs=100)
    training, test = digits(TRAINING_SIZE, MISLABELLED, options.device)
    errors, _ = compare(VARIANTS, training, test, options, batch=BATCH, learning=LEARNING)
    title = f"{MISLABELLED} of {TRAINING_SIZE} training labels are wrong: learnt by heart, without dropout"
    plot_errors(errors, title, "wrong answers (%)", (-1, 25), options.plot)
    print_errors(errors, "Wrong answers, in %,")
    claims = improvements(errors, "native", "no dropout") + improvements(errors, "fused", "no dropout")
    # The training error too: it shows a wrong p, to which the test error is nearly blind.
    for column, which in ((1, "test"), (0, "training")):
        difference = errors["fused"][:, -1, column] - errors["native"][:, -1, column]
        claims.append(Claim(f"fused equals native in {which} error, to", difference, equal=True))
    return conclude(claims, "in percentage points", options, "digits")


if __name__ == "__main__":
    sys.exit(main())
