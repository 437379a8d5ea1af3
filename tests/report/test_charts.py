from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.report import charts


def point(label: str, macs: float, accuracy: float) -> charts.Point:
    return charts.Point(label, macs, accuracy, accuracy - 0.01, accuracy + 0.01, "slim")


@given(st.floats(-1e3, 1e9), st.floats(1e-3, 1e9), st.integers(3, 8))
def test_ticks_are_round_inside_and_neither_few_nor_many(low, span, wanted):
    values = charts.ticks(low, low + span, wanted)
    assert len(values) <= wanted + 2
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= v <= low + span + slack for v in values)


def test_ticks_step_by_one_two_or_five():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(0.05, 0.4, 4) == [0.1, 0.2, 0.3, 0.4]
    assert charts.log_ticks(3, 120) == [5, 10, 20, 50, 100]


@given(st.lists(st.floats(0, 200), min_size=1, max_size=6))
def test_spread_labels_stay_apart_and_in_order(wanted):
    placed = charts.spread(wanted, 20, 0, 400)
    ordered = sorted(placed)
    assert all(b - a >= 20 - 1e-6 for a, b in pairwise(ordered))
    assert all(
        p <= q for (w, p) in zip(wanted, placed, strict=True) for (v, q) in zip(wanted, placed, strict=True) if w < v
    )


def test_tradeoff_is_valid_xml_with_title_description_and_labels():
    points = [point("dense", 1.25e8, 0.93), point("after the cut", 6e7, 0.2), point("fine-tuned", 6e7, 0.92)]
    drawn = ET.fromstring(charts.tradeoff(points, width=380, height=330, key="k"))
    assert drawn.find("title").text == "Accuracy against MACs"
    assert "fine-tuned: 92.00" in drawn.find("desc").text
    assert drawn.get("aria-labelledby").split() == [drawn.find("title").get("id"), drawn.find("desc").get("id")]
    assert len(drawn.findall("circle")) == 3
    words = "".join(drawn.itertext())
    assert all(p.label in words for p in points)


def test_the_axis_is_logarithmic_only_for_large_ratios():
    near = charts.tradeoff([point("a", 1e8, 0.9), point("b", 5e7, 0.8)], width=900, height=400, key="k")
    far = charts.tradeoff([point("a", 1e8, 0.9), point("b", 1e6, 0.8)], width=900, height=400, key="k")
    assert "logarithmic" not in near
    assert "logarithmic" in far


@pytest.mark.parametrize("width", [380, 920])
def test_labels_of_close_points_do_not_cover_each_other(width):
    points = [point(f"stage {i}", 5e7 + i, 0.9 + i * 1e-4) for i in range(4)]
    drawn = ET.fromstring(charts.tradeoff(points, width=width, height=330, key="k"))
    tops = sorted(
        (t.get("class"), float(t.find("tspan").get("y"))) for t in drawn.findall("text") if "label" in t.get("class")
    )
    assert len(tops) == 4
    assert all(b[1] - a[1] >= 15 for a, b in pairwise(tops) if a[0] == b[0])


def test_lines_leave_out_what_is_not_finite():
    curve = charts.Line("train", ((1, 0.5), (2, float("nan")), (3, 0.2)), "train")
    drawn = ET.fromstring(charts.lines([curve], title="Loss", name="loss", key="k"))
    line = next(p for p in drawn.findall("polyline"))
    assert len(line.get("points").split()) == 2
    empty = charts.lines([charts.Line("train", ((1, float("nan")),), "train")], title="Loss", name="loss", key="k")
    assert "no finite value" in empty


def test_one_epoch_makes_a_chart():
    drawn = ET.fromstring(charts.lines([charts.Line("train", ((1, 0.5),), "train")], title="L", name="loss", key="k"))
    assert len(drawn.findall("circle")) == 1


def test_text_is_escaped():
    drawn = charts.tradeoff([point("<b>&", 1e8, 0.9), point("b", 5e7, 0.8)], width=900, height=400, key="k")
    assert "<b>" not in drawn
    assert ET.fromstring(drawn) is not None


def test_width_bar_is_in_percent_of_the_widest():
    drawn = ET.fromstring(charts.width_bar(32, 8, 64))
    assert [r.get("width") for r in drawn.findall("rect")] == ["50.000%", "12.500%"]
