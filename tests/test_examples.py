"""The examples run, their data are what they say, and what they claim is checked."""

import importlib
import re
from argparse import Namespace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

for needed in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(needed, reason="the examples need what pip's [demo] brings")

from examples import convolution, digits, experiment, recurrent, uncertainty
from examples.experiment import Claim, Data

CPU = torch.device("cpu")
EXAMPLES = {
    "digits": ["no dropout", "native", "fused"],
    "convolution": ["no dropout", "Dropout2d", "DropPath", "DropBlock2d"],
    "recurrent": ["no dropout", "LockedDropout", "WeightDrop", "both"],
    "uncertainty": ["no dropout", "dropout"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_its_table_and_writes_its_plot(name, tmp_path, capsys):
    path = tmp_path / "plot.png"
    assert run(name, "--seeds", "2", "--epochs", "1", "--plot", str(path)) == 0
    out, err = capsys.readouterr()
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in out
    for variant in EXAMPLES[name]:
        assert re.search(rf"^{variant} +(\d+\.\d\d ± \d+\.\d\d *)(-?\d+\.\d\d ± \d+\.\d\d *){{2}}$", out, re.M), variant
    verdicts = re.findall(r"-?\d+\.\d\d ± \d+\.\d\d  (yes|NO)$", out, re.M)
    assert len(verdicts) >= 5
    assert err.count(f"{name}: expected, but not found") == verdicts.count("NO")
    assert f"{2 * len(EXAMPLES[name])}/{2 * len(EXAMPLES[name])}" in err  # the progress bar has come to its end


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_with_strict_fails_where_a_claim_does_not_hold(name, tmp_path, capsys, monkeypatch):
    """Two seeds that end alike: no difference at all is above 0."""

    def alike(variants, training, test, options, **_):
        curves = np.full((options.seeds, options.epochs, 2), 1.0)
        return experiment.Comparison(dict.fromkeys(variants, curves), {})

    module = importlib.import_module(f"examples.{name}")
    monkeypatch.setattr(module, "compare", alike)
    if name == "uncertainty":
        zeros = uncertainty.Measures(*np.zeros((5, 2, len(uncertainty.ANGLES))))
        monkeypatch.setattr(module, "measures", lambda *_: zeros)
        monkeypatch.setattr(module, "plot", lambda *_: None)
        monkeypatch.setattr(module, "METHODS", dict.fromkeys(uncertainty.METHODS, ("", None)))
        monkeypatch.setattr(experiment.Comparison, "networks", {"": [], "dropout": [None]})
    arguments = ["--seeds", "2", "--epochs", "1", "--plot", str(tmp_path / "plot.png")]
    assert run(name, *arguments) == 0
    assert run(name, *arguments, "--strict") == 1
    assert f"{name}: expected, but not found" in capsys.readouterr().err
