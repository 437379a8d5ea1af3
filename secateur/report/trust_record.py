"""The record of an evaluation beyond test accuracy: every number behind the page's section on trust.

Errors, accuracies and prune ratios are shares in [0, 1]. Tuples over models come in the order of `models`, tuples over
pruned models in the order in which they stand there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from secateur.errors import CheckpointError
from secateur.files import atomic_write
from secateur.report.record import AccuracyRow, Row

FORMAT = 1
NOMINAL = "nominal"
Role = Literal["dense", "pruned", "control"]


class ModelRow(Row):
    """A model that was compared; `ratio` is the share of the dense model's non-zero parameters that it lacks."""

    name: str
    role: Role
    params: int
    nonzero: int
    ratio: float
    computed: str = ""


class AnswersRow(Row):
    """How one model answered a set of images."""

    accuracy: AccuracyRow
    nll: float
    brier: float
    ece: float
    aurc: float


class FlipsRow(Row):
    """How many answers differ from the dense model's, were right and are wrong, or the reverse; McNemar's p-value."""

    changed: int
    negative: int
    positive: int
    p_value: float


class PotentialRow(Row):
    """A prune potential with its bootstrap interval; `safe` is the ratio up to which worse is ruled out."""

    value: float
    contiguous: float
    interpolated: float
    censored: bool
    low: float
    high: float
    safe: float


class MetricRow(Row):
    """A metric of the user's under one shift, one value a model, and how far it holds; None without a pruned ratio."""

    name: str
    values: tuple[float, ...]
    potential: PotentialRow | None = None


class SheetRow(Row):
    """All models on all images under one shift; severity 0 is that of images as they are."""

    kind: str
    severity: int
    answers: tuple[AnswersRow, ...]
    flips: tuple[FlipsRow | None, ...]
    potential: PotentialRow | None = None
    metrics: tuple[MetricRow, ...] = ()


class BinRow(Row):
    """One bin of a reliability diagram."""

    low: float
    high: float
    number: int
    confidence: float
    accuracy: float


class CalibrationRow(Row):
    """How well one model's confidence fits, before and after the temperature."""

    bins: tuple[BinRow, ...]
    ece: float
    mce: float
    nll: float
    brier: float
    temperature: float
    ece_after: float
    nll_after: float
    brier_after: float
    aurc: float
    aurc_excess: float


class ClassRow(Row):
    """A class before and after; the p-value is corrected for the number of classes."""

    label: int
    name: str
    images: int
    before: float
    after: float
    p_value: float


class WorstRow(Row):
    """An image that the dense model gets right and the pruned one wrong; `picture` is a data URI."""

    kind: str
    severity: int
    model: str
    index: int
    label: str
    answered: str
    confidence: float
    picture: str


class NominalRow(Row):
    """What is told of the images as they are, beside the sheet."""

    calibration: tuple[CalibrationRow, ...]
    classes: tuple[tuple[ClassRow, ...], ...]


class LevelRow(Row):
    """One model at one level of noise, means and deviations over draws."""

    agreement: float
    agreement_deviation: float
    distance: float
    distance_deviation: float
    accuracy: float
    accuracy_deviation: float


class NoiseRow(Row):
    """All models over levels of noise; `levels` is [models][epsilons]. Potentials are means over draws."""

    epsilons: tuple[float, ...]
    draws: int
    images: int
    levels: tuple[tuple[LevelRow, ...], ...]
    potential: tuple[float, ...] = ()
    potential_deviation: tuple[float, ...] = ()


class DetectionRow(Row):
    """How one score tells known images from strange ones."""

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float


class OodRow(Row):
    """Detection of one kind of strange images, one entry a model; energy is None for outputs in probabilities."""

    name: str
    images: int
    msp: tuple[DetectionRow, ...]
    energy: tuple[DetectionRow | None, ...]


class AdversarialRow(Row):
    """Accuracy under attack on the same images, one entry a model; an attack of another package tells no `steps`."""

    kind: str
    epsilon: float
    steps: int | None
    accuracies: tuple[AccuracyRow, ...]


class FeaturesRow(Row):
    """Confidence in the true class, [from][on]: a model sees only the pixels that another ranks highest.

    `exact`: ranked by BackSelect itself and not by gradients.
    """

    images: int
    share: float
    confidence: tuple[tuple[float, ...], ...]
    exact: bool = False


class PopulationRow(Row):
    """Several trainings of the same models on the same images under one shift.

    `ratios` are means over the trainings; `potentials` one a training, with the interval [`low`, `high`] of their mean
    and the ratio up to which worse is ruled out; `classes` and `exemplars` (numbers of images) are those of the most
    pruned models; `identified` and `rest` hold the mean accuracy of dense and pruned models on them and on the others.
    """

    kind: str
    severity: int
    nets: int
    ratios: tuple[float, ...]
    potentials: tuple[float, ...]
    low: float
    high: float
    safe: float
    classes: tuple[ClassRow, ...]
    exemplars: tuple[int, ...]
    identified: tuple[float, float]
    rest: tuple[float, float]


class TrustRecord(Row):
    """Everything that an evaluation found out.

    >>> TrustRecord.load("out/trust.json").at("fog", 3).potential
    """

    format: int = FORMAT
    data: str
    images: int
    strengths: str
    seed: int
    margin: float
    models: tuple[ModelRow, ...]
    sheets: tuple[SheetRow, ...]
    nominal: NominalRow | None = None
    worst: tuple[WorstRow, ...] = ()
    noise: NoiseRow | None = None
    ood: tuple[OodRow, ...] = ()
    adversarial: AdversarialRow | None = None
    features: FeaturesRow | None = None
    populations: tuple[PopulationRow, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def pruned(self) -> list[int]:
        """The places of the pruned models, the least pruned first."""
        found = [i for i, model in enumerate(self.models) if model.role == "pruned"]
        return sorted(found, key=lambda i: self.models[i].ratio)

    def at(self, kind: str, severity: int) -> SheetRow | None:
        """One sheet, or None if it was not evaluated."""
        return next((row for row in self.sheets if (row.kind, row.severity) == (kind, severity)), None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The corruptions, in order."""
        return tuple(dict.fromkeys(row.kind for row in self.sheets if row.severity))

    def save(self, path: str | Path) -> None:
        """Write the record as JSON."""
        with atomic_write(path) as partial:
            partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> TrustRecord:
        """The record saved at `path`. Raises `CheckpointError` where it is missing, damaged, or of a later version."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise CheckpointError(
                    f"The record {path} must have format {FORMAT}. Got {values['format']!r} instead; read it with the "
                    "version of secateur that wrote it."
                )
            return cls.model_validate(values)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The record {path} cannot be read: {error}. Remove it and evaluate again."
            ) from error
