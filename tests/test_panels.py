"""Plots of the docs: drawn from values, whole files, and noticed when they are stale."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import tiny
from tabled.panels import Curve, Panel, drawn

PANELS = [
    Panel(
        "as it is", (Curve("a < b", ((0.0, 0.9, 0.0), (0.5, 0.7, 0.1))), Curve("c", ((0.0, 0.8, 0.0),), dashed=True))
    ),
    Panel("again", (Curve("c", ((0.5, 0.2, 0.0),)),)),
]


def texts(root):
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_plot_is_a_file_that_stands_alone():
    root = ElementTree.fromstring(drawn(PANELS, title="What is left", across="sparsity", upwards="accuracy, %"))
    found = texts(root)
    assert root.get("viewBox").split()[:2] == ["0", "0"]
    assert found.count("sparsity") == 2
    assert [name for name in found if name in ("as it is", "again", "a < b", "c")] == [
        "as it is",
        "again",
        "a < b",
        "c",
    ]
    dots = [e.get("class") for e in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots == ["dot c0", "dot c0", "dot c1", "dot c1", "dot c0", "dot c1"]


def test_values_lie_where_the_axes_say():
    """Shares become per cent, a deviation becomes a whisker, and no axis leaves [0, 100]."""
    text = drawn(PANELS, title="t", across="x", upwards="y")
    assert text.count("whisker c0") == 1
    marks = [float(name) for name in texts(ElementTree.fromstring(text)) if name.replace(".", "").isdigit()]
    assert min(marks) >= 0
    assert max(marks) <= 100
    assert drawn(PANELS, title="t", across="x", upwards="y") == text
    with pytest.raises(ValueError, match="empty"):
        drawn([Panel("none", ())], title="t", across="x", upwards="y")


def test_stale_plots_are_noticed(tmp_path):
    fresh = tiny.script("experiments/tables.py")["fresh"]
    (tmp_path / "study-old.svg").write_text("no result draws this any more")
    (tmp_path / "by-hand.svg").write_text("of no question")
    made = fresh(tmp_path, {"study": lambda: {"study-new.svg": "drawn"}, "nothing": dict})
    assert {path: text for path, text in made.items() if path.parent == tmp_path} == {
        tmp_path / "study-old.svg": None,
        tmp_path / "study-new.svg": "drawn",
    }
