"""Experiments: what a result's name tells, what is redone, and what is refused."""

from __future__ import annotations

import sys

import pytest
import tiny
import torch

from secateur.errors import CheckpointError, InputError
from secateur.report import RunRecord
from secateur.report.seeds import spread
from secateur.run import Silent
from secateur.run.experiments import carry_out, experiments, kept, matching

RECIPE = """\
model: {spec: zoo:resnet8}
data: {name: digits, limit: 256}
training: {epochs: 1}
pruning: null
measures: {latency: false}
seed: [0, 1]
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiments" / "question" / "small.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE)
    return path


def names(*given, **more):
    return [experiment.name for experiment in experiments(*given, **more)]


def test_a_name_tells_the_question_the_changes_and_the_seed(file):
    assert names(file) == ["question/small-seed0", "question/small-seed1"]
    assert names(file, seeds=[7]) == ["question/small-seed7"]
    changed = names(file, changes=["training.lr=1e-2", "data.limit=100"])
    assert changed[0] == "question/small-data.limit=100,training.lr=1e-2-seed0"
    file.write_text(RECIPE.replace("[0, 1]", "3"))
    assert names(file) == ["question/small"]
    assert experiments(file)[0].recipe.the_seed == 3
    assert experiments(file, changes=["training.epochs=2"])[0].title == "question/small-training.epochs=2"


@pytest.mark.parametrize("change", ["data.root=a/b", "seed=3", "model.spec=net.py:build", "training.epochs"])
def test_changes_that_no_name_can_hold_are_refused(file, change):
    with pytest.raises(InputError, match="KEY=VALUE"):
        experiments(file, changes=[change])


class Counting(Silent):
    """Counts the trainings that are begun."""

    trainings = 0

    def begin(self, stage):
        self.trainings += stage == "train"


def test_a_result_is_made_once_and_made_anew_where_it_is_damaged(file, tmp_path):
    results, work, counting = tmp_path / "results", tmp_path / "work", Counting()
    planned = experiments(file)[0]
    path, done = carry_out(planned, results, work, counting)
    assert done
    assert path == results / "question" / "small-seed0.json"
    record = RunRecord.load(path)
    assert record.recipe == planned.recipe.to_dict()
    assert record.curves
    assert record.hardware.cpu
    assert record.seconds["train"] > 0
    assert carry_out(planned, results, work, counting) == (path, False)

    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "", "{}", whole.replace('"stages"', '"stagse"')):
        path.write_text(damaged)
        with pytest.raises(CheckpointError):
            list(kept(results, file.parent.parent))
        assert carry_out(planned, results, work, counting) == (path, True)
        assert path.read_text() == whole
    assert counting.trainings == 1, "the run's folder still has the record"


def test_a_result_of_another_recipe_is_refused(file, tmp_path):
    results = tmp_path / "results"
    path, _ = carry_out(experiments(file)[0], results, tmp_path / "work", Silent())
    file.write_text(RECIPE.replace("epochs: 1", "epochs: 2"))
    with pytest.raises(InputError, match=r"These differ: training\.epochs \(1 there, 2 here\)\. Remove it"):
        carry_out(experiments(file)[0], results, tmp_path / "work", Silent())
    with pytest.raises(InputError, match=r"small-seed0\.json must be of the recipe that its name tells"):
        list(kept(results, file.parent.parent))
    path.rename(path.with_name("small-training.epochs=1-seed0.json"))
    [(experiment, record)] = kept(results, file.parent.parent)
    assert experiment.recipe.training.epochs == 1
    assert matching(experiment, results / f"{experiment.name}.json") == record


def test_a_result_without_a_recipe_is_told(file, tmp_path):
    path, _ = carry_out(experiments(file)[0], tmp_path / "results", tmp_path / "work", Silent())
    path.rename(path.with_name("other.json"))
    with pytest.raises(InputError, match=r"other\.json must have a recipe of its name"):
        list(kept(tmp_path / "results", file.parent.parent))


def test_the_script_carries_out_every_seed_and_goes_on(file, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    script = tiny.script("experiments/run.py")
    command = ["run.py", str(file), "--work", str(tmp_path / "work"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "5", "6", "--set", "data.limit=200"])
    assert script["main"]() == 0
    assert sorted(path.name for path in (results / "question").iterdir()) == [
        "small-data.limit=200-seed5.json", "small-data.limit=200-seed6.json",
    ]  # fmt: skip
    assert script["main"]() == 0
    assert capsys.readouterr().out.count("(was there)") == 2
    monkeypatch.setattr(sys, "argv", [*command, "--set", "data.limt=200"])
    assert script["main"]() == 2
    assert "no key 'data.limt'" in capsys.readouterr().err


def test_a_spread_is_that_of_the_sample():
    found = spread([0.9, 0.92, 0.94])
    assert (found.mean, found.deviation, found.count) == (pytest.approx(0.92), pytest.approx(0.02), 3)
    assert found.words() == "92.00 ± 2.00"
    assert spread([0.5]).words() == "50.00"
    assert spread([]) is None
