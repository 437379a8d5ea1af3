"""SiPP's bounds beside measured errors: of a small run, kept once, and told from results made by hand."""

from __future__ import annotations

import argparse
from xml.etree import ElementTree

import pytest
import tiny
import yaml
from tabled import bounds as told
from tabled.bounds import Bounds, LayerRow

from secateur.errors import CheckpointError
from secateur.report.record import Hardware
from secateur.run.experiments import carry_out, experiments
from secateur.run.progress import Silent

SHORT = {
    "model": {"spec": "zoo:lenet_300_100"},
    "data": {"name": "digits", "limit": 256},
    "training": {"epochs": 1},
    "pruning": {"units": "weights", "budget": "10% weights"},
    "batch_norm": {"batches": 0},
    "fine_tuning": {"epochs": 0},
    "measures": {"latency": False, "masked": False},
    "seed": [0, 1],
}


@pytest.fixture(scope="module")
def script():
    return tiny.script("experiments/bounds.py")


def test_bounds_of_a_finished_run_are_kept_once(tmp_path, script, monkeypatch):
    file = tmp_path / "experiments" / "lost_in_pruning" / "lenet_sipp.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(SHORT))
    done, missing = experiments(file, seeds=[0, 1])
    carry_out(done, tmp_path / "results", tmp_path / "work", Silent())
    given = argparse.Namespace(work=tmp_path / "work", results=tmp_path / "results")
    monkeypatch.setitem(script["rows"].__globals__, "LEFT", (50,))
    measured = script["measured"]
    path, made = measured(done, given)
    assert made
    assert path == given.results / "lost_in_pruning" / "bounds" / "lenet_sipp-seed0.json"
    assert measured(done, given) == (path, False)
    ((name, (found,)),) = told.kept(given.results).items()
    assert name == "lenet_sipp"
    assert [(row.variant, row.layer, row.neurons) for row in found.rows] == [
        (variant, f"fc{i}.weight", neurons)
        for variant in ("deterministic", "random")
        for i, neurons in ((1, 300), (2, 100), (3, 10))
    ]
    for row in found.rows:
        assert row.ratio == 0.5
        assert row.error[0] <= row.error[1] <= row.error[2]
        assert 0 <= row.says <= 1
        assert row.held > 0.8 or row.layer != "fc1.weight"  # so few images do not use every weight of later layers
    with pytest.raises(CheckpointError, match="not finished"):
        measured(missing, given)


def row(variant, ratio, bound, error, held=1.0):
    return LayerRow(
        variant=variant, ratio=ratio, layer="fc", neurons=5, bound=(bound / 2, bound, 2 * bound),
        error=(error / 2, error, 2 * error), held=held, says=0.5,
    )  # fmt: skip


def result(*rows):
    return Bounds(
        experiment="lost_in_pruning/x", model="zoo:lenet_300_100", data="mnist", recipe={}, seeds=(0,), versions={},
        hardware=Hardware(cpu="a CPU", threads=1), rows=rows, seconds=1.0,
    )  # fmt: skip


def test_a_table_tells_where_a_bound_says_something_and_how_far_it_is_off():
    first = result(
        row("deterministic", 0.2, 0.5, 0.1), row("deterministic", 0.6, 2.0, 0.2, 0.8), row("random", 0.6, 3.0, 0.1)
    )
    second = result(
        row("deterministic", 0.2, 0.3, 0.1), row("deterministic", 0.6, 0.8, 0.1), row("random", 0.6, 3.0, 0.0)
    )
    lines = told.told({"run": [first, second]}).splitlines()
    # below 1 up to 20 and 60 %; 5, 10, 3 and 8 times the error
    assert lines[2] == "| run, fc, kept as they are | 2 | 40 % | 6x | 80 % |"
    assert lines[3] == "| run, fc, drawn | 2 | 0 % | 30x | 100 % |"


def test_a_plot_has_a_panel_a_layer_and_leaves_out_what_a_log_scale_cannot_show():
    one = result(row("deterministic", 0.2, 0.0, 0.0), row("deterministic", 0.6, 2.0, 0.2), row("random", 0.6, 3.0, 0.1))
    ((name, text),) = told.plots({"run": [one]}).items()
    assert name == "sipp_bounds-run.svg"
    drawn = [each for each in ElementTree.fromstring(text).iter() if each.tag.endswith("polyline")]
    assert [len(each.attrib["points"].split()) for each in drawn] == [1, 1, 1, 1]
    assert "fc, drawn, bound at 60 %: 3" in text


def test_without_results_it_says_so():
    assert told.told({}) == told.shown({}) == told.NOTHING
    assert told.plots({}) == {}
