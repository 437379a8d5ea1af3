"""The recipe of a run: one schema for everything a run can be told, as YAML and as Python.

A recipe that is written out names every value, so that it still means the same run when a default has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from secateur import data
from secateur.errors import InputError
from secateur.files import atomic_write
from secateur.recipe import text
from secateur.recipe.parts import BatchNormPart, DataPart, MeasuresPart, ModelPart, Part, default
from secateur.recipe.pruning import MethodPart, PruningPart
from secateur.recipe.text import Written
from secateur.recipe.trainings import DenseTrainingPart, FineTuningPart, TrainingPart
from secateur.recipe.wrong import MisfitError, told
from secateur.training.rewinding import repeated
from secateur.training.settings import Training

VERSION = 1
"""The version of the schema; a recipe of a later one is refused."""

AFTER_CUT = ("fine_tuning", "batch_norm")
"""The parts of a recipe that a dense run does not have."""

Seed = Annotated[int, Field(ge=0)]


class Recipe(Part):
    """Everything that decides a run; the same recipe gives the same numbers on the same hardware.

    >>> recipe = Recipe.load("recipe.yaml")
    >>> recipe = Recipe.of({"model": {"spec": "zoo:resnet20"}, "data": {"name": "cifar10"}, "training": {"epochs": 60}})
    """

    version: int = Field(default=VERSION, ge=1)
    """Of the schema."""
    model: ModelPart
    data: DataPart
    training: DenseTrainingPart = DenseTrainingPart()
    pruning: PruningPart | None = PruningPart()
    batch_norm: BatchNormPart = BatchNormPart()
    fine_tuning: FineTuningPart = FineTuningPart()
    measures: MeasuresPart = MeasuresPart()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA device where there is one."""
    seed: Seed | tuple[Seed, ...] = default(Training, "seed")
    """Of every random draw; several, as in [0, 1, 2], are one run each."""
    out: str | None = None
    """The folder for the report, the checkpoint and the numbers."""

    @field_validator("seed")
    @classmethod
    def _different(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise InputError(f"must be a number, or several that differ. Got {list(value)!r} instead.")
        return value

    @model_validator(mode="after")
    def _trained(self) -> Recipe:
        """See that the model's weights come from somewhere: a function in the user's file may bring its own."""
        trained = self.training.epochs or (self.method is not None and self.fine_tuning.epochs)
        if self.model.weights is None and not trained and ".py:" not in self.model.spec:
            raise InputError(
                "must say where the model's weights come from: give the file 'model.weights', or at least 1 "
                "'training.epochs' to train from scratch."
            )
        return self

    @model_validator(mode="after")
    def _nothing_after_no_cut(self) -> Recipe:
        """See that a dense run is not asked for what comes after a cut."""
        given = [name for name in AFTER_CUT if name in self.model_fields_set]
        if self.pruning is None and given:
            raise MisfitError(given[0], "must be left out: 'pruning' is null, and nothing is cut.")
        return self

    @model_validator(mode="after")
    def _method_trains(self) -> Recipe:
        """See that a method that prunes while the network trains has a training, and nothing that belongs to a cut."""
        if self.method is None:
            return self
        if not self.fine_tuning.epochs:
            raise MisfitError(
                "fine_tuning.epochs", "must be at least 1: 'pruning.method' prunes meanwhile. Got 0 instead."
            )
        if self.fine_tuning.rewind is not None:
            raise MisfitError("fine_tuning.rewind", "must be null: 'pruning.method' prunes while it trains.")
        if "batch_norm" in self.model_fields_set:
            raise MisfitError("batch_norm", "must be left out: 'pruning.method' prunes while batch norm sees the data.")
        return self

    @model_validator(mode="after")
    def _has_snapshots(self) -> Recipe:
        """See that there are snapshots to fine-tune where that is asked."""
        taken = self.method is not None and self.method.options.get("snapshots")
        if self.fine_tuning.snapshots and not taken:
            why = "'pruning.method.options' ask for no 'snapshots'"
            found = f"Got {self.fine_tuning.snapshots} instead"
            raise MisfitError("fine_tuning.snapshots", f"must be 0: {why}. {found}.")
        return self

    @model_validator(mode="after")
    def _can_go_back(self) -> Recipe:
        """See that the training has the epochs to go back to, and that a repeated one is told nothing else."""
        rewind = self.fine_tuning.rewind
        if rewind is None:
            return self
        if rewind.weights is not None and rewind.weights > self.training.epochs:
            epochs = f"an epoch of the training, 0 to {self.training.epochs}"
            raise MisfitError("fine_tuning.rewind.weights", f"must be {epochs}. Got {rewind.weights} instead.")
        if rewind.schedule is None:
            return self
        for name in TrainingPart.model_fields:
            if name in self.fine_tuning.model_fields_set:
                why = "'fine_tuning.rewind.schedule' repeats 'training' as it was"
                raise MisfitError(f"fine_tuning.{name}", f"must be left out: {why}.")
        try:
            repeated(self.training.settings(checkpoint=Path(), log=Path()), rewind.schedule)
        except InputError as error:
            raise MisfitError("fine_tuning.rewind.schedule", str(error)) from error
        return self

    @property
    def method(self) -> MethodPart | None:
        """The method that prunes while the network trains, if there is one."""
        return self.pruning.method if self.pruning is not None else None

    @property
    def validation(self) -> float:
        """The share of train that is split off."""
        if self.data.validation is not None:
            return self.data.validation
        share: float = default(data.load, "validation")
        return 0.0 if self.model.weights else share

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, one a run."""
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)

    @property
    def the_seed(self) -> int:
        """The seed of a recipe that is one run. Raises `InputError` if it is several."""
        if isinstance(self.seed, tuple):
            raise InputError(f"A run must have one 'seed'. The recipe has {list(self.seed)}; carry out each by itself.")
        return self.seed

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe as one run."""
        return self.model_copy(update={"seed": seed})

    def fine_tuned_by(self, **more: Any) -> Training | None:
        """What `fit` takes after a cut, with `more` fields that a recipe does not have; None for no training."""
        part = self.fine_tuning
        if part.rewind is not None and part.rewind.schedule is not None:
            return repeated(self.training.settings(**more), part.rewind.schedule)
        return part.settings(**more) if part.epochs else None

    def snapshots_tuned_by(self, **more: Any) -> Training | None:
        """What `fit` takes for a snapshot under its mask, with `more` fields; None for no training."""
        part = self.fine_tuning
        return part.model_copy(update={"epochs": part.snapshots}).settings(**more) if part.snapshots else None

    @classmethod
    def of(cls, values: Any, where: str = "recipe") -> Recipe:
        """The recipe of nested plain values. Raises `InputError` that names the key and what must hold."""
        return cls.written(Written(values, where))

    @classmethod
    def written(cls, given: Written) -> Recipe:
        """The recipe that was written; an error tells the place of what is wrong."""
        if not isinstance(given.values, Mapping):
            raise InputError(
                f"The {given.where} must be a mapping with the keys 'model' and 'data'. Got {given.values!r} instead."
            )
        version = given.values.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise InputError(
                f"The 'version' of the {given.at(('version',))} must be at most {VERSION}. Got {version} instead: it "
                "was written for a newer Secateur. Update this one."
            )
        try:
            return cls.model_validate(given.values)
        except ValidationError as error:
            raise InputError(told(cls, error, given)) from error

    @classmethod
    def from_yaml(cls, source: str, where: str = "recipe") -> Recipe:
        """The recipe in a YAML text. Raises `InputError` as `of` does, and for text that is no YAML."""
        return cls.written(text.parse(source, where))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a file."""
        return cls.written(text.read(path))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, every default written out; without `out`, which decides no number.

        Keys that this recipe has no use for are left out: what comes after a cut where there is none, what belongs to
        a cut where a method prunes, and the training of `fine_tuning` where that of the dense model is repeated.
        """
        unused: dict[str, Any] = {"out": True}
        if self.pruning is None:
            unused |= dict.fromkeys(AFTER_CUT, True)
        elif self.method is not None:
            unused |= {"batch_norm": True, "pruning": set(self.pruning.unused)}
        elif self.fine_tuning.rewind is not None and self.fine_tuning.rewind.schedule is not None:
            unused["fine_tuning"] = set(TrainingPart.model_fields)
        values: dict[str, Any] = self.model_dump(mode="json", exclude=unused)
        return values

    def to_yaml(self) -> str:
        """The recipe as YAML that `from_yaml` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML."""
        with atomic_write(path) as partial_file:
            partial_file.write_text(self.to_yaml(), encoding="utf-8")
