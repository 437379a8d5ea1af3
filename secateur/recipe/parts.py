"""The parts of a recipe: what each key is, its default, and what it must be.

Defaults that belong to a stage are read from that stage, so that they stand in one place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from secateur import data, measures
from secateur.errors import InputError
from secateur.training import reestimate_batch_norm


def default(function: Callable[..., Any], name: str) -> Any:
    """The default that a function (or a dataclass) of a stage gives its parameter."""
    return inspect.signature(function).parameters[name].default


class Part(BaseModel):
    """What every part of a recipe has in common: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class ModelPart(Part):
    """The network."""

    spec: str
    """"zoo:NAME", "torchvision:NAME", "timm:NAME" or "path/to/file.py:function"."""
    classes: int | None = Field(default=None, ge=1)
    """How many outputs; null is what the data set has."""
    weights: str | None = None
    """A .safetensors, .pth, .th, .pt or .bin file, also one in SECATEUR_WEIGHTS; null: as the model is initialised."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the constructor."""


class DataPart(Part):
    """The data set."""

    name: str
    """digits, mnist, fashion, cifar10, cifar100, a table (breast_cancer, wine, diabetes), or folder: a root with train,
    val and test, a folder a class."""
    root: str | None = None
    """The folder with its files; null is the one that SECATEUR_DATA names."""
    mean: tuple[float, ...] | None = None
    """Of the normalisation, one number a channel: that of the weights; null is the data set's own."""
    std: tuple[float, ...] | None = None
    """As mean."""
    batch_size: int = Field(default=default(data.load, "batch_size"), ge=1)
    """Images in a batch of training."""
    eval_batch_size: int = Field(default=default(data.load, "eval_batch_size"), ge=1)
    """Images in a batch of validation and test."""
    validation: float | None = Field(default=None, ge=0, lt=1)
    """The share of train that is split off; null is 0 with given weights, which have seen all of train, else 0.1."""
    augment: bool | str = default(data.load, "augment")
    """true: as is usual for the data set; false: not at all; or names, as in "corrupt crop flip cutout=0.25"."""
    limit: int | None = Field(default=default(data.load, "limit"), ge=1)
    """At most so many training images."""
    download: bool = default(data.load, "download")
    """Fetch the files where they are missing."""
    size: int | None = Field(default=default(data.load, "size"), ge=1)
    """Of a folder: the side of the inputs; null is 224."""
    workers: int | None = Field(default=default(data.load, "workers"), ge=0)
    """Of a folder: processes that read images; null: one a core, at most 8."""


class BatchNormPart(Part):
    """Re-estimation of batch-norm statistics after a cut, without training."""

    batches: int = Field(default=default(reestimate_batch_norm, "batches"), ge=0)
    """Batches of training data that the statistics are estimated from; 0 leaves them."""


class PrunabilityPart(Part):
    """How the dense model takes one-shot magnitude pruning, untrained afterwards; null: not measured."""

    sparsities: tuple[float, ...] = default(measures.prunability, "sparsities")
    """The shares of the weights that are set to zero."""
    scopes: tuple[Literal["global", "layer"], ...] = default(measures.prunability, "scopes")
    """One threshold for all layers, the same share of each, or both."""
    batches: int = Field(default=default(measures.prunability, "batches"), ge=0)
    """Batches of training data that batch norm is estimated from anew, beside the result without; 0: without alone."""
    line: int = Field(default=default(measures.prunability, "line"), ge=0)
    """Losses on the way from the dense model to the one without its smaller half."""

    @field_validator("sparsities")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 <= share <= 1 for share in value):
            raise InputError(f"must be numbers in [0, 1]. Got {list(value)!r} instead.")
        return value


class MeasuresPart(Part):
    """What is measured beside accuracy, parameters and MACs."""

    masked: bool = True
    """Also the accuracy of the dense shapes with removed units at zero: what the proof says, seen on the test data."""
    latency: bool = True
    """Time dense and slim in turn."""
    batch: int = Field(default=1, ge=1)
    """Inputs of one timed call."""
    runs: int = Field(default=default(measures.latency, "runs"), ge=1)
    """Timed calls of each model."""
    warmup: int = Field(default=default(measures.latency, "warmup"), ge=0)
    """Calls before them that are not counted."""
    threads: int | None = Field(default=default(measures.latency, "threads"), ge=1)
    """Threads of the CPU; null: as torch is set."""
    confidence: float = Field(default=default(measures.accuracy, "confidence"), gt=0, lt=1)
    """Of the interval around an accuracy."""
    prunability: PrunabilityPart | None = None
    """How the dense model takes one-shot magnitude pruning; null: not measured."""
    dynamics: int = Field(default=0, ge=0)
    """Every how many steps of the dense training weights and gradients are looked at; 0: never."""
