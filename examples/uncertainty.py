"""Monte Carlo dropout: what a network does not know, on digits that are turned further and further.

    python -m examples.uncertainty

A network is trained on upright digits and asked about turned ones, which it has never seen. Its softmax in evaluation
stays confident where its answers are mostly wrong. Left on, dropout makes an ensemble of it ("Monte Carlo", 32 samples:
Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", 2016), whose
members disagree the more, the further a digit is turned, until 45 degrees: there its mean is far less confident. The
same network trained without dropout is there for comparison. No label is wrong here, and so dropout lowers no error.

Doubt has its price and its limits. The ensemble is too modest about upright digits. By the order of its doubts turned
digits are told from upright ones no better than by the softmax's. And towards 90 degrees, where strokes lie along the
axes again, each of the three takes the digits for others, the more confidently the further they are turned.

The tables say for each angle how many answers are right, how probable the network finds its answers, the spread
(standard deviation over the samples) of that, the entropy of all probabilities, and how well the entropy tells turned
digits from upright ones: the probability that of two it is higher for the turned one. With --strict the exit status is
1 unless, from upright digits to those turned by 45 degrees, the ensemble's spread and entropy grow and its confidence
falls, and unless it is less overconfident of the turned ones than either softmax.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import fused_dropout

from .digits import network
from .experiment import (
    COLOURS,
    Claim,
    Data,
    compare,
    conclude,
    digits,
    mean_and_error,
    print_errors,
    read_options,
)

TRAINING_SIZE, BATCH, SAMPLES = 300, 50, 32
ANGLES = (0, 15, 30, 45, 60, 75, 90)  # degrees
FAR = ANGLES.index(45)
EXAMPLES = 3

VARIANTS = {"no dropout": partial(network, nn.Identity), "dropout": partial(network, fused_dropout.Dropout)}


class Answer(NamedTuple):
    """For each digit, how probable each class is, and the standard deviation of that over the samples."""

    probability: Tensor
    spread: Tensor


class Measures(NamedTuple):
    """Of a method's answers: means over the digits, (seeds, angles) each."""

    right: NDArray[np.float64]  # these three in %
    confidence: NDArray[np.float64]
    spread: NDArray[np.float64]
    entropy: NDArray[np.float64]  # in nats
    told: NDArray[np.float64]  # turned digits from upright ones, by the entropy; in %


def turned(x: Tensor, degrees: float) -> Tensor:
    """Digits, (N, 64), turned about their centres; bilinear between pixels, and 0 beyond them."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0]], device=x.device).expand(len(x), 2, 3)
    grid = nn.functional.affine_grid(matrix, [len(x), 1, 8, 8], align_corners=False)
    return nn.functional.grid_sample(x.view(-1, 1, 8, 8), grid, align_corners=False).flatten(1)


def softmax(net: nn.Module, x: Tensor) -> Answer:
    with torch.inference_mode():
        probability = net(x).softmax(1)
    return Answer(probability, torch.zeros_like(probability))


def ensemble(net: nn.Module, x: Tensor) -> Answer:
    mean, variance = fused_dropout.predict(nn.Sequential(net, nn.Softmax(1)), x, samples=SAMPLES, seed=0)
    return Answer(mean, variance.sqrt())


# What answers: the variant that was trained, and how it is asked.
METHODS: dict[str, tuple[str, Callable[[nn.Module, Tensor], Answer]]] = {
    "no dropout": ("no dropout", softmax),
    "softmax": ("dropout", softmax),
    "Monte Carlo": ("dropout", ensemble),
}


def measures(networks: Sequence[nn.Module], ask: Callable[[nn.Module, Tensor], Answer], test: Data) -> Measures:
    result = Measures(*np.empty((len(Measures._fields), len(networks), len(ANGLES))))
    for seed, net in enumerate(networks):
        for at, angle in enumerate(ANGLES):
            probability, spread = ask(net, turned(test.x, angle))
            confidence, label = probability.max(1)
            entropy = torch.special.entr(probability).sum(1)
            if at == 0:
                upright = entropy
            either = torch.cat([upright, entropy]).cpu()
            result.right[seed, at] = 100 * (label == test.target).double().mean()
            result.confidence[seed, at] = 100 * confidence.double().mean()
            result.spread[seed, at] = 100 * spread.gather(1, label[:, None]).double().mean()
            result.entropy[seed, at] = entropy.double().mean()
            result.told[seed, at] = 100 * roc_auc_score(torch.arange(len(either)) >= len(upright), either)
    return result


def print_measures(measured: Mapping[str, Measures]) -> None:
    for name, measure in measured.items():
        print(f"\n{name}\n")
        heads = ("right (%)", "confidence (%)", "spread (%)", "entropy (nats)", "told apart (%)")
        print(f"{'turned by':<12}" + "".join(f"{head:>16}" for head in heads))
        for at, angle in enumerate(ANGLES):
            columns = (mean_and_error(column[:, at]) for column in measure)
            print(f"{angle:>3}°{'':<8}" + "".join(f"{f'{mean:.2f} ± {error:.2f}':>16}" for mean, error in columns))


def statements(measured: Mapping[str, Measures]) -> list[Claim]:
    def overconfidence(name: str) -> NDArray[np.float64]:
        return (measured[name].confidence - measured[name].right)[:, FAR]

    ensembles = measured["Monte Carlo"]
    claims = [
        Claim("Monte Carlo's spread grows, by", ensembles.spread[:, FAR] - ensembles.spread[:, 0]),
        Claim("Monte Carlo's entropy grows, by (nats)", ensembles.entropy[:, FAR] - ensembles.entropy[:, 0]),
        Claim("Monte Carlo's confidence falls, by", ensembles.confidence[:, 0] - ensembles.confidence[:, FAR]),
    ]
    for name in ("no dropout", "softmax"):
        less = overconfidence(name) - overconfidence("Monte Carlo")
        claims.append(Claim(f"Monte Carlo is less overconfident than {name}, by", less))
    return claims


def plot(measured: Mapping[str, Measures], net: nn.Module, test: Data, figure: Figure) -> None:
    """Confidence and entropy over the angle, and what the ensemble says of a few digits."""
    halves = figure.add_gridspec(2, 1, height_ratios=(5, 2 * EXAMPLES))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    left, right = above.subplots(1, 2)
    for (name, measure), colour in zip(measured.items(), COLOURS, strict=False):
        left.plot(ANGLES, measure.confidence.mean(0), color=colour, label=f"{name}: confidence")
        left.plot(ANGLES, measure.right.mean(0), "--", color=colour, label=f"{name}: right")
        right.errorbar(ANGLES, measure.entropy.mean(0), measure.entropy.std(0, ddof=1), color=colour, label=name)
    left.set(
        xlabel="turned by (degrees)",
        ylabel="answers, and how probable they are found (%)",
        ylim=(0, 101),
        xticks=ANGLES,
    )
    right.set(xlabel="turned by (degrees)", ylabel="entropy (nats)", xticks=ANGLES)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    grid = below.subplots(EXAMPLES, len(ANGLES))
    for column, angle in enumerate(ANGLES):
        x = turned(test.x[:EXAMPLES], angle)
        probability, spread = ensemble(net, x)
        for row, label in enumerate(probability.argmax(1).tolist()):
            axes = grid[row, column]
            axes.imshow(x[row].view(8, 8).cpu().numpy(), cmap="gray_r")
            axes.set_axis_off()
            text = f"{label}: {100 * probability[row, label]:.0f} ± {100 * spread[row, label]:.0f} %"
            axes.set_title(text, fontsize="small", color="black" if label == test.target[row] else "tab:red")


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(__file__, __doc__, arguments, seeds=8, epochs=80)
    training, test = digits(TRAINING_SIZE, 0, options.device)
    errors, networks = compare(VARIANTS, training, test, options, batch=BATCH)
    measured = {name: measures(networks[variant], ask, test) for name, (variant, ask) in METHODS.items()}
    figure = Figure(figsize=(10, 9), layout="constrained")
    plot(measured, networks["dropout"][0], test, figure)
    figure.savefig(options.plot, dpi=150)
    print_errors(errors, "Wrong answers, in %,")
    print_measures(measured)
    unit = f"in percentage points, from {ANGLES[0]}° to {ANGLES[FAR]}° or at {ANGLES[FAR]}°"
    return conclude(statements(measured), unit, options, "uncertainty")


if __name__ == "__main__":
    sys.exit(main())
