"""The section on what a training passed through: the network when it first met each of several budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report import charts
from secateur.report.record import SnapshotRow


@dataclass(frozen=True)
class Section:
    """What the page shows: the chart, what its budgets count, and whether networks were fine-tuned."""

    chart: Markup
    unit: str
    tuned: bool


def section(rows: Sequence[SnapshotRow]) -> Section:
    """Accuracy over what is left, of networks as they were and fine-tuned; all budgets count the same."""
    unit = rows[0].budget.split()[-1]
    ways = (
        ("as it was", "train", [(row.spent, row.accuracy) for row in rows]),
        ("fine-tuned", "slim", [(row.spent, row.tuned) for row in rows]),
    )
    curves = [
        charts.Line(label, tuple(sorted((spent, found.value) for spent, found in points if found)), kind)
        for label, kind, points in ways
    ]
    drawn = charts.lines(
        curves,
        title=f"Accuracy over {unit} left",
        name="test accuracy, %",
        key="snapshots",
        percent=True,
        across=f"{unit} left (logarithmic)",
        log=True,
    )
    return Section(drawn, unit, any(row.tuned for row in rows))
