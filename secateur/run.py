"""A recipe carried out: the one place that composes all stages, from a model's name to its report.

The folder of a run holds, at the end, `recipe.yaml`, the slim checkpoint (`model.safetensors`, `plan.json`), the dense
weights if they were trained here, and `report.html` with `result.json` and `result.csv`. A killed run, started again
with the same recipe, goes on from the last stage that was done, a training from its last whole epoch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import rich.progress
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from secateur import measures, report, zoo
from secateur.building import cut, device_of, find_groups, load_data, on_device, scores_of, source_of
from secateur.errors import InputError
from secateur.files import atomic_write
from secateur.folder import DENSE, RECIPE, Folder
from secateur.graph import discovery
from secateur.graph.units import Groups
from secateur.masks import masked
from secateur.planning import Plan
from secateur.recipe import Recipe, TrainingPart
from secateur.report import gather
from secateur.report.page import FILES
from secateur.report.record import (
    Curve,
    FrozenRow,
    GroupRow,
    PlanRow,
    ProofRow,
    Row,
    RunRecord,
    SpeedupRow,
    StageName,
    StageRow,
)
from secateur.surgery.checkpoint import load, save
from secateur.surgery.record import apply_masks, record
from secateur.training import Epoch, State, fit, reestimate_batch_norm


class Progress(Protocol):
    """How a run tells where it is; `bars` is what trainings show their steps in."""

    bars: bool | rich.progress.Progress

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def epoch(self, row: Epoch) -> None:
        """An epoch of training is done."""

    def end(self, stage: str, seconds: float, result: str) -> None:
        """A stage is done; `result` says in a few words what came out."""


class Silent:
    """No progress at all."""

    bars: bool | rich.progress.Progress = False

    def begin(self, stage: str) -> None:
        """Nothing is shown."""

    def epoch(self, row: Epoch) -> None:
        """Nothing is shown."""

    def end(self, stage: str, seconds: float, result: str) -> None:
        """Nothing is shown."""


def run(recipe: Recipe, progress: Progress | None = None) -> RunRecord:
    """The record of a run, whose folder `recipe.out` then holds everything it made.

    A folder in which the same recipe was carried out already gives its record at once. Raises `InputError` for an
    output folder that cannot serve, before any work; what a stage raises comes through, and the same call goes on from
    there.

    >>> record = run(Recipe.load("recipe.yaml").model_copy(update={"out": "out"}))
    >>> record.final.accuracy.value
    """
    if recipe.out is None:
        raise InputError("The recipe must have the key 'out' to be run: the folder for the checkpoint and the report.")
    folder = Folder(recipe.out, recipe)
    if folder.done:
        return RunRecord.load(folder.path / FILES["json"])
    made = Run(recipe, folder, progress or Silent()).carry_out()
    report.write(made, folder.path)
    folder.close()
    return made


def evaluate(
    path: str | Path, *, data_root: str | Path | None = None, progress: Progress | None = None
) -> tuple[RunRecord, StageRow]:
    """What a run recorded, and the slim model of its folder measured anew, in this order.

    `data_root` is the folder of the data set where it is not the one of the recipe. Raises `CheckpointError` for a
    folder without a finished run.
    """
    folder, progress = Path(path), progress or Silent()
    recorded = RunRecord.load(folder / FILES["json"])
    recipe = Recipe.load(folder / RECIPE)
    device = device_of(recipe)
    with _told(progress, "load"):
        data = load_data(recipe, device, data_root)
        source = source_of(recipe, data)
        model = load(source.build, folder).to(device)
    stage = Measured(recipe, progress)
    with _told(progress, "count"):
        example = on_device(source.example, device)
        channels = recipe.pruning.units == "channels"
        counts = _counts(discovery.groups(model, example)) if channels else costs(model)
    row = stage(recorded.final.stage, model, data.test, counts)
    if recipe.measures.latency:
        part = recipe.measures
        example = on_device(source.example, device, part.batch)
        with _told(progress, "time"):
            found = measures.latency(model, example, runs=part.runs, warmup=part.warmup, threads=part.threads)
        row = row.model_copy(update={"latency": gather.latency_row(found)})
    return recorded, row


class CutRow(Row):
    """What is told of a cut: kept so that a run that goes on need not cut again."""

    plan: PlanRow
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenRow, ...]
    proof: ProofRow | None
    stages: tuple[StageRow, ...]


@dataclass
class Note:
    """What a stage says when it is done."""

    text: str = ""


@contextmanager
def _told(progress: Progress, name: str, folder: Folder | None = None) -> Iterator[Note]:
    """A stage: told when it begins and ends, its time added to the folder's."""
    progress.begin(name)
    started, note = time.perf_counter(), Note()
    yield note
    seconds = time.perf_counter() - started
    if folder is not None:
        folder.spent(name, seconds)
    progress.end(name, seconds, note.text)


@dataclass(frozen=True)
class Measured:
    """Gives the row of a model: its accuracy and loss on test data, its size, and the costs it is told."""

    recipe: Recipe
    progress: Progress
    folder: Folder | None = None

    def __call__(self, stage: StageName, model: nn.Module, test: Any, cost: Mapping[str, Any]) -> StageRow:
        """The row."""
        with _told(self.progress, f"measure: {stage}", self.folder) as note:
            found = measures.accuracy(model, test, confidence=self.recipe.measures.confidence)
            note.text = f"{found.value:.2%} of {found.total:,}"
            accuracy, weighed = gather.accuracy_row(found), measures.size(model)
            return StageRow(stage=stage, accuracy=accuracy, loss=found.loss, bytes=weighed.bytes, **cost)


class Run:
    """One run on its way: what its stages share. The dense model stays beside the slim one, to be timed with it."""

    def __init__(self, recipe: Recipe, folder: Folder, progress: Progress) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.measured = Measured(recipe, progress, folder)
        self.curves: list[Curve] = []
        with self.stage("load"):
            self.device = device_of(recipe)
            self.data = load_data(recipe, self.device)
            self.source = source_of(recipe, self.data)
            self.dense = self._built()
        self._groups: Groups | None = None

    def stage(self, name: str) -> Any:
        """A block that is one stage of the run."""
        return _told(self.progress, name, self.folder)

    def carry_out(self) -> RunRecord:
        """All stages, in order."""
        if self.recipe.training.epochs:
            self.train_dense()
        first = self.folder.once("dense", StageRow, self.measure_dense)
        told, small = self.pruned()
        stages = [first, *told.stages]
        row, small = self.reestimated(small)
        stages += [row] if row is not None else []
        if self.recipe.fine_tuning.epochs:
            stages.append(self.fine_tuned(small))
        with self.stage("save"):
            save(small, self.folder.path, constructor=self.source.describe)
        speedup = None
        if self.recipe.measures.latency:
            stages[0], stages[-1], speedup = self.timed(small, stages[0], stages[-1])
        return RunRecord(
            model=self.source.spec,
            data=self.data.name,
            recipe=self.recipe.to_dict(),
            versions=gather.versions(),
            hardware=gather.hardware(self.device),
            started=self.folder.started,
            seeds=(self.recipe.seed,),
            plan=told.plan,
            stages=tuple(stages),
            groups=told.groups,
            frozen=told.frozen,
            proof=told.proof,
            speedup=speedup,
            curves=tuple(self.curves),
            seconds=self.folder.seconds,
        )

    def _built(self) -> nn.Module:
        """The dense model, with weights from the file or as they are initialised."""
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)
            model = self.source.build()
        if self.recipe.model.weights is not None:
            zoo.load_weights(model, self.recipe.model.weights)
        return model.to(self.device)

    def train_dense(self) -> None:
        """Train the dense model and leave its weights in the folder."""
        with self.stage("train") as note:
            note.text = self._fit(self.dense, "training", self.recipe.training)
        with atomic_write(self.folder.path / DENSE) as partial:
            save_model(self.dense, str(partial))

    def groups(self) -> Groups:
        """The groups of the dense model, found once."""
        if self._groups is None:
            with self.stage("find groups") as note:
                example = on_device(self.source.example, self.device)
                self._groups = find_groups(self.recipe.pruning, self.dense, example)
                note.text = f"{len(self._groups)} groups, {len(self._groups.frozen)} dimensions not prunable"
        return self._groups

    def measure_dense(self) -> StageRow:
        """The row of the dense model."""
        return self.measured("dense", self.dense, self.data.test, _counts(self.groups()))

    def pruned(self) -> tuple[CutRow, nn.Module]:
        """What the cut was, with the rows measured after it, and the slim model."""
        place = self.folder.stage("cut")
        told = self.folder.read("cut", CutRow)
        if told is not None:
            return told, load(self.source.build, place).to(self.device)
        groups, part = self.groups(), self.recipe.pruning
        with self.stage("plan and cut") as note:
            chosen, small = cut(part, groups, scores_of(self.recipe, groups, self.data))
            entry = record(small)
            assert entry is not None
            plan, proof = gather.plan_row(chosen, part.budget, part.round_to), gather.proof_row(entry.proof)
            note.text = f"{plan.reached} left{', proven' if proof and proof.proven else ''}"
        save(small, place)
        told = CutRow(
            plan=plan,
            groups=gather.group_rows(entry),
            frozen=gather.frozen_rows(groups),
            proof=proof,
            stages=self._after_cut(chosen, small),
        )
        return self.folder.keep("cut", told), small

    def _after_cut(self, chosen: Plan, small: nn.Module) -> tuple[StageRow, ...]:
        """The slim model as it was cut, and the masked one beside it where the two must agree."""
        groups, test = self.groups(), self.data.test
        if groups.kind != "slices":
            return (self.measured("masked", small, test, costs(small)),)
        rows = []
        cut_groups = [g for g in groups if len(chosen.keep[g.name]) < g.units]
        if self.recipe.measures.masked and all(g.proof == "exact" for g in cut_groups):
            rows.append(self.measured("masked", masked(groups, chosen), test, _counts(groups)))
        return (*rows, self.measured("cut", small, test, costs(small)))

    def reestimated(self, small: nn.Module) -> tuple[StageRow | None, nn.Module]:
        """The row after batch norm saw the training data anew (None where there is none), and the model."""
        if not self.recipe.batch_norm.batches:
            return None, small
        place = self.folder.stage("batch-norm")
        row = self.folder.read("batch-norm", StageRow)
        if row is not None:
            return row, load(self.source.build, place).to(self.device)
        with self.stage("re-estimate batch norm") as note:
            self.data.train.set_epoch(0)
            layers = reestimate_batch_norm(small, self.data.train, batches=self.recipe.batch_norm.batches)
            note.text = f"{layers} layers"
        if not layers:
            return None, small
        save(small, place)
        row = self.measured("batch norm re-estimated", small, self.data.test, costs(small))
        return self.folder.keep("batch-norm", row), small

    def fine_tuned(self, small: nn.Module) -> StageRow:
        """The row after fine-tuning; what is masked stays zero throughout."""
        entry = record(small)
        assert entry is not None
        with self.stage("fine-tune") as note:
            held = [HeldAtZero(entry.masks)] if entry.masks else []
            note.text = self._fit(small, "fine-tuning", self.recipe.fine_tuning, held)
        return self.folder.once(
            "fine-tuned", StageRow, lambda: self.measured("fine-tuned", small, self.data.test, costs(small))
        )

    def _fit(self, model: nn.Module, name: str, part: TrainingPart, methods: list[Any] | None = None) -> str:
        """One training, resumed if there is something to resume; returns what came out."""
        history = fit(
            model,
            self.data,
            methods=methods or [],
            settings=part.settings(
                seed=self.recipe.seed,
                checkpoint=self.folder.stage(name),
                progress=self.progress.bars,
                on_epoch=self.progress.epoch,
            ),
        )
        self.curves.append(gather.curve(name, history))
        last = history.rows[-1]
        held_out = f", validation {last.val_accuracy:.2%}" if last.val_accuracy is not None else ""
        return f"{len(history.rows)} epochs, loss {last.train_loss:.3f}{held_out}"

    def timed(self, small: nn.Module, first: StageRow, last: StageRow) -> tuple[StageRow, StageRow, SpeedupRow]:
        """The rows of the dense and the final model with their latencies, timed in turn, and how they compare."""
        part = self.recipe.measures
        with self.stage("time dense beside slim") as note:
            example = on_device(self.source.example, self.device, part.batch)
            pair = measures.compare(
                self.dense, small, example, runs=part.runs, warmup=part.warmup, threads=part.threads
            )
            note.text = f"{pair.a.median_ms:.3g} ms → {pair.b.median_ms:.3g} ms"
        before, after, speedup = gather.comparison(pair)
        return first.model_copy(update={"latency": before}), last.model_copy(update={"latency": after}), speedup


class HeldAtZero:
    """A method that keeps masked weights at exactly zero, whatever the optimizer does."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = dict(masks)

    def after_step(self, state: State) -> None:
        """Set them to zero again."""
        apply_masks(state.model, self._masks)


def _counts(groups: Groups) -> dict[str, int]:
    """The costs of a model as it is."""
    return {"macs": groups.cost_model.dense.macs, "params": groups.cost_model.dense.params}


def costs(small: nn.Module) -> dict[str, int]:
    """The costs that a slim model's record tells; those of what is not zero where the cut was a mask."""
    entry = record(small)
    assert entry is not None
    after = entry.after
    found = {"macs": after["macs"], "params": after["params"]}
    if entry.masks:
        found |= {"nonzero_macs": after["nonzero_macs"], "nonzero_params": after["weights"]}
    return found
