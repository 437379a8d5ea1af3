"""What a recipe says of a pruning method and of the way in which units leave."""

from __future__ import annotations

import inspect

import pytest

from secateur.errors import InputError
from secateur.methods import GroupSparse
from secateur.recipe import METHODS, Recipe, changed
from secateur.recipe.shown import shown, summary
from secateur.removal import Adaptive, Decay, Immediate, Multiplicative, Rectify

LEAST = {
    "model": {"spec": "zoo:resnet20", "weights": "resnet20.th"},
    "data": {"name": "cifar10"},
    "pruning": {"method": {"name": "iterative"}},
}
DECAY = {"name": "decay", "steps": 200}


def made(key=None, value=None):
    return Recipe.of(LEAST if key is None else changed(LEAST, key, value))


def pruned_by(name, **more):
    weights = {} if "slices" in METHODS[name].takes else {"units": "weights", "budget": "10% weights"}
    return made("pruning", {**weights, "method": {"name": name, **more}})


@pytest.mark.parametrize("name", METHODS)
def test_options_are_the_fields_of_the_class_with_its_defaults(name):
    options = pruned_by(name).pruning.method.options
    fields = inspect.signature(METHODS[name]).parameters
    assert set(fields) - set(options) == {"groups", "budget", "removal", "planning"} | ({"criterion"} & set(fields))
    assert options == {option: fields[option].default for option in options}
    assert {"start", "stop", "rounds"} <= set(options)


@pytest.mark.parametrize("name", METHODS)
def test_a_written_recipe_names_every_value_and_is_read_back(name):
    recipe = pruned_by(name, removal={**DECAY, "rectify": {"rate": 0.2}})
    values = recipe.to_dict()
    assert set(values["pruning"]["method"]["options"]) == set(recipe.pruning.method.options)
    assert values["pruning"]["method"]["removal"]["rectify"]["memory"] == Rectify().memory
    assert "batch_norm" not in values
    assert not {"rounds", "batches", "verify"} & set(values["pruning"])
    assert ("criterion" in values["pruning"]) == (name in ("iterative", "gradual_magnitude"))
    assert Recipe.from_yaml(recipe.to_yaml()) == Recipe.from_yaml(shown(recipe)) == recipe


def test_options_given_take_the_place_of_defaults():
    options = made(
        "pruning.method", {"name": "group_sparse", "options": {"reg": 1, "stop": 0.9}}
    ).pruning.method.options
    assert (options["reg"], options["stop"], options["alpha"]) == (1.0, 0.9, GroupSparse.alpha)


def test_removals_are_made_with_what_they_are_told():
    def policy(removal):
        return made("pruning.method.removal", removal).pruning.method.removal.policy()

    assert isinstance(policy({"name": "immediate"}), Immediate)
    faded = policy({"name": "multiplicative", "steps": 7, "side": "both"})
    assert (type(faded), faded.steps, faded.side, faded.rectify) == (Multiplicative, 7, "both", None)
    decay = policy({**DECAY, "rectify": {"variant": "product", "cooldown": 3}})
    assert (type(decay), decay.rectify) == (Decay, Rectify(variant="product", cooldown=3))
    paced = policy({"name": "adaptive", "steps": 40, "options": {"mean": 0.25}})
    assert (type(paced), paced.steps, paced.mean, paced.least) == (Adaptive, 40, 0.25, 0.1)
    part = made("pruning.method.removal", DECAY).pruning.method.removal
    assert part.policy() is not part.policy()


def test_the_summary_tells_the_method():
    told = summary(made("pruning.method.removal", DECAY))
    assert "prune channels to 50% macs by iterative with decay removal, fine-tune for 10 epochs meanwhile" in told


def test_a_method_trains_from_scratch():
    recipe = made("model.weights", None)
    assert (recipe.training.epochs, recipe.validation) == (0, 0.1)
    assert summary(recipe).startswith("build zoo:resnet20 on cifar10, prune")


METHOD = "pruning.method"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            f"{METHOD}.name",
            "heso",
            f"'{METHOD}.name' of the recipe must be one of iterative, group_sparse, dhspg, hesso",
        ),
        (f"{METHOD}.name", "heso", "Got 'heso' instead. Did you mean 'hesso'?"),
        (f"{METHOD}.nam", "hesso", f"no key '{METHOD}.nam'. Did you mean '{METHOD}.name'?"),
        (f"{METHOD}.options", {"regg": 1}, "iterative has no option 'regg'."),
        (f"{METHOD}.options", {"round": 1}, "iterative has no option 'round'. Did you mean 'rounds'?"),
        (f"{METHOD}.options", {"budget": "2x macs"}, "iterative has no option 'budget'."),
        (
            f"{METHOD}.options",
            {"start": "soon"},
            f"'{METHOD}.options.start' of the recipe must be a valid number. Got 'soon'",
        ),
        (f"{METHOD}.options", {"rounds": 1.5}, f"'{METHOD}.options.rounds' of the recipe must be a valid integer"),
        (
            f"{METHOD}.options",
            {"start": 1},
            f"'{METHOD}.options.start' of the recipe must be a share of the training in",
        ),
        (
            f"{METHOD}.options",
            {"stop": 0.1},
            f"'{METHOD}.options.stop' of the recipe must be a share of the training in (0.1,",
        ),
        (
            METHOD,
            {"name": "dhspg", "options": {"rounds": 2}},
            f"'{METHOD}.options.rounds' of the recipe must be 1: units",
        ),
        (METHOD, {"name": "hesso", "options": {"weights": [1]}}, "options.weights' of the recipe must be five numbers"),
        (METHOD, {"name": "group_sparse", "options": {"reg": -1}}, "options.reg' of the recipe must be a float of at"),
        (
            METHOD,
            {"name": "gumbel", "options": {"price": "cheap"}},
            "options.price' of the recipe must be a Price or its",
        ),
        (
            METHOD,
            {"name": "spred"},
            "'pruning.units' of the recipe must be weights for the method spred. Got 'channels'",
        ),
        (METHOD, {"options": {}}, f"must have the key '{METHOD}.name'"),
        (f"{METHOD}.removal", {"name": "decai", "steps": 3}, "Got 'decai' instead. Did you mean 'decay'?"),
        (f"{METHOD}.removal", {"name": "decay"}, f"'{METHOD}.removal' of the recipe must have the key 'steps'."),
        (
            f"{METHOD}.removal",
            {**DECAY, "steps": 0},
            f"'{METHOD}.removal.steps' of the recipe must be an integer of at",
        ),
        (
            f"{METHOD}.removal",
            {**DECAY, "side": "left"},
            f"'{METHOD}.removal.side' of the recipe must be 'producers' or",
        ),
        (
            f"{METHOD}.removal",
            {**DECAY, "rectify": {"rate": 2}},
            f"'{METHOD}.removal.rectify.rate' of the recipe must be a float",
        ),
        (
            f"{METHOD}.removal",
            {"name": "immediate", "steps": 3},
            f"'{METHOD}.removal.steps' of the recipe must be left out",
        ),
        (f"{METHOD}.removal", {**DECAY, "options": {"mean": 0.5}}, "decay has no option 'mean'. It takes none."),
        (
            f"{METHOD}.removal",
            {**DECAY, "name": "adaptive", "options": {"mean": 2}},
            f"'{METHOD}.removal.options.mean' of the recipe must be a share of the steps in (0, 1]. Got 2",
        ),
        (
            f"{METHOD}.removal",
            {**DECAY, "name": "adaptive", "options": {"least": "few"}},
            f"'{METHOD}.removal.options.least' of the recipe must be a valid number. Got 'few'",
        ),
        (
            "pruning.rounds",
            3,
            "'pruning.rounds' of the recipe must be left out: the method iterative has no use for it.",
        ),
        (
            "pruning",
            {"method": {"name": "hesso"}, "criterion": "taylor"},
            "'pruning.criterion' of the recipe must be left out",
        ),
        ("batch_norm.batches", 3, "'batch_norm' of the recipe must be left out: 'pruning.method' prunes"),
        ("fine_tuning.epochs", 0, "'fine_tuning.epochs' of the recipe must be at least 1: 'pruning.method' prunes"),
        ("fine_tuning.rewind", {"weights": 0}, "'fine_tuning.rewind' of the recipe must be null: 'pruning.method'"),
    ],
)
def test_errors_name_the_key_and_what_must_hold(key, value, message):
    with pytest.raises(InputError) as caught:
        made(key, value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_in_an_option_tells_its_line():
    source = "model: {spec: net.py:build}\ndata: {name: digits}\npruning:\n  method:\n    name: group_sparse\n"
    with pytest.raises(InputError, match=r"'pruning\.method\.options\.reg' of the recipe \(line 7\) must be a float"):
        Recipe.from_yaml(source + "    options:\n      reg: -1\n")
