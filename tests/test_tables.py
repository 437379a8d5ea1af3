"""The tables of README and docs are those that results/ and the schema of recipes give."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from tabled import learned_sparsity, runs, speed
from tabled.common import gathered

from secateur.report.record import AccuracyRow, RunRecord, SnapshotRow
from secateur.run.experiments import experiments
from secateur.training.schedules import learning_rate, warm_up

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_are_fresh():
    """So is every result: the check reads all of them, and compares each with the recipe that its name tells."""
    done = subprocess.run(
        [sys.executable, "experiments/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "table", "figure"),
    [("README.md", "runs", "93.39"), ("docs/recipes.md", "recipe keys", "50% macs")],
)
def test_a_changed_figure_is_noticed(page, table, figure):
    text = (ROOT / page).read_text()
    start = text.index(f"<!-- table: {table} -->")
    stale = text[:start] + text[start:].replace(figure, "99.99", 1)
    assert stale != text
    assert tiny.script("experiments/tables.py")["written"](stale) == text


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of a dense experiment: the record of another run with its numbers exchanged."""
    shutil.copytree(ROOT / "experiments" / "dense", tmp_path / "experiments" / "dense")
    made = RunRecord.load(ROOT / "results" / "magnitude" / "resnet56_2x.json")
    for seed, correct in enumerate((9120, 9150, 9180)):
        experiment = experiments(tmp_path / "experiments" / "dense" / "resnet20.yaml", seeds=[seed])[0]
        accuracy = AccuracyRow(value=correct / 10_000, low=0.9, high=0.93, correct=correct, total=10_000)
        row = made.dense.model_copy(update={"accuracy": accuracy})
        told = {"recipe": experiment.recipe.to_dict(), "plan": None, "stages": (row,), "model": "zoo:resnet20"}
        experiment.result(tmp_path / "results").parent.mkdir(parents=True, exist_ok=True)
        made.model_copy(update={**told, "seeds": (seed,)}).save_json(experiment.result(tmp_path / "results"))
    return tmp_path


def test_seeds_become_a_mean_with_its_spread(seeds):
    found = gathered(seeds / "results", seeds / "experiments")
    assert list(found) == ["dense/resnet20"]
    line = runs.dense(seeds / "results", found).splitlines()[2]
    assert "| 3 | 10 | 91.50 ± 0.30 | 91.20 to 91.80 |" in line
    assert "dense/resnet20" not in runs.runs(found)
    for seed, accuracy in enumerate((0.91, 0.92)):
        path = seeds / "results" / "benchmarks" / "plain" / "dense" / f"resnet20-seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"accuracy": accuracy, "recipe": {"training": {"epochs": 12}}}))
    told = runs.dense(seeds / "results", found).splitlines()[3]
    assert "plain PyTorch loop" in told
    assert "| 2 | 12 | 91.50 ± 0.71 | 91.00 to 92.00 |" in told


def test_what_a_training_passed_through_is_a_row_a_budget():
    made = RunRecord.load(ROOT / "results" / "magnitude" / "resnet56_2x.json")

    def seed(spent, correct):
        accuracy = AccuracyRow(value=correct / 10_000, low=0.9, high=0.95, correct=correct, total=10_000)
        tuned = accuracy.model_copy(update={"value": (correct + 50) / 10_000})
        found = {"accuracy": accuracy, "loss": 0.2, "tuned": tuned, "tuned_loss": 0.1}
        row = SnapshotRow(budget="1741 weights", step=7, spent=spent, **found)
        return made.model_copy(update={"snapshots": (row,)})

    records = [seed(1740, 9600), seed(1730, 9700)]
    told = learned_sparsity.learned({"learned_sparsity/net": records, "other/net": records})
    assert told.count("| net | 1741 weights | 1,735 | 2 | 96.50 ± 0.71 | 97.00 ± 0.71 |") == 1
    assert "on the way" not in learned_sparsity.learned({"learned_sparsity/net": [made]})


def test_the_benchmark_of_gates_is_told_with_its_targets(tmp_path):
    assert "Not measured" in speed.gates(tmp_path)
    steps = [{"model": "LeNet", "batch": 250, "plain": 0.004, "gated": 0.006, "ratio": 1.5}]
    forms = [{"form": "compact", "seconds": 0.0001, "times": 12.0}]
    facts = {"threads": 1, "repeats": 9, "cpu": "a CPU", "versions": {"torch": "2.15"}}
    (tmp_path / "benchmarks").mkdir()
    result = {**facts, "targets": {"step": 1.5, "inference": 5}, "steps": steps, "inference": forms}
    (tmp_path / "benchmarks" / "gates.json").write_text(json.dumps(result))
    told = speed.gates(tmp_path)
    assert "| LeNet, batch of 250 | 4.0 ms | 6.0 ms | 1.50x (at most 1.5x asked) |" in told
    assert "| compact | 0.10 ms | 12.0x |" in told


def test_the_plain_loop_has_the_learning_rates_of_fit():
    factor = tiny.script("benchmarks/plain.py")["factor"]
    curve = learning_rate("cosine", (), 0.1)
    for step in range(100):
        assert factor(step, 100, 10.0) == pytest.approx(curve(step / 100) * warm_up(step, 10.0))


def test_the_benchmark_of_surgery_tells_all_models(tmp_path):
    def row(model, seconds, **failed):
        tools = ("secateur", "secateur, proven", "torch-pruning")
        middle = {t: {"cold": s, "memory": 1.0} for t, s in zip(tools, seconds, strict=True) if t not in failed}
        return {"model": model, "median": middle, "failed": failed}

    rows = [row("vgg", (1.0, 2.0, 4.0)), row("swin", (1.0, 2.0, 0.0), **{"torch-pruning": "no result after 40 s"})]
    middles = {"secateur": {"cold": 0.25, "memory": 1.0}, "secateur, proven": {"cold": 0.5, "memory": 1.0}}
    facts = {"threads": 2, "repeats": 1, "versions": {"torch-pruning": "1.6.1", "torch": "2.15"}}
    result = {**facts, "models": rows, "means": middles, "medians": middles}
    (tmp_path / "benchmarks").mkdir()
    for name in ("surgery", "surgery_all"):
        (tmp_path / "benchmarks" / f"{name}.json").write_text(json.dumps(result))
    told = speed.surgery(tmp_path)
    assert "| vgg | 4.00 | 1.00 | 2.00 | 0.25 | 0.50 | 1.00 |" in told
    assert "| swin" not in told
    assert "all 2 classification models" in told
    assert "is **0.25**, **0.50** with the proof, of the 1 that both can do. Torch-Pruning cannot do swin." in told


def test_random_networks_add_up_range_by_range(tmp_path, monkeypatch):
    fuzz = runpy.run_path(str(ROOT / "benchmarks" / "fuzz.py"))
    assert "Not measured" in speed.fuzz(tmp_path)
    path = tmp_path / "benchmarks" / "fuzz.json"
    path.parent.mkdir()
    assert fuzz["following"](path) == 0
    refused = {"seed": 2, "failure": "refused by the proof: why", "reproduce": "check(...)"}
    assert [fuzz["kind"](text) for text in ("AssertionError: ", "KeyError: 'a'")] == ["wrong", "crashed"]
    fuzz["save"](path, fuzz["ranged"]([{"seed": 0, "groups": 3}, {"seed": 1, "groups": 4}, refused]))
    assert fuzz["following"](path) == 3
    fuzz["save"](path, fuzz["ranged"]([{"seed": 3, "groups": 5}]))
    told = speed.fuzz(tmp_path)
    assert told.startswith("4 random networks over all families of operators, with 12 groups")
    assert "**0** wrong, **1** refused by the proof alone, **0** crashed. seed 2 refused (refused by" in told
    assert "Seeds 0 to 3, torch 2." in told
    fuzz["save"](path, fuzz["ranged"]([{"seed": 2, "groups": 6}, {"seed": 3, "groups": 5}]))  # again: the first is gone
    assert [(r["first"], r["networks"]) for r in fuzz["kept"](path)] == [(2, 2)]


def test_the_benchmark_of_training_is_told_with_its_spread(tmp_path):
    training = speed.training
    assert "Not measured" in training(tmp_path)
    row = {
        "model": "resnet20", "data": "cifar10", "batch": 128, "repeats": 5, "target": 3.5,
        "median": {"plain PyTorch": 400.4, "secateur": 1000.0, "secateur, compiled": 1234.5},
        "ratio": {"secateur": {"median": 2.5, "low": 2.4, "high": 2.6},
                  "secateur, compiled": {"median": 3.1, "low": 3.0, "high": 3.25}},
        "computed": {"secateur": {"precision": "fp32", "layout": "channels last"}},
    }  # fmt: skip
    facts = {
        "gpu": None,
        "cpu": "A CPU",
        "cpu_units": ["avx2"],
        "threads": 2,
        "workers": 2,
        "versions": {"torch": "2.15"},
    }
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "training.json").write_text(json.dumps({**facts, "models": [row]}))
    lines = training(tmp_path).splitlines()
    assert lines[0].split(" | ")[1:4] == ["plain PyTorch", "secateur", "compiled"]
    assert lines[2].startswith(
        "| resnet20, cifar10 | 400 | 1,000 | 1,234 | 2.50x (2.40 to 2.60) | 3.10x (3.00 to 3.25) |"
    )
    assert "3.5x | fp32, channels last |" in lines[2]
    assert "A CPU (avx2), 2 threads, batches of 128" in lines[-1]


def test_the_evaluation_and_the_corruptions_become_tables(tmp_path):
    folder = tmp_path / "benchmarks"
    assert "Not measured" in speed.evaluate(tmp_path)
    assert "Not measured" in speed.corruptions(tmp_path)
    folder.mkdir()
    facts = {"threads": 2, "cpu": "a CPU", "versions": {"torch": "2.15.0+cpu"}, "repeats": 3, "severity": 3}
    parts = {"networks": 30.0, "corruption: fog": 60.0, "corruption: snow": 90.0}
    found = {"parts": parts, "sheets": 3, "images": 10_000, "draws": 10, "seconds": 190.0, "gibibytes": 1.5}
    (folder / "evaluate.json").write_text(json.dumps({**facts, **found, "target": {"minutes": 15, "gibibytes": 4}}))
    made = speed.evaluate(tmp_path)
    assert "2 sheets of corruptions | 2\N{NO-BREAK SPACE}min 30\N{NO-BREAK SPACE}s |" in made
    rows = [
        {"kind": "fog", "median": {"secateur": 2000.0, "imagecorruptions": 100.0}, "ratio": 20.0},
        {"kind": "glass_blur", "median": {"secateur": 500.0}, "ratio": None},
    ]
    sizes = [{"size": 32, "mean": 20.0, "rows": rows}]
    (folder / "corruptions.json").write_text(json.dumps({**facts, "target": 10, "sizes": sizes}))
    made = speed.corruptions(tmp_path)
    assert "| fog | 2,000 | 100 | 20.0x |" in made
    assert "| glass_blur | 500 |  |  |" in made
