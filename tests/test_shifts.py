"""`experiments/shifts.py`: the rounds of a cascade under shifts, kept part by part, and read back."""

from __future__ import annotations

import argparse
import json

import pytest
import tiny
import yaml
from tabled.cascades import Cascade, cascades

from secateur.errors import CheckpointError, InputError
from secateur.report.trust_record import NOMINAL
from secateur.run import trusting
from secateur.run.experiments import carry_out, experiments
from secateur.run.progress import Silent

SHORT = {
    "model": {"spec": "zoo:lenet_300_100"},
    "data": {"name": "digits", "limit": 256},
    "training": {"epochs": 1},
    "pruning": {"units": "weights", "budget": "10% weights", "waypoints": [0.5, 0.3]},
    "batch_norm": {"batches": 0},
    "fine_tuning": {"rewind": {"schedule": 0}},
    "measures": {"latency": False, "masked": False},
    "seed": [0, 1],
}
KINDS = ["fog", "contrast"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished cascade of one seed, the options that evaluate it, and the experiment."""
    root = tmp_path_factory.mktemp("cascade")
    file = root / "experiments" / "lost" / "lenet_wt.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(SHORT))
    experiment = experiments(file, seeds=[0])[0]
    carry_out(experiment, root / "results", root / "work", Silent())
    given = argparse.Namespace(
        work=root / "work", results=root / "results", images=60, severity=3, strengths=None, draws=2, noise_images=20,
        batch=60, compile=False,
    )  # fmt: skip
    return experiment, given


@pytest.fixture(scope="module")
def command():
    return tiny.script("experiments/shifts.py")["evaluated"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Two corruptions stand for the nineteen."""
    chosen = trusting.chosen
    monkeypatch.setattr(trusting, "chosen", lambda asked, *rest: chosen([*KINDS, *asked[1:]], *rest))


def test_every_round_is_evaluated_once_and_read_back(done, command):
    experiment, given = done
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trusting, "_others", _killed)
        with pytest.raises(KeyboardInterrupt):
            command(experiment, given)
    parts = given.work / experiment.name / "shifts" / "cifar" / "trust"
    assert {f"{kind}-3.json" for kind in KINDS} < {path.name for path in parts.iterdir()}
    path, made = command(experiment, given)
    assert made
    assert path == given.results / "lost" / "shifts" / "cifar" / "lenet_wt-seed0.json"
    assert command(experiment, given) == (path, False)
    ((strengths, name), (found,)) = next(iter(cascades("lost", given.results).items()))
    assert (strengths, name) == ("cifar", "lenet_wt")
    assert [row.kind for row in found.shifts] == [NOMINAL, *KINDS]
    assert found.ratios[0] == 0
    assert found.ratios[1:] == pytest.approx([0.5, 0.7, 0.9], abs=0.02)
    assert found.seeds == (0,)
    run = json.loads((given.results / "lost" / "lenet_wt-seed0.json").read_text())
    rounds = [s["accuracy"]["value"] for s in run["stages"] if s["stage"] == "fine-tuned"]
    assert [1 - error for error in found.nominal.errors[1:]] == pytest.approx(rounds, abs=0.25)
    assert found.noise.agreements[0] == (1.0,) * 15
    assert len(found.noise.potential) == len(found.noise.epsilons) == 15
    assert found.seconds["evaluation"] > 0
    assert [ratio for ratio, _ in found.excess()] == list(found.ratios[1:])


def _killed(*_):
    raise KeyboardInterrupt


def test_what_does_not_belong_together_is_told(done, command, tmp_path):
    experiment, given = done
    path, _ = command(experiment, given)
    other = Cascade.load(path)
    folder = tmp_path / "lost" / "shifts" / "cifar"
    other.model_copy(update={"recipe": {**other.recipe, "seed": 5}}).save(folder / path.name)
    with pytest.raises(InputError, match=r"must lie beside .* It is not there"):
        cascades("lost", tmp_path)
    (tmp_path / "lost" / path.name).write_text((given.results / "lost" / path.name).read_text())
    with pytest.raises(InputError, match="These differ: seed"):
        cascades("lost", tmp_path)
    (folder / path.name).write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        cascades("lost", tmp_path)


def test_results_from_before_a_key_of_recipes_belong_together(done, command, tmp_path):
    experiment, given = done
    path, _ = command(experiment, given)
    older = json.loads((given.results / "lost" / path.name).read_text())
    del older["recipe"]["pruning"]["shuffled"]
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / path.name).write_text(json.dumps(older))
    Cascade.load(path).save(tmp_path / "lost" / "shifts" / "cifar" / path.name)
    assert list(cascades("lost", tmp_path)) == [("cifar", "lenet_wt")]


def test_an_evaluation_with_other_options_is_told(done, command):
    experiment, given = done
    path, _ = command(experiment, given)
    for name, value, words in [("images", 50, "images 60 instead of 50"), ("draws", 3, "draws 2 instead of 3")]:
        with pytest.raises(InputError, match=f"another evaluation: {words}.*remove it"):
            command(experiment, argparse.Namespace(**{**vars(given), name: value}))
    assert command(experiment, given) == (path, False)


def test_a_cascade_that_is_not_finished_is_told(done, command):
    experiment, given = done
    other = experiment.__class__(experiment.name.replace("seed0", "seed1"), experiment.recipe.with_seed(1))
    with pytest.raises(CheckpointError, match=r"not finished: .* by experiments/run\.py"):
        command(other, given)
