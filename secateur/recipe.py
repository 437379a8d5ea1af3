"""The recipe of a run: one schema for everything a run can be told, as YAML and as Python.

Defaults that belong to a stage are read from that stage, so that they stand in one place; a recipe that is written out
names every value, so that it still means the same run when a default has changed.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from secateur import criteria, data, measures, planning
from secateur.errors import InputError
from secateur.files import atomic_write
from secateur.training import reestimate_batch_norm
from secateur.training.settings import Training

CRITERIA: dict[str, Callable[..., criteria.Scores]] = {
    "magnitude": criteria.magnitude,
    "norm_scale": criteria.norm_scale,
    "taylor": criteria.taylor,
    "random": criteria.random,
}
"""What `pruning.criterion` can name."""

SET_BY_RUN = ("groups", "batches", "loss", "seed")
"""Parameters of criteria that a run fills in by itself."""

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def default(function: Callable[..., Any], name: str) -> Any:
    """The default that a function (or a dataclass) of a stage gives its parameter."""
    return inspect.signature(function).parameters[name].default


class Part(BaseModel):
    """What every part of a recipe has in common: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelPart(Part):
    """The network.

    spec     "zoo:NAME", "torchvision:NAME", "timm:NAME", "transformers:CLASS" or "path/to/file.py:function"
    classes  how many outputs; None is what the data set has
    weights  a .safetensors, .pth, .th, .pt or .bin file; None: from scratch, or as a file's function gives it
    kwargs   further arguments of the constructor
    """

    spec: str
    classes: int | None = Field(default=None, ge=1)
    weights: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)


class DataPart(Part):
    """The data set.

    root        the folder with its published files; None is the one named by SECATEUR_DATA
    mean, std   of the normalisation, one number a channel: those of the weights; None is the data set's own
    validation  the share of train that is split off; None is 0 with given weights, which have seen all of train
    limit       at most so many training images
    """

    name: str
    root: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int = Field(default=default(data.load, "batch_size"), ge=1)
    eval_batch_size: int = Field(default=default(data.load, "eval_batch_size"), ge=1)
    validation: float | None = Field(default=None, ge=0, lt=1)
    augment: bool = default(data.load, "augment")
    limit: int | None = Field(default=default(data.load, "limit"), ge=1)
    download: bool = default(data.load, "download")


class PruningPart(Part):
    """What is removed.

    units      "channels" (and heads) make a smaller model; "weights" and "blocks" set entries to zero
    block      rows and columns of a block
    budget     what remains: "50% macs", "2x macs", "1.2M params"; "10% weights" for weights and blocks
    criterion  "magnitude", "norm_scale", "taylor" or "random", with `options` for it
    batches    of training data that a criterion with gradients looks at
    keep       modules, names, shell patterns or "re:..." of what stays whole
    verify     prove the cut
    The rest are parameters of `secateur.plan`.
    """

    units: Literal["channels", "weights", "blocks"] = "channels"
    block: tuple[int, int] = (4, 1)
    budget: str = "50% macs"
    criterion: str = "magnitude"
    options: dict[str, Any] = Field(default_factory=dict)
    batches: int = Field(default=10, ge=1)
    allocation: Literal["global", "local", "uniform"] = default(planning.plan, "allocation")
    round_to: int = Field(default=default(planning.plan, "round_to"), ge=1)
    minimum: float | None = Field(default=default(planning.plan, "minimum"), ge=0)
    keep: tuple[str, ...] = default(planning.plan, "keep")
    verify: bool = True

    @field_validator("budget")
    @classmethod
    def _readable(cls, value: str) -> str:
        planning.Budget.parse(value)
        return value

    @field_validator("criterion")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CRITERIA:
            raise InputError(f"must be one of {', '.join(CRITERIA)}. Got {value!r} instead.{_nearest(value, CRITERIA)}")
        return value

    @model_validator(mode="after")
    def _options_fit(self) -> PruningPart:
        taken = [name for name in inspect.signature(CRITERIA[self.criterion]).parameters if name not in SET_BY_RUN]
        for name in self.options:
            if name not in taken:
                hint = _nearest(name, taken) or f" It takes {', '.join(taken) or 'none'}."
                raise InputError(f"{self.criterion} has no option '{name}'.{hint}")
        return self


_SGD: Mapping[str, Any] = default(Training, "optimizer").keywords


class TrainingPart(Part):
    """One training: the parameters of `secateur.training.fit` and of its optimizer. No epochs: no training."""

    epochs: int = Field(default=0, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=_SGD["lr"], gt=0)
    momentum: float = Field(default=_SGD["momentum"], ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=_SGD["weight_decay"], ge=0)
    schedule: str = default(Training, "schedule")
    milestones: tuple[float, ...] = default(Training, "milestones")
    gamma: float = default(Training, "gamma")
    warmup: float = default(Training, "warmup")
    label_smoothing: float = default(Training, "label_smoothing")
    clip: float | None = default(Training, "clip")
    decay_norm: bool = default(Training, "decay_norm")
    precision: Literal["auto", "fp32", "bf16"] = default(Training, "precision")
    channels_last: bool | Literal["auto"] = default(Training, "channels_last")

    @model_validator(mode="after")
    def _accepted_by_fit(self) -> TrainingPart:
        if self.epochs:
            self.settings()
        return self

    def settings(self, **more: Any) -> Training:
        """What `fit` takes; `more` are its fields that a recipe does not have."""
        own = ("optimizer", "lr", "momentum", "nesterov", "weight_decay")
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in own}
        return Training(optimizer=self._optimizer(), **fields, **more)

    def _optimizer(self) -> partial[torch.optim.Optimizer]:
        keywords: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            keywords |= {"momentum": self.momentum, "nesterov": self.nesterov}
        return partial(OPTIMIZERS[self.optimizer], **keywords)


class FineTuningPart(TrainingPart):
    """The training after the cut: shorter and gentler than one from scratch."""

    epochs: int = Field(default=10, ge=0)
    lr: float = Field(default=0.01, gt=0)


class BatchNormPart(Part):
    """How many batches of training data the statistics of batch norm are estimated anew from; 0 leaves them."""

    batches: int = Field(default=default(reestimate_batch_norm, "batches"), ge=0)


class MeasuresPart(Part):
    """What is measured beside accuracy, parameters and MACs.

    masked   the accuracy of the dense shapes with removed units at zero: what the proof says, seen on the test data
    latency  of dense and slim in turn, with `batch` inputs, `runs` times after `warmup`; threads None: as torch is set
    """

    masked: bool = True
    latency: bool = True
    batch: int = Field(default=1, ge=1)
    runs: int = Field(default=default(measures.latency, "runs"), ge=1)
    warmup: int = Field(default=default(measures.latency, "warmup"), ge=0)
    threads: int | None = Field(default=default(measures.latency, "threads"), ge=1)
    confidence: float = Field(default=default(measures.accuracy, "confidence"), gt=0, lt=1)


class Recipe(Part):
    """Everything that decides a run; the same recipe gives the same numbers on the same hardware.

    >>> recipe = Recipe.load("recipe.yaml")
    >>> recipe = Recipe.of({"model": {"spec": "zoo:resnet20"}, "data": {"name": "cifar10"}, "training": {"epochs": 60}})
    """

    model: ModelPart
    data: DataPart
    pruning: PruningPart = PruningPart()
    training: TrainingPart = TrainingPart()
    fine_tuning: FineTuningPart = FineTuningPart()
    batch_norm: BatchNormPart = BatchNormPart()
    measures: MeasuresPart = MeasuresPart()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=default(Training, "seed"), ge=0)
    out: str | None = None

    @model_validator(mode="after")
    def _trained(self) -> Recipe:
        """See that the model's weights come from somewhere: a function in the user's file may bring its own."""
        if self.model.weights is None and not self.training.epochs and ".py:" not in self.model.spec:
            raise InputError(
                "must say where the model's weights come from: give the file 'model.weights', or at least 1 "
                "'training.epochs' to train from scratch."
            )
        return self

    @property
    def validation(self) -> float:
        """The share of train that is split off."""
        if self.data.validation is not None:
            return self.data.validation
        share: float = default(data.load, "validation")
        return 0.0 if self.model.weights else share

    @classmethod
    def of(cls, values: Any, where: str = "recipe") -> Recipe:
        """The recipe of nested plain values. Raises `InputError` that names the key and what must hold."""
        if not isinstance(values, Mapping):
            raise InputError(f"The {where} must be a mapping with the keys 'model' and 'data'. Got {values!r} instead.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_told(cls, error, where)) from error

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Recipe:
        """The recipe in a YAML text. Raises `InputError` as `of` does, and for text that is no YAML."""
        return cls.of(parse_yaml(text, where), where)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a file."""
        return cls.of(read_yaml(path), f"recipe {path}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, every default written out; without `out`, which decides no number."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"out"})
        return values

    def to_yaml(self) -> str:
        """The recipe as YAML that `from_yaml` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML."""
        with atomic_write(path) as partial_file:
            partial_file.write_text(self.to_yaml(), encoding="utf-8")


def read_yaml(path: str | Path) -> Any:
    """The plain values in a YAML file. Raises `InputError` if it is missing or no YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}.") from error
    return parse_yaml(text, f"recipe {path}")


def parse_yaml(text: str, where: str) -> Any:
    """The plain values in a YAML text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"The {where} is not YAML{place}: {getattr(error, 'problem', error)}.") from error


def changed(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested values with the one at a dotted key set, its parents made where they are missing.

    >>> changed({"pruning": {"round_to": 8}}, "pruning.budget", "2x macs")
    {'pruning': {'round_to': 8, 'budget': '2x macs'}}
    """
    head, _, rest = key.partition(".")
    inner = values.get(head)
    return {**values, head: changed(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


def _told(root: type[Part], error: ValidationError, where: str) -> str:
    """The first thing that is wrong with a recipe, in a sentence."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    path = ".".join(keys)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _keys_at(root, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        hint = f"Did you mean '{'.'.join([*keys[:-1], near[0]])}'?" if near else f"It takes {', '.join(known)}."
        return f"The {where} has no key '{path}'. {hint}"
    if first["type"] == "missing":
        return f"The {where} must have the key '{path}'."
    if not path:
        return f"The {where} {message}"
    if first["type"] == "value_error":
        return (
            f"The '{path}' of the {where} {message}"
            if message.startswith("must ")
            else f"{message} ({where}, '{path}')"
        )
    if first["type"] in ("model_type", "dict_type"):
        message = "a mapping"
    expected = message.removeprefix("Input should be ").removeprefix("Input must be ")
    expected = expected.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"The '{path}' of the {where} must be {expected.partition(', unable')[0]}. Got {first['input']!r} instead."


def _keys_at(root: type[Part], keys: list[str]) -> list[str]:
    """The keys that a recipe has at a place."""
    model: type[BaseModel] = root
    for key in keys:
        kind = model.model_fields[key].annotation if key in model.model_fields else None
        inner = get_args(kind)[0] if isinstance(kind, UnionType) else kind
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
