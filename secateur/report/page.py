"""A record as one self-contained HTML page: no reference leaves it, so it opens offline and can be mailed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secateur.files import atomic_write
from secateur.report import charts, leaving, prunability, snapshots, summary, text, trust
from secateur.report.record import Curve, EpochRow, RunRecord
from secateur.report.trust_record import TrustRecord

FILES = {"page": "report.html", "json": "result.json", "csv": "result.csv"}
"""What `write` leaves in a run's folder."""

KINDS = {"dense": "dense", "masked": "cut", "cut": "cut", "batch norm re-estimated": "middle", "fine-tuned": "slim"}
"""The colour of each stage in the plot, by the name of its style."""


def write(record: RunRecord, folder: str | Path) -> dict[str, Path]:
    """Write the page and the numbers behind it, as JSON and CSV, to a folder; comes back with their paths.

    An evaluation that lies in the folder becomes a section of the page.

    >>> write(record, "out")["page"]
    PosixPath('out/report.html')
    """
    paths = {name: Path(folder) / file for name, file in FILES.items()}
    record.save_json(paths["json"])
    record.save_csv(paths["csv"])
    kept = Path(folder) / trust.FILES["json"]
    trusted = TrustRecord.load(kept) if kept.exists() else None
    with atomic_write(paths["page"]) as partial:
        partial.write_text(render(record, trusted), encoding="utf-8")
    return paths


def render(record: RunRecord, trusted: TrustRecord | None = None) -> str:
    """The page as text, with the section on an evaluation. Everything that comes from the records is escaped."""
    widths = [group.before for group in record.groups] or [1]
    template = environment().get_template("report.html")
    return template.render(
        record=record,
        lede=summary.lede(record),
        tiles=summary.tiles(record),
        columns=[name for name, _ in summary.columns(record)],
        headline=summary.headline(record),
        stages=summary.stage_lines(record),
        verdict=summary.verdict(record),
        blocked=summary.blocked(record.frozen),
        tradeoff=tradeoff(record),
        leaving_chart=leaving.chart(record),
        leaving_groups=leaving.by_group(record.leavings),
        fought=leaving.fought_for(record.leavings),
        passed=snapshots.section(record.snapshots) if record.snapshots else None,
        panels=[_panel(curve, index) for index, curve in enumerate(record.curves)],
        prunable=prunability.section(record.prunability) if record.prunability else None,
        dynamics=prunability.dynamics(record.dynamics) if record.dynamics else [],
        trusted=trusted,
        trust=trust.section(trusted) if trusted is not None else None,
        largest=max(widths),
        uneven=max(widths) > 12 * min(widths),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True, width=100),
    )


@cache
def environment(*folders: str, sources: tuple[str, ...] = ("report.css", "report.js")) -> Environment:
    """Templates of the report and of other `folders` of the package, with its words for numbers; all is escaped.

    Templates find each of the `sources` by its name, with an underscore for the point.
    """
    loader = ChoiceLoader([PackageLoader("secateur", folder) for folder in (*folders, "report")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("count", "size", "share", "points", "number", "milliseconds", "duration", "ratio", "error"):
        made.filters[name] = getattr(text, name)
    made.globals["width_bar"] = charts.width_bar
    for name in sources:
        source, _, _ = loader.get_source(made, name)
        made.globals[name.replace(".", "_")] = Markup(source)  # the package's own files
    return made


def tradeoff(record: RunRecord) -> dict[str, Markup] | None:
    """The plot in a wide and a narrow drawing, of which the style sheet shows one; None if there is nothing to compare.

    A masked stage beside a cut is left out: it has the accuracy of the cut, which is what the proof says.
    """
    sparse = summary.masked_only(record)
    points = [
        charts.Point(
            summary.label(row).removeprefix("batch "),
            float(row.nonzero_macs if sparse and row.nonzero_macs is not None else row.macs),
            row.accuracy.value,
            row.accuracy.low,
            row.accuracy.high,
            KINDS[row.stage],
        )
        for row in record.stages
        if row.accuracy and not (row.stage == "masked" and record.stage("cut"))
    ]
    if len(points) < 2:
        return None
    cost = "non-zero MACs" if sparse else "MACs"
    return {
        "wide": charts.tradeoff(points, width=920, height=400, key="tradeoff-wide", cost=cost),
        "narrow": charts.tradeoff(points, width=380, height=330, key="tradeoff-narrow", cost=cost),
    }


@dataclass(frozen=True)
class Panel:
    """One training: how it computed in words, its charts and its epochs."""

    name: str
    manner: str
    charts: tuple[Markup, ...]
    epochs: tuple[EpochRow, ...]


def _panel(curve: Curve, index: int) -> Panel:
    """The loss and the accuracy of one training, each as a chart; a quantity without values has none."""
    drawn: list[Markup] = []
    for field, name in (("loss", "loss"), ("accuracy", "accuracy, %")):
        series = [_series(curve, split, field) for split in ("train", "validation")]
        if series := [line for line in series if line.values]:
            title = f"{field.capitalize()} of the {curve.name}"
            key = f"curve-{index}-{field}"
            drawn.append(charts.lines(series, title=title, name=name, key=key, percent=field == "accuracy"))
    return Panel(curve.name, summary.manner(curve.manner), tuple(drawn), curve.epochs)


def _series(curve: Curve, split: str, field: str) -> charts.Line:
    values = ((float(row.epoch), getattr(row, f"{split}_{field}")) for row in curve.epochs)
    return charts.Line(split, tuple((epoch, value) for epoch, value in values if value is not None), split)
