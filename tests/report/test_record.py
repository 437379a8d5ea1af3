from __future__ import annotations

import csv
import json

import pytest
from made import made_record
from pydantic import ValidationError

from secateur.errors import CheckpointError
from secateur.report import RunRecord


def test_json_gives_the_record_back(tmp_path):
    record = made_record()
    record.save_json(tmp_path / "result.json")
    assert RunRecord.load(tmp_path / "result.json") == record


def test_a_loss_that_is_not_finite_survives_json(tmp_path):
    record = made_record()
    stages = (record.dense, record.final.model_copy(update={"loss": float("inf")}))
    made_record(stages=stages).save_json(tmp_path / "result.json")
    assert RunRecord.load(tmp_path / "result.json").final.loss == float("inf")


def test_csv_has_one_line_a_stage_with_the_numbers(tmp_path):
    record = made_record()
    record.save_csv(tmp_path / "result.csv")
    with (tmp_path / "result.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["stage"] for line in lines] == [row.stage for row in record.stages]
    for line, row in zip(lines, record.stages, strict=True):
        assert int(line["macs"]) == row.macs
        assert float(line["accuracy_value"]) == row.accuracy.value
        assert line["bytes"] == ("" if row.bytes is None else str(row.bytes))
        assert line["latency_median_ms"] == ("" if row.latency is None else str(row.latency.median_ms))


def test_ratios_compare_dense_with_final():
    record = made_record()
    assert record.ratio("macs") == pytest.approx(125_490_000 / 62_410_000)
    assert record.ratio("latency") == 1.56
    unmeasured = record.model_copy(update={"stages": (record.dense, record.stage("cut")), "speedup": None})
    assert unmeasured.ratio("latency") is None
    assert unmeasured.ratio("bytes") is None


def test_unknown_stages_and_fields_are_refused():
    row = made_record().dense.model_dump()
    with pytest.raises(ValidationError, match="stage"):
        made_record(stages=[row | {"stage": "rested"}])
    with pytest.raises(ValidationError, match="flops"):
        made_record(stages=[row | {"flops": 3}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no record of a run"),
        ('{"format": 1, "model"', "cannot be read"),
        ("[]", "must have format 1"),
        ('{"format": 99}', "must have format 1. Got 99"),
        ('{"format": 1}', "damaged at 'model'"),
    ],
)
def test_files_that_are_no_record_are_named(tmp_path, text, message):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)


def test_a_changed_number_type_is_named(tmp_path):
    record = made_record()
    record.save_json(tmp_path / "result.json")
    values = json.loads((tmp_path / "result.json").read_text())
    values["stages"][1]["macs"] = "many"
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"damaged at 'stages\.1\.macs'"):
        RunRecord.load(tmp_path / "result.json")
