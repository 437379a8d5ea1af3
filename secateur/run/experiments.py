"""Experiments: recipes under a question, and the result files that they become, one a seed.

`experiments/QUESTION/NAME.yaml` gives `results/QUESTION/NAME.json`. Where there are several seeds each has a file of
its own, `NAME-seed0.json`; where the recipe was changed the name says so, `NAME-training.epochs=20.json`. So a result's
name tells how to get it again, and `matching` sees that the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import CheckpointError, InputError
from secateur.folder import differences
from secateur.recipe import Recipe, text
from secateur.report.record import RunRecord
from secateur.run import run
from secateur.run.progress import Progress

_PLAIN = re.compile(r"[\w.,=+-]+")
_SEED = re.compile(r"-seed(\d+)$")


@dataclass(frozen=True)
class Experiment:
    """One run of a question; `name` is "QUESTION/NAME", with changes and seed."""

    name: str
    recipe: Recipe

    @property
    def title(self) -> str:
        """The name that all its seeds share."""
        return _SEED.sub("", self.name)

    def result(self, results: str | Path) -> Path:
        """Its file under the folder of results."""
        return Path(results) / f"{self.name}.json"


def experiments(file: str | Path, *, seeds: Sequence[int] = (), changes: Sequence[str] = ()) -> list[Experiment]:
    """The runs that a recipe's file means, one a seed: the given ones, or the file's own.

    `changes` are KEY=VALUE as on the command line; a result's name tells them. Raises `InputError` for a recipe that is
    wrong, and for changes that no file name can hold.
    """
    path, written = Path(file), text.read(file)
    for change in changes:
        if not _PLAIN.fullmatch(change) or change.startswith(("seed=", "out=")):
            raise InputError(
                f"A change of an experiment becomes part of its result's name, so it must be a short KEY=VALUE and not "
                f"the seed. Got {change!r} instead; write a recipe of its own, or give the seeds as such."
            )
        written = written.set(change)
    recipe = Recipe.written(written)
    changed = f"-{','.join(sorted(changes))}" if changes else ""
    name = f"{path.resolve().parent.name}/{path.stem}{changed}"
    several = bool(seeds) or len(recipe.seeds) > 1
    return [
        Experiment(f"{name}-seed{seed}" if several else name, recipe.with_seed(seed)) for seed in seeds or recipe.seeds
    ]


def carry_out(experiment: Experiment, results: str | Path, work: str | Path, progress: Progress) -> tuple[Path, bool]:
    """The experiment's result file, and whether there was anything to do.

    A sound result of the same recipe is left as it is, one that is damaged or incomplete is made anew. The run's folder
    is `work`/name: killed, it goes on there. Raises `InputError` for a result of another recipe.
    """
    path = experiment.result(results)
    if sound(path) and matching(experiment, path):
        return path, False
    out = Path(work) / experiment.name
    record = run(experiment.recipe.model_copy(update={"out": str(out)}), progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    record.save_json(path)
    return path, True


def sound(path: Path) -> bool:
    """Whether a result's file is there and whole."""
    try:
        RunRecord.load(path)
    except CheckpointError:
        return False
    return True


def matching(experiment: Experiment, path: Path) -> RunRecord:
    """The record in an experiment's result file. Raises `InputError` if another recipe gave it."""
    record = RunRecord.load(path)
    found = differences(Recipe.of(record.recipe).to_dict(), experiment.recipe.to_dict())
    if found:
        raise InputError(
            f"The result {path} must be of the recipe that its name tells. These differ: {', '.join(found[:5])}"
            f"{', ...' if len(found) > 5 else ''}. Remove it to make it anew."
        )
    return record


def kept(results: str | Path, files: str | Path) -> Iterator[tuple[Experiment, RunRecord]]:
    """Every result that is kept, in the order of names, with the experiment that gives it; `files` holds the recipes.

    Raises `CheckpointError` for a damaged file, `InputError` for one whose recipe is gone or differs.
    """
    for recipes in sorted(path for path in Path(files).iterdir() if path.is_dir()):
        for path in sorted((Path(results) / recipes.name).glob("*.json")):
            experiment = _of(path, recipes)
            yield experiment, matching(experiment, path)


def _of(path: Path, recipes: Path) -> Experiment:
    """The experiment that a result's name tells."""
    seed = _SEED.search(path.stem)
    name = _SEED.sub("", path.stem)
    files = [file for file in recipes.glob("*.yaml") if name == file.stem or name.startswith(f"{file.stem}-")]
    if not files:
        raise InputError(f"The result {path} must have a recipe of its name in {recipes}. There is none.")
    file = max(files, key=lambda found: len(found.stem))
    changes = [change for change in name[len(file.stem) + 1 :].split(",") if change]
    return experiments(file, seeds=[int(seed[1])] if seed else (), changes=changes)[0]
