"""The section on one-shot pruning, and on what training did to weights, as charts and table lines."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from secateur.report import charts, text
from secateur.report.record import DynamicsRow, PrunabilityRow

WAYS = (
    ("global", False, "one threshold", "train"),
    ("global", True, "+ batch norm", "slim"),
    ("layer", False, "each layer", "validation"),
    ("layer", True, "+ batch norm", "dense"),
)
"""Scope, whether batch norm was estimated anew, how a chart calls that, and the name of its style."""


@dataclass(frozen=True)
class Section:
    """What the page shows: charts, the heads of the table's columns, and a line a sparsity."""

    charts: tuple[Markup, ...]
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def section(row: PrunabilityRow) -> Section:
    """How the dense model takes one-shot magnitude pruning."""
    ways = [way for way in WAYS if any((p.scope, p.reestimated) == way[:2] for p in row.curve)]
    sparsities = sorted({point.sparsity for point in row.curve})
    heads = [f"{'each layer' if scope == 'layer' else 'one threshold'}{', + batch norm' if anew else ''}"
             for scope, anew, *_ in ways]  # fmt: skip
    lines = []
    for sparsity in sparsities:
        found = [row.at(sparsity, scope=scope, reestimated=anew) for scope, anew, *_ in ways]
        energy = next((p.energy for p in found if p), 0.0)
        cells = (text.share(p.accuracy) if p else text.MISSING for p in found)
        lines.append((text.share(sparsity, 0), text.share(energy, 1), *cells))
    drawn = [_curve(row, ways), _weights(row), *([_direction(row)] if row.direction else [])]
    return Section(tuple(drawn), ("sparsity", "share of the squared norm", *heads), tuple(lines))


def _curve(row: PrunabilityRow, ways: list[tuple[str, bool, str, str]]) -> Markup:
    """Accuracy over sparsity, from the dense model on."""
    series = []
    for scope, anew, label, kind in ways:
        points = [(p.sparsity, p.accuracy) for p in row.curve if (p.scope, p.reestimated) == (scope, anew)]
        series.append(charts.Line(label, ((0.0, row.accuracy), *sorted(points)), kind))
    title = "Accuracy after one-shot pruning"
    return charts.lines(series, title=title, name="accuracy, %", key="prunable", percent=True, across="sparsity")


def _weights(row: PrunabilityRow) -> Markup:
    bound = row.weights.bound or 1.0
    return charts.histogram(row.weights.counts or (0,), bound, title="All weights", name="weight", key="weights")


def _direction(row: PrunabilityRow) -> Markup:
    """The loss on the straight way to the model without its smaller half."""
    line = charts.Line("loss", row.direction, "train")
    title = "Loss on the way to half of the weights"
    return charts.lines([line], title=title, name="loss", key="direction", across="share of the way")


def dynamics(rows: tuple[DynamicsRow, ...]) -> list[Markup]:
    """What training did to weights and gradients, over its steps."""
    views = (
        ("Weights that a step moves", "share", (("moved", "moved", "train"),)),
        ("Mean size of weights", "size", (("weights", "weight_size", "train"),)),
        ("Variance of weights", "variance", (("weights", "weight_variance", "train"),)),
        ("Size of gradients", "size", (("dense", "gradient_size", "train"), ("seen", "seen_size", "validation"))),
        ("Variance of gradients", "variance",
         (("dense", "gradient_variance", "train"), ("seen", "seen_variance", "validation"))),
    )  # fmt: skip
    drawn = []
    for number, (title, name, series) in enumerate(views):
        curves = [
            charts.Line(label, tuple((float(row.step), getattr(row, field)) for row in rows), kind)
            for label, field, kind in series
        ]
        drawn.append(charts.lines(curves, title=title, name=name, key=f"dynamics-{number}", across="step"))
    return drawn
