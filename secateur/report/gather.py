"""Rows of a record from what the stages returned, and what is to be known of the machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from secateur.graph.units import Groups
from secateur.measures import Accuracy, Comparison, Latency, Prunability
from secateur.measures.prunability import Weights
from secateur.methods import Story
from secateur.optim.recorder import Observed
from secateur.planning import Budget, Plan
from secateur.report.record import (
    AccuracyRow,
    CheckRow,
    Curve,
    DynamicsRow,
    EpochRow,
    FrozenRow,
    GroupRow,
    Hardware,
    LatencyRow,
    LeavingRow,
    MannerRow,
    PlanRow,
    PointRow,
    ProofRow,
    PrunabilityRow,
    SpeedupRow,
    WeightsRow,
)
from secateur.surgery.record import Proof, Record
from secateur.training import History
from secateur.version import __version__

NAMED = 1000
"""Units that one row of a story names; a network has a million single weights."""

UNITS = {"slices": "channels", "elements": "weights", "blocks": "blocks"}
"""What a person calls the units of each kind of groups."""


def accuracy_row(found: Accuracy) -> AccuracyRow:
    """An accuracy with its interval."""
    return AccuracyRow(
        value=found.value,
        low=found.low,
        high=found.high,
        correct=found.correct,
        total=found.total,
        confidence=found.confidence,
    )


def latency_row(found: Latency) -> LatencyRow:
    """A latency with its spread."""
    return LatencyRow(
        median_ms=found.median_ms,
        p10_ms=found.low_ms,
        p90_ms=found.high_ms,
        throughput=found.throughput,
        batch=found.batch,
        threads=found.threads,
        device=found.device,
    )


def comparison(found: Comparison) -> tuple[LatencyRow, LatencyRow, SpeedupRow]:
    """The latencies of two models and how many times faster the second is."""
    speedup = SpeedupRow(ratio=found.ratio, low=found.low, high=found.high)
    return latency_row(found.a), latency_row(found.b), speedup


def curve(name: str, history: History) -> Curve:
    """The epochs of a training."""
    rows = (
        EpochRow(
            epoch=row.epoch,
            train_loss=row.train_loss,
            train_accuracy=row.train_accuracy,
            validation_loss=row.val_loss,
            validation_accuracy=row.val_accuracy,
            lr=row.lr,
            seconds=row.seconds,
        )
        for row in history.rows
    )
    return Curve(name=name, manner=MannerRow(**asdict(history.manner)), epochs=tuple(rows))


def plan_row(chosen: Plan, budget: str, whole: float, round_to: int) -> PlanRow:
    """What was asked and what the plan reached, in the unit that the budget counts; the dense model has `whole`."""
    unit = Budget.parse(budget).unit
    left = sum(chosen.counts.values()) if unit == "channels" else getattr(chosen.reached, unit)
    return PlanRow(
        asked=budget,
        reached=f"{100 * left / max(1, whole):.1f}% {unit}",
        criterion=chosen.criterion,
        allocation=chosen.allocation,
        round_to=round_to,
        units=UNITS[chosen.kind],
        notes=chosen.notes,
    )


def group_rows(entry: Record) -> tuple[GroupRow, ...]:
    """The widths that a cut changed, and those it left."""
    return tuple(GroupRow(name=g.name, before=g.before, after=g.after, proof=g.proof) for g in entry.groups)


def frozen_rows(groups: Groups) -> tuple[FrozenRow, ...]:
    """What was not prunable."""
    return tuple(
        FrozenRow(name=f.name, units=f.units, reason=f.reason, operator=f.operator, module=f.module)
        for f in groups.frozen
    )


def leaving_rows(story: Story) -> tuple[LeavingRow, ...]:
    """What happened to units while a method pruned; of more than `NAMED` at once only how many they were."""
    rows = []
    for e in story.events:
        told = {"units": e.units, "kept": e.kept} if len(e.units) <= NAMED else {"units": (), "many": len(e.units)}
        rows.append(LeavingRow(step=e.step, group=e.group, what=e.what, **told))
    return tuple(rows)


def proof_row(proof: Proof | None) -> ProofRow | None:
    """The comparisons of a proof by what stands on their two sides; None for a cut that was not checked."""
    if proof is None:
        return None
    errors = {
        "slim model against the recorded operators on cut weights": proof.replayed,
        "recorded operators on cut weights against the model with removed units at zero": proof.masked,
        "recorded operators on cut weights against norms that see kept entries only": proof.statistics,
    }
    checks = tuple(
        CheckRow(name=name, error=error, passed=error <= proof.tolerance)
        for name, error in errors.items()
        if error is not None
    )
    return ProofRow(proven=proof.holds, checks=checks, tolerance=proof.tolerance, dtype=proof.dtype)


def prunability_row(found: Prunability) -> PrunabilityRow:
    """How a model takes one-shot pruning; of the histograms, only that of all weights."""
    return PrunabilityRow(
        accuracy=found.accuracy,
        loss=found.loss,
        weights=_weights_row(found.weights, histogram=True),
        layers=tuple(_weights_row(layer, histogram=False) for layer in found.layers),
        curve=tuple(PointRow(**asdict(point)) for point in found.curve),
        direction=tuple(found.direction),
    )


def _weights_row(found: Weights, *, histogram: bool) -> WeightsRow:
    values = asdict(found)
    drawn = values.pop("histogram")
    if histogram:
        values |= {"bound": drawn["edges"][-1], "counts": tuple(drawn["counts"])}
    return WeightsRow(**values)


def dynamics_rows(found: Sequence[Observed]) -> tuple[DynamicsRow, ...]:
    """The steps that were looked at."""
    return tuple(DynamicsRow(**asdict(row)) for row in found)


def versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {"secateur": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def hardware(device: torch.device) -> Hardware:
    """The machine, by the names it gives itself."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Hardware(cpu=_cpu_name(), threads=torch.get_num_threads(), device=name)


def _cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in named if name), platform.processor() or platform.machine() or "unknown CPU")
