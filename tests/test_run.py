from __future__ import annotations

import json

import pytest
import tiny
import torch

import secateur
from secateur import zoo
from secateur.errors import CheckpointError, InputError
from secateur.folder import STAGES
from secateur.recipe import Recipe, changed
from secateur.report import RunRecord
from secateur.run import Silent, evaluate, run


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Networks this small are slower on several threads, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Telling(Silent):
    """Remembers the stages, and stops the run where it is told to."""

    def __init__(self, stop: str = "") -> None:
        self.done: list[str] = []
        self.stop = stop

    def epoch(self, row, of):
        if self.stop == f"epoch {row.epoch}" and "find groups" in self.done:
            raise KeyboardInterrupt

    def end(self, stage, seconds, result):
        self.done.append(stage)
        if stage == self.stop:
            raise KeyboardInterrupt


def numbers(record: RunRecord) -> list[tuple]:
    """All that must be the same for the same recipe: everything but times."""
    return [(s.stage, s.accuracy, s.loss, s.macs, s.params, s.bytes) for s in record.stages]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run(tiny.recipe(out))


def test_a_run_leaves_everything_in_its_folder(finished):
    out, record = finished
    assert {path.name for path in out.iterdir()} == {
        "recipe.yaml", "dense.safetensors", "model.safetensors", "plan.json",
        "report.html", "result.json", "result.csv", "logs",
    }  # fmt: skip
    assert RunRecord.load(out / "result.json") == record
    assert f"{100 * record.final.accuracy.value:.2f}" in (out / "report.html").read_text(encoding="utf-8")


def test_the_stages_are_told_in_order_with_their_numbers(finished):
    _, record = finished
    assert [s.stage for s in record.stages] == ["dense", "masked", "cut", "batch norm re-estimated", "fine-tuned"]
    assert all(s.accuracy.total == 360 for s in record.stages)
    assert record.dense.latency.batch == record.final.latency.batch == 1
    assert record.speedup.low <= record.speedup.ratio <= record.speedup.high
    assert 0.45 < record.final.macs / record.dense.macs <= 0.505
    assert record.final.params < record.dense.params
    assert record.final.bytes < record.dense.bytes
    assert [c.name for c in record.curves] == ["training", "fine-tuning"]
    assert [len(c.epochs) for c in record.curves] == [1, 2]
    assert all(c.manner.precision in ("fp32", "bf16") and c.manner.channels_last for c in record.curves)
    assert all(not c.manner.compiled and c.manner.ranks == 1 for c in record.curves)
    assert record.plan.criterion.startswith("magnitude(")
    assert set(record.seconds) >= {"load", "train", "find groups", "plan and cut", "fine-tune", "save"}


def test_the_cut_is_proven_and_the_masked_model_agrees_with_it(finished):
    _, record = finished
    assert record.proof.proven
    assert record.proof.dtype == "float64"
    assert all(check.error <= record.proof.tolerance for check in record.proof.checks)
    masked, cut = record.stage("masked"), record.stage("cut")
    assert masked.accuracy == cut.accuracy
    assert masked.loss == pytest.approx(cut.loss, rel=1e-4)
    assert masked.macs == record.dense.macs


def test_widths_and_what_is_frozen_are_told(finished):
    _, record = finished
    assert all(0 < g.after <= g.before for g in record.groups)
    assert any(g.after < g.before for g in record.groups)
    assert {f.name for f in record.frozen} >= {"linear.weight[0]"}
    assert all(f.reason for f in record.frozen)


def test_the_checkpoint_loads_with_the_constructor_that_it_names(finished):
    out, record = finished
    told = json.loads((out / "plan.json").read_text())["constructor"]
    source = zoo.resolve(told["spec"], **told["kwargs"])
    small = secateur.load(source.build, out)
    assert sum(p.numel() for p in small.parameters()) == record.final.params
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_evaluate_finds_the_recorded_numbers(finished):
    out, record = finished
    recorded, now = evaluate(out)
    assert recorded == record
    assert (now.accuracy, now.macs, now.params, now.bytes) == (
        record.final.accuracy, record.final.macs, record.final.params, record.final.bytes,
    )  # fmt: skip
    assert now.latency is not None


def test_the_same_recipe_gives_the_same_numbers(finished, tmp_path):
    assert numbers(run(tiny.recipe(tmp_path / "again"))) == numbers(finished[1])


def test_a_finished_run_is_read_back_without_work(finished):
    out, record = finished
    telling = Telling()
    assert run(tiny.recipe(out), telling) == record
    assert telling.done == []


@pytest.mark.parametrize(
    "stop", ["train", "measure: dense", "measure: cut", "measure: batch norm re-estimated", "epoch 1", "save"]
)
def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(finished, tmp_path, stop):
    recipe = tiny.recipe(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, Telling(stop))
    assert not (tmp_path / "out" / "report.html").exists()
    again = Telling()
    record = run(recipe, again)
    assert numbers(record) == numbers(finished[1])
    assert record.curves[1].epochs[-1].train_loss == finished[1].curves[1].epochs[-1].train_loss
    if stop in ("measure: batch norm re-estimated", "epoch 1", "save"):
        assert "plan and cut" not in again.done
    assert not (tmp_path / "out" / STAGES).exists()


def test_a_process_that_is_killed_loses_no_more_time_than_that_of_an_epoch(tmp_path):
    out, kept = tmp_path / "out", []

    class Looking(Silent):
        def epoch(self, row, of):
            kept.append(json.loads((out / "stages" / "clock.json").read_text())["seconds"].get("fine-tune", 0.0))

    record = run(tiny.recipe(out), progress=Looking())
    training, first, second = kept
    assert training == 0 < first < second <= record.seconds["fine-tune"]


def test_another_recipe_is_refused_before_any_work(finished):
    out, _ = finished
    telling = Telling()
    differ = r'differ: pruning\.budget \("50% macs" there, "2x params" here\), seed \(0 there, 3 here\)\.'
    with pytest.raises(InputError, match=differ):
        run(tiny.recipe(out, pruning__budget="2x params", seed=3), telling)
    assert telling.done == []


def test_folders_that_cannot_serve_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written"):
            run(tiny.recipe(out))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"must be empty .* It holds thesis\.tex"):
        run(tiny.recipe(tmp_path / "full"))
    with pytest.raises(InputError, match="'out'"):
        run(tiny.recipe())


def test_a_damaged_stage_is_named(tmp_path):
    recipe = tiny.recipe(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, Telling("plan and cut"))
    (tmp_path / STAGES / "dense.json").write_text('{"stage": "dense"')
    with pytest.raises(CheckpointError, match=r"dense\.json is damaged"):
        run(recipe)


def test_evaluate_needs_a_finished_run(tmp_path):
    with pytest.raises(CheckpointError, match="no record of a run"):
        evaluate(tmp_path)


@pytest.mark.parametrize(("units", "budget"), [("weights", "20% weights"), ("blocks", "4x weights")])
def test_single_weights_and_blocks_end_in_masks(tmp_path, units, budget):
    record = run(tiny.recipe(tmp_path, pruning__units=units, pruning__budget=budget))
    assert [s.stage for s in record.stages] == ["dense", "masked", "batch norm re-estimated", "fine-tuned"]
    final = record.final
    assert (final.macs, final.params) == (record.dense.macs, record.dense.params)
    assert final.nonzero_macs < 0.7 * final.macs
    small = secateur.load(zoo.resolve("zoo:resnet8", classes=10, shape=(1, 8, 8)).build, tmp_path)
    nonzero = sum(int(p.count_nonzero()) for p in small.parameters())
    assert nonzero <= final.nonzero_params * 1.001
    recorded, now = evaluate(tmp_path)
    assert (now.accuracy, now.nonzero_macs) == (recorded.final.accuracy, recorded.final.nonzero_macs)


def test_stages_that_are_switched_off_leave_no_row(tmp_path):
    record = run(
        tiny.recipe(
            tmp_path,
            pruning__verify=False,
            batch_norm__batches=0,
            fine_tuning__epochs=0,
            measures__latency=False,
            measures__masked=False,
        )
    )
    assert [s.stage for s in record.stages] == ["dense", "cut"]
    assert record.proof is None
    assert record.final.latency is None
    assert "Not proven" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_gradient_criteria_and_keep_patterns_reach_their_stages(tmp_path):
    options = {"joint": False}
    record = run(
        tiny.recipe(
            tmp_path,
            pruning__criterion="taylor",
            pruning__options=options,
            pruning__batches=1,
            pruning__keep=["layer1.*"],
            pruning__budget="70% macs",
            fine_tuning__epochs=0,
        )
    )
    assert "joint=False" in record.plan.criterion
    kept = [g for g in record.groups if g.name.startswith("layer1.")]
    assert kept
    assert all(g.after == g.before for g in kept)


def test_given_weights_are_pruned_without_training(finished, tmp_path):
    out, record = finished
    weights = str(out / "dense.safetensors")
    again = run(tiny.recipe(tmp_path, model__weights=weights, training__epochs=0, fine_tuning__epochs=0))
    assert again.dense.accuracy == record.dense.accuracy
    assert again.stage("cut").accuracy == record.stage("cut").accuracy
    assert again.curves == ()


MEASURED = {
    "pruning": None,
    "training__epochs": 2,
    "training__optimizer": "stochgradadam",
    "training__lr": 0.01,
    "training__weight_decay": 0,
    "measures__latency": False,
    "measures__dynamics": 3,
    "measures__prunability": {"sparsities": [0.5, 1.0], "scopes": ["global", "layer"], "batches": 1, "line": 3},
}


def measured(out, **more):
    values = {key: value for key, value in tiny.VALUES.items() if key not in ("fine_tuning", "batch_norm")}
    for key, value in {**MEASURED, "data__batch_size": 64, **more}.items():
        values = changed(values, key.replace("__", "."), value)
    return Recipe.of({**values, "out": str(out)})


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "out"
    return out, run(measured(out))


def test_prunability_is_measured_on_the_dense_model(looked_at):
    out, record = looked_at
    found = record.prunability
    assert (found.accuracy, found.loss) == (record.dense.accuracy.value, pytest.approx(record.dense.loss))
    ways = {(p.scope, p.reestimated, p.sparsity) for p in found.curve}
    assert ways == {(scope, again, s) for scope in ("global", "layer") for again in (False, True) for s in (0.5, 1.0)}
    assert found.at(1.0).zeros == found.weights.number == sum(layer.number for layer in found.layers)
    assert abs(found.at(0.5).zeros - found.weights.number / 2) <= 1
    assert 0 < found.at(0.5).energy < 0.5
    assert [share for share, _ in found.direction] == [0.0, 0.5, 1.0]
    assert found.direction[0][1] == pytest.approx(found.loss)
    assert "How the dense model takes one-shot pruning" in (out / "report.html").read_text(encoding="utf-8")


def test_dynamics_are_those_of_every_so_many_steps(looked_at):
    out, record = looked_at
    assert [row.step for row in record.dynamics] == [1, 4, 7]
    assert 0 < record.dynamics[0].moved < 1, "a part of the gradients is drawn, and there is no momentum yet"
    assert all(0 < row.seen_size < row.gradient_size for row in record.dynamics)
    assert "at 3 steps" in (out / "report.html").read_text(encoding="utf-8")


def test_what_makes_a_network_prunable_takes_part_in_the_training(tmp_path):
    """Its options reach it, and what it writes into the model is gone at the end."""
    more = {"training__epochs": 1, "measures__dynamics": 0, "measures__prunability__sparsities": [0.5]}
    plain, decayed, powers = (
        run(measured(tmp_path / name, training__prepare=prepare, **more))
        for name, prepare in (
            ("plain", {}),
            ("decayed", {"p_norm_decay": {"strength": 50.0}}),
            ("powers", {"powerprop": {"alpha": 2.0}, "sam": {}}),
        )
    )
    assert decayed.prunability.weights.mean_size < 0.5 * plain.prunability.weights.mean_size
    assert powers.prunability.weights.e50 != plain.prunability.weights.e50
    assert [row.name for row in powers.prunability.layers] == [row.name for row in plain.prunability.layers]


@pytest.mark.parametrize("stop", ["train", "save"])
def test_measures_of_a_killed_run_are_those_of_one_that_was_not(looked_at, tmp_path, stop):
    recipe = measured(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, Telling(stop))
    again = Telling()
    record = run(recipe, again)
    assert (record.prunability, record.dynamics) == (looked_at[1].prunability, looked_at[1].dynamics)
    assert ("measure prunability" in again.done) == (stop == "train")


def test_measures_that_were_not_asked_for_are_not_there(finished):
    assert finished[1].prunability is None
    assert finished[1].dynamics == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "measures__prunability",
            {"sparsities": [1.5]},
            r"'measures\.prunability\.sparsities' .* must be numbers in \[0, 1\]",
        ),
        ("measures__prunability", {"scopes": ["all"]}, r"must be 'global' or 'layer'"),
        ("measures__prunability", {"sparsity": [0.5]}, r"Did you mean 'measures\.prunability\.sparsities'\?"),
        ("measures__dynamics", -1, r"'measures\.dynamics' of the recipe must be at least 0"),
    ],
)
def test_measures_that_cannot_be_made_are_told(tmp_path, key, value, message):
    with pytest.raises(InputError, match=message):
        measured(tmp_path, **{key: value})
