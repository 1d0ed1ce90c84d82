"""Dropout against overfitting, on scikit-learn's handwritten digits; and fused_dropout's beside PyTorch's own.

    python -m examples.digits

A network with far more weights than examples learns its training set by heart, dropout keeps it from that: Srivastava
et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014. Here a tenth of the training
labels is wrong, so that learning by heart costs something: with none wrong, digits this easy hardly need dropout. The
test labels are right. The same network is trained without dropout, with torch.nn.Dropout ("native") and with
fused_dropout.Dropout ("fused"). With --strict the exit status is 1 unless both narrow the gap between training and test
accuracy, both raise the test accuracy, and they agree with each other within 3 standard errors: not so by chance alone
in about three runs of a hundred, on machines that round differently.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

import fused_dropout

TRAINING_SIZE, MISLABELLED = 300, 30
BATCH, HIDDEN, P_INPUT, P_HIDDEN = 50, 256, 0.1, 0.5
LIMIT = 3  # standard errors: what differs by less is noise

VARIANTS: dict[str, Callable[[float], nn.Module]] = {
    "no dropout": lambda p: nn.Identity(),
    "native": nn.Dropout,
    "fused": fused_dropout.Dropout,
}


class Data(NamedTuple):
    x: Tensor
    label: Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    training, test = load(options.device)
    accuracy = {name: np.empty((options.seeds, options.epochs, 2)) for name in VARIANTS}  # last: training, test; in %
    with tqdm(total=options.seeds * len(VARIANTS) * options.epochs, unit="epoch") as progress:
        for seed in range(options.seeds):
            for name, dropout in VARIANTS.items():
                progress.set_description(f"seed {seed}, {name}")
                accuracy[name][seed] = train(dropout, seed, options.epochs, training, test, progress)
    plot(accuracy, options.plot)
    failures = report({name: curves[:, -1] for name, curves in accuracy.items()})
    print(f"\nThe curves are in {options.plot}")
    for failure in failures:
        print(f"digits: expected, but not found: {failure}", file=sys.stderr)
    return 1 if failures and options.strict else 0


def load(device: torch.device) -> tuple[Data, Data]:
    """A small training set with some wrong labels, and the other 1497 digits as the test set; always the same."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels / 16, labels, train_size=TRAINING_SIZE, stratify=labels, random_state=0)
    x, x_test, label, label_test = (torch.from_numpy(part) for part in split)
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randperm(len(label), generator=generator)[:MISLABELLED]
    label[wrong] = (label[wrong] + torch.randint(1, 10, wrong.shape, generator=generator)) % 10
    training, test = Data(x.float(), label), Data(x_test.float(), label_test)
    return Data(*(part.to(device) for part in training)), Data(*(part.to(device) for part in test))


def network(dropout: Callable[[float], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        *(dropout(P_INPUT), nn.Linear(64, HIDDEN), nn.ReLU()),
        *(dropout(P_HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
        *(dropout(P_HIDDEN), nn.Linear(HIDDEN, 10)),
    )


def train(
    dropout: Callable[[float], nn.Module], seed: int, epochs: int, training: Data, test: Data, progress: tqdm
) -> NDArray[np.float64]:
    """Training and test accuracy in % after each epoch; initial weights and batches depend on the seed alone."""
    torch.manual_seed(seed)
    net = network(dropout).to(training.x.device)
    optimizer = torch.optim.Adam(net.parameters())
    batches = torch.Generator().manual_seed(seed)  # of their own: the masks draw different amounts from the default one
    curve = np.empty((epochs, 2))
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(TRAINING_SIZE, generator=batches).to(training.x.device).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(training.x[batch]), training.label[batch]).backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            for column, data in enumerate((training, test)):
                curve[epoch, column] = 100 * (net(data.x).argmax(1) == data.label).double().mean().item()
        progress.update()
    return curve


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean over the seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def report(final: dict[str, NDArray[np.float64]]) -> list[str]:
    """Prints the table and the claims; returns the claims that do not hold. All claims compare seed by seed."""
    test = {name: values[:, 1] for name, values in final.items()}
    gap = {name: values[:, 0] - values[:, 1] for name, values in final.items()}
    seeds = len(test["fused"])
    print(f"\nAccuracy after training, in %: mean ± standard error over {seeds} seeds\n")
    print(f"{'variant':<12}{'training':>16}{'test':>16}{'gap':>16}")
    for name, values in final.items():
        columns = (mean_and_error(column) for column in (values[:, 0], test[name], gap[name]))
        print(f"{name:<12}" + "".join(f"{f'{mean:.2f} ± {error:.2f}':>16}" for mean, error in columns))
    print(f"\nPaired differences, in percentage points; {LIMIT} standard errors count\n")
    claims = []  # what is claimed, the differences, whether they are to be 0 or above
    for name in ("native", "fused"):
        # Without the sign: a gap that is as wide the other way has not narrowed.
        claims.append((f"{name} narrows the gap, by", np.abs(gap["no dropout"]) - np.abs(gap[name]), False))
        claims.append((f"{name} raises the test accuracy, by", test[name] - test["no dropout"], False))
    # The training accuracy too: it shows a wrong p, to which the test accuracy is nearly blind.
    for column, which in ((1, "test"), (0, "training")):
        difference = final["fused"][:, column] - final["native"][:, column]
        claims.append((f"fused equals native in {which} accuracy, to", difference, True))
    failures = []
    for claim, values, equal in claims:
        mean, error = mean_and_error(values)
        noise = LIMIT * error  # compared with, not divided by: with no spread at all, nothing but 0 is equal
        holds = abs(mean) <= noise if equal else mean > noise
        print(f"{claim:<46}{mean:6.2f} ± {error:.2f}  {'yes' if holds else 'NO'}")
        failures += [] if holds else [claim.rsplit(",", 1)[0]]
    return failures


def plot(accuracy: dict[str, NDArray[np.float64]], path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")  # not pyplot's: a bare figure is drawn by Agg, on no display
    axes = figure.subplots()
    for (name, curves), colour in zip(accuracy.items(), ("tab:gray", "tab:blue", "tab:orange"), strict=True):
        seeds, epochs = len(curves), np.arange(1, curves.shape[1] + 1)
        for column, (which, line) in enumerate((("training", "-"), ("test", "--"))):
            mean, spread = curves[:, :, column].mean(0), curves[:, :, column].std(0, ddof=1)
            axes.plot(epochs, mean, line, color=colour, label=f"{name}, {which}")
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_title(f"{MISLABELLED} of {TRAINING_SIZE} training labels are wrong: learnt by heart, without dropout")
    axes.set(xlabel="training time (epochs)", ylabel="accuracy (%)", ylim=(75, 101))
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    axes.legend(title=f"mean of {seeds} seeds, and a band of one standard deviation", ncols=3, loc="lower right")
    figure.savefig(path, dpi=150)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="networks of each variant, at least 2 (%(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training set (%(default)s)")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".png"), help="where the plot goes")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a claim does not hold")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; so small a network gains nothing from two")
    options = parser.parse_args(arguments)
    if options.seeds < 2 or options.epochs < 1 or options.threads < 1:
        parser.error("expected at least 2 seeds, for a standard error, 1 epoch and 1 thread")
    return options


if __name__ == "__main__":
    sys.exit(main())
