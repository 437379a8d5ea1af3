"""The numbers that the page's script computes with, as JSON: the network, the samples, and the ranks of its paths."""

from __future__ import annotations

import json
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from secateur.explain.drawing import CROWDED, by_strength
from secateur.explain.ordering import Orders
from secateur.explain.study import Sample, Study
from secateur.sparse import edges


def content(study: Study, orders: Orders) -> Markup:
    """The JSON of the page; `<` is written so that no text ends the element it stands in."""
    found, order = edges(study.drawn), by_strength(study)
    columns = ("layer", "source", "target")
    values: dict[str, Any] = {
        "edges": [
            [*(int(found[name][i]) for name in columns), _short(found["weight"][i]), int(study.ranked.rank[i])]
            for i in order
        ],
        "orders": [column.tolist() for column in orders],
        "bias": [[_short(v) for v in layer.bias.tolist()] for layer in study.drawn.layers],
        "activations": [list(layer.activations) for layer in study.drawn.layers],
        "scale": [[_short(v) for v in column.tolist()] for column in study.scale[:-1]],
        "grid": list(study.grid) if study.grid else None,
        "pixels": study.drawn.units[0].tolist(),
        "importance": [_short(v) for v in _drawn_only(study, next(iter(study.importances.values()))).tolist()],
        "paths": study.ranked.paths,
        "crowded": CROWDED,
        "stops": stops(study),
        "samples": [_sample(study, one) for one in study.samples],
    }
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


def stops(study: Study) -> list[tuple[int, float | None]]:
    """Where the slider stops: so many of the strongest paths, and the share of all strength that they carry.

    Where more paths were counted than ranked, the last stop is all of them.
    """
    carried, paths = study.ranked.carried, study.ranked.paths
    wanted = [m * 10**p for p in range(7) for m in (1, 2, 3, 5, 7)]
    counts = [n for n in wanted if n < min(len(carried), paths)]
    made: list[tuple[int, float | None]] = [(n, round(float(carried[n - 1]), 4)) for n in counts]
    return [*made, (paths, 1.0)]


def _drawn_only(study: Study, values: Tensor) -> Tensor:
    """Values of the inputs of the whole network, at those that are drawn."""
    return values[torch.searchsorted(study.network.units[0], study.drawn.units[0])]


def _sample(study: Study, sample: Sample) -> dict[str, Any]:
    """A sample's values by the inputs' positions, those that are `base` left out: most of a picture is background."""
    values = [_short(v) for v in sample.inputs[study.drawn.units[0]].tolist()]
    base = max(set(values), key=values.count)
    made: dict[str, Any] = {"label": sample.label, "base": base}
    made["x"] = {str(j): value for j, value in enumerate(values) if value != base}
    if study.grid:
        made["picture"] = _picture(sample.inputs, study.grid)
    return made


def _picture(inputs: Tensor, grid: tuple[int, int]) -> str:
    """A hexadecimal digit a pixel, from the sample's least value to its largest; channels are averaged."""
    pixels = inputs.float().view(-1, *grid).mean(0)
    low, high = pixels.min(), pixels.max()
    scaled = ((pixels - low) / (high - low).clamp(min=1e-12) * 15).round()
    return "".join(f"{int(shade):x}" for shade in scaled.flatten().tolist())


def _short(value: float) -> float:
    """Six digits, which is what float32 holds."""
    return float(f"{value:.6g}")
