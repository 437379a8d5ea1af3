"""Charts of the section on trust: potentials as bars, accuracy with bands, reliability, coloured tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report import text
from secateur.report.charts import Frame, Scale, axes, linear, svg, tag, ticks
from secateur.report.trust_record import BinRow

SHADES = 8
"""Steps of the colours of a coloured table, as the style sheet has them."""
_ROW = 22


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: a share with its interval; `open` where the truth may lie beyond it."""

    label: str
    value: float
    low: float
    high: float
    kind: str
    open: bool = False


def bars(rows: Sequence[Bar], *, title: str, name: str, key: str, width: int) -> Markup:
    """Horizontal bars of shares from 0 to the largest interval, with whiskers; an open bar ends in an arrow."""
    frame = Frame(width, 58 + _ROW * len(rows), left=128, right=64, top=6)
    largest = max([0.05, *(row.high for row in rows), *(row.value for row in rows)])
    x = linear(0.0, largest, frame.x)
    across = [(x(v), f"{100 * v:g}") for v in ticks(0.0, largest, 5 if width > 500 else 3)]
    drawn = [_bar(row, x, frame.top + _ROW * i) for i, row in enumerate(rows)]
    said = "; ".join(f"{row.label}: {text.share(row.value, 1)}{' or more' if row.open else ''}" for row in rows)
    return svg(frame, key, title, said, axes(frame, across, [], name, ""), *drawn)


def _bar(row: Bar, x: Scale, top: float) -> Markup:
    zero, end, low, high = (x(value) for value in (0.0, row.value, row.low, row.high))
    middle = top + _ROW / 2
    path = f"M{low:.1f} {middle - 4:.1f}v8M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 4:.1f}v8"
    told = f"{'≥ ' if row.open else ''}{100 * row.value:.0f} %"
    parts = [
        tag("text", row.label, x=zero - 8, y=middle + 4, class_="tick end"),
        tag("rect", x=zero, y=top + 4.0, width=max(0.0, end - zero), height=_ROW - 8.0, class_=f"fill {row.kind}"),
        tag("path", d=path, class_="whisker"),
        tag("text", told, x=max(end, high) + 6, y=middle + 4, class_="tick"),
    ]
    return Markup("").join(parts)


@dataclass(frozen=True)
class Banded:
    """A curve: (ratio, value, low, high) from the dense model on; `kind` names its colour."""

    label: str
    points: tuple[tuple[float, float, float, float], ...]
    kind: str


def banded(curves: Sequence[Banded], *, title: str, name: str, across: str, key: str, width: int) -> Markup:
    """Curves of shares over a share, in per cent, each with its band and its name at its end."""
    frame = Frame(width, 300, left=56, right=128)
    values = [v for curve in curves for point in curve.points for v in point[1:]]
    low, high = max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.02)
    last = max(point[0] for curve in curves for point in curve.points) or 1.0
    x, y = linear(0.0, last, frame.x), linear(low, high, frame.y)
    marks = [(x(v), f"{100 * v:g}") for v in ticks(0.0, last)]
    upwards = [(y(v), f"{100 * v:g}") for v in ticks(low, high)]
    drawn: list[Markup] = []
    beside = frame.x[1] + 14
    for number, curve in enumerate(curves):
        down = frame.top + 22.0 * number
        there = [f"{x(r):.1f},{y(top):.1f}" for r, _, _, top in curve.points]
        back = [f"{x(r):.1f},{y(bottom):.1f}" for r, _, bottom, _ in reversed(curve.points)]
        line = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v, _, _ in curve.points)
        drawn += [
            tag("polygon", points=" ".join(there + back), class_=f"band {curve.kind}"),
            tag("polyline", points=line, class_=f"line {curve.kind}"),
            *(tag("circle", cx=x(r), cy=y(v), r=3, class_=f"dot {curve.kind}") for r, v, _, _ in curve.points),
            tag("rect", x=beside, y=down, width=10, height=10, class_=f"fill {curve.kind}"),
            tag("text", curve.label, x=beside + 16, y=down + 10, class_="tick"),
        ]
    ends = [(curve.label, *(text.share(curve.points[i][1], 1) for i in (0, -1))) for curve in curves]
    said = "; ".join(f"{label} from {first} to {end}" for label, first, end in ends)
    return svg(frame, key, title, said, axes(frame, marks, upwards, across, name), *drawn)


def through_origin(
    points: Sequence[tuple[float, float]],
    line: tuple[float, float, float],
    *,
    title: str,
    name: str,
    across: str,
    key: str,
    width: int,
) -> Markup:
    """Points (ratio, share) with a line through the origin, given by its value at ratio 1 and the interval of that."""
    frame = Frame(width, 300, left=56, right=24)
    last = max(ratio for ratio, _ in points) or 1.0
    reach = [0.0, *(value for _, value in points), *(slope * last for slope in line)]
    room = 0.06 * (max(reach) - min(reach)) or 0.005
    x, y = linear(0.0, last * 1.04, frame.x), linear(min(reach) - room, max(reach) + room, frame.y)
    value, low, high = line
    corners = f"{x(0):.1f},{y(0):.1f} {x(last):.1f},{y(low * last):.1f} {x(last):.1f},{y(high * last):.1f}"
    across_marks = [(x(v), f"{100 * v:g}") for v in ticks(0.0, last)]
    upwards = [(y(v), f"{100 * v:g}") for v in ticks(min(reach) - room, max(reach) + room)]
    said = "; ".join(f"{text.share(ratio, 0)}: {100 * each:+.2f} points" for ratio, each in points)
    return svg(
        frame,
        key,
        title,
        f"{said}; line {100 * value:+.2f} points at ratio 1",
        axes(frame, across_marks, upwards, across, name),
        tag("line", x1=x(0), x2=x(last), y1=y(0), y2=y(0), class_="ideal"),
        tag("polygon", points=corners, class_="band slim"),
        tag("line", x1=x(0), y1=y(0), x2=x(last), y2=y(value * last), class_="line slim"),
        *(tag("circle", cx=x(ratio), cy=y(each), r=4, class_="dot cut") for ratio, each in points),
    )


def reliability(bins: Sequence[BinRow], *, name: str, key: str, kind: str) -> Markup:
    """Accuracy over confidence, a bar a bin, beside the diagonal on which both agree; faint where images are few."""
    frame = Frame(420, 300, left=60)
    x, y = linear(0.0, 1.0, frame.x), linear(0.0, 1.0, frame.y)
    most = max(each.number for each in bins)
    drawn = [
        tag("rect", x=x(each.low), y=y(each.accuracy), width=x(each.high) - x(each.low) - 1,
            height=y(0) - y(each.accuracy), class_=f"fill {kind}", opacity=0.35 + 0.65 * (each.number / most) ** 0.5)
        for each in bins
    ]  # fmt: skip
    marks = [(x(v), f"{100 * v:g}") for v in ticks(0.0, 1.0)]
    upwards = [(y(v), f"{100 * v:g}") for v in ticks(0.0, 1.0)]
    diagonal = tag("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="ideal")
    said = "; ".join(f"{text.share(b.confidence, 0)} sure: {text.share(b.accuracy, 0)} right" for b in bins)
    label = tag("text", name, x=x(0.04), y=y(0.92), class_=f"label {kind}")
    ends = axes(frame, marks, upwards, "confidence, %", "accuracy, %")
    return svg(frame, key, f"Reliability of the model {name}", said, ends, *drawn, diagonal, label)


def shade(value: float, low: float, high: float) -> int:
    """The step of colour of a value between two bounds, 0 to 7."""
    if high <= low:
        return 0
    return max(0, min(SHADES - 1, int((value - low) / (high - low) * SHADES)))


def change_bar(change: float, largest: float) -> Markup:
    """A bar to the left for a loss and to the right for a gain, in per cent of half the width."""
    size = 50 * min(1.0, abs(change) / largest) if largest else 0.0
    start = 50 - size if change < 0 else 50.0
    return tag(
        "svg",
        tag("rect", x=f"{start:.2f}%", width=f"{size:.2f}%", height="100%", class_="lost" if change < 0 else "won"),
        tag("rect", x="50%", width="1", height="100%", class_="zero"),
        class_="bar",
        aria_hidden="true",
        focusable="false",
    )
