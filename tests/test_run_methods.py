"""Runs whose units leave while the network is fine-tuned, under every method that a recipe can name."""

from __future__ import annotations

import pytest
import tiny
import torch

import secateur
from secateur import zoo
from secateur.errors import InputError
from secateur.recipe import METHODS, Recipe, changed
from secateur.report import RunRecord
from secateur.run import evaluate, run
from secateur.run.stages import Run

STEPS = 8
"""In an epoch."""

DECAY = {"name": "decay", "steps": 3, "rectify": {"rate": -1.0, "length": 0, "after": 1}}
"""Releases whatever it can."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(out, method="iterative", removal=None, **more):
    options = {"start": 0.1, "stop": 0.8, **({} if method in ("dhspg", "cric", "gumbel") else {"rounds": 2})}
    values = {
        "model": {"spec": "zoo:resnet8"},
        "data": {"name": "digits", "limit": 128, "batch_size": 16},
        "training": {"epochs": 1},
        "pruning": {"method": {"name": method, "options": options, "removal": removal}},
        "fine_tuning": {"epochs": 3},
        "measures": {"latency": False},
        "out": str(out),
    }
    for key, value in more.items():
        values = changed(values, key.replace("__", "."), value)
    return Recipe.of(values)


def numbers(record: RunRecord) -> list[tuple]:
    return [(s.stage, s.accuracy, s.loss, s.macs, s.params, s.bytes) for s in record.stages]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("method") / "out"
    return out, run(recipe(out, removal=DECAY))


def test_the_slim_model_its_plan_and_its_story_are_recorded(finished):
    out, record = finished
    assert [s.stage for s in record.stages] == ["dense", "fine-tuned"]
    assert record.final.macs <= 0.5 * record.dense.macs
    assert record.proof.proven
    assert (record.plan.asked, record.plan.criterion, record.plan.allocation) == ("50% macs", "Iterative", "global")
    gone = dict.fromkeys((g.name for g in record.groups), 0)
    for row in record.leavings:
        gone[row.group] += len(row.units) * (row.what == "gone")
    assert all(g.before - gone[g.name] == g.after for g in record.groups)
    assert {row.what for row in record.leavings} == {"leaving", "released", "gone"}
    assert max(row.step for row in record.leavings) <= 0.8 * 3 * STEPS
    assert "What happened on the way" in (out / "report.html").read_text(encoding="utf-8")
    assert set(record.seconds) >= {"train", "find groups", "prune and fine-tune", "save"}


def test_the_dense_network_stays_as_it_was_trained(finished):
    out, record = finished
    dense = zoo.resolve("zoo:resnet8", classes=10, shape=(1, 8, 8)).build()
    zoo.load_weights(dense, out / "dense.safetensors")
    assert sum(p.numel() for p in dense.parameters()) == record.dense.params
    assert record.dense.params > record.final.params


def test_the_checkpoint_is_the_slim_model(finished):
    out, record = finished
    small = secateur.load(zoo.resolve("zoo:resnet8", classes=10, shape=(1, 8, 8)).build, out)
    assert sum(p.numel() for p in small.parameters()) == record.final.params
    _, now = evaluate(out)
    assert (now.accuracy, now.macs) == (record.final.accuracy, record.final.macs)


@pytest.mark.parametrize("stop", ["prune and fine-tune epoch 1", "prune and fine-tune epoch 3", "measure: fine-tuned"])
def test_a_killed_run_goes_on_and_ends_with_the_same_numbers_and_story(finished, tmp_path, stop):
    asked = recipe(tmp_path / "out", removal=DECAY)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tiny.Stopping(stop))
    record = run(asked)
    assert numbers(record) == numbers(finished[1])
    assert record.leavings == finished[1].leavings


@pytest.mark.parametrize(
    "removal", [{"name": "immediate"}, {"name": "multiplicative", "steps": 2}], ids=lambda r: r["name"]
)
@pytest.mark.parametrize("method", [n for n in METHODS if n != "iterative" and "slices" in METHODS[n].takes])
def test_every_method_ends_within_the_budget(tmp_path, method, removal):
    small = {"data__limit": 64, "fine_tuning__epochs": 4, "training__epochs": 0}  # from scratch
    record = run(recipe(tmp_path, method, removal, **small))
    assert record.final.macs <= 0.5 * record.dense.macs
    assert record.proof.proven
    assert record.plan.criterion == METHODS[method].__name__
    assert any(row.what == "gone" for row in record.leavings)


def test_criteria_teachers_and_averages_go_with_a_method(tmp_path):
    more = {"pruning__criterion": "random", "fine_tuning__distill": {"weight": 2.0}, "fine_tuning__ema": 0.5,
            "fine_tuning__adversarial": {"epsilon": 0.1}}  # fmt: skip
    first, other = (run(recipe(tmp_path / str(s), seed=s, training__epochs=0, data__limit=64, **more)) for s in (0, 1))
    units = [{(row.group, row.units) for row in record.leavings} for record in (first, other)]
    assert units[0] != units[1]
    assert evaluate(tmp_path / "0")[1].accuracy == first.final.accuracy


@pytest.mark.slow
def test_single_weights_fade_in_a_run(tmp_path):
    weights = {"pruning__units": "weights", "pruning__budget": "20% weights", "training__epochs": 0}
    short = {"data__limit": 64, "fine_tuning__epochs": 2, "pruning__method__options__rounds": 1}
    record = run(recipe(tmp_path, removal={"name": "decay", "steps": 2}, **short, **weights))
    assert record.final.params == record.dense.params
    assert record.final.nonzero_params < 0.3 * record.final.params


def test_snapshots_of_a_training_are_measured_and_recorded(tmp_path):
    weights = {"pruning__units": "weights", "pruning__budget": "10% weights", "training__epochs": 0}
    asked = {"snapshots": ["60% weights", "90% weights", "80% weights"], "lr": 0.5, "stop": 0.9}
    more = {"data__limit": 64, "fine_tuning__epochs": 4, "model__spec": "zoo:lenet_300_100", **weights}
    record = run(recipe(tmp_path / "out", method="gumbel", pruning__method__options=asked, **more))
    rows = record.snapshots
    assert [row.budget for row in rows] == ["90% weights", "80% weights", "60% weights"]
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    dense = record.dense.params
    assert all(row.spent <= share * dense for row, share in zip(rows, (0.9, 0.8, 0.6), strict=True))
    assert all(0 <= row.accuracy.value <= 1 and row.accuracy.total == record.final.accuracy.total for row in rows)
    assert len({row.loss for row in rows}) > 1
    assert all(row.tuned is None for row in rows)
    assert RunRecord.load(tmp_path / "out" / "result.json").snapshots == rows


def test_snapshots_are_fine_tuned_under_their_masks(tmp_path, monkeypatch):
    weights = {"pruning__units": "weights", "pruning__budget": "10% weights", "training__epochs": 0}
    asked = {"snapshots": ["90% weights", "60% weights"], "lr": 0.5, "stop": 0.9}
    more = {"data__limit": 64, "model__spec": "zoo:lenet_300_100", "pruning__method__options": asked, **weights}
    tuned, fitted = [], Run._fit

    def fit(self, stage, model, name, *rest):
        found = fitted(self, stage, model, name, *rest)
        if "snapshot" in name:
            tuned.append(found)
        return found

    monkeypatch.setattr(Run, "_fit", fit)
    made = recipe(tmp_path / "out", method="gumbel", fine_tuning__epochs=4, fine_tuning__snapshots=2, **more)
    record = run(made)
    rows = record.snapshots
    assert [curve.name for curve in record.curves[-2:]] == [f"fine-tuning of snapshot {n}" for n in (1, 2)]
    assert [len(curve.epochs) for curve in record.curves[-2:]] == [2, 2]
    for row, model in zip(rows, tuned, strict=True):
        assert 0 < sum(int(p.count_nonzero()) for p in model.parameters()) <= row.spent
        assert row.tuned.total == row.accuracy.total
        assert row.tuned_loss != row.loss
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "What the training passed through" in page

    class Stop(Exception):
        pass

    def stop(self, stage, model, name, *rest):
        if name.endswith("snapshot 2"):
            raise Stop
        return fitted(self, stage, model, name, *rest)

    again = made.model_copy(update={"out": str(tmp_path / "again")})
    monkeypatch.setattr(Run, "_fit", stop)
    with pytest.raises(Stop):
        run(again)
    monkeypatch.setattr(Run, "_fit", fitted)
    assert run(again).snapshots == rows


def test_snapshots_that_no_method_takes_are_not_fine_tuned(tmp_path):
    with pytest.raises(InputError, match=r"'fine_tuning.snapshots' .* must be 0: 'pruning.method.options' ask for no"):
        recipe(tmp_path, method="iterative", fine_tuning__snapshots=2)


def test_more_steps_than_the_training_has_are_told_before_the_dense_training(tmp_path):
    with pytest.raises(InputError, match=r"The 'removal' of Iterative takes 500 steps .* leave 17 of 24 steps"):
        run(recipe(tmp_path, removal={"name": "decay", "steps": 500}))
    assert not (tmp_path / "dense.safetensors").exists()
