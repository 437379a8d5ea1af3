"""The stages of a run, in order: train or load, measure, then round by round cut, repair and fine-tune.

Where a recipe names a method, that prunes while the network is fine-tuned, and takes the place of the rounds.

Of several ranks all train; the first does every other stage, and the others then find it done, as a run that goes on
after a kill does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from secateur import measures, zoo
from secateur.building import (
    amount,
    counts,
    cut,
    device_of,
    find_groups,
    load_data,
    method_of,
    on_device,
    round_budget,
    scores_of,
    source_of,
    weights_file,
)
from secateur.errors import TrainingError
from secateur.files import atomic_write
from secateur.folder import DENSE, ROUNDS, Folder, Value
from secateur.graph.units import Groups
from secateur.masks import masked
from secateur.methods.snapshots import Snapshot
from secateur.optim.recorder import Recorder
from secateur.planning import Plan
from secateur.ranks import done_by_first, world
from secateur.recipe import METHODS, MethodPart, PruningPart, Recipe
from secateur.report import gather
from secateur.report.record import (
    Curve,
    DynamicsRow,
    FrozenRow,
    GroupRow,
    PlanRow,
    ProofRow,
    PrunabilityRow,
    Row,
    RunRecord,
    SnapshotRow,
    SpeedupRow,
    StageRow,
)
from secateur.run.measuring import Measured, costs, snapshot_row, timed_alone, timed_in_turn
from secateur.run.progress import Progress, Stage, told
from secateur.surgery.checkpoint import load, save
from secateur.surgery.record import Record, apply_masks, record
from secateur.training import Epoch, State, Training, fit, reestimate_batch_norm
from secateur.training.adversarial import Adversarial
from secateur.training.batch_norm import norms_with_statistics
from secateur.training.distillation import Distillation
from secateur.training.loop import steps_of
from secateur.training.rewinding import KeptWeights, rewind_weights

LOGS = "logs"
"""Where the epochs of trainings are written as they pass."""


class CutRow(Row):
    """What is told of a cut, kept so that a run that goes on need not cut again.

    `whole` is what the budget counts of the dense model.
    """

    plan: PlanRow
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenRow, ...]
    proof: ProofRow | None
    stages: tuple[StageRow, ...]
    whole: float


@dataclass(frozen=True)
class Round:
    """One of the times that a model is cut and fine-tuned; a run of a single round does not number it."""

    number: int
    of: int

    @property
    def shown(self) -> int | None:
        """The number in rows of the record."""
        return self.number if self.of > 1 else None

    def named(self, stage: str) -> str:
        """The stage as people read it."""
        return f"{stage} {self.number}" if self.of > 1 else stage

    def file(self, stage: str) -> str:
        """The stage as its files are called."""
        return self.named(stage).replace(" ", "-")


class Run:
    """One run on its way: what its stages share. The dense model stays beside the slim one, to be timed with it."""

    def __init__(self, recipe: Recipe, folder: Folder, progress: Progress) -> None:
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.measured = Measured(recipe, progress, folder)
        self.curves: list[Curve] = []
        self.dynamics: tuple[DynamicsRow, ...] = ()
        with self.stage("load"):
            self.device = device_of(recipe)
            if recipe.data.download:
                done_by_first(lambda: load_data(recipe, self.device).name)
            self.data = load_data(recipe, self.device)
            self.source = source_of(recipe, self.data)
            self.dense = self._built()
        self._groups: Groups | None = None

    def stage(self, name: str) -> Any:
        """A block that is one stage of the run."""
        return told(self.progress, name, self.folder)

    def carry_out(self) -> RunRecord:
        """All stages, in order."""
        if self.recipe.method is not None:
            self.check_time(self.recipe.method)
        if self.recipe.training.epochs:
            self.train_dense()
        first = self.folder.once("dense", StageRow, self.measure_dense)
        self.prunability = self.measure_prunability()
        if self.recipe.pruning is None:
            return self.left_whole(first)
        if self.recipe.pruning.method is not None:
            return self.pruned_in_training(first, self.recipe.pruning, self.recipe.pruning.method)
        return self.made_smaller(first, self.recipe.pruning)

    def check_time(self, method: MethodPart) -> None:
        """See that the removal fits into the fine-tuning, before anything trains. Raises `InputError`."""
        settings = self.recipe.fine_tuned_by()
        assert settings is not None
        removal = method.removal.policy() if method.removal is not None else None
        METHODS[method.name].check_time(method.options, removal, steps_of(self.data, settings))

    def left_whole(self, first: StageRow) -> RunRecord:
        """The record of a run that cuts nothing."""
        return self.recorded(stages=(done_by_first(lambda: self._kept_whole(first)),))

    def _kept_whole(self, first: StageRow) -> StageRow:
        self.keep_checkpoint(self.dense)
        if self.recipe.measures.latency:
            with self.stage("time") as stage:
                first, stage.text = timed_alone(self.recipe, self.dense, self.source.example, self.device, first)
        return first

    def made_smaller(self, first: StageRow, part: PruningPart) -> RunRecord:
        """The record of a run that prunes what `part` says."""
        stages, cuts, small = list[StageRow](), list[CutRow](), self.dense
        for number in range(1, part.turns + 1):
            turn = Round(number, part.turns)
            done, small = self.pruned(part, turn, small, cuts[0].whole if cuts else None)
            cuts.append(done)
            row, small = self.reestimated(small, turn)
            stages += [*done.stages, *([row] if row else []), *self.fine_tuned(small, turn)]
        return self._told_of([first, *stages], cuts, small)

    def pruned_in_training(self, first: StageRow, part: PruningPart, method: MethodPart) -> RunRecord:
        """The record of a run whose units leave, as `method` says, while the network is fine-tuned."""
        groups = self.groups(part)
        model, self.dense = self.dense, copy.deepcopy(self.dense)  # the copy stays as it is
        whole = amount(groups, part.budget)
        pruner = method_of(part, method, self.recipe.the_seed, groups)
        with self.stage("prune and fine-tune") as stage:
            small = self._fit(stage, model, "fine-tuning", self.recipe.fine_tuned_by, [pruner, *self._teachers()])
        small.eval()

        def told_of() -> CutRow:
            assert pruner.plan is not None
            chosen = dataclasses.replace(pruner.plan, allocation=part.allocation)
            entry = _record(small)
            return CutRow(
                plan=gather.plan_row(chosen, part.budget, whole, part.round_to),
                groups=gather.group_rows(entry),
                frozen=gather.frozen_rows(groups),
                proof=gather.proof_row(entry.proof),
                stages=(self.measured("fine-tuned", small, self.data.test, costs(small)),),
                whole=whole,
            )

        done = self.folder.once("pruned", CutRow, told_of)
        taken = enumerate(getattr(pruner, "taken", ()), start=1)
        snapshots = tuple(self._snapshot(number, snapshot) for number, snapshot in taken)
        more = {"leavings": gather.leaving_rows(pruner.story), "snapshots": snapshots}
        return self._told_of([first, *done.stages], [done], small, **more)

    def _snapshot(self, number: int, snapshot: Snapshot) -> SnapshotRow:
        """The row of a network that the training passed through, which is fine-tuned first if the recipe asks."""
        model, tuned = copy.deepcopy(self.dense), None
        model.load_state_dict(snapshot.state)
        if self.recipe.fine_tuning.snapshots:
            name, methods = f"fine-tuning of snapshot {number}", [HeldAtZero(snapshot.masks), *self._teachers()]
            with self.stage(f"fine-tune at {snapshot.budget}") as stage:
                tuned = self._fit(stage, copy.deepcopy(model), name, self.recipe.snapshots_tuned_by, methods)
            tuned.eval()
        of_test = (self.measured, snapshot, (model, tuned), self.data.test)
        return self.folder.once(f"snapshot-{number}", SnapshotRow, lambda: snapshot_row(*of_test))

    def _told_of(self, stages: list[StageRow], cuts: list[CutRow], small: nn.Module, **more: Any) -> RunRecord:
        """The record of a run that came to `small` by these cuts."""
        before, after, speedup = done_by_first(lambda: self._kept_slim(small))
        stages[0], stages[-1] = stages[0].model_copy(update=before), stages[-1].model_copy(update=after)
        return self.recorded(
            plan=cuts[-1].plan,
            stages=tuple(stages),
            groups=_widths(cuts[0], cuts[-1]),
            frozen=cuts[-1].frozen,
            proof=cuts[-1].proof,
            speedup=speedup,
            **more,
        )

    def _kept_slim(self, small: nn.Module) -> tuple[dict[str, Any], dict[str, Any], SpeedupRow | None]:
        """What the rows of the dense and the slim model gain at the end, and how the two compare."""
        self.keep_checkpoint(small)
        if not self.recipe.measures.latency:
            return {}, {}, None
        with self.stage("time dense beside slim") as stage:
            pair = (self.dense, small)
            before, after, speedup, stage.text = timed_in_turn(self.recipe, pair, self.source.example, self.device)
        return before, after, speedup

    def keep_checkpoint(self, model: nn.Module) -> None:
        """Leave the model that the run ends with in the folder."""
        with self.stage("save"):
            save(model, self.folder.path, constructor=self.source.describe)

    def recorded(self, **found: Any) -> RunRecord:
        """The record of what was `found`, with all that is to be known of the run."""
        return RunRecord(
            model=self.source.spec,
            data=self.data.name,
            recipe=self.recipe.to_dict(),
            versions=gather.versions(),
            hardware=gather.hardware(self.device),
            started=self.folder.started,
            seeds=self.recipe.seeds,
            curves=tuple(self.curves),
            prunability=self.prunability,
            dynamics=self.dynamics,
            seconds=self.folder.seconds,
            **found,
        )

    def _built(self) -> nn.Module:
        """The dense model, with weights from the file or as they are initialised."""
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.the_seed)
            model = self.source.build()
        if self.recipe.model.weights is not None:
            zoo.load_weights(model, weights_file(self.recipe.model.weights))
        return model.to(self.device)

    def train_dense(self) -> None:
        """Train the dense model; where it is to be cut, its weights are left in the folder beside the slim ones."""
        rewind = self.recipe.fine_tuning.rewind
        every = self.recipe.measures.dynamics
        recorder = Recorder(every or 1)
        methods: list[Any] = [*self.recipe.training.preparing(), *([recorder] if every else [])]
        if rewind is not None and rewind.weights is not None:
            methods.append(KeptWeights(self.folder.stage("training") / "rewind.safetensors", rewind.weights))
        with self.stage("train") as stage:
            self.dense = self._fit(stage, self.dense, "training", self.recipe.training.settings, methods)
        self.dynamics = gather.dynamics_rows(recorder.rows)
        if self.recipe.pruning is not None and world()[0] == 0:
            with atomic_write(self.folder.path / DENSE) as partial:
                save_model(self.dense, str(partial))

    def groups(self, part: PruningPart) -> Groups:
        """The groups of the dense model, found once."""
        if self._groups is None:
            self._groups = self._found(part, self.dense, "find groups")
        return self._groups

    def _found(self, part: PruningPart, model: nn.Module, name: str) -> Groups:
        with self.stage(name) as stage:
            found = find_groups(part, model, on_device(self.source.example, self.device))
            stage.text = f"{len(found)} groups, {len(found.frozen)} dimensions not prunable"
        return found

    def measure_dense(self) -> StageRow:
        """The row of the dense model."""
        part = self.recipe.pruning
        cost = _cost(self.groups(part)) if part else counts(self.dense, on_device(self.source.example, self.device))
        return self.measured("dense", self.dense, self.data.test, cost)

    def measure_prunability(self) -> PrunabilityRow | None:
        """How the dense model takes one-shot magnitude pruning, where the recipe asks for it."""
        part = self.recipe.measures.prunability
        if part is None:
            return None

        def measured() -> PrunabilityRow:
            with self.stage("measure prunability") as stage:
                self.data.train.set_epoch(0)
                found = measures.prunability(
                    self.dense,
                    self.data.test,
                    train=self.data.train if part.batches else None,
                    sparsities=part.sparsities,
                    scopes=part.scopes,
                    batches=part.batches,
                    line=part.line,
                )
                stage.text = f"{len(found.curve)} models"
            return gather.prunability_row(found)

        return self.folder.once("prunability", PrunabilityRow, measured)

    def pruned(self, part: PruningPart, turn: Round, model: nn.Module, whole: float | None) -> tuple[CutRow, nn.Module]:
        """What the cut of `model` was, with the rows measured after it, and the smaller model.

        `whole` is what the budget counts of the dense model; None where `model` is that.
        """
        return self._left_by(turn.file("cut"), CutRow, lambda: self._cut(part, turn, model, whole))

    def _left_by(
        self, stage: str, kind: type[Value], work: Callable[[], tuple[Value, nn.Module]]
    ) -> tuple[Value, nn.Module]:
        """What a stage found and the model it left: worked out now, or by an earlier process, or by the first rank."""
        made: list[nn.Module] = []

        def kept() -> Value:
            found, model = work()
            save(model, self.folder.stage(stage))
            made.append(model)
            return found

        found = self.folder.once(stage, kind, kept)
        return found, made[0] if made else load(self.source.build, self.folder.stage(stage)).to(self.device)

    def _cut(self, part: PruningPart, turn: Round, model: nn.Module, whole: float | None) -> tuple[CutRow, nn.Module]:
        rows: list[CutRow] = []
        for step in range(1, part.steps + 1):
            first = whole is None
            groups = self.groups(part) if first else self._found(part, model, turn.named("find groups"))
            whole = amount(groups, part.budget) if whole is None else whole
            with self.stage(turn.named("plan and cut")) as stage:
                scores = scores_of(part, self.recipe.the_seed, groups, self.data)
                chosen, model = cut(part, groups, scores, round_budget(part, turn.number, step, whole, groups))
                entry = _record(model)
                plan, proof = gather.plan_row(chosen, part.budget, whole, part.round_to), gather.proof_row(entry.proof)
                stage.text = f"{plan.reached} left{', proven' if proof and proof.proven else ''}"
            rows.append(
                CutRow(
                    plan=plan,
                    groups=gather.group_rows(entry),
                    frozen=gather.frozen_rows(groups),
                    proof=proof,
                    stages=self._after_cut(groups, chosen, model, turn, first) if step == part.steps else (),
                    whole=whole,
                )
            )
        return rows[-1].model_copy(update={"groups": _widths(rows[0], rows[-1])}), model

    def _after_cut(
        self, groups: Groups, chosen: Plan, small: nn.Module, turn: Round, first: bool
    ) -> tuple[StageRow, ...]:
        """The slim model as it was cut, and the masked one beside it where the two must agree.

        `first` says that the groups are those of the dense model.
        """
        test = self.data.test
        if groups.kind != "slices":
            return (self.measured("masked", small, test, costs(small), turn.shown),)
        rows = []
        cut_groups = [g for g in groups if len(chosen.keep[g.name]) < g.units]
        if self.recipe.measures.masked and first and turn.of == 1 and all(g.proof == "exact" for g in cut_groups):
            rows.append(self.measured("masked", masked(groups, chosen), test, _cost(groups)))
        return (*rows, self.measured("cut", small, test, costs(small), turn.shown))

    def reestimated(self, small: nn.Module, turn: Round) -> tuple[StageRow | None, nn.Module]:
        """The row after batch norm saw the training data anew (None where there is none), and the model."""
        if not self.recipe.batch_norm.batches or not norms_with_statistics(small):
            return None, small

        def work() -> tuple[StageRow, nn.Module]:
            with self.stage(turn.named("re-estimate batch norm")) as stage:
                self.data.train.set_epoch(0)
                layers = reestimate_batch_norm(small, self.data.train, batches=self.recipe.batch_norm.batches)
                stage.text = f"{layers} layers"
            row = self.measured("batch norm re-estimated", small, self.data.test, costs(small), turn.shown)
            return row, small

        return self._left_by(turn.file("batch-norm"), StageRow, work)

    def fine_tuned(self, small: nn.Module, turn: Round) -> list[StageRow]:
        """The row after fine-tuning, if there is any; what is masked stays zero throughout."""
        if self.recipe.fine_tuned_by() is None:
            return []
        entry, part = _record(small), self.recipe.fine_tuning
        methods = [*([HeldAtZero(entry.masks)] if entry.masks else []), *self._teachers()]
        if part.rewind is not None and part.rewind.weights is not None:
            kept = self.folder.stage("training") / "rewind.safetensors"
            rewind_weights(small, kept, entry.kept, entry.masks)
        with self.stage(turn.named("fine-tune")) as stage:
            self._fit(stage, small, turn.named("fine-tuning"), self.recipe.fine_tuned_by, methods)

        def told_of() -> StageRow:
            if turn.of > 1:
                save(small, self.folder.path / ROUNDS / str(turn.number), constructor=self.source.describe)
            return self.measured("fine-tuned", small, self.data.test, costs(small), turn.shown)

        return [self.folder.once(turn.file("fine-tuned"), StageRow, told_of)]

    def _teachers(self) -> list[Any]:
        """What the fine-tuning learns from beside the data: the dense model, moved inputs, where the recipe asks."""
        part = self.recipe.fine_tuning
        told, moved = part.distill, part.adversarial
        return [
            *([] if told is None else [Distillation(self.dense, told.weight, told.temperature)]),
            *([] if moved is None else [Adversarial(moved.epsilon, moved.weight)]),
        ]

    def _fit(
        self, stage: Stage, model: nn.Module, name: str, settings: Callable[..., Training | None], methods: list[Any]
    ) -> nn.Module:
        """The model after one training, resumed if there is something to resume; the stage says what came out."""
        place = self.folder.stage(name.replace(" ", "-"))
        made = settings(
            seed=self.recipe.the_seed,
            checkpoint=place,
            log=self.folder.path / LOGS / place.name,
            progress=self.progress.bars,
        )
        assert made is not None
        total = made.epochs

        def on_epoch(row: Epoch) -> None:
            stage.keep_time()
            self.progress.epoch(row, total)

        try:
            history = fit(model, self.data, methods=methods, settings=dataclasses.replace(made, on_epoch=on_epoch))
        except TrainingError as error:
            kept = f" Its last good epoch is kept in {place}." if any(place.glob("*.safetensors")) else ""
            raise TrainingError(
                f"The {name} of the run stopped. {error}{kept} With another recipe, name another output folder."
            ) from error
        if history.ema is not None:
            history.model.load_state_dict(history.ema)
        self.curves.append(gather.curve(name, history))
        last = history.rows[-1]
        held_out = f", validation {last.val_accuracy:.2%}" if last.val_accuracy is not None else ""
        stage.text = f"{len(history.rows)} epochs, loss {last.train_loss:.3f}{held_out}"
        return history.model


class HeldAtZero:
    """A method that keeps masked weights at exactly zero, whatever the optimizer does."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = dict(masks)

    def after_step(self, state: State) -> None:
        """Set them to zero again."""
        apply_masks(state.model, self._masks)


def _record(small: nn.Module) -> Record:
    entry = record(small)
    assert entry is not None
    return entry


def _cost(groups: Groups) -> dict[str, int]:
    """The costs of a model as it is."""
    return {"macs": groups.cost_model.dense.macs, "params": groups.cost_model.dense.params}


def _widths(first: CutRow, last: CutRow) -> tuple[GroupRow, ...]:
    """The widths after the last cut beside those before the first."""
    before = {group.name: group.before for group in first.groups}
    after = {group.name: group for group in last.groups}
    missing = [group for group in first.groups if group.name not in after]
    return (
        *(g.model_copy(update={"before": before.get(g.name, g.before)}) for g in last.groups),
        *missing,
    )
