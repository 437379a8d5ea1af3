"""The section on what a training passed through, from rows by hand to the page."""

from __future__ import annotations

import re

import pytest
from made import accuracy, made_record

from secateur.report import render
from secateur.report.record import RunRecord, SnapshotRow
from secateur.report.snapshots import section

NARROW = "\xa0"
"""Between a number and its unit."""


def row(budget, step, spent, correct, tuned=None):
    more = {} if tuned is None else {"tuned": accuracy(tuned), "tuned_loss": 0.1}
    return SnapshotRow(budget=budget, step=step, spent=spent, accuracy=accuracy(correct), loss=0.2, **more)


PLAIN = (row("5% weights", 700, 13_310, 9810), row("809 weights", 2900, 805, 9480))
TUNED = (row("5% weights", 700, 13_310, 9810, 9830), row("809 weights", 2900, 805, 9480, 9570))


def across(chart):
    """The positions of the points of every curve, from left to right."""
    lines = re.findall(r'<polyline points="([^"]+)"', chart)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_a_curve_as_it_was_and_one_fine_tuned_over_a_logarithmic_axis():
    made = section((*TUNED, row("100 weights", 4000, 100, 8000, 9000)))
    assert (made.unit, made.tuned) == ("weights", True)
    before, after = across(made.chart)
    assert [x for x, _ in before] == [x for x, _ in after] == sorted(x for x, _ in before)
    assert all(tuned < plain for (_, plain), (_, tuned) in zip(before, after, strict=True))  # upwards is less
    (first, _), (second, _), (third, _) = before
    ratio = (third - second) / (second - first)
    assert ratio == pytest.approx(1.345, abs=0.01)  # log(13310 / 805) / log(805 / 100)
    assert "fine-tuned from 90 to 98.3" in made.chart


def test_one_snapshot_has_a_chart_and_no_curve_where_none_was_fine_tuned():
    made = section(PLAIN[:1])
    assert not made.tuned
    assert len(across(made.chart)) == 1
    assert "fine-tuned" not in made.chart


def test_the_page_has_the_section_where_there_are_snapshots(tmp_path):
    record = made_record(snapshots=TUNED)
    page = render(record).replace(NARROW, " ")
    for expected in ("What the training passed through", "fine-tuned under its mask", "13,310", "95.70 %", "94.80 %",
                     "Accuracy over weights left", "95.30 % to 96.10 %"):  # fmt: skip
        assert expected in page
    plain = render(made_record(snapshots=PLAIN))
    assert "fine-tuned under its mask" not in plain
    assert "What the training passed through" not in render(made_record())
    record.save_json(tmp_path / "result.json")
    assert RunRecord.load(tmp_path / "result.json") == record
