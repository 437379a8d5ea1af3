"""The sections on one-shot pruning and on what training did to weights, from rows by hand to the page."""

from __future__ import annotations

from made import made_record

from secateur.report import render
from secateur.report.prunability import dynamics, section
from secateur.report.record import DynamicsRow, PointRow, PrunabilityRow, RunRecord, WeightsRow

SHAPE = {"mean": 0.0, "mean_size": 0.08, "variance": 0.01, "kurtosis": 3.0, "hoyer": 0.6, "e50": 0.071}


def point(sparsity, accuracy, *, scope="global", again=False):
    more = {"zeros": int(1000 * sparsity), "energy": sparsity**2 / 2, "loss": 1 - accuracy}
    return PointRow(scope=scope, reestimated=again, sparsity=sparsity, accuracy=accuracy, **more)


ROW = PrunabilityRow(
    accuracy=0.9,
    loss=0.1,
    weights=WeightsRow(name="all", number=1000, bound=0.4, counts=(1, 499, 498, 2), **SHAPE),
    layers=(WeightsRow(name="conv<1>.weight", number=1000, **SHAPE),),
    curve=(point(0.9, 0.2), point(0.5, 0.85), point(0.5, 0.88, again=True), point(0.5, 0.7, scope="layer")),
    direction=((0.0, 0.1), (1.0, 0.4)),
)


def step(number, size):
    more = {"moved": 0.5, "weight_size": size, "weight_variance": 0.01}
    seen = {"gradient_size": 0.2, "gradient_variance": 0.04, "seen_size": 0.1, "seen_variance": 0.02}
    return DynamicsRow(step=number, **more, **seen)


NARROW = "\xa0"
"""Between a number and its unit."""
STEPS = (step(0, 0.1), step(200, 0.05))


def test_a_line_a_sparsity_and_a_column_a_way_that_was_measured():
    made = section(ROW)
    assert made.heads[2:] == ("one threshold", "one threshold, + batch norm", "each layer")
    lines = [[cell.replace(NARROW, " ") for cell in line] for line in made.lines]
    assert lines[0] == ["50 %", "12.5 %", "85.00 %", "88.00 %", "70.00 %"]
    assert (lines[1][0], lines[1][2]) == ("90 %", "20.00 %")
    assert made.lines[1][3] == made.lines[1][4] != ""
    assert len(made.charts) == 3
    assert len(section(ROW.model_copy(update={"direction": ()})).charts) == 2


def test_gradients_are_drawn_dense_and_as_the_optimizer_sees_them():
    drawn = dynamics(STEPS)
    assert len(drawn) == 5
    assert ["seen" in chart for chart in drawn] == [False, False, False, True, True]


def test_the_page_has_the_sections_where_they_were_measured(tmp_path):
    record = made_record(prunability=ROW, dynamics=STEPS)
    page = render(record).replace(NARROW, " ")
    for expected in ("How the dense model takes one-shot pruning", "holds 7.1 % of their squared norm", "88.00 %",
                     "What training did to the weights", "at 2 steps", "conv&lt;1&gt;.weight"):  # fmt: skip
        assert expected in page
    assert "conv<1>" not in page
    plain = render(made_record())
    assert "one-shot pruning" not in plain
    assert "What training did" not in plain
    record.save_json(tmp_path / "result.json")
    assert RunRecord.load(tmp_path / "result.json") == record
