"""What a recipe can ask of a run beside one cut: none, several, a teacher, going back; and trainings that fail."""

from __future__ import annotations

import pytest
import tiny
import torch
from safetensors.torch import load_file

import secateur
from secateur import zoo
from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.folder import STAGES
from secateur.report import RunRecord
from secateur.run import evaluate, run


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build():
    return zoo.resolve("zoo:resnet8", classes=10, shape=(1, 8, 8)).build()


def numbers(record: RunRecord) -> list[tuple]:
    return [(s.stage, s.round, s.accuracy, s.loss, s.macs, s.params) for s in record.stages]


DENSE = {"model": {"spec": "zoo:resnet8"}, "data": {"name": "digits", "limit": 256}, "training": {"epochs": 2},
         "pruning": None, "measures": {"runs": 2, "warmup": 1}}  # fmt: skip


def dense(out, **changes):
    values = DENSE
    for key, value in changes.items():
        values = secateur.recipe.changed(values, key.replace("__", "."), value)
    return secateur.recipe.Recipe.of({**values, "out": str(out)})


def test_a_dense_run_is_trained_measured_and_told(tmp_path):
    record = run(dense(tmp_path))
    assert (record.plan, record.proof, record.groups, record.frozen) == (None, None, (), ())
    assert [s.stage for s in record.stages] == ["dense"]
    assert record.dense.latency is not None
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "recipe.yaml", "report.html", "result.json", "result.csv"} <= names
    assert "dense.safetensors" not in names
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "nothing was cut" in page
    assert 'id="proof"' not in page
    recorded, now = evaluate(tmp_path)
    assert (now.accuracy, now.macs, now.params) == (recorded.dense.accuracy, recorded.dense.macs, recorded.dense.params)


def test_the_weights_of_a_dense_run_are_those_of_another_one(tmp_path):
    first = run(dense(tmp_path / "a", measures__latency=False))
    weights = str(tmp_path / "a" / "model.safetensors")
    again = run(dense(tmp_path / "b", model__weights=weights, training__epochs=0, measures__latency=False))
    assert again.dense == first.dense
    pruned = run(tiny.recipe(tmp_path / "c", model__weights=weights, training__epochs=0, fine_tuning__epochs=0))
    assert pruned.dense.accuracy == first.dense.accuracy
    assert pruned.dense.macs == first.dense.macs, "a dense run and a pruning one count the same"


def test_a_killed_dense_run_goes_on(tmp_path):
    whole = run(dense(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(dense(tmp_path / "killed"), tiny.Stopping("train epoch 1"))
    assert numbers(run(dense(tmp_path / "killed"))) == numbers(whole)


def test_weights_are_found_in_the_folder_of_weights(tmp_path, monkeypatch):
    secateur.save(build(), tmp_path / "weights")
    monkeypatch.setenv("SECATEUR_WEIGHTS", str(tmp_path / "weights"))
    recipe = dense(tmp_path / "out", model__weights="model.safetensors", training__epochs=0)
    assert run(recipe).recipe["model"]["weights"] == "model.safetensors"


ROUNDS = {"pruning__rounds": 3, "pruning__budget": "40% macs", "pruning__round_to": 1, "fine_tuning__epochs": 1,
          "measures__latency": False}  # fmt: skip


def test_rounds_cut_step_by_step_and_the_last_meets_the_budget(tmp_path):
    record = run(tiny.recipe(tmp_path, **ROUNDS))
    stages = ["cut", "batch norm re-estimated", "fine-tuned"]
    assert [(s.stage, s.round) for s in record.stages] == [
        ("dense", None),
        *((s, n) for n in (1, 2, 3) for s in stages),
    ]
    whole = record.dense.macs
    for number in (1, 2, 3):
        left = next(s.macs for s in record.stages if s.round == number) / whole
        assert left == pytest.approx(0.4 ** (number / 3), abs=0.03)
    assert record.plan.reached == f"{100 * record.final.macs / whole:.1f}% macs"
    assert record.final.macs <= 0.405 * whole
    small = secateur.load(build, tmp_path)
    assert sum(p.numel() for p in small.parameters()) == record.final.params
    widths = {name: len(p) for name, p in build().named_parameters()}
    assert all(g.before == widths[f"{g.name}.weight"] for g in record.groups)
    assert [c.name for c in record.curves] == ["training", "fine-tuning 1", "fine-tuning 2", "fine-tuning 3"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "after the cut, round 2" in page


def test_rounds_that_are_killed_go_on(tmp_path):
    whole = run(tiny.recipe(tmp_path / "whole", **ROUNDS))
    for stop in ("fine-tune 2 epoch 1", "plan and cut 2", "measure: cut 3"):
        out = tmp_path / stop.replace(" ", "-").replace(":", "")
        with pytest.raises(KeyboardInterrupt):
            run(tiny.recipe(out, **ROUNDS), tiny.Stopping(stop))
        assert numbers(run(tiny.recipe(out, **ROUNDS))) == numbers(whole)


def test_rounds_of_single_weights_only_add_zeros(tmp_path):
    units = {"pruning__units": "weights", "pruning__budget": "25% weights", "pruning__rounds": 2}
    record = run(tiny.recipe(tmp_path, **units, measures__latency=False))
    kept = [s.nonzero_params for s in record.stages if s.stage == "masked"]
    assert kept[0] / record.dense.params == pytest.approx(0.5, abs=0.01)
    assert kept[1] / record.dense.params == pytest.approx(0.25, abs=0.01)
    state = secateur.load(build, tmp_path).state_dict()
    assert sum(int(t.count_nonzero()) for name, t in state.items() if "running" not in name) <= kept[1] * 1.01 + 100


def test_a_teacher_changes_the_fine_tuning_alone(tmp_path):
    alone = run(tiny.recipe(tmp_path / "alone"))
    taught = run(tiny.recipe(tmp_path / "taught", fine_tuning__distill={"weight": 2.0}))
    assert taught.stage("cut").accuracy == alone.stage("cut").accuracy
    assert taught.curves[0].epochs[-1].train_loss == alone.curves[0].epochs[-1].train_loss
    assert taught.curves[1].epochs[-1].train_loss != alone.curves[1].epochs[-1].train_loss
    assert taught.final.loss != alone.final.loss


def test_weights_go_back_to_an_epoch_of_the_training(tmp_path):
    """Without a cut and from epoch 1 of 3, the training after it is the training over again."""
    rewind = {"weights": 1, "schedule": 1}
    values = {"training__epochs": 3, "pruning__budget": "100% macs", "batch_norm__batches": 0}
    record = run(tiny.recipe(tmp_path, **values, measures__latency=False, fine_tuning={"rewind": rewind}))
    trained, again = record.curves
    assert [e.lr for e in again.epochs] == pytest.approx([e.lr for e in trained.epochs[1:]])
    assert record.stage("cut").loss == pytest.approx(record.dense.loss, rel=1e-4)
    assert record.final.loss != record.dense.loss, "batches come in the order of another epoch"


def test_epoch_zero_is_the_initialisation(tmp_path):
    out = tmp_path / "out"
    recipe = tiny.recipe(out, fine_tuning={"rewind": {"weights": 0, "schedule": 0}}, measures__latency=False)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tiny.Stopping("measure: cut"))
    kept = load_file(out / STAGES / "training" / "rewind.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = dict(build().named_parameters())
    assert all(torch.equal(kept[name], parameter) for name, parameter in fresh.items())
    assert run(recipe).final.stage == "fine-tuned"


def test_the_moving_average_is_the_result_of_a_training(tmp_path):
    plain = run(dense(tmp_path / "plain", measures__latency=False))
    averaged = run(dense(tmp_path / "ema", training__ema=0.9, measures__latency=False))
    assert averaged.dense.loss != plain.dense.loss
    assert evaluate(tmp_path / "ema")[1].loss == averaged.dense.loss


@pytest.mark.parametrize(("part", "name"), [("training", "training"), ("fine_tuning", "fine-tuning")])
def test_a_loss_that_is_not_finite_tells_the_stage_and_leaves_the_checkpoint(tmp_path, part, name):
    changes = {f"{part}__lr": 1e30, f"{part}__warmup": 0, f"{part}__precision": "fp32"}
    with pytest.raises(TrainingError, match=rf"The {name} of the run stopped\. .* (loss|Weights) must stay finite"):
        run(tiny.recipe(tmp_path, **changes))
    assert not (tmp_path / "report.html").exists()
    key = rf"{part}\.lr \(1e\+30 there, 0\.01 here\)"
    with pytest.raises(InputError, match=rf"holds a run of another recipe\. These differ: {key}"):
        run(tiny.recipe(tmp_path, **{**changes, f"{part}__lr": 0.01}))


NARROW = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), torch.randn(1, 1, 8, 8)
"""


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        (1, "an output for each of the data's 10 classes. It has 5"),
        (0, r"Labels must lie in \[0, 5\), the model's outp"),
    ],
)
def test_a_head_of_too_few_classes_is_told_before_any_step(tmp_path, epochs, message):
    (tmp_path / "net.py").write_text(NARROW)
    recipe = dense(tmp_path / "out", model__spec=f"{tmp_path / 'net.py'}:build", training__epochs=epochs)
    with pytest.raises(InputError, match=message):
        run(recipe)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_record_that_was_cut_short_is_named_and_made_anew_when_it_is_removed(tmp_path):
    recipe = dense(tmp_path, training__epochs=1, measures__latency=False)
    whole, path = run(recipe), tmp_path / "result.json"
    path.write_text(path.read_text()[:500])
    with pytest.raises(CheckpointError, match=r"The record \S+result.json cannot be read: .* Remove it and run again"):
        run(recipe)
    path.unlink()
    assert numbers(run(recipe)) == numbers(whole) == numbers(RunRecord.load(path))


EXPLODING = """
import torch
from torch import nn

class Exploding(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.head(x.flatten(1)) + (torch.nan if self.steps > 3 else 0)

def build():
    return Exploding(), torch.randn(1, 1, 8, 8)
"""


def test_the_last_good_epoch_is_kept_when_a_loss_explodes(tmp_path):
    """Two batches an epoch: the fourth step is in the second epoch."""
    (tmp_path / "net.py").write_text(EXPLODING)
    out = tmp_path / "out"
    recipe = dense(out, model__spec=f"{tmp_path / 'net.py'}:build", training={"epochs": 3, "compile": False})
    told = r"The training of the run stopped\. .* at step 4, epoch 2/3.* last good epoch is kept in .*training\."
    for _ in range(2):
        with pytest.raises(TrainingError, match=told):
            run(recipe)
        assert (out / STAGES / "training" / "training.safetensors").exists()
