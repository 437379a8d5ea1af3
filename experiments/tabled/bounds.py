"""SiPP's bound on the error of a neuron beside the error that was measured: a plot and a table for every run.

A result lies in `results/QUESTION/bounds/NAME.json`, as `experiments/bounds.py` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from secateur.report.charts import Frame, Scale, axes, linear, logarithmic, svg, tag, ticks
from secateur.report.record import Row
from tabled.cascades import Beside, beside
from tabled.common import RESULTS, table
from tabled.plots import standalone

QUESTION, FOLDER = "lost_in_pruning", "bounds"
NAME = "sipp_bounds"
"""What the names of plots begin with."""
WORDS = {"deterministic": "kept as they are", "random": "drawn"}
CURVES = (("deterministic", "bound", "cut"), ("deterministic", "error", "slim"),
          ("random", "bound", "train"), ("random", "error", "dense"))  # fmt: skip
"""Variant, what is drawn of it, and its colour."""
NOTHING = (
    "No results are kept yet: `python experiments/bounds.py experiments/lost_in_pruning/*_sipp.yaml` makes them of "
    "finished runs."
)
_LEAST = 1e-3
"""What is drawn lowest."""
_WIDTH, _HIGH, _A_ROW = 920, 250, 3

Spread = tuple[float, float, float]


class LayerRow(Row):
    """One layer under one plan: a tenth, the half and nine tenths of its neurons lie below these bounds and errors.

    `ratio`: the share of all weights gone. `held`: the share of neurons whose error is within their bound; `says`: of
    those whose bound is below 1, which is the error of a neuron that is gone.
    """

    variant: str
    ratio: float
    layer: str
    neurons: int
    bound: Spread
    error: Spread
    held: float
    says: float


class Bounds(Beside):
    """All layers of a dense network under all plans."""

    rows: tuple[LayerRow, ...]
    seconds: float


Found = dict[str, list[Bounds]]


@cache
def kept(results: Path = RESULTS) -> Found:
    """The results by experiment, one a seed. Raises as `beside` does."""
    found: Found = {}
    for name, each in beside(Bounds, results / QUESTION, f"{FOLDER}/*.json"):
        found.setdefault(name, []).append(each)
    return found


def told(found: Found | None = None) -> str:
    """One row a layer and a way to keep weights: up to where the bound says something, and how far the error is off."""
    lines = []
    for name, seeds in (kept() if found is None else found).items():
        for layer in _layers(seeds[0]):
            for variant, words in WORDS.items():
                own = [[row for row in one.rows if (row.layer, row.variant) == (layer, variant)] for one in seeds]
                reach = [max([row.ratio for row in rows if row.bound[1] < 1], default=0.0) for rows in own]
                apart = [row.bound[1] / row.error[1] for rows in own for row in rows if row.error[1] > 0]
                held = min(row.held for rows in own for row in rows)
                lines.append([f"{name}, {layer}, {words}", str(len(seeds)), f"{100 * fmean(reach):.0f} %",
                              f"{fmean(apart):.0f}x" if apart else "", f"{100 * held:.0f} %"])  # fmt: skip
    if not lines:
        return NOTHING
    head = ["run, layer, weights that stay", "seeds", "bound below 1 up to", "bound over error", "errors within bound"]
    return (
        f"{table(head, lines)}\n\nOf the median neuron, on test images that neither the sensitivities nor the weights "
        "are from: the largest share of all weights that can go at once, without retraining, while its bound is below "
        "1, the error of a neuron that is gone; how many times its error the bound is, on average over the shares; and "
        "the neurons whose error is within their bound at the share where these are fewest."
    )


def plots(found: Found | None = None) -> dict[str, str]:
    """SVG files by their names, one a run of the first seed."""
    made = {}
    for name, seeds in (kept() if found is None else found).items():
        drawing = drawn(seeds[0], f"{name}: error of a neuron and SiPP's bound over the prune ratio")
        made[f"{NAME}-{name}.svg"] = standalone(drawing, _WIDTH)
    return made


def drawn(one: Bounds, title: str) -> Markup:
    """A panel a layer: medians of bounds and of errors with the range of four fifths of the neurons, on a log scale."""
    layers = _layers(one)
    rows = -(-len(layers) // _A_ROW)
    whole = Frame(_WIDTH, 34 + _HIGH * rows)
    top = max(row.bound[2] for row in one.rows)
    last = max(row.ratio for row in one.rows)
    parts, said = [_legend()], []
    for number, layer in enumerate(layers):
        down, across = divmod(number, _A_ROW)
        wide = (_WIDTH - 60) // _A_ROW
        left = 60 + wide * across
        frame = Frame(_WIDTH, 34 + _HIGH * (down + 1), left, _WIDTH - left - wide + 24, 56 + _HIGH * down)
        x, y = linear(0.0, last, frame.x), logarithmic(_LEAST, max(top, 2.0), frame.y)
        marks = [(x(v), f"{100 * v:g}") for v in ticks(0.0, last)]
        powers = [10.0**p for p in range(-3, 9) if _LEAST <= 10.0**p <= top]
        upwards = [(y(v), f"{v:g}" if not across else "") for v in powers]
        name = "relative error" if not across else ""
        parts += [axes(frame, marks, upwards, "prune ratio, %", name),
                  tag("text", layer, x=frame.x[0], y=frame.y[1] - 8, class_="label"),
                  tag("line", x1=x(0.0), x2=x(last), y1=y(1.0), y2=y(1.0), class_="ideal")]  # fmt: skip
        for variant, what, colour in CURVES:
            own = [row for row in one.rows if (row.layer, row.variant) == (layer, variant)]
            values = [(row.ratio, *(row.bound if what == "bound" else row.error)) for row in own]
            parts.append(_curve([each for each in values if each[2] > _LEAST], x, y, colour))
            said.append(f"{layer}, {WORDS[variant]}, {what} at {100 * values[-1][0]:g} %: {values[-1][2]:.3g}")
    return svg(whole, NAME, title, "; ".join(said), *parts)


def _curve(values: Sequence[tuple[float, float, float, float]], x: Scale, y: Scale, colour: str) -> Markup:
    there = [f"{x(ratio):.1f},{y(high):.1f}" for ratio, _, _, high in values]
    back = [f"{x(ratio):.1f},{y(max(low, _LEAST)):.1f}" for ratio, low, _, _ in reversed(values)]
    line = " ".join(f"{x(ratio):.1f},{y(middle):.1f}" for ratio, _, middle, _ in values)
    return tag("polygon", points=" ".join(there + back), class_=f"band {colour}") + tag(
        "polyline", points=line, class_=f"line {colour}"
    )


def _legend() -> Markup:
    parts = []
    for number, (variant, what, colour) in enumerate(CURVES):
        left = 60 + 210.0 * number
        parts += [tag("rect", x=left, y=8.0, width=10, height=10, class_=f"fill {colour}"),
                  tag("text", f"{what}, {WORDS[variant]}", x=left + 16, y=18.0, class_="tick")]  # fmt: skip
    return Markup("").join(parts)


def _layers(one: Bounds) -> list[str]:
    return list(dict.fromkeys(row.layer for row in one.rows))


def shown(found: Found | None = None) -> str:
    """The plots as Markdown, for pages in docs/methods."""
    return "\n\n".join(f"![{name.removesuffix('.svg')}](../images/{name})" for name in plots(found)) or NOTHING


TABLES: dict[str, Callable[[], str]] = {"sipp bounds": told, "sipp bounds plots": shown}
