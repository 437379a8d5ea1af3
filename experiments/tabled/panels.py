"""Plots of the docs as panels of curves over common axes with one legend, each an SVG file that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.charts import Frame, Scale, axes, linear, tag, ticks

COLOURS = (
    ("#1f6fb2", "#6db6f2"), ("#c44d00", "#ff9a52"), ("#00805f", "#35c99b"), ("#7a5ea8", "#bda3ea"),
    ("#b3261e", "#ff8a80"), ("#8a6d00", "#e0c04c"), ("#0f7c8a", "#58cfe0"), ("#6b7470", "#98a39e"),
    ("#a83279", "#f08bc6"), ("#4a5a00", "#b5c95a"), ("#3a3fbf", "#9aa0ff"), ("#8c4a2f", "#d9a084"),
)  # fmt: skip
"""Of the curves in their order, on light and on dark ground; they come round again after the last."""

_WIDE, _TALL, _ROW, _LETTER = 420, 280, 20, 7.2


@dataclass(frozen=True)
class Curve:
    """Values (x, y, deviation) in the order of x; curves of one label have one colour in all panels."""

    label: str
    points: tuple[tuple[float, float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over common axes, under a title."""

    title: str
    curves: tuple[Curve, ...]


def drawn(panels: Sequence[Panel], *, title: str, across: str, upwards: str, percent: bool = True) -> str:
    """The text of an SVG file: panels side by side, two a row, with the same axes, and a legend below.

    `across` and `upwards` name the axes; with `percent` both count shares, shown as per cent. A whisker reaches one
    deviation up and down. Raises `ValueError` where there is no point at all.
    """
    scale = 100.0 if percent else 1.0
    every = [(scale * x, scale * y, scale * d) for p in panels for c in p.curves for x, y, d in c.points]
    (left, right), (low, high) = _room([x for x, *_ in every]), _room([e for _, y, d in every for e in (y - d, y + d)])
    if percent:
        low, high = max(0.0, low), min(100.0, high)
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    across_panels = min(2, len(panels))
    parts, frame = list[Markup](), Frame(_WIDE, _TALL, left=56, top=34)
    x, y = linear(left, right, frame.x), linear(low, high, frame.y)
    marks = [(x(v), f"{v:g}") for v in ticks(left, right)], [(y(v), f"{v:g}") for v in ticks(low, high)]
    for number, panel in enumerate(panels):
        place = f"translate({_WIDE * (number % across_panels)} {_TALL * (number // across_panels)})"
        curves = [_curve(curve, labels.index(curve.label), x, y, scale) for curve in panel.curves]
        name = tag("text", panel.title, x=frame.x[0], y=20, class_="title")
        parts.append(tag("g", name, axes(frame, *marks, across, upwards), *curves, transform=place))
    top, wide = _TALL * -(-len(panels) // across_panels), _WIDE * across_panels
    legend, bottom = _legend(labels, top, wide)
    return _file(Markup("").join([*parts, *legend]), title, wide, bottom, len(labels))


def _room(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: those of the values and a little more."""
    low, high = min(values), max(values)
    more = 0.04 * (high - low) or 0.5
    return low - more, high + more


def _curve(curve: Curve, colour: int, x: Scale, y: Scale, scale: float) -> Markup:
    at = [(x(scale * across), y(scale * value)) for across, value, _ in curve.points]
    ends = [(y(scale * (v - d)), y(scale * (v + d))) for _, v, d in curve.points]
    kind = f"c{colour % len(COLOURS)}"
    whiskers = "".join(
        f"M{px:.1f} {low:.1f}V{high:.1f}" for (px, _), (low, high) in zip(at, ends, strict=True) if low > high
    )
    return Markup("").join(
        [
            tag(
                "polyline",
                points=" ".join(f"{px:.1f},{py:.1f}" for px, py in at),
                class_=f"line {kind}",
                stroke_dasharray="6 4" if curve.dashed else None,
            ),
            *([tag("path", d=whiskers, class_=f"whisker {kind}")] if whiskers else []),
            *(tag("circle", cx=round(px, 1), cy=round(py, 1), r=3, class_=f"dot {kind}") for px, py in at),
        ]
    )


def _legend(labels: Sequence[str], top: int, wide: int) -> tuple[list[Markup], int]:
    """A dot and a name a curve, in columns below the panels; and where the drawing ends."""
    column = 34 + _LETTER * max(map(len, labels))
    columns = max(1, int((wide - 40) // column))
    parts = []
    for number, label in enumerate(labels):
        x, y = 28 + column * (number % columns), top + 8 + _ROW * (number // columns)
        parts.append(tag("circle", cx=x, cy=y, r=5, class_=f"dot c{number % len(COLOURS)}"))
        parts.append(tag("text", label, x=x + 11, y=y + 4, class_="tick"))
    return parts, top + 16 + _ROW * -(-len(labels) // columns)


def _file(body: Markup, title: str, wide: int, tall: int, curves: int) -> str:
    """The whole file, an element a line, so that a change of one figure is a change of one line."""
    ground = tag("rect", width="100%", height="100%", class_="ground")
    head = tag("title", title) + tag("style", Markup(_style(min(curves, len(COLOURS))))) + ground
    box = f"0 0 {wide} {tall}"
    whole = tag(
        "svg", head + body, xmlns="http://www.w3.org/2000/svg", viewBox=box, width=wide, height=tall, role="img"
    )
    return f"{whole}\n".replace("><", ">\n<")


def _style(curves: int) -> str:
    """The style sheet of a file: the ground and the letters follow the reader's choice of light or dark."""

    def coloured(dark: int) -> str:
        return " ".join(f".c{i} {{ color: {COLOURS[i][dark]}; }}" for i in range(curves))

    dark = f"{_DARK} {coloured(1)}"
    return f"{_SHAPES} {_LIGHT} {coloured(0)} @media (prefers-color-scheme: dark) {{ {dark} }}"


_SHAPES = (
    "text { font: 12px system-ui, sans-serif; } .title { font-weight: 600; font-size: 13px; } "
    ".end { text-anchor: end; } .middle { text-anchor: middle; } .dot { fill: currentColor; } "
    ".line, .whisker { fill: none; stroke: currentColor; stroke-width: 1.8; } .whisker { stroke-width: 1.2; }"
)
_LIGHT = (
    "text { fill: #5a645f; } .title { fill: #1b211e; } .ground { fill: #ffffff; } .grid { stroke: #dfe3df; } "
    ".axis { stroke: #5a645f; }"
)
_DARK = (
    "text { fill: #a1aca6; } .title { fill: #e8ece9; } .ground { fill: #1a1f1d; } .grid { stroke: #333b37; } "
    ".axis { stroke: #a1aca6; }"
)
