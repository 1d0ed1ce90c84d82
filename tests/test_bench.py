"""The benchmark: what its command writes, refuses and compares, and what its checks notice."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_dropout
from fused_dropout.bench import files, limits, memory, peers, readme, run, saved, series, sweep, work
from fused_dropout.bench.__main__ import main
from fused_dropout.bench.cases import cases
from fused_dropout.bench.choice import Choice, Level
from fused_dropout.bench.timing import Effort, Task, measure

ROOT = Path(__file__).parent.parent
SMALL = ["--quick", "--device", "cpu", "--threads", "1", "--sizes", "64", "2^11", "--dtype", "float32"]
OF_DROPOUT = [*SMALL, "--operations", "dropout", "--peers", "F.dropout", "bit mask"]
P = 0.3


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder with a result, as JSON and CSV."""
    folder = tmp_path_factory.mktemp("results")
    assert main([*OF_DROPOUT, "--json", str(folder / "a.json"), "--csv", str(folder / "a.csv")]) == 0
    return folder


@pytest.fixture
def result(measured) -> dict:
    return files.read_json(measured / "a.json")


def written(folder: Path, name: str, result: dict) -> str:
    files.write_json(folder / name, {key: value for key, value in result.items() if key != "schema"})
    return str(folder / name)


def test_a_result_has_its_provenance_and_every_implementation_at_every_size(result):
    facts = result["provenance"]
    assert {"processor", "driver", "torch", "cuda", "threads", "commit", "date", "p", "build"} <= set(facts)
    assert facts["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", facts["commit"])
    found = {(record["implementation"], record["numel"]) for record in result["sweep"]}
    names = ("fused_dropout", "mul", "F.dropout", "bit mask")
    assert found == {(name, numel) for name in names for numel in (64, 2048)}
    for record in result["sweep"]:
        assert 0 < record["ms"]["p20"] <= record["ms"]["median"] <= record["ms"]["p80"]


def test_bandwidth_and_share_of_the_limit_follow_from_declared_bytes(result):
    limit = {r["numel"]: r["gb_per_s"] for r in result["sweep"] if r["implementation"] == "mul"}
    for record in result["sweep"]:
        gigabytes = record["numel"] * record["bytes_per_element"] * 1e-9
        assert record["bytes_per_element"] == 8
        assert record["gb_per_s"] == pytest.approx(gigabytes / (record["ms"]["median"] * 1e-3))
        assert record["of_limit"] == pytest.approx(record["gb_per_s"] / limit[record["numel"]])


def test_csv_has_what_json_has(measured, result):
    with (measured / "a.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["kind"] == "sweep"]
    assert len(lines) == len(result["sweep"])
    for line, record in zip(lines, result["sweep"], strict=True):
        assert (line["implementation"], int(line["numel"])) == (record["implementation"], record["numel"])
        assert float(line["ms_p80"]) == record["ms"]["p80"]
        assert line["torch"] == torch.__version__


def test_a_result_compared_with_itself_has_not_changed(measured, capsys):
    path = str(measured / "a.json")
    assert main(["--compare", path, path]) == 0
    assert "0 slower, 0 faster" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "status", "says"), [(3, 1, "1 slower"), (1 / 3, 0, "1 faster")])
def test_a_change_beyond_noise_is_reported(factor, status, says, measured, result, tmp_path, capsys):
    record = next(record for record in result["sweep"] if record["implementation"] == "F.dropout")
    record["ratio_of_pairs"] = {"median": 0.5, "p20": 0.45, "p80": 0.55}
    before = written(tmp_path, "before.json", result)
    record["ratio_of_pairs"] = {key: factor * value for key, value in record["ratio_of_pairs"].items()}
    assert main(["--compare", before, written(tmp_path, "after.json", result)]) == status
    assert says in capsys.readouterr().out


def test_a_change_within_noise_is_none(measured, result, tmp_path):
    record = next(record for record in result["sweep"] if record["implementation"] == "F.dropout")
    record["ratio_of_pairs"] = {"median": 0.5, "p20": 0.4, "p80": 0.6}
    before = written(tmp_path, "before.json", result)
    record["ratio_of_pairs"] = {"median": 0.6, "p20": 0.5, "p80": 0.7}
    assert main(["--compare", before, written(tmp_path, "after.json", result)]) == 0


def test_what_was_measured_before_a_termination_is_kept(tmp_path, monkeypatch, capsys):
    measure_point, calls = sweep.measure_point, iter(range(9))

    def terminated(*arguments):
        if next(calls):
            os.kill(os.getpid(), signal.SIGTERM)
        return measure_point(*arguments)

    monkeypatch.setattr(sweep, "measure_point", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert main([*OF_DROPOUT, "--json", str(tmp_path / "a.json")]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert "cut short" in capsys.readouterr().out
    result = files.read_json(tmp_path / "a.json")
    assert result["cut_short"]
    assert {record["numel"] for record in result["sweep"]} == {64}
    assert "one run, cut short;" in readme.section(tmp_path / "a.json")


def test_a_baseline_that_cannot_run_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    def with_one_that_raises(choice):
        first, *others = cases(choice)

        def cannot(*inputs):
            raise RuntimeError("no compiler\nand more words")

        return [dataclasses.replace(first, baseline=cannot), *others]

    monkeypatch.setattr(run, "cases", with_one_that_raises)
    chosen = ["--quick", "--device", "cpu", "--threads", "1", "--only", "F.dropout float32 numel=64"]
    assert main([*chosen, "--json", str(tmp_path / "a.json")]) == 0
    assert "not measured: F.dropout, dropout, recorded of float32: RuntimeError: no compiler" in capsys.readouterr().out
    assert [row["name"] for row in files.read_json(tmp_path / "a.json")["rows"]] == ["dropout and backward"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--p", "1"], "expected a number between 0 and 1"),
        (["--sizes", "none"], "expected a number, 1 or more"),
        (["--operations", "dropuot"], "expected some of"),
        (["--peers", "numpy"], "expected some of F.dropout"),
        (["--only", "nothing has this"], "nothing is left to measure"),
        (["--quick", "--full"], "not allowed with"),
        (["--json", "no/such/folder/a.json"], "no/such/folder/a.json: No such file"),
        (["--json", str(ROOT / "bench")], "bench: Is a directory"),
        (["--csv", str(ROOT / "bench")], "bench: Is a directory"),
        (["--plots", str(ROOT / "README.md")], "expected a folder, but it is a file"),
        (["--compare", "missing.json", "missing.json"], "missing.json: No such file"),
        (["--compare", str(ROOT / "pyproject.toml"), "missing.json"], "expected JSON"),
        (["--compare", str(ROOT / "bench" / "instructions.json"), "missing.json"], "expected results of schema"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cpu", *arguments] if "--compare" not in arguments else arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cuda"])
    assert ended.value.code == 2
    assert "expected a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["tqdm", "matplotlib"])
def test_a_missing_library_is_named_with_its_remedy(module, tmp_path):
    code = f"""if True:
        import importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)
        from fused_dropout.bench import __main__
        __main__.main(["--quick", "--plots", {str(tmp_path)!r}])
    """
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert re.search(rf"\b{module}\b.* missing: pip install 'fused-dropout\[bench\]'", ended.stderr)


def test_a_missed_target_ends_with_1_only_where_asked(monkeypatch, capsys):
    missed = {"sweep": [], "refused": [], "cut_short": False, "peers": {}}
    missed["provenance"] = run.provenance(Choice(Level.QUICK, "cpu", (1,)))
    row = {"name": "dropout", "versus": "mul", "dtype": "float32", "numel": 64, "threads": 1, "device": "cpu"}
    row |= {"subject_ms": {"median": 2.0}, "baseline_ms": {"median": 1.0}, "ratio": 2.0, "gb_per_s": 1.0}
    row |= {"ratio_of_pairs": {"p20": 1.9, "p80": 2.1}, "target": 1.0, "met": False}
    monkeypatch.setattr(run, "run", lambda choice: missed | {"rows": [row]})
    assert main(["--device", "cpu"]) == 0
    assert main(["--device", "cpu", "--strict"]) == 1
    assert "targets met: 0 of 1" in capsys.readouterr().out


def test_every_peer_is_measured_or_skipped_with_a_reason():
    choice = Choice(Level.QUICK, "cpu", (1,))
    found = peers.peers(choice)
    assert [peer.name for peer in found] == list(peers.ADAPTERS)
    assert all(bool(peer.tasks) != bool(peer.skipped) for peer in found)
    known = sweep.names(choice)[0] | {"dropout_add_layer_norm step"}
    assert all(set(peer.tasks) <= known for peer in found)


def test_jax_leaves_a_gpu_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("JAX_PLATFORMS")
    platforms = []

    def required(module):
        platforms.append(os.environ.get("JAX_PLATFORMS"))
        raise peers.Skipped(module)

    monkeypatch.setattr(peers, "_required", required)
    with pytest.raises(peers.Skipped):
        peers._jax(P, "cpu")
    assert platforms == ["cpu"], "before it is imported"


@pytest.mark.parametrize("name", ["F.dropout", "bit mask", "jax.jit"])
@pytest.mark.parametrize("operation", ["dropout", "dropout backward", "dropout and backward"])
def test_peers_are_dropout(name, operation):
    (peer,) = peers.peers(Choice(Level.QUICK, "cpu", (1,), p=P, peers=(name,)))
    if peer.skipped or operation not in peer.tasks:
        pytest.skip(peer.skipped or f"{name} has no task of its own for {operation}")
    for numel in (1, 9, 2**15):
        work.check_dropout(peer.tasks[operation], (torch.linspace(0.5, 1.5, numel),), P)


def test_the_triton_kernel_is_dropout_and_makes_its_mask_again():
    pytest.importorskip("triton", reason="Triton is not installed")
    code = """if True:
        import torch
        from fused_dropout.bench import triton_dropout, work
        x = torch.linspace(0.5, 1.5, 5000)
        work.check_dropout(work.forward(lambda x: triton_dropout.seeded_dropout(x, 0.3, 7)), (x,), 0.3)
        y = triton_dropout.seeded_dropout(x.requires_grad_(), 0.3, 7)
        (grad_x,) = torch.autograd.grad(y, x, torch.ones_like(x))
        assert torch.equal(grad_x == 0, y == 0)
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x: fused_dropout.dropout(x, P) * 1.01, "some are neither"),
        (lambda x: fused_dropout.dropout(x, P + 0.05) * (1 - P - 0.05) / (1 - P), "it is off by"),
        (lambda x: x / (1 - P), "it is off by"),
    ],
    ids=["wrong scale", "wrong p", "no mask"],
)
def test_the_check_of_a_peer_notices(wrong, says):
    with pytest.raises(ValueError, match=says):
        work.check_dropout(work.forward(wrong), (torch.linspace(0.5, 1.5, 2**15),), P)


def test_a_peer_that_fails_is_left_out_with_its_reason():
    choice = Choice(Level.QUICK, "cpu", (1,), sizes=(64,), operations=("dropout",), dtypes=(torch.float32,))
    (point,) = sweep.points(choice)
    wrong = peers.Peer("wrong", {"dropout": work.forward(lambda x: 2 * x)})
    *records, last = sweep.measure_point(point, [wrong], choice)
    assert all("ms" in record for record in records)
    assert last["implementation"] == "wrong"
    assert last["refused"].startswith("ValueError: expected every element")


def test_ours_is_checked_before_it_is_timed(monkeypatch):
    choice = Choice(Level.QUICK, "cpu", (1,), sizes=(64,), operations=("dropout",), dtypes=(torch.float32,))
    right = fused_dropout.dropout
    monkeypatch.setattr(fused_dropout, "dropout", lambda x, p: right(x, p) * 2)
    with pytest.raises(RuntimeError, match=r"expected what fused_dropout\.reference gives"):
        run.run(choice)


def test_every_row_of_a_full_run_passes_its_check():
    chosen = list(cases(Choice(Level.FULL, "cpu", (torch.get_num_threads(),))))
    assert len({case.name for case in chosen}) > 50
    run.check_all(chosen)


def test_what_is_compared_is_measured_in_turns():
    order: list[str] = []
    tasks = [Task(lambda name=name: order.append(name), before=lambda: None) for name in "abc"]
    timings = measure(tasks, "cpu", Effort(0.0, 6, 6))
    assert "".join(order).endswith("abc" * 6)
    assert [timing.samples for timing in timings] == [6, 6, 6]
    assert timings[0].first_to_this.median == 1.0


def test_saved_bytes_are_16_beside_a_mask_of_bits_and_one_of_numbers():
    of_dropout = {r["implementation"]: r["bytes"] for r in saved.saved_for_backward(P, "cpu") if r["name"] == "dropout"}
    assert of_dropout == {"fused_dropout": 16, "bit mask": saved.NUMEL // 8, "F.dropout": 4 * saved.NUMEL}


@pytest.mark.parametrize("model", memory.SHAPES)
def test_both_kinds_of_a_network_have_the_same_parameters(model, monkeypatch):
    small = {name: min(size, 8) for name, size in memory.SHAPES[model].items()}
    monkeypatch.setitem(memory.SHAPES, model, small)
    kinds = [memory.build(model, P, fused)[0].eval() for fused in (True, False)]
    kinds[1].load_state_dict(kinds[0].state_dict())
    x = torch.randn(memory.build(model, P, True)[2])
    torch.testing.assert_close(kinds[0](x), kinds[1](x))
    assert memory.saved(kinds[0].train(), x) < memory.saved(kinds[1].train(), x)


def test_limits_have_every_roof():
    found = limits.limits(Choice(Level.QUICK, "cpu", (1,)), Effort(0.0, 2, 2))
    assert set(found["gb_per_s"]) == {"mul", "mul_", "copy"}
    assert min(*found["gb_per_s"].values(), found["gop_per_s"]) > 0


def test_plots_are_the_same_twice_and_change_with_the_numbers(result, tmp_path):
    pytest.importorskip("matplotlib")
    from fused_dropout.bench import plots

    drawn = [plots.draw(result, tmp_path / name) for name in ("a", "b")]
    assert {path.suffix for path in drawn[0]} == {".svg", ".png"}
    for a, b in zip(*drawn, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    before = [figure.digest for figure in series.figures(result)]
    result["sweep"][0]["ms"]["median"] *= 1.5
    assert series.figures(result)[0].digest != before[0]


def test_the_installed_module_is_this_folder():
    assert (ROOT / "fused_dropout" / "bench").resolve() == ROOT / "bench"
    text = (ROOT / "pyproject.toml").read_text()
    assert '"fused_dropout.bench" = "bench"' in text
    for path in (ROOT / "fused_dropout").glob("*.py"):
        assert not re.search(r"^\s*(from|import) .*\bbench\b", path.read_text(), re.M), "the library needs no benchmark"


def test_the_committed_results_are_of_this_schema():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        assert json.loads(path.read_text())["schema"] == files.SCHEMA
