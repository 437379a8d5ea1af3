"""Charts as inline SVG: colours come from the page's style sheet by class, so one drawing serves light and dark.

Every chart is a function from plain values to markup. Text is escaped by `tag`; nothing refers to anything outside the
page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from secateur.report import text

Scale = Callable[[float], float]


def tag(name: str, *children: str | Markup, **attributes: float | str | None) -> Markup:
    """One SVG element; a trailing underscore of an attribute is dropped and other underscores become hyphens."""
    inner = Markup("").join(children)
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = Markup("").join(
        Markup(' {}="{}"').format(key, f"{value:.6g}" if isinstance(value, float) else value) for key, value in pairs
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(escape(name)), written, inner)


@dataclass(frozen=True)
class Frame:
    """The plotting area inside a drawing of `width` x `height`: what the margins leave."""

    width: int
    height: int
    left: int = 52
    right: int = 20
    top: int = 16
    bottom: int = 46

    @property
    def x(self) -> tuple[float, float]:
        """The pixel range across."""
        return float(self.left), float(self.width - self.right)

    @property
    def y(self) -> tuple[float, float]:
        """The pixel range upwards: the lowest value lies at the bottom."""
        return float(self.height - self.bottom), float(self.top)


def linear(low: float, high: float, pixels: tuple[float, float]) -> Scale:
    """Maps [low, high] to pixels in proportion."""
    start, end = pixels
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, pixels: tuple[float, float]) -> Scale:
    """Maps [low, high], both above zero, to pixels by their logarithm."""
    inner = linear(math.log(low), math.log(high), pixels)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values (steps of 1, 2 or 5 times a power of ten) inside [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart where there is room, so that labels do not overlap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    below = low - gap
    for i in order:
        placed[i] = below = max(wanted[i], below + gap)
    above = high + gap
    for i in reversed(order):
        placed[i] = above = min(placed[i], above - gap)
    return placed


def svg(frame: Frame, key: str, title: str, description: str, *children: Markup) -> Markup:
    """A drawing with its title and its description in words; `key` makes their ids its own."""
    head = (tag("title", title, id=f"{key}-title"), tag("desc", description, id=f"{key}-desc"))
    box = f"0 0 {frame.width} {frame.height}"
    labels = f"{key}-title {key}-desc"
    body = Markup("").join([*head, *children])
    return tag("svg", body, viewBox=box, role="img", aria_labelledby=labels, class_="chart")


def axes(
    frame: Frame, across: Sequence[tuple[float, str]], upwards: Sequence[tuple[float, str]], x_name: str, y_name: str
) -> Markup:
    """Grid lines, tick labels and axis names; positions are pixels."""
    (x0, x1), (y0, y1) = frame.x, frame.y
    parts = [tag("line", x1=x0, x2=x1, y1=y, y2=y, class_="grid") for y, _ in upwards]
    parts += [tag("text", label, x=x0 - 8, y=y + 4, class_="tick end") for y, label in upwards]
    parts += [tag("line", x1=x, x2=x, y1=y0, y2=y0 + 5, class_="axis") for x, _ in across]
    parts += [tag("text", label, x=x, y=y0 + 19, class_="tick middle") for x, label in across]
    parts.append(tag("line", x1=x0, x2=x1, y1=y0, y2=y0, class_="axis"))
    parts.append(tag("text", x_name, x=(x0 + x1) / 2, y=frame.height - 6.0, class_="name middle"))
    middle = (y0 + y1) / 2
    parts.append(tag("text", y_name, x=13, y=middle, class_="name middle", transform=f"rotate(-90 13 {middle:.1f})"))
    return Markup("").join(parts)


@dataclass(frozen=True)
class Point:
    """One model in the plane of cost and accuracy; `kind` names its colour."""

    label: str
    macs: float
    accuracy: float
    low: float
    high: float
    kind: str


def tradeoff(points: Sequence[Point], *, width: int, height: int, key: str, cost: str = "MACs") -> Markup:
    """Accuracy against MACs: one labelled point a stage with its confidence interval, in the order they happened.

    `cost` names what is counted; its axis is logarithmic when the largest cost is more than eight times the smallest.
    """
    wide = width >= 600
    frame = Frame(width, height, right=28)
    log = max(p.macs for p in points) > 8 * min(p.macs for p in points) > 0
    x, x_ticks = _cost_axis([p.macs for p in points], frame, 6 if wide else 4, log=log)
    bottom, top = _accuracy_range(points)
    y = linear(bottom, top, frame.y)
    upwards = [(y(v), f"{100 * v:g}") for v in ticks(bottom, top)]
    route = " ".join(f"{x(p.macs):.1f},{y(p.accuracy):.1f}" for p in points)
    name = f"{cost} of one input{' (logarithmic)' if log else ''}"
    said = "; ".join(f"{p.label}: {text.share(p.accuracy)} at {text.count(p.macs)} {cost}" for p in points)
    return svg(
        frame,
        key,
        f"Accuracy against {cost}",
        said,
        axes(frame, x_ticks, upwards, name, "test accuracy, %"),
        tag("polyline", points=route, class_="route"),
        *(_whisker(x(p.macs), y(p.low), y(p.high), p.kind) for p in points),
        *(tag("circle", cx=x(p.macs), cy=y(p.accuracy), r=6, class_=f"dot {p.kind}") for p in points),
        _point_labels(points, x, y, frame, wide=wide),
    )


def _cost_axis(costs: list[float], frame: Frame, wanted: int, *, log: bool) -> tuple[Scale, list[tuple[float, str]]]:
    if log:
        low, high = min(costs) / 1.5, max(costs) * 1.2
        x, values = logarithmic(low, high, frame.x), log_ticks(low, high)
        if len(values) > wanted:
            values = [v for v in values if f"{v:e}".startswith("1")]
    else:
        low, high = 0.0, max(costs) * 1.06 or 1.0
        x, values = linear(low, high, frame.x), ticks(low, high, wanted)
    return x, [(x(v), text.tick(v)) for v in values]


def _accuracy_range(points: Sequence[Point]) -> tuple[float, float]:
    low, high = min(p.low for p in points), max(p.high for p in points)
    room = max(0.08 * (high - low), 0.004)
    return max(0.0, low - room), min(1.0 + room / 2, high + room)


def _whisker(x: float, low: float, high: float, kind: str) -> Markup:
    path = f"M{x - 5:.1f} {high:.1f}h10M{x:.1f} {high:.1f}V{low:.1f}M{x - 5:.1f} {low:.1f}h10"
    return tag("path", d=path, class_=f"whisker {kind}")


Box = tuple[float, float, float, float]


def _point_labels(points: Sequence[Point], x: Scale, y: Scale, frame: Frame, *, wide: bool) -> Markup:
    """Names and accuracies beside the points, each at the nearest place that is free."""
    taken = [_around(x(p.macs), y(p.accuracy)) for p in points]
    parts: list[Markup] = []
    for p in points:
        value = text.share(p.accuracy)
        rows = [f"{p.label}  {value}"] if wide else [p.label, value]
        anchor, left, top = _free_place(rows, x(p.macs), y(p.accuracy), taken, frame)
        spans = [tag("tspan", row, x=left, y=top + 12.0 + 15.0 * i) for i, row in enumerate(rows)]
        parts.append(tag("text", *spans, class_=f"label {anchor}"))
    return Markup("").join(parts)


def _around(x: float, y: float) -> Box:
    return x - 8, y - 8, x + 8, y + 8


def _free_place(rows: list[str], x: float, y: float, taken: list[Box], frame: Frame) -> tuple[str, float, float]:
    """The anchor and the corner of a label at (x, y) that covers no other; its box joins `taken`."""
    wide, tall = 7.8 * max(map(len, rows)), 15.0 * len(rows)
    for shift in (0, -12, 12, -24, 24, -40, 40, -60, 60, -90, 90):
        for anchor, left in (("start", x + 14), ("end", x - 14 - wide)):
            top = y - tall / 2 + shift
            box = (left, top, left + wide, top + tall)
            inside = left >= frame.x[0] and left + wide <= frame.width and top >= 0 and top + tall <= frame.y[0]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                return anchor, left if anchor == "start" else x - 14, top
    return "start", x + 14, y - tall / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Line:
    """One curve: values over epochs; `kind` names its colour and dashes."""

    label: str
    values: tuple[tuple[float, float], ...]
    kind: str


def lines(
    curves: Sequence[Line],
    *,
    title: str,
    name: str,
    key: str,
    percent: bool = False,
    across: str = "epoch",
    log: bool = False,
) -> Markup:
    """Curves with their names and last values beside their ends; `across` names what they go over, perhaps in `log`."""
    frame = Frame(420, 270, left=60, right=104)
    scale = 100.0 if percent else 1.0
    curves = [Line(c.label, tuple((e, v * scale) for e, v in c.values if math.isfinite(v)), c.kind) for c in curves]
    curves = [c for c in curves if c.values]
    epochs = [e for c in curves for e, _ in c.values]
    values = [v for c in curves for _, v in c.values]
    if not values:
        return tag("p", f"{title}: no finite value was recorded.", class_="muted")
    room = 0.06 * (max(values) - min(values)) or 0.5
    low, high = max(0.0, min(values) - room), max(values) + room
    y = linear(low, high, frame.y)
    if log:
        x, marks = _cost_axis(epochs, frame, 4, log=True)
    else:
        last = max(epochs) if max(epochs) > min(epochs) else min(epochs) + 1
        x = linear(min(epochs), last, frame.x)
        marks = [(x(v), f"{v:g}") for v in ticks(min(epochs), last) if across != "epoch" or float(v).is_integer()]
    upwards = [(y(v), f"{v:g}") for v in ticks(low, high)]
    ends = spread([y(c.values[-1][1]) for c in curves], 32.0, frame.y[1] + 4, frame.y[0] - 18)
    drawn = [_line(c, x, y, end, frame) for c, end in zip(curves, ends, strict=True)]
    said = "; ".join(f"{c.label} from {c.values[0][1]:.4g} to {c.values[-1][1]:.4g}" for c in curves)
    return svg(frame, key, title, said, axes(frame, marks, upwards, across, name), *drawn)


def _line(curve: Line, x: Scale, y: Scale, end: float, frame: Frame) -> Markup:
    path = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in curve.values)
    epoch, value = curve.values[-1]
    beside = frame.x[1] + 12
    return Markup("").join(
        [
            tag("polyline", points=path, class_=f"line {curve.kind}"),
            tag("circle", cx=x(epoch), cy=y(value), r=4, class_=f"dot {curve.kind}"),
            tag("text", curve.label, x=beside, y=end + 2, class_=f"label {curve.kind}"),
            tag("text", f"{value:.4g}", x=beside, y=end + 17, class_="tick"),
        ]
    )


def histogram(counts: Sequence[int], bound: float, *, title: str, name: str, key: str) -> Markup:
    """Bars of equal width over [-bound, bound]."""
    frame = Frame(420, 270, left=60)
    x = linear(-bound, bound, frame.x)
    y = linear(0.0, float(max(counts)) or 1.0, frame.y)
    wide = (frame.x[1] - frame.x[0]) / len(counts)
    bars = [
        tag("rect", x=frame.x[0] + i * wide, y=y(count), width=wide, height=y(0) - y(count), class_="bin")
        for i, count in enumerate(counts)
    ]
    across = [(x(v), f"{v:g}") for v in ticks(-bound, bound)]
    upwards = [(y(v), text.count(v)) for v in ticks(0.0, float(max(counts)) or 1.0)]
    said = f"{sum(counts):,} values between {-bound:.3g} and {bound:.3g}"
    return svg(frame, key, title, said, axes(frame, across, upwards, name, "number"), *bars)


def width_bar(before: float, after: float, largest: float) -> Markup:
    """A width before and, laid over it, after; in percent of the widest, so that the bar stretches with the page."""
    outer, inner = 100 * before / largest, 100 * after / largest
    return tag(
        "svg",
        tag("rect", width=f"{outer:.3f}%", height="100%", class_="before"),
        tag("rect", width=f"{inner:.3f}%", height="100%", class_="after"),
        class_="bar",
        aria_hidden="true",
        focusable="false",
    )
