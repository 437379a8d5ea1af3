"""Runs that prune and retrain in rounds by what data say, and the recipes that ask for them."""

from __future__ import annotations

import pytest
import tiny

import secateur
from secateur.errors import InputError
from secateur.recipe import Recipe
from secateur.run import run
from secateur.zoo import networks

QUICK = {
    "data__limit": 128,
    "training__epochs": 1,
    "measures__latency": False,
    "measures__masked": False,
    "batch_norm__batches": 0,
    "fine_tuning": {"rewind": {"schedule": 0}},
}
WEIGHTS = {"pruning__units": "weights", "pruning__budget": "20% weights"}
CHANNELS = {"pruning__budget": "60% params", "pruning__round_to": 1}
METHODS = {
    "wt": {**WEIGHTS, "pruning__options": {"norm": "l1"}},
    "sipp": {**WEIGHTS, "pruning__criterion": "sipp", "pruning__options": {"samples": 2}},
    "sipp random": {
        **WEIGHTS,
        "pruning__criterion": "sipp",
        "pruning__options": {"samples": 1, "variant": "random"},
        "pruning__allocation": "own",
    },
    "snip": {**WEIGHTS, "pruning__criterion": "snip", "pruning__batches": 1},
    "ft": {**CHANNELS, "pruning__criterion": "filter_norm", "pruning__allocation": "uniform"},
    "pfp": {
        **CHANNELS,
        "pruning__criterion": "pfp",
        "pruning__allocation": "own",
        "pruning__options": {"samples": 2},
    },
    "pfp partial": {
        **CHANNELS,
        "pruning__criterion": "pfp",
        "pruning__allocation": "own",
        "pruning__options": {"samples": 1, "variant": "partial"},
    },
}


def build():
    return networks.model("resnet8", classes=10, shape=(1, 8, 8))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_prunes_by_every_method_of_the_study(tmp_path, method):
    record = run(tiny.recipe(tmp_path, **QUICK, **METHODS[method]))
    asked = 0.2 if "weights" in METHODS[method]["pruning__budget"] else 0.6
    reached = record.final.nonzero_params if asked == 0.2 else record.final.params
    assert 0.85 * asked < reached / record.dense.params <= 1.01 * asked
    assert [curve.name for curve in record.curves] == ["training", "fine-tuning"]
    if asked == 0.6:
        assert record.proof.proven
        assert record.final.macs < record.dense.macs


def test_waypoints_and_steps_of_a_cascade(tmp_path):
    changes = {**QUICK, **METHODS["pfp"], "pruning__waypoints": [0.85], "pruning__steps": 2}
    record = run(tiny.recipe(tmp_path, **changes))
    left = [s.params / record.dense.params for s in record.stages if s.stage == "fine-tuned"]
    assert left[0] == pytest.approx(0.85, abs=0.03)
    assert left[1] == pytest.approx(0.6, abs=0.03)
    assert [s.stage for s in record.stages].count("cut") == 2
    dense = {name: len(p) for name, p in build().named_parameters()}
    assert all(g.before == dense[f"{g.name}.weight"] for g in record.groups)
    for number, stage in enumerate((s for s in record.stages if s.stage == "fine-tuned"), start=1):
        model = secateur.load(build, tmp_path / "rounds" / str(number))
        assert sum(p.numel() for p in model.parameters()) == stage.params


def test_steps_of_single_weights_lead_where_one_cut_does(tmp_path):
    """By magnitude and without training between them, three cuts choose as one does."""
    one = run(tiny.recipe(tmp_path / "one", **QUICK, **METHODS["wt"]))
    three = run(tiny.recipe(tmp_path / "three", **QUICK, **METHODS["wt"], pruning__steps=3))
    assert three.stage("masked").nonzero_params == one.stage("masked").nonzero_params
    assert three.stage("masked").loss == one.stage("masked").loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning.waypoints": [0.8, 0.9]}, "'pruning.waypoints' of the recipe must be shares in .0, 1. that fall"),
        ({"pruning.waypoints": [0.4]}, "down to what '50% macs' leaves. Got .0.4. instead"),
        ({"pruning.waypoints": [0.8], "pruning.rounds": 2}, "'pruning.rounds' of the recipe must be left out"),
        ({"pruning.steps": 0}, "'pruning.steps' of the recipe must be at least 1"),
        (
            {"pruning.criterion": "sipp"},
            "'pruning.units' .* must be weights or blocks for the criterion sipp",
        ),
        (
            {"pruning.criterion": "pfp", "pruning.units": "weights", "pruning.budget": "9% weights"},
            "'pruning.units' of the recipe must be channels for the criterion pfp",
        ),
        ({"pruning.criterion": "pfp", "pruning.options": {"sample": 3}}, "pfp has no option 'sample'. Did you mean 's"),
        ({"pruning.allocation": "own", "pruning.method": {"name": "iterative"}}, "must not be 'own'"),
        ({"pruning.criterion": "snip", "pruning.method": {"name": "iterative"}}, "'pruning.criterion' .* must be 'tay"),
        ({"pruning.steps": 2, "pruning.method": {"name": "hesso"}}, "'pruning.steps' .* must be left out"),
    ],
)
def test_what_does_not_fit_together_is_told(changes, message):
    values = {"model": {"spec": "zoo:resnet8"}, "data": {"name": "digits"}, "fine_tuning": {"epochs": 1}}
    for key, value in changes.items():
        part, name = key.split(".")
        values.setdefault(part, {})[name] = value
    with pytest.raises(InputError, match=message):
        Recipe.of(values)


def test_a_randomised_criterion_without_its_allocation_stops_before_anything_is_written(tmp_path):
    changes = {**QUICK, **METHODS["pfp partial"], "pruning__allocation": "global"}
    with pytest.raises(InputError, match="'allocation' of plan must be 'own' for scores that rescale"):
        run(tiny.recipe(tmp_path, **changes))
    assert not (tmp_path / "model.safetensors").exists()


def test_what_each_round_leaves():
    part = tiny.recipe(pruning__waypoints=[0.7, 0.4], pruning__budget="10% params").pruning
    assert part.turns == 3
    assert [part.left(number, 0.1) for number in range(4)] == [1.0, 0.7, 0.4, 0.1]
    even = tiny.recipe(pruning__rounds=3).pruning
    assert [even.left(number, 0.125) for number in range(4)] == pytest.approx([1, 0.5, 0.25, 0.125])
