"""A recipe carried out: the one place that composes all stages, from a model's name to its report.

The folder of a run holds, at the end, `recipe.yaml`, the checkpoint (`model.safetensors`, `plan.json`), the dense
weights if they were trained here and then cut, the epochs of its trainings as they passed (`logs`), and `report.html`
with `result.json` and `result.csv`. A killed run, started again with the same recipe, goes on from the last stage that
was done, a training from its last checkpoint.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from secateur import report
from secateur.building import counts, device_of, load_data, on_device, source_of
from secateur.errors import InputError
from secateur.folder import RECIPE, Folder, held
from secateur.ranks import done_by_first, world
from secateur.recipe import Recipe
from secateur.report.page import FILES
from secateur.report.record import RunRecord, StageRow
from secateur.run.evaluation import Settings
from secateur.run.measuring import Measured, costs, timed_alone
from secateur.run.progress import Progress, Silent, told
from secateur.run.stages import Run
from secateur.run.subjects import Subject
from secateur.run.trusting import trust
from secateur.surgery.checkpoint import load

__all__ = ["Progress", "Settings", "Silent", "Subject", "evaluate", "run", "trust"]


def run(recipe: Recipe, progress: Progress | None = None) -> RunRecord:
    """The record of a run, whose folder `recipe.out` then holds everything it made.

    A folder in which the same recipe was carried out already gives its record at once. Raises `InputError` for an
    output folder that cannot serve, before any work; what a stage raises comes through, and the same call goes on from
    there.

    Started by `torchrun` or `accelerate launch`, all ranks share the trainings, each with batches of the recipe's size;
    the first does the rest and writes, and what it finds is taken over by all. They must see the same folder.

    >>> record = run(Recipe.load("recipe.yaml").model_copy(update={"out": "out"}))
    >>> record.final.accuracy.value
    """
    out = recipe.out
    if out is None:
        raise InputError("The recipe must have the key 'out' to be run: the folder for the checkpoint and the report.")
    recipe = recipe.with_seed(recipe.the_seed)
    with ExitStack() as stack:
        done_by_first(lambda: stack.enter_context(held(out)))
        folder = Folder(out, recipe)
        if done_by_first(lambda: folder.done):
            return done_by_first(lambda: RunRecord.load(folder.path / FILES["json"]))
        made = Run(recipe, folder, (progress if world()[0] == 0 else None) or Silent()).carry_out()
        done_by_first(lambda: written(made, folder))
        return made


def written(made: RunRecord, folder: Folder) -> None:
    """Leave the report of a run that is over, and nothing that only an unfinished one needs."""
    report.write(made, folder.path)
    folder.close()


def evaluate(
    path: str | Path, *, data_root: str | Path | None = None, progress: Progress | None = None
) -> tuple[RunRecord, StageRow]:
    """What a run recorded, and the model of its folder measured anew, in this order.

    `data_root` is the folder of the data set where it is not the one of the recipe. Raises `CheckpointError` for a
    folder without a finished run.
    """
    folder, progress = Path(path), progress or Silent()
    recorded = RunRecord.load(folder / FILES["json"])
    recipe = Recipe.load(folder / RECIPE)
    device = device_of(recipe)
    with told(progress, "load"):
        data = load_data(recipe, device, data_root)
        source = source_of(recipe, data)
        model = load(source.build, folder).to(device)
    with told(progress, "count"):
        masked_only = recipe.pruning is not None and recipe.pruning.units != "channels"
        cost = costs(model) if masked_only else counts(model, on_device(source.example, device))
    row = Measured(recipe, progress)(recorded.final.stage, model, data.test, cost)
    if recipe.measures.latency:
        with told(progress, "time") as stage:
            row, stage.text = timed_alone(recipe, model, source.example, device, row)
    return recorded, row
