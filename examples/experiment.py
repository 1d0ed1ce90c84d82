"""What the examples share: options, digits, training with many seeds, tables, claims and curves.

An example trains the same network in several variants, always as often as there are seeds, and compares them seed by
seed: initial weights and batches depend on the seed alone, so that a difference of two variants has far less noise than
the variants themselves. Errors are of any kind of which less is better.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
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

LIMIT = 3  # standard errors: what differs by less is noise
COLOURS = ("tab:gray", "tab:blue", "tab:orange", "tab:green")


class Data(NamedTuple):
    x: Tensor
    target: Tensor


class Comparison(NamedTuple):
    errors: dict[str, NDArray[np.float64]]  # of each variant: (seeds, epochs, 2), the last for training and test
    networks: dict[str, list[nn.Module]]  # of each variant: one for each seed, trained


class Claim(NamedTuple):
    """What is claimed, and for each seed the difference that is to be above 0, or 0 where ``equal`` is set."""

    text: str
    differences: NDArray[np.float64]
    equal: bool = False

    def holds(self) -> bool:
        mean, error = mean_and_error(self.differences)
        noise = LIMIT * error  # compared with, not divided by: with no spread at all, nothing but 0 is equal
        return abs(mean) <= noise if self.equal else mean > noise


def has_cuda() -> bool:
    """Whether there is a GPU, and kernels for it."""
    return torch.cuda.is_available() and fused_dropout.build_info()["cuda"] is not None


def read_options(
    file: str, description: str | None, arguments: Sequence[str] | None, *, seeds: int, epochs: int
) -> argparse.Namespace:
    """The command line of the example in ``file``, with its defaults; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help="networks of each variant, at least 2 (%(default)s)")
    parser.add_argument("--epochs", type=int, default=epochs, help="passes over the training set (%(default)s)")
    parser.add_argument("--plot", type=Path, default=Path(file).with_suffix(".png"), help="where the plot goes")
    parser.add_argument("--device", type=torch.device, default="cuda" if has_cuda() else "cpu")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a claim does not hold")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; so small a network gains nothing from two")
    options = parser.parse_args(arguments)
    if options.seeds < 2 or options.epochs < 1 or options.threads < 1:
        parser.error("expected at least 2 seeds, for a standard error, 1 epoch and 1 thread")
    torch.set_num_threads(options.threads)
    return options


def digits(training_size: int, mislabelled: int, device: torch.device) -> tuple[Data, Data]:
    """scikit-learn's 1797 digits, 64 pixels in [0, 1] each, always split the same way: a training set with some wrong
    labels, and all others as the test set."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels / 16, labels, train_size=training_size, stratify=labels, random_state=0)
    x, x_test, label, label_test = (torch.from_numpy(part) for part in split)
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randperm(len(label), generator=generator)[:mislabelled]
    label[wrong] = (label[wrong] + torch.randint(1, 10, wrong.shape, generator=generator)) % 10
    training, test = Data(x.float(), label), Data(x_test.float(), label_test)
    return Data(*(part.to(device) for part in training)), Data(*(part.to(device) for part in test))


def wrong_answers(net: nn.Module, data: Data) -> float:
    """The part of the data, in %, whose most probable class is not the target."""
    answers = torch.cat([net(x).argmax(1) for x in data.x.split(256)])  # in parts whose activations fit the caches
    return 100 * (answers != data.target).double().mean().item()


def compare(
    variants: Mapping[str, Callable[[], nn.Module]],
    training: Data,
    test: Data,
    options: argparse.Namespace,
    *,
    batch: int,
    learning: float = 1e-3,
    measure: Callable[[nn.Module, Data], float] = wrong_answers,
) -> Comparison:
    """Trains each variant with each seed, behind a progress bar: Adam on the cross-entropy, with steps that shrink to
    almost 0, which leaves the final errors less to chance."""
    seeds, epochs = options.seeds, options.epochs
    comparison = Comparison({name: np.empty((seeds, epochs, 2)) for name in variants}, {name: [] for name in variants})
    with tqdm(total=seeds * len(variants) * epochs, unit="epoch") as progress:
        for seed in range(seeds):
            for name, network in variants.items():
                progress.set_description(f"seed {seed}, {name}")
                torch.manual_seed(seed)
                net = network().to(options.device)
                optimizer = torch.optim.Adam(net.parameters(), learning)
                # Batches of their own: the masks draw different amounts from the default generator.
                batches = torch.Generator().manual_seed(seed)
                for epoch in range(epochs):
                    optimizer.param_groups[0]["lr"] = learning * (epochs - epoch) / epochs
                    net.train()
                    for chosen in torch.randperm(len(training.x), generator=batches).to(options.device).split(batch):
                        optimizer.zero_grad()
                        nn.functional.cross_entropy(net(training.x[chosen]), training.target[chosen]).backward()
                        optimizer.step()
                    net.eval()
                    with torch.inference_mode():
                        comparison.errors[name][seed, epoch] = measure(net, training), measure(net, test)
                    progress.update()
                comparison.networks[name].append(net)
    return comparison


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean over the seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def gap(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each seed, how much larger the test error is than the training error, after training."""
    return errors[:, -1, 1] - errors[:, -1, 0]


def print_errors(errors: Mapping[str, NDArray[np.float64]], what: str) -> None:
    """Prints the table of the errors after training."""
    seeds = len(next(iter(errors.values())))
    print(f"\n{what} after training: mean ± standard error over {seeds} seeds\n")
    print(f"{'variant':<24}{'training':>16}{'test':>16}{'gap':>16}")
    for name, values in errors.items():
        columns = (mean_and_error(column) for column in (values[:, -1, 0], values[:, -1, 1], gap(values)))
        print(f"{name:<24}" + "".join(f"{f'{mean:.2f} ± {error:.2f}':>16}" for mean, error in columns))


def improvements(errors: Mapping[str, NDArray[np.float64]], name: str, than: str) -> list[Claim]:
    """The two claims of a regulariser: test and training error come closer, and the test error falls."""
    return [
        # Without the sign: a gap that is as wide the other way has not narrowed.
        Claim(f"{name} narrows the gap, by", np.abs(gap(errors[than])) - np.abs(gap(errors[name]))),
        Claim(f"{name} lowers the test error, by", errors[than][:, -1, 1] - errors[name][:, -1, 1]),
    ]


def conclude(claims: Sequence[Claim], unit: str, options: argparse.Namespace, program: str) -> int:
    """Prints the claims and whether they hold; returns the exit status, 1 where one does not and --strict is set."""
    print(f"\nPaired differences, {unit}; {LIMIT} standard errors count\n")
    for claim in claims:
        mean, error = mean_and_error(claim.differences)
        print(f"{claim.text:<56}{mean:6.2f} ± {error:.2f}  {'yes' if claim.holds() else 'NO'}")
    print(f"\nThe plot is in {options.plot}")
    failures = [claim.text.rsplit(",", 1)[0] for claim in claims if not claim.holds()]
    for failure in failures:
        print(f"{program}: expected, but not found: {failure}", file=sys.stderr)
    return 1 if failures and options.strict else 0


def plot_errors(
    errors: Mapping[str, NDArray[np.float64]], title: str, what: str, ylim: tuple[float, float], path: Path
) -> None:
    """The errors during training: the mean of the seeds, and a band of one standard deviation."""
    figure = Figure(figsize=(8, 5), layout="constrained")  # not pyplot's: a bare figure is drawn by Agg, on no display
    axes = figure.subplots()
    for (name, curves), colour in zip(errors.items(), COLOURS, strict=False):
        seeds, epochs = len(curves), np.arange(1, curves.shape[1] + 1)
        for column, (which, line) in enumerate((("training", "-"), ("test", "--"))):
            mean, spread = curves[:, :, column].mean(0), curves[:, :, column].std(0, ddof=1)
            axes.plot(epochs, mean, line, color=colour, label=f"{name}, {which}")
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_title(title)
    axes.set(xlabel="training time (epochs)", ylabel=what, ylim=ylim)
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    axes.legend(title=f"mean of {seeds} seeds, and a band of one standard deviation", ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)
