"""The section on what happened on the way, from a story to the page."""

from __future__ import annotations

import torch
from made import made_record

from secateur.methods import Event, Story
from secateur.report import render
from secateur.report.gather import NAMED, leaving_rows
from secateur.report.leaving import by_group, fought_for, totals
from secateur.report.record import RunRecord


def story() -> Story:
    """Three units start; one is released, chosen again and then gone; another is released and stays."""
    made = Story()
    made.add([Event.of(10, "conv1", "leaving", torch.tensor([2, 5])), Event.of(10, "fc", "leaving", torch.tensor([7]))])
    made.add([Event.of(20, "conv1", "released", torch.tensor([2, 5]), torch.tensor([0.5, 0.25]), torch.tensor([4, 6]))])
    made.add([Event.of(20, "fc", "gone", torch.tensor([7])), Event.of(30, "conv1", "leaving", torch.tensor([5]))])
    made.add([Event.of(40, "conv1", "gone", torch.tensor([5]))])
    return made


def test_a_story_by_hand():
    rows = leaving_rows(story())
    assert totals(rows) == {
        "leaving": [(10, 3), (20, 0), (30, 1), (40, 0)],
        "released": [(10, 0), (20, 2), (30, 2), (40, 2)],
        "gone": [(10, 0), (20, 1), (30, 1), (40, 2)],
    }
    conv, fc = by_group(rows)
    assert (conv.started, conv.released, conv.gone, conv.kept) == (3, 2, 1, 0.375)
    assert (fc.started, fc.released, fc.gone, fc.kept) == (1, 0, 1, None)
    assert [(one.unit, one.kept, one.stayed) for one in fought_for(rows)] == [(2, 0.5, True), (5, 0.25, False)]


def test_many_units_at_once_are_counted_and_not_named():
    made = Story()
    made.add([Event.of(step, "fc", what, torch.arange(NAMED + 1)) for step, what in ((1, "leaving"), (2, "gone"))])
    rows = leaving_rows(made)
    assert [(row.units, row.count) for row in rows] == [((), NAMED + 1)] * 2
    assert totals(rows) == {
        "leaving": [(1, NAMED + 1), (2, 0)],
        "released": [(1, 0), (2, 0)],
        "gone": [(1, 0), (2, NAMED + 1)],
    }
    assert by_group(rows)[0].gone == NAMED + 1


def test_the_page_tells_it_and_the_record_keeps_it(tmp_path):
    record = made_record(leavings=leaving_rows(story()))
    page = render(record)
    for expected in (
        "What happened on the way",
        "2 units were released; 1 of them stayed",
        "Every unit that was fought for",
    ):
        assert expected in page
    record.save_json(tmp_path / "result.json")
    assert RunRecord.load(tmp_path / "result.json") == record
    assert "What happened on the way" not in render(made_record())


def test_a_story_is_told_over_time():
    assert story().over_time("conv1") == [(10, 2, 0, 0), (20, 0, 2, 0), (30, 1, 2, 0), (40, 0, 2, 1)]
