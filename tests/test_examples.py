"""The examples run, their data are what they say, and their claims are checked."""

import importlib
import re
from argparse import Namespace
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

for needed in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(needed, reason="the examples need what pip's [demo] brings")

from examples import experiment, recurrent, uncertainty  # noqa: E402
from examples.experiment import Claim, Data  # noqa: E402
from fused_dropout import Dropout, predict  # noqa: E402

CPU = torch.device("cpu")
VARIANTS = {
    "digits": ["no dropout", "native", "fused"],
    "convolution": ["no dropout", "Dropout2d", "DropPath", "DropBlock2d"],
    "recurrent": ["no dropout", "LockedDropout", "WeightDrop", "both"],
    "transformer": ["no dropout", "native", "fused"],
    "uncertainty": ["no dropout", "dropout"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_example_prints_tables_and_verdicts_and_writes_its_plot(name, tmp_path, capsys):
    path = tmp_path / "plot.png"
    arguments = ["--seeds", "2", "--epochs", "1", "--plot", str(path), "--device", "cpu", "--strict"]
    status = importlib.import_module(f"examples.{name}").main(arguments)
    out, err = capsys.readouterr()
    number = r"-?\d+\.\d\d ± \d+\.\d\d"
    for variant in VARIANTS[name]:
        assert re.search(rf"^{variant}( +{number}){{3}}$", out, re.M), variant
    verdicts = re.findall(rf"{number}  (yes|NO)$", out, re.M)
    assert len(verdicts) >= 5
    assert status == ("NO" in verdicts)
    assert err.count(f"{name}: expected, but not found: ") == verdicts.count("NO")
    epochs = 2 * len(VARIANTS[name])
    assert f"{epochs}/{epochs}" in err  # the end of the progress bar
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in out


def test_uncertainty_prints_a_row_for_each_way_to_ask_and_angle(capsys):
    zeros = uncertainty.Measures(*np.zeros((5, 2, len(uncertainty.ANGLES))))
    uncertainty.print_measures(dict.fromkeys(uncertainty.METHODS, zeros))
    rows = re.findall(r"^ *(\d+)°(?: +0\.00 ± 0\.00){5}$", capsys.readouterr().out, re.M)
    assert [int(angle) for angle in rows] == 3 * list(uncertainty.ANGLES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("--seeds=1", "at least 2 seeds"), ("--epochs=0", "1 epoch"), ("--threads=0", "1 thread")],
    ids=["one seed has no standard error", "no epoch", "no thread"],
)
def test_options_refuse(wrong, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        experiment.read_options("example.py", "What it is.", [wrong], seeds=3, epochs=4)
    assert message in capsys.readouterr().err


def test_options_have_the_defaults_of_the_example():
    options = experiment.read_options("somewhere/example.py", "What it is.", [], seeds=3, epochs=4)
    assert (options.seeds, options.epochs, options.threads, options.strict) == (3, 4, 1, False)
    assert str(options.plot) == "somewhere/example.png"


CLAIMS = [
    # Of 1, 2, 3 the mean is 2 and its standard error 0.577: the limit is at 1.732.
    ("above its noise", [1, 2, 3], False, True),
    ("within its noise", [0.7, 1.7, 2.7], False, False),
    ("below 0", [-1, -2, -3], False, False),
    ("above 0 without noise", [0.1, 0.1, 0.1], False, True),
    ("0 without noise", [0, 0, 0], False, False),
    ("equal within the noise", [0.7, 1.7, 2.7], True, True),
    ("equal within the noise, below 0", [-0.7, -1.7, -2.7], True, True),
    ("not equal", [1, 2, 3], True, False),
    ("not equal, below 0", [-1, -2, -3], True, False),
    ("equal without noise", [0, 0, 0], True, True),
    ("not equal without noise", [0.1, 0.1, 0.1], True, False),
]


@pytest.mark.parametrize(("differences", "equal", "holds"), [row[1:] for row in CLAIMS], ids=[row[0] for row in CLAIMS])
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_claim_is_reported_and_decides_the_status(differences, equal, holds, strict, capsys):
    claims = [Claim("ones are 1, to", np.ones(3)), Claim("what is claimed, by", np.array(differences, float), equal)]
    status = experiment.conclude(claims, "in parts", Namespace(strict=strict, plot="plot.png"), "example")
    out, err = capsys.readouterr()
    assert re.search(rf"^what is claimed, by .* {'yes' if holds else 'NO'}$", out, re.M)
    assert err == ("" if holds else "example: expected, but not found: what is claimed\n")
    assert status == (strict and not holds)


def test_improvements_are_of_the_last_epoch_seed_by_seed():
    errors = {
        "without": np.array([[[9, 9], [0, 8]], [[9, 9], [1, 8]]], float),  # gaps 8 and 7
        "with": np.array([[[0, 0], [6, 4]], [[0, 0], [2, 5]]], float),  # gaps -2 and 3
    }
    narrower, lower = experiment.improvements(errors, "with", "without")
    np.testing.assert_array_equal(narrower.differences, [6, 4])
    np.testing.assert_array_equal(lower.differences, [4, 3])
    assert not narrower.equal
    assert not lower.equal


def test_mean_and_error_are_those_of_the_definition():
    assert experiment.mean_and_error(np.array([1.0, 2.0, 3.0])) == (2, pytest.approx(1 / 3**0.5))


def test_print_errors_shows_the_last_epoch_and_the_gap(capsys):
    experiment.print_errors({"some": np.array([[[9, 9], [1, 4]], [[9, 9], [3, 8]]], float)}, "Errors")
    assert re.search(r"^some +2\.00 ± 1\.00 +6\.00 ± 2\.00 +4\.00 ± 1\.00$", capsys.readouterr().out, re.M)


class Noisy(nn.Module):
    """Draws from the default generator, to no effect."""

    def forward(self, x):
        torch.rand(3)
        return x


def small(layer):
    return nn.Sequential(layer(), nn.Linear(64, 10))


def test_compare_pairs_the_variants_seed_by_seed():
    """Weights and batches of a seed are the same whatever a variant draws, and others with another seed."""
    variants = {
        "plain": partial(small, nn.Identity),
        "noisy": partial(small, Noisy),
        "dropout": partial(small, partial(Dropout, 0.5)),
    }
    training, test = experiment.digits(100, 0, CPU)
    options = Namespace(seeds=2, epochs=3, device=CPU)
    errors, networks = experiment.compare(variants, training, test, options, batch=10, learning=0.03)
    assert {name: curves.shape for name, curves in errors.items()} == dict.fromkeys(variants, (2, 3, 2))
    np.testing.assert_array_equal(errors["plain"], errors["noisy"])
    assert not np.array_equal(errors["plain"][0], errors["plain"][1])
    assert not np.array_equal(errors["plain"], errors["dropout"])
    for name, curves in errors.items():
        for net, curve in zip(networks[name], curves, strict=True):
            assert not net.training
            last = [experiment.wrong_answers(net, data) for data in (training, test)]
            np.testing.assert_array_equal(curve[-1], last)
            assert curve[-1, 0] < 50  # it has learnt: chance is wrong nine times in ten


def test_wrong_answers_are_counted_in_percent():
    data = Data(torch.eye(10).repeat(100, 1), torch.arange(10).repeat(100))  # more than one part
    data.target[:250] = (data.target[:250] + 1) % 10
    assert experiment.wrong_answers(nn.Identity(), data) == 25


@pytest.mark.parametrize(("size", "mislabelled"), [(300, 0), (300, 30), (300, 60)])
def test_digits_are_split_without_a_leak_and_only_training_labels_are_wrong(size, mislabelled):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    right = {tuple(row): label for row, label in zip((pixels / 16).astype(np.float32).tolist(), labels, strict=True)}
    assert len(right) == len(labels)  # no digit is there twice, so a row of pixels names it
    training, test = experiment.digits(size, mislabelled, CPU)
    rows = [[tuple(row) for row in data.x.tolist()] for data in (training, test)]
    assert len(rows[0]) == size
    assert set(rows[0]).isdisjoint(rows[1])
    assert set(rows[0]) | set(rows[1]) == set(right)
    assert test.target.tolist() == [right[row] for row in rows[1]]
    assert sum(label != right[row] for row, label in zip(rows[0], training.target.tolist(), strict=True)) == mislabelled
    assert 0 <= training.target.min() <= training.target.max() <= 9
    assert all(torch.equal(*pair) for pair in zip(training, experiment.digits(size, mislabelled, CPU)[0], strict=True))


def test_paragraphs_are_whole_and_unique_and_on_one_side():
    parts = recurrent.paragraphs()
    assert len({tuple(part) for part in parts}) == len(parts) > 200
    tagged = [[f"{at}"] * len(part) for at, part in enumerate(parts)]  # the words of each give its number
    training, test = recurrent.split(tagged)
    assert set(training).isdisjoint(test)
    assert all(len(parts[int(at)]) == count for at, count in Counter(training + test).items())
    for words, wanted in ((training, recurrent.TRAINING_WORDS), (test, recurrent.TEST_WORDS)):
        assert wanted <= len(words) < wanted + max(map(len, parts))


def test_sequences_are_followed_by_their_targets_and_other_words_are_one():
    words = ["a", "b", "c", "d"] * recurrent.STEPS
    x, target = recurrent.sequences(words, [recurrent.OTHER, "a", "b", "c"], CPU)
    assert x.shape == target.shape == (3, recurrent.STEPS)  # one word short of a fourth
    assert x.flatten().tolist() == ([1, 2, 3, 0] * recurrent.STEPS)[: x.numel()]
    assert target.flatten().tolist() == ([2, 3, 0, 1] * recurrent.STEPS)[: x.numel()]


def test_vocabulary_is_of_the_training_words_alone():
    training, test, vocabulary = recurrent.load(CPU)
    assert len(set(vocabulary)) == len(vocabulary)
    there = Counter(recurrent.split(recurrent.paragraphs())[0])
    assert all(there[word] > 1 for word in vocabulary if word != recurrent.OTHER)
    assert len(vocabulary) > 300
    for data in (training, test):
        assert 0 <= data.x.min() <= data.x.max() < len(vocabulary)


def test_language_model_sees_no_word_that_it_is_to_predict():
    torch.manual_seed(0)
    net = recurrent.LanguageModel(50, 0.3, 0.3).eval()
    words = torch.randint(50, (2, 9))
    changed = words.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 50
    assert net(words).shape == (2, 50, 9)
    assert torch.equal(net(words)[:, :, :5], net(changed)[:, :, :5])
    assert not torch.equal(net(words)[:, :, 5], net(changed)[:, :, 5])


def test_turned_digits_turn_about_their_centres():
    x = torch.rand(3, 64)
    torch.testing.assert_close(uncertainty.turned(x, 0), x)
    quarter = torch.rot90(x.view(3, 8, 8), 1, (1, 2)).flatten(1)
    torch.testing.assert_close(uncertainty.turned(x, 90), quarter, rtol=0, atol=1e-5)
    assert torch.equal(uncertainty.turned(torch.ones(1, 64), 45)[0, [0, 7, 56, 63]], torch.zeros(4))  # beyond the edge


def test_ensemble_spreads_and_softmax_does_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), Dropout(0.5), nn.Linear(32, 10)).eval()
    x = torch.rand(5, 64)
    alone, together = uncertainty.softmax(net, x), uncertainty.ensemble(net, x)
    torch.testing.assert_close(alone.probability, net(x).softmax(1))
    assert not alone.spread.any()
    assert (together.spread > 0).all()
    _, variance = predict(nn.Sequential(net, nn.Softmax(1)), x, samples=uncertainty.SAMPLES, seed=0)
    torch.testing.assert_close(together.spread**2, variance)
    for answer in (alone, together):
        torch.testing.assert_close(answer.probability.sum(1), torch.ones(5))
    assert not any(module.training for module in net.modules())


def test_measures_are_those_of_the_answers():
    """A method that is surest of class 0, with a spread of a tenth; unsure of turned digits, with twice the spread."""
    test = Data(torch.rand(4, 64), torch.tensor([0, 0, 0, 1]))

    def ask(net, x):
        upright = torch.allclose(x, test.x)
        first = 0.91 if upright else 0.19
        probability = torch.tensor([first, *[(1.0 - first) / 9] * 9]).expand(4, 10)
        return uncertainty.Answer(probability, torch.full((4, 10), 0.1 if upright else 0.2))

    measures = uncertainty.measures([nn.Identity()] * 2, ask, test)
    for found, upright, turned in zip(
        measures,
        (75, 91, 10, -(0.91 * np.log(0.91) + 0.09 * np.log(0.01)), 50),
        (75, 19, 20, -(0.19 * np.log(0.19) + 0.81 * np.log(0.09)), 100),
        strict=True,
    ):
        assert found.shape == (2, len(uncertainty.ANGLES))
        np.testing.assert_allclose(found[:, 0], upright, rtol=1e-5)
        np.testing.assert_allclose(found[:, 1:], turned, rtol=1e-5)
