"""Every recipe under experiments/ loads, and those of one question differ in nothing but what they ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from secateur import zoo
from secateur.folder import differences
from secateur.recipe import METHODS, Recipe, text
from secateur.run import run
from secateur.run.experiments import experiments

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "experiments").glob("*/*.yaml"))
SHAPES = {"mnist": (1, 28, 28), "fashion": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32),
          "folder": (3, 64, 64)}  # fmt: skip
STEPS = -(-50_000 // 128)
"""In an epoch of CIFAR-10."""

ARMS = ("", "_decay", "_rectify", "_adaptive")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_loads_and_names_a_model_that_is_there(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = experiments(file)
    recipe = found[0].recipe
    assert len({run.name for run in found}) == len(found) == len(Recipe.load(file).seeds)
    with torch.device("meta"):
        model = zoo.resolve(
            recipe.model.spec, classes=10, shape=SHAPES[recipe.data.name], **recipe.model.kwargs
        ).build()
    assert any(p.ndim > 1 for p in model.parameters())
    assert recipe.out is None


def test_policies_of_decay_pruning_are_compared_on_one_training():
    files, seen = [file for file in FILES if file.parent.name == "decay_pruning"], set()
    for file in (file for file in files if file.stem.endswith("_rectify")):
        arms = [file.with_name(file.name.replace("_rectify", end)) for end in ARMS]
        host, *others = (Recipe.load(arm).to_dict() for arm in arms if arm in files)
        for other in others:
            assert all(line.startswith("pruning.method.removal.") for line in differences(host, other))
        found = [r["pruning"]["method"]["removal"] for r in (host, *others)]
        assert [r["name"] for r in found] == ["immediate", "decay", "decay", "adaptive"][: len(found)]
        assert [r["rectify"] is None for r in found] == [True, True, False, False][: len(found)]
        assert len(found) >= 3
        seen |= set(arms)
    assert {Recipe.load(file).method.name for file in files} < set(METHODS)
    assert set(files) <= seen


def test_a_decay_of_the_experiments_fits_between_start_and_stop():
    for file in (file for file in FILES if file.parent.name == "decay_pruning"):
        recipe = Recipe.load(file)
        options, steps = recipe.method.options, recipe.fine_tuning.epochs * STEPS
        between = (options["stop"] - options["start"]) * steps
        assert (recipe.method.removal.steps or 1) + options["rounds"] < 0.6 * between, file.stem


@pytest.mark.slow
def test_the_recipe_of_a_folder_runs_on_a_small_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for split, many in (("train", 6), ("val", 2)):
        for kind in ("cats", "dogs", "owls"):
            (tmp_path / "images" / split / kind).mkdir(parents=True)
            for number in range(many):
                pixels = torch.randint(256, (40, 48, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / "images" / split / kind / f"{number}.png")
    small = [
        "model.spec=zoo:resnet8", f"data.root={tmp_path / 'images'}", "data.size=32", "data.workers=0",
        "data.batch_size=6", "fine_tuning.epochs=4", "fine_tuning.warmup=0", "pruning.method.removal.steps=3",
    ]  # fmt: skip
    written = text.read(ROOT / "experiments" / "decay_pruning" / "imagenet_resnet50_dhspg_rectify.yaml")
    for change in (*small, f"out={tmp_path / 'out'}"):
        written = written.set(change)
    record = run(Recipe.written(written))
    assert record.proof.proven
    assert record.final.macs <= 0.385 * record.dense.macs
    assert {row.what for row in record.leavings} >= {"leaving", "gone"}
