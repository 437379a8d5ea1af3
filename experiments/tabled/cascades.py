"""Cascades under shifts: what `experiments/shifts.py` keeps of every round of a cascade, read back by experiment.

A result lies in `results/QUESTION/shifts/STRENGTHS/NAME.json`, beside `results/QUESTION/NAME.json` of the run that left
the rounds; the two must be of one recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.folder import completed, differences
from secateur.measures.excess import excess_difference
from secateur.report.record import Hardware, Row, RunRecord
from secateur.report.trust_record import NOMINAL, PotentialRow, TrustRecord
from tabled.common import RESULTS

FOLDER = "shifts"
Own = TypeVar("Own", bound="Beside")


class Shift(Row):
    """One shift: the error of every model, the dense one first, and how far the cascade holds."""

    kind: str
    severity: int
    errors: tuple[float, ...]
    potential: PotentialRow


class Noise(Row):
    """Noise over its levels; accuracies, agreements with the dense model and distances are [models][levels]."""

    epsilons: tuple[float, ...]
    draws: int
    images: int
    potential: tuple[float, ...]
    deviation: tuple[float, ...]
    accuracies: tuple[tuple[float, ...], ...]
    agreements: tuple[tuple[float, ...], ...]
    distances: tuple[tuple[float, ...], ...]


class Beside(Row):
    """What was measured of a finished run, kept beside its record."""

    experiment: str
    model: str
    data: str
    recipe: dict[str, Any]
    seeds: tuple[int, ...]
    versions: dict[str, str]
    hardware: Hardware

    def save(self, path: Path) -> None:
        """Write it as JSON, moved into place when it is whole."""
        with atomic_write(path) as partial:
            partial.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[Own], path: Path) -> Own:
        """The result saved at `path`. Raises `CheckpointError` for a damaged file."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, ValidationError) as error:
            raise CheckpointError(f"The result {path} is damaged: {error}. Remove it to make it anew.") from error


class Cascade(Beside):
    """All rounds of one cascade under all shifts; `ratios` are shares of the dense parameters gone, its own being 0.

    `seconds` are those of the run that left the rounds, and of their evaluation.
    """

    strengths: str
    images: int
    margin: float
    settings: dict[str, Any]
    ratios: tuple[float, ...]
    params: tuple[int, ...]
    shifts: tuple[Shift, ...]
    noise: Noise
    seconds: dict[str, float]

    @classmethod
    def of(cls, experiment: str, run: RunRecord, found: TrustRecord, told: Mapping[str, Any]) -> Cascade:
        """The result of an evaluation of the rounds of a run; `told` are the versions and the machine."""
        assert found.noise is not None
        places = (0, *found.pruned)
        return cls(
            experiment=experiment, model=run.model, data=run.data, recipe=run.recipe, seeds=run.seeds,
            strengths=found.strengths, images=found.images, margin=found.margin, settings=found.settings,
            ratios=tuple(found.models[i].ratio for i in places), params=tuple(found.models[i].params for i in places),
            shifts=tuple(
                Shift(kind=row.kind, severity=row.severity, potential=row.potential,
                      errors=tuple(round(1 - row.answers[i].accuracy.value, 6) for i in places))
                for row in found.sheets if row.potential is not None
            ),
            noise=_noise(found, places),
            seconds={"run": round(sum(run.seconds.values()), 1), "evaluation": round(sum(found.seconds.values()), 1)},
            **told,
        )  # fmt: skip

    @property
    def nominal(self) -> Shift:
        """The images as they are."""
        return next(row for row in self.shifts if row.kind == NOMINAL)

    @property
    def shifted(self) -> tuple[Shift, ...]:
        """All shifts but that."""
        return tuple(row for row in self.shifts if row.kind != NOMINAL)

    def excess(self) -> list[tuple[float, float]]:
        """Of every pruned model its ratio and its excess error over the shifts less the dense model's."""
        rows, own = self.shifted, self.nominal.errors
        dense = [row.errors[0] for row in rows]
        return [
            (self.ratios[i], excess_difference(own[0], own[i], dense, [row.errors[i] for row in rows]))
            for i in range(1, len(self.ratios))
        ]


def _noise(found: TrustRecord, places: tuple[int, ...]) -> Noise:
    row = found.noise
    assert row is not None
    levels = [row.levels[i] for i in places]
    return Noise(
        epsilons=row.epsilons,
        draws=row.draws,
        images=row.images,
        potential=row.potential,
        deviation=row.potential_deviation,
        accuracies=tuple(tuple(round(level.accuracy, 6) for level in own) for own in levels),
        agreements=tuple(tuple(round(level.agreement, 6) for level in own) for own in levels),
        distances=tuple(tuple(round(level.distance, 6) for level in own) for own in levels),
    )


@cache
def cascades(question: str, results: Path = RESULTS) -> dict[tuple[str, str], list[Cascade]]:
    """The results of a question by strengths and experiment ("lenet_300_100_wt"), one a seed.

    Raises `CheckpointError` for a damaged file, `InputError` for one without its run, or of another recipe than that.
    """
    found: dict[tuple[str, str], list[Cascade]] = {}
    for name, cascade in beside(Cascade, results / question, f"{FOLDER}/*/*.json"):
        found.setdefault((cascade.strengths, name), []).append(cascade)
    return found


def beside(kind: type[Own], folder: Path, pattern: str) -> Iterator[tuple[str, Own]]:
    """What lies beside the runs of `folder`, with the name of the experiment, which several seeds share.

    Raises `CheckpointError` for a damaged file, `InputError` for one without its run, or of another recipe than that.
    """
    for path in sorted(folder.glob(pattern)):
        found, own = kind.load(path), folder / path.name
        if not own.exists():
            raise InputError(f"The result {path} must lie beside {own}, the run that left its models. It is not there.")
        differing = differences(completed(RunRecord.load(own).recipe), completed(found.recipe))
        if differing:
            raise InputError(
                f"The result {path} must be of the recipe of {own}. These differ: {', '.join(differing[:5])}. Remove "
                "it and evaluate again."
            )
        yield re.sub(r"-seed\d+$", "", path.stem), found
