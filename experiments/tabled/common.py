"""What all tables are made of: results by experiment, Markdown, means with their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from secateur.report.record import RunRecord, SnapshotRow, StageRow
from secateur.report.seeds import spread
from secateur.run.experiments import kept

ROOT = Path(__file__).resolve().parents[2]
RESULTS, EXPERIMENTS = ROOT / "results", ROOT / "experiments"


Records = Mapping[str, list[RunRecord]]
"""By the titles of their experiments, one a seed."""


def table(head: list[str], lines: list[list[str]], *, numbers: bool = True) -> str:
    """A Markdown table; all columns but the first are numbers, unless said otherwise."""
    marks = ["---", *["--:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, marks, *lines])


@cache
def gathered(results: Path = RESULTS, files: Path = EXPERIMENTS) -> dict[str, list[RunRecord]]:
    """The records of every experiment by its title, one a seed; read once for all tables, not to be changed."""
    found: dict[str, list[RunRecord]] = {}
    for experiment, record in kept(results, files):
        found.setdefault(experiment.title, []).append(record)
    return found


def percent(stages: Sequence[StageRow | SnapshotRow | None]) -> str:
    """Mean and deviation of the accuracy of a stage in per cent, or nothing where the runs had no such stage."""
    found = spread([stage.accuracy.value for stage in stages if stage and stage.accuracy])
    return found.words() if found else ""


def ratio(values: list[float | None]) -> str:
    """The mean of how many times less is needed."""
    found = spread([value for value in values if value is not None])
    return f"{found.mean:.2f}x" if found else ""


def epochs(record: RunRecord) -> int:
    """The epochs of all trainings of a run."""
    return sum(len(curve.epochs) for curve in record.curves)


ACCURACIES = "Test accuracy in per cent, test read once at each stage; mean ± standard deviation over the seeds."
