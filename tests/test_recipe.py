from __future__ import annotations

import inspect

import pytest
import torch
import yaml
from torch.optim import SGD, AdamW

from secateur.errors import InputError
from secateur.planning import plan
from secateur.recipe import CRITERIA, OPTIMIZERS, SET_BY_RUN, Recipe, changed, default, shipping, text
from secateur.recipe.schema import VERSION
from secateur.recipe.shown import rows, shown, summary
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
    own = {"distill", "rewind", "adversarial", "snapshots"}
    assert set(values["fine_tuning"]) == {*values["training"], *own} - {"prepare"}
    assert values["version"] == VERSION
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
    told = Recipe.of(changed(changed(LEAST, "training.optimizer", "adam"), "training.options", {"betas": [0.8, 0.9]}))
    assert told.training.settings().optimizer.keywords["betas"] == [0.8, 0.9]


def test_every_optimizer_of_a_recipe_takes_a_step():
    for name in OPTIMIZERS:
        weight = torch.nn.Parameter(torch.ones(64))
        optimizer = Recipe.of(changed(LEAST, "training.optimizer", name)).training.settings().optimizer([weight])
        weight.sum().backward()
        optimizer.step()
        assert (weight < 1).float().mean() > 0.3  # some take half of the gradients at most


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
        (
            "pruning.allocation",
            "globl",
            "'pruning.allocation' of the recipe must be 'global', 'local', 'uniform' or 'own",
        ),
        ("training.lr", "fast", "'training.lr' of the recipe must be a valid number. Got 'fast' instead."),
        ("training.schedule", "cosin", "The 'training.schedule' of the recipe must be one of cosine, step, constant"),
        ("fine_tuning.warmup", 99, "The 'fine_tuning.warmup' of the recipe must be a number of epochs"),
        ("training.precision", "fp8", "must be 'auto', 'fp32', 'bf16' or 'fp16'. Got 'fp8' instead."),
        ("training.channels_last", "no way", "must be a valid boolean or 'auto'. Got 'no way' instead."),
        (
            "training.optimizer",
            "sdg",
            "sampledsgd, sampledadamw. Got 'sdg' instead. Did you mean 'sgd'?",
        ),
        ("training.options", {"dampning": 0.1}, "sgd has no option 'dampning'. Did you mean 'dampening'?"),
        ("training.options", {"lr": 0.1}, "sgd has no option 'lr'."),
        ("training.prepare", {"cramm": {}}, "must be one of sam, cram, var, hoyer, p_norm_decay, powerprop"),
        ("training.prepare", {"cram": {"roh": 0.2}}, "cram has no option 'roh'. Did you mean 'rho'?"),
        ("training.prepare", {"cram": {"rho": -1}}, "The 'rho' parameter of CrAM must be"),
        ("fine_tuning.prepare", {"sam": {}}, "no key 'fine_tuning.prepare'. Did you mean 'training.prepare'?"),
        ("training.trackers", ["tensorbord"], "The 'training.trackers' of the recipe must be a list of names among"),
        ("training.budget", "2x macs", "no key 'training.budget'. Did you mean 'pruning.budget'?"),
        ("pruning.rounds", 0, "'pruning.rounds' of the recipe must be at least 1"),
        ("fine_tuning.distill", {"temperature": 0}, "'fine_tuning.distill.temperature' of the recipe must be greater"),
        ("fine_tuning.rewind", {}, "'fine_tuning.rewind' of the recipe must have the key 'weights' or 'schedule'"),
        ("fine_tuning.rewind", {"weights": 61}, "'fine_tuning.rewind.weights' of the recipe must be an epoch of the"),
        ("fine_tuning.rewind", {"schedule": 60}, "must be an epoch of the training, 0 to 59. Got 60 instead."),
        ("fine_tuning", {"lr": 1, "rewind": {"schedule": 2}}, "The 'fine_tuning.lr' of the recipe must be left out"),
        ("data", 3, "The 'data' of the recipe must be a mapping. Got 3 instead."),
        ("model.spec", None, "'model.spec' of the recipe must be a valid string"),
        ("data.validation", 1.0, "must be less than 1"),
        ("measures.confidence", 0, "must be greater than 0"),
        ("device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("seed", -1, "'seed' of the recipe must be at least 0. Got -1 instead."),
        ("seed", [1, 1], "'seed' of the recipe must be a number, or several that differ. Got [1, 1] instead."),
        ("seed", [], "several that differ. Got [] instead."),
        ("version", VERSION + 1, f"'version' of the recipe must be at most {VERSION}. Got {VERSION + 1} instead: it"),
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
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("model: [1,\ndata: }")
    with pytest.raises(InputError, match=r"broken\.yaml is not YAML at line 2"):
        Recipe.load(tmp_path / "broken.yaml")


def test_yaml_is_read_without_running_anything():
    with pytest.raises(InputError, match="is not YAML"):
        text.parse("!!python/object/apply:os.system ['true']")


WRITTEN = """\
# A network and its data.
model:
  spec: zoo:resnet20

data:
  name: cifar10
  mean: [0.1,
         0.2, x]
training:
  epochs: 5
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (WRITTEN, "The 'data.mean.2' of the recipe a.yaml (line 8) must be a valid number. Got 'x' instead."),
        (WRITTEN + "  lerning_rate: 1\n", "The recipe a.yaml (line 11) has no key 'training.lerning_rate'."),
        (WRITTEN + "prunning:\n  rounds: 2\n", "a.yaml (line 11) has no key 'prunning'. Did you mean 'pruning'?"),
        (WRITTEN + "  epochs: 3\n", "has the key 'training.epochs' twice, at lines 10 and 11. Remove one."),
        (WRITTEN + "version: 99\nsparsity: 2\n", "The 'version' of the recipe a.yaml (line 11) must be at most"),
        ("model:\n  specs: x\n", "The recipe a.yaml (line 2) has no key 'model.specs'. Did you mean 'model.spec'?"),
        ("model:\n  classes: 3\n", "The recipe a.yaml (line 1) must have the key 'model.spec'."),
        ("model: &same {spec: *same}\n", "The 'model.spec' of the recipe a.yaml (line 1) must be a valid string."),
        ("- 1\n", "The recipe a.yaml must be a mapping with the keys 'model' and 'data'. Got [1] instead."),
        ("", "The recipe a.yaml must be a mapping"),
    ],
)
def test_an_error_tells_the_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(source)
    with pytest.raises(InputError) as caught:
        Recipe.load("a.yaml")
    assert message in str(caught.value)


def test_an_error_tells_the_option_that_set_a_value():
    written = text.parse(WRITTEN.replace(", x", ", 0.3")).set("training.lr=-1")
    with pytest.raises(InputError, match=r"lr' of the recipe \(--set training\.lr=-1\) must be greater than 0"):
        Recipe.written(written)
    assert Recipe.written(written.set("training.lr=0.5").set("seed=[1, 2]")).seeds == (1, 2)


def test_anchors_and_merges_are_the_yaml_they_stand_for():
    merged = "training: &short {epochs: 3, lr: 0.2}\nfine_tuning:\n  <<: *short\n  lr: 0.1\n"
    recipe = Recipe.from_yaml("model: {spec: zoo:resnet20}\ndata: {name: digits}\n" + merged)
    assert (recipe.fine_tuning.epochs, recipe.fine_tuning.lr) == (3, 0.1)


def test_a_dense_recipe_has_no_part_for_what_comes_after_a_cut():
    dense = Recipe.of({**LEAST, "pruning": None})
    assert {"fine_tuning", "batch_norm"}.isdisjoint(dense.to_dict())
    assert Recipe.from_yaml(dense.to_yaml()) == dense
    with pytest.raises(InputError, match=r"The 'batch_norm' of the recipe must be left out: 'pruning' is null"):
        Recipe.of({**LEAST, "pruning": None, "batch_norm": {"batches": 3}})


def test_a_repeated_training_is_that_of_the_dense_model():
    values = {**LEAST, "training": {"epochs": 10, "lr": 0.3, "warmup": 2}}
    recipe = Recipe.of(changed(values, "fine_tuning.rewind", {"schedule": 4}))
    settings = recipe.fine_tuned_by()
    assert (settings.epochs, settings.warmup, settings.optimizer.keywords["lr"]) == (6, 0.0, 0.3)
    assert set(recipe.to_dict()["fine_tuning"]) == {"adversarial", "distill", "rewind", "snapshots"}
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    with pytest.raises(InputError, match=r"must be 0, or at least the 2 epochs of warm-up\. Got 1 instead"):
        Recipe.of(changed(values, "fine_tuning.rewind", {"schedule": 1}))


def test_several_seeds_are_one_run_each():
    recipe = Recipe.of({**LEAST, "seed": [3, 1]})
    assert recipe.seeds == (3, 1)
    assert recipe.with_seed(1).the_seed == 1
    with pytest.raises(InputError, match=r"A run must have one 'seed'\. The recipe has \[3, 1\]"):
        _ = recipe.the_seed


@pytest.mark.parametrize("name", shipping.names())
def test_a_shipped_recipe_is_shown_with_every_key_and_read_back(name):
    recipe = Recipe.written(shipping.read(name))
    printed = shown(recipe)
    assert Recipe.from_yaml(printed) == recipe
    assert all(" # " in line and not line.endswith("# ") for line in printed.splitlines())
    assert recipe.model.spec in summary(recipe)


def test_every_key_is_described():
    assert all(meaning for _, _, meaning in rows())
    defaults = {key: value for key, value, _ in rows()}
    assert (defaults["model.spec"], defaults["seed"], defaults["pruning.keep"]) == ("required", "0", "[]")


def test_a_recipe_of_the_package_is_copied_once(tmp_path):
    path = shipping.copy("dense", tmp_path / "mine.yaml")
    assert path.read_text() == shipping.source("dense")
    with pytest.raises(InputError, match="exists already"):
        shipping.copy("dense", path)
    with pytest.raises(InputError, match="no recipe named 'dens', and no such file"):
        shipping.read("dens")


def test_changed_leaves_the_original_alone():
    values = {"a": {"b": 1}, "c": 2}
    assert changed(values, "a.d.e", 3) == {"a": {"b": 1, "d": {"e": 3}}, "c": 2}
    assert changed(values, "c", 4) == {"a": {"b": 1}, "c": 4}
    assert values == {"a": {"b": 1}, "c": 2}
