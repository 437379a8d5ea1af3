"""Drawings of their own for the docs: the report's charts with its colours inside, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from secateur.report.charts import Frame, axes, linear, svg, tag, ticks

_ROW = 24
_FONT = 'font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif'


def standalone(drawing: Markup, width: int) -> str:
    """The text of an SVG file of a drawing of the report, `width` pixels wide."""
    style = files("secateur.report").joinpath("report.css").read_text(encoding="utf-8")
    colours = style[: style.index("* {")]
    rules = "\n".join(line for line in style.splitlines() if line.startswith(".chart"))
    own = f".chart {{ background: var(--page); {_FONT}; }}"
    inside = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
    text = str(drawing).replace("<svg ", inside, 1)
    return text.replace("<title", f"<style>\n{colours}{rules}\n{own}\n</style><title", 1) + "\n"


@dataclass(frozen=True)
class Dot:
    """A share from `low` to `high`, told by its mean; `kind` names its colour."""

    value: float
    low: float
    high: float
    kind: str


def dots(
    rows: Sequence[tuple[str, Sequence[Dot]]], legend: Sequence[tuple[str, str]], *, title: str, name: str, key: str
) -> Markup:
    """One line a row with its dots, each with the range of its seeds; `legend` holds (label, kind)."""
    frame = Frame(920, 84 + _ROW * len(rows), left=150, right=24, top=34)
    x = linear(0.0, 1.0, frame.x)
    parts: list[Markup] = []
    for number, (label, kind) in enumerate(legend):
        left = frame.x[0] + 110.0 * number
        parts += [tag("rect", x=left, y=8.0, width=10, height=10, class_=f"fill {kind}"),
                  tag("text", label, x=left + 16, y=18.0, class_="tick")]  # fmt: skip
    for number, (label, found) in enumerate(rows):
        middle = frame.top + _ROW * (number + 0.5)
        parts.append(tag("line", x1=x(0.0), x2=x(1.0), y1=middle, y2=middle, class_="grid"))
        parts.append(tag("text", label, x=x(0.0) - 10, y=middle + 4, class_="tick end"))
        step = 12.0 / max(1, len(found) - 1)
        for place, dot in enumerate(found):
            y = middle - 6 + step * place if len(found) > 1 else middle
            parts.append(tag("line", x1=x(dot.low), x2=x(dot.high), y1=y, y2=y, class_=f"line {dot.kind}"))
            parts.append(tag("circle", cx=x(dot.value), cy=y, r=4, class_=f"dot {dot.kind}"))
    across = [(x(v), f"{100 * v:g}") for v in ticks(0.0, 1.0)]
    said = "; ".join(f"{label}: {', '.join(f'{100 * d.value:.0f} %' for d in found)}" for label, found in rows)
    return svg(frame, key, title, said, axes(frame, across, [], name, ""), *parts)
