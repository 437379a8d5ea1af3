"""The record of one run: every number behind the report, as a schema that is saved as JSON and as CSV.

One multiply-accumulate is 1 MAC; sizes are bytes; times are seconds, latencies milliseconds; accuracies are shares in
[0, 1].
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.errors import CheckpointError
from secateur.files import atomic_write

FORMAT = 1
"""The version of the schema that this package writes; a record of a later one is refused."""

StageName = Literal["dense", "masked", "cut", "batch norm re-estimated", "fine-tuned"]


class Row(BaseModel):
    """What every part of a record has in common: fields are checked, unknown ones refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, ser_json_inf_nan="strings")


class AccuracyRow(Row):
    """The share `correct / total` with its confidence interval [low, high]."""

    value: float
    low: float
    high: float
    correct: int
    total: int
    confidence: float = 0.95


class LatencyRow(Row):
    """Milliseconds of one call (median, 10th and 90th percentile), and inputs a second, for one batch size."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    throughput: float
    batch: int
    threads: int
    device: str = "cpu"


class SpeedupRow(Row):
    """How many times faster the last model is: median, 10th and 90th percentile over pairs of calls made in turn."""

    ratio: float
    low: float
    high: float


class StageRow(Row):
    """The model at one bend of the run. `macs` and `params` count its shapes; `nonzero_*` leave masked weights out.

    `round` counts from 1 where the model was cut several times.
    """

    stage: StageName
    round: int | None = None
    params: int
    macs: int
    accuracy: AccuracyRow | None = None
    loss: float | None = None
    bytes: int | None = None
    latency: LatencyRow | None = None
    nonzero_params: int | None = None
    nonzero_macs: int | None = None


class GroupRow(Row):
    """One group's width before and after the cut."""

    name: str
    before: int
    after: int
    proof: str = "exact"


class FrozenRow(Row):
    """A dimension that was not prunable, and what stops it."""

    name: str
    units: int
    reason: str
    operator: str = ""
    module: str = ""


class CheckRow(Row):
    """One comparison of the proof: the largest relative difference between two models that must agree."""

    name: str
    error: float
    passed: bool


class ProofRow(Row):
    """Whether the cut kept the function, and the comparisons behind that answer."""

    proven: bool
    checks: tuple[CheckRow, ...] = ()
    tolerance: float | None = None
    dtype: str = ""
    note: str = ""


class EpochRow(Row):
    """One epoch of training."""

    epoch: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    lr: float | None = None
    seconds: float | None = None


class MannerRow(Row):
    """How a training computed: what each "auto" of the recipe came to, and how many processes shared its batches."""

    precision: str
    channels_last: bool
    compiled: bool
    ranks: int = 1


class Curve(Row):
    """The epochs of one training, named after what it was for; `manner` is missing in records of older versions."""

    name: str
    manner: MannerRow | None = None
    epochs: tuple[EpochRow, ...]


class WeightsRow(Row):
    """The shape of a set of weights, as `secateur.measures.prunability` defines these numbers.

    `counts` are those of bins of equal width over [-bound, bound]; layers have none.
    """

    name: str
    number: int
    mean: float
    mean_size: float
    variance: float
    kurtosis: float
    hoyer: float
    e50: float
    bound: float | None = None
    counts: tuple[int, ...] = ()


class PointRow(Row):
    """The dense model with a share of its weights at zero, and nothing trained afterwards."""

    scope: Literal["global", "layer"]
    reestimated: bool
    sparsity: float
    zeros: int
    energy: float
    accuracy: float
    loss: float


class PrunabilityRow(Row):
    """How the dense model takes one-shot magnitude pruning; `direction` is (share of the way to half of it, loss)."""

    accuracy: float
    loss: float
    weights: WeightsRow
    layers: tuple[WeightsRow, ...]
    curve: tuple[PointRow, ...]
    direction: tuple[tuple[float, float], ...] = ()

    def at(self, sparsity: float, *, scope: str = "global", reestimated: bool = False) -> PointRow | None:
        """One point of the curve, or None if it was not measured."""
        key = (scope, reestimated)
        points = (p for p in self.curve if (p.scope, p.reestimated) == key and abs(p.sparsity - sparsity) < 1e-9)
        return next(points, None)


class DynamicsRow(Row):
    """What one step of training did, over all weights that pruning can take."""

    step: int
    moved: float
    weight_size: float
    weight_variance: float
    gradient_size: float
    gradient_variance: float
    seen_size: float
    seen_variance: float


class PlanRow(Row):
    """What decided the cut: the budget in words and numbers, and the way it was spent over the groups."""

    asked: str
    reached: str
    criterion: str
    allocation: str
    round_to: int
    units: str = "channels"
    notes: tuple[str, ...] = ()


class LeavingRow(Row):
    """What became of units of one group at one step of a training that prunes.

    `what` is leaving, released or gone. Of units released, `kept` is the share of its norm that each had left. Where
    there were too `many` to name them, neither is told.
    """

    step: int
    group: str
    what: Literal["leaving", "released", "gone"]
    units: tuple[int, ...]
    kept: tuple[float, ...] = ()
    many: int | None = None

    @property
    def count(self) -> int:
        """How many units they were."""
        return len(self.units) if self.many is None else self.many


class SnapshotRow(Row):
    """The network as it was when a training that prunes first met a `budget`, at `step`.

    `spent` is what it had of what the budget counts; `tuned` and `tuned_loss` are those after it was fine-tuned under
    its mask, where it was.
    """

    budget: str
    step: int
    spent: float
    accuracy: AccuracyRow
    loss: float
    tuned: AccuracyRow | None = None
    tuned_loss: float | None = None


class Hardware(Row):
    """The machine that the times belong to."""

    cpu: str
    threads: int
    device: str = "cpu"


class RunRecord(Row):
    """Everything a run found out; `stages` come in the order in which they happened, the first is the dense model.

    A run that cut nothing has no plan and this one stage.

    >>> record = RunRecord.load("out/result.json")
    >>> record.final.accuracy.value, record.ratio("macs")
    """

    format: int = FORMAT
    model: str
    data: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: Hardware
    started: str
    seeds: tuple[int, ...] = (0,)
    plan: PlanRow | None = None
    stages: tuple[StageRow, ...]
    groups: tuple[GroupRow, ...] = ()
    frozen: tuple[FrozenRow, ...] = ()
    proof: ProofRow | None = None
    speedup: SpeedupRow | None = None
    curves: tuple[Curve, ...] = ()
    leavings: tuple[LeavingRow, ...] = ()
    snapshots: tuple[SnapshotRow, ...] = ()
    prunability: PrunabilityRow | None = None
    dynamics: tuple[DynamicsRow, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def dense(self) -> StageRow:
        """The model before the cut."""
        return self.stages[0]

    @property
    def final(self) -> StageRow:
        """The model that the run left."""
        return self.stages[-1]

    def stage(self, name: StageName) -> StageRow | None:
        """The last row of a stage, or None if the run did not have it."""
        return next((row for row in reversed(self.stages) if row.stage == name), None)

    def ratio(self, quantity: Literal["macs", "params", "bytes", "latency"]) -> float | None:
        """How many times more of `quantity` the dense model needs than the final one; None if it was not measured."""
        if quantity == "latency":
            return self.speedup.ratio if self.speedup else None
        before, after = getattr(self.dense, quantity), getattr(self.final, quantity)
        return before / after if before is not None and after else None

    def save_json(self, path: str | Path) -> None:
        """Write the record as JSON."""
        with atomic_write(path) as partial:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def save_csv(self, path: str | Path) -> None:
        """Write one line a stage, every number in a column of its own; what was not measured leaves its cell empty."""
        text = io.StringIO(newline="")
        rows = [self._line(stage) for stage in self.stages]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")

    def _line(self, stage: StageRow) -> dict[str, Any]:
        values = stage.model_dump(exclude={"accuracy", "latency", "stage"})
        accuracy = {f"accuracy_{k}": getattr(stage.accuracy, k, None) for k in AccuracyRow.model_fields}
        latency = {f"latency_{k}": getattr(stage.latency, k, None) for k in LatencyRow.model_fields}
        run = {
            "model": self.model,
            "data": self.data,
            "seeds": " ".join(map(str, self.seeds)),
            "budget": self.plan.asked if self.plan else None,
        }
        return {**run, "stage": stage.stage, **accuracy, **values, **latency}

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """The record saved at `path`.

        Raises `CheckpointError` if there is no such file, if it is damaged, or if a later version wrote it.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"There is no record of a run at {path}. Give a folder that 'secateur prune' wrote."
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"The record {path} cannot be read: {error}. Remove it and run again.") from error
        version = values.get("format") if isinstance(values, dict) else None
        if version != FORMAT:
            raise CheckpointError(
                f"The record {path} must have format {FORMAT}. Got {version!r} instead; "
                "read it with the version of secateur that wrote it."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(f"The record {path} is damaged at '{where}': {first['msg']}.") from error
