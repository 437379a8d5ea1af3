"""Every recipe under experiments/ loads, and those of one question differ in nothing but what they ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from secateur import zoo
from secateur.errors import InputError
from secateur.folder import differences
from secateur.planning.spacing import geometric, linear
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


RESNET20 = [15, 22.4, 29.2, 35.4, 41.0, 46.2, 50.8, 55.1, 59.1, 62.6, 65.9, 68.9, 71.6, 74.1, 76.3, 78.4, 80.3, 82.0,
            83.6, 85.0, 89.6, 93.8, 98.0]  # fmt: skip
RESNET56 = [15, 30.2, 42.7, 53.0, 61.4, 68.3, 74.0, 78.6, 82.5, 85.6, 88.2, 90.3, 92.0, 93.5, 94.6, 95.6, 96.4, 97.0,
            97.6, 98.0]  # fmt: skip
ROBUST = [20, 35.7, 48.4, 58.5, 66.7, 73.2, 78.5, 82.7, 86.1, 88.8, 91.0, 92.8, 94.2, 95.4, 96.3, 97.0]
RESNET18 = [10, 17.4, 24.2, 30.4, 36.2, 41.4, 46.2, 50.7, 54.7, 58.4, 61.9, 65.0, 69, 73.2, 77.4, 81.6, 85.8, 90]
METHODS_OF_THE_STUDY = ("wt", "sipp", "ft", "pfp")
SPACED = [
    (RESNET20, geometric(0.85, 0.15, 20) + linear(0.104, 0.02, 3)),
    (RESNET56, geometric(0.85, 0.02, 20)),
    (ROBUST, geometric(0.8, 0.03, 16)),
    (RESNET18, geometric(0.9, 0.35, 12) + linear(0.31, 0.1, 6)),
]


@pytest.mark.parametrize(("published", "spaced"), SPACED)
def test_published_points_of_retraining_come_out_of_their_spacings(published, spaced):
    assert [100 * (1 - share) for share in spaced] == pytest.approx(published, abs=0.11)


@pytest.mark.parametrize(("network", "published"), [("resnet20", RESNET20), ("lenet_300_100", RESNET56)])
def test_cascades_of_lost_in_pruning_differ_in_their_pruning_alone(network, published):
    recipes = {m: Recipe.load(ROOT / f"experiments/lost_in_pruning/{network}_{m}.yaml") for m in METHODS_OF_THE_STUDY}
    for recipe in recipes.values():
        left = [*recipe.pruning.waypoints, 0.02]
        assert [100 * (1 - share) for share in left] == pytest.approx(published, abs=0.11)
        assert recipe.pruning.budget.startswith("2% ")
        found = differences(recipes["wt"].to_dict(), recipe.to_dict())
        assert all(line.startswith("pruning.") for line in found)


@pytest.mark.parametrize("network", ["resnet20", "lenet_300_100"])
def test_short_cascades_of_lost_in_pruning_prune_as_the_long_ones(network):
    folder = ROOT / "experiments/lost_in_pruning"
    pairs = {
        m: [Recipe.load(folder / f"{network}{end}_{m}.yaml") for end in ("", "_short")] for m in METHODS_OF_THE_STUDY
    }
    schedule = ("training.", "fine_tuning.", "data.", "model.", "seed", "pruning.waypoints", "pruning.budget")
    for long, short in pairs.values():
        assert all(line.startswith(schedule) for line in differences(long.to_dict(), short.to_dict()))
        others = [other.to_dict() for _, other in pairs.values()]
        assert all(line.startswith("pruning.") for o in others for line in differences(short.to_dict(), o))


def test_bad_spacings_are_told():
    with pytest.raises(InputError, match="'first' and 'last' must fall within"):
        geometric(0.2, 0.8, 3)
    with pytest.raises(InputError, match="'count' parameter must be a positive integer"):
        linear(0.8, 0.2, 0)
    assert geometric(0.5, 0.2, 1) == linear(0.5, 0.2, 1) == [0.5]


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
