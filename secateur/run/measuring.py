"""Rows of a run's record: a model measured on test data, counted, and timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur import measures
from secateur.building import on_device
from secateur.folder import Folder
from secateur.methods.snapshots import Snapshot
from secateur.recipe import Recipe
from secateur.report import gather
from secateur.report.record import SnapshotRow, SpeedupRow, StageName, StageRow
from secateur.run.progress import Progress, told
from secateur.surgery.record import record


@dataclass(frozen=True)
class Measured:
    """Gives the row of a model: its accuracy and loss on test data, its size, and the costs it is told."""

    recipe: Recipe
    progress: Progress
    folder: Folder | None = None

    def __call__(
        self, after: StageName, model: nn.Module, test: Any, cost: Mapping[str, Any], number: int | None = None
    ) -> StageRow:
        """The row of the model `after` a stage; `number` is that of the round where a run has several."""
        name = f"measure: {after}" if number is None else f"measure: {after} {number}"
        with told(self.progress, name, self.folder) as stage:
            found = measures.accuracy(model, test, confidence=self.recipe.measures.confidence)
            stage.text = f"{found.value:.2%} of {found.total:,}"
            accuracy, weighed = gather.accuracy_row(found), measures.size(model)
            cost = {**cost, "accuracy": accuracy, "loss": found.loss, "bytes": weighed.bytes}
            return StageRow(stage=after, round=number, **cost)


def snapshot_row(
    measured: Measured, snapshot: Snapshot, models: tuple[nn.Module, nn.Module | None], test: Any
) -> SnapshotRow:
    """The row of a network that a training passed through, measured as it was and, where there is that, fine-tuned."""
    made: dict[str, Any] = {"budget": snapshot.budget, "step": snapshot.step, "spent": snapshot.spent}
    for model, names in zip(models, (("accuracy", "loss"), ("tuned", "tuned_loss")), strict=True):
        if model is not None:
            tuned = ", fine-tuned" if names[0] == "tuned" else ""
            with told(measured.progress, f"measure: at {snapshot.budget}{tuned}", measured.folder) as stage:
                found = measures.accuracy(model, test, confidence=measured.recipe.measures.confidence)
                stage.text = f"{found.value:.2%} of {found.total:,}"
            made |= dict(zip(names, (gather.accuracy_row(found), found.loss), strict=True))
    return SnapshotRow(**made)


def costs(small: nn.Module) -> dict[str, int]:
    """The costs that a slim model's record tells; those of what is not zero where the cut was a mask."""
    entry = record(small)
    assert entry is not None
    after = entry.after
    found = {"macs": after["macs"], "params": after["params"]}
    if entry.masks:
        found |= {"nonzero_macs": after["nonzero_macs"], "nonzero_params": after["weights"]}
    return found


def timed_alone(
    recipe: Recipe, model: nn.Module, example: Any, device: torch.device, row: StageRow
) -> tuple[StageRow, str]:
    """The row of a model with its latency, and that latency in words."""
    part = recipe.measures
    example = on_device(example, device, part.batch)
    found = measures.latency(model, example, runs=part.runs, warmup=part.warmup, threads=part.threads)
    return row.model_copy(update={"latency": gather.latency_row(found)}), f"{found.median_ms:.3g} ms"


def timed_in_turn(
    recipe: Recipe, pair: tuple[nn.Module, nn.Module], example: Any, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any], SpeedupRow, str]:
    """What the rows of two models gain by being timed in turn, how they compare, and that in words."""
    part = recipe.measures
    example = on_device(example, device, part.batch)
    found = measures.compare(*pair, example, runs=part.runs, warmup=part.warmup, threads=part.threads)
    before, after, speedup = gather.comparison(found)
    words = f"{found.a.median_ms:.3g} ms → {found.b.median_ms:.3g} ms"
    return {"latency": before}, {"latency": after}, speedup, words
