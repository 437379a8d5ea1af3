"""What happened on the way: units that were leaving, released and gone, per group and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.methods.story import Event, Fought, Story
from secateur.report import charts
from secateur.report.record import LeavingRow, RunRecord

KINDS = {"leaving": "train", "released": "validation", "gone": "gone"}
"""The colours of the three curves, by the classes of the style sheet."""


@dataclass(frozen=True)
class GroupLine:
    """One group: how many units started to leave, were released and are gone, and the mean share that releases kept."""

    name: str
    started: int
    released: int
    gone: int
    kept: float | None


def totals(rows: Sequence[LeavingRow]) -> dict[str, list[tuple[int, int]]]:
    """Leaving, released and gone units of the whole network, as (step, units) at every step at which one changed.

    Leaving are the units on their way, released and gone those so far.
    """
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in KINDS}
    now = dict.fromkeys(KINDS, 0)
    for step in sorted({row.step for row in rows}):
        for row in (row for row in rows if row.step == step):
            now[row.what] += row.count
            if row.what != "leaving":
                now["leaving"] -= row.count
        for name, line in found.items():
            line.append((step, now[name]))
    return found


def by_group(rows: Sequence[LeavingRow]) -> list[GroupLine]:
    """One line a group, in the order in which they were first touched."""
    lines = []
    for name in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == name]
        many = {what: sum(row.count for row in own if row.what == what) for what in KINDS}
        kept = [share for row in own if row.what == "released" for share in row.kept]
        mean = sum(kept) / len(kept) if kept else None
        lines.append(GroupLine(name, many["leaving"], many["released"], many["gone"], mean))
    return lines


def fought_for(rows: Sequence[LeavingRow]) -> list[Fought]:
    """Every unit that was released and is named, those released most often first."""
    return Story([Event(row.step, row.group, row.what, row.units, row.kept) for row in rows]).fought_for()


def chart(record: RunRecord) -> Markup | None:
    """Units leaving, released and gone over the steps of the training; None where no method pruned."""
    if not record.leavings:
        return None
    curves = [
        charts.Line(name, tuple((float(step), float(units)) for step, units in line), KINDS[name])
        for name, line in totals(record.leavings).items()
    ]
    return charts.lines(curves, title="Units on their way", name="units", key="leaving", across="step")
