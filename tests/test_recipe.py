from __future__ import annotations

import inspect

import pytest
import yaml
from torch.optim import SGD, AdamW

from secateur.errors import InputError
from secateur.planning import plan
from secateur.recipe import CRITERIA, SET_BY_RUN, Recipe, changed, default, parse_yaml, read_yaml
from secateur.training import Training

LEAST = {"model": {"spec": "zoo:resnet20"}, "data": {"name": "cifar10"}, "training": {"epochs": 60}}


def test_yaml_gives_the_recipe_back():
    recipe = Recipe.of(changed(LEAST, "pruning.keep", ["layer1.*", "re:fc"]))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.pruning.keep == ("layer1.*", "re:fc")


def test_a_saved_recipe_names_every_default_but_not_its_folder(tmp_path):
    Recipe.of({**LEAST, "out": "somewhere"}).save(tmp_path / "recipe.yaml")
    values = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert "out" not in values
    assert values["pruning"]["round_to"] == 8
    assert set(values["fine_tuning"]) == set(values["training"])
    assert Recipe.load(tmp_path / "recipe.yaml") == Recipe.of(LEAST)


def test_defaults_are_those_of_the_stages():
    recipe = Recipe.of(LEAST)
    assert recipe.pruning.allocation == default(plan, "allocation")
    settings = recipe.training.settings()
    assert settings == Training(epochs=60, optimizer=settings.optimizer)
    assert settings.optimizer.keywords == {**Training(epochs=1).optimizer.keywords, "nesterov": False}


def test_optimizers_are_built_with_their_own_parameters():
    sgd = Recipe.of(changed(LEAST, "fine_tuning.lr", 0.5)).fine_tuning.settings().optimizer
    assert (sgd.func, sgd.keywords["lr"], sgd.keywords["momentum"]) == (SGD, 0.5, 0.9)
    adamw = Recipe.of(changed(LEAST, "fine_tuning.optimizer", "adamw")).fine_tuning.settings().optimizer
    assert adamw.func is AdamW
    assert set(adamw.keywords) == {"lr", "weight_decay"}


def test_given_weights_have_seen_all_of_train():
    weights = changed(LEAST, "model.weights", "resnet20.th")
    assert Recipe.of(LEAST).validation == 0.1
    assert Recipe.of(weights).validation == 0.0
    assert Recipe.of(changed(weights, "data.validation", 0.2)).validation == 0.2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modell", 3, "The recipe has no key 'modell'. Did you mean 'model'?"),
        ("pruning.budgt", "2x macs", "no key 'pruning.budgt'. Did you mean 'pruning.budget'?"),
        ("data.zzz", 1, "no key 'data.zzz'. It takes name, root,"),
        ("pruning.budget", "2 mcas", "Did you mean '2 macs'?"),
        ("pruning.budget", "-5% macs", "above 0 %"),
        ("pruning.budget", "200% macs", "at most 100 %"),
        ("pruning.criterion", "magnitud", "Got 'magnitud' instead. Did you mean 'magnitude'?"),
        ("pruning.options", {"nrm": "l1"}, "magnitude has no option 'nrm'. Did you mean 'norm'?"),
        ("pruning.options", {"batches": 3}, "has no option 'batches'"),
        ("pruning.round_to", 0, "The 'pruning.round_to' of the recipe must be at least 1. Got 0 instead."),
        ("pruning.allocation", "globl", "'pruning.allocation' of the recipe must be 'global', 'local' or 'uniform'"),
        ("training.lr", "fast", "'training.lr' of the recipe must be a valid number. Got 'fast' instead."),
        ("training.schedule", "cosin", "'schedule' parameter of fit must be one of"),
        ("fine_tuning.warmup", 99, "'warmup' parameter of fit"),
        ("data", 3, "The 'data' of the recipe must be a mapping. Got 3 instead."),
        ("model.spec", None, "'model.spec' of the recipe must be a valid string"),
        ("data.validation", 1.0, "must be less than 1"),
        ("measures.confidence", 0, "must be greater than 0"),
        ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("seed", -1, "'seed' of the recipe must be at least 0. Got -1 instead."),
        ("training.epochs", 0, "must say where the model's weights come from"),
    ],
)
def test_errors_name_the_key_and_what_must_hold(key, value, message):
    with pytest.raises(InputError) as caught:
        Recipe.of(changed(LEAST, key, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named():
    with pytest.raises(InputError, match=r"must have the key 'data\.name'"):
        Recipe.of({**LEAST, "data": {}})
    with pytest.raises(InputError, match="must be a mapping"):
        Recipe.of("resnet20")


def test_a_function_in_a_file_may_bring_its_own_weights():
    assert Recipe.of({"model": {"spec": "net.py:build"}, "data": {"name": "digits"}}).training.epochs == 0


def test_every_criterion_can_be_called_by_a_run():
    for criterion in CRITERIA.values():
        parameters = inspect.signature(criterion).parameters.values()
        needed = {p.name for p in parameters if p.default is inspect.Parameter.empty}
        assert needed <= set(SET_BY_RUN)


def test_files_that_are_no_yaml_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("model: [1,\ndata: }")
    with pytest.raises(InputError, match=r"broken\.yaml is not YAML at line 2"):
        Recipe.load(tmp_path / "broken.yaml")


def test_yaml_is_read_without_running_anything():
    with pytest.raises(InputError, match="is not YAML"):
        parse_yaml("!!python/object/apply:os.system ['true']", "recipe")


def test_changed_leaves_the_original_alone():
    values = {"a": {"b": 1}, "c": 2}
    assert changed(values, "a.d.e", 3) == {"a": {"b": 1, "d": {"e": 3}}, "c": 2}
    assert changed(values, "c", 4) == {"a": {"b": 1}, "c": 4}
    assert values == {"a": {"b": 1}, "c": 2}
