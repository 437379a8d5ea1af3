from __future__ import annotations

import re

import pytest
from made import made_record
from made_trust import made_trust, sheet
from test_page import Outline

from secateur.errors import CheckpointError
from secateur.report import render, write
from secateur.report.trust import section
from secateur.report.trust import write as write_alone
from secateur.report.trust_charts import shade
from secateur.report.trust_record import TrustRecord
from secateur.report.trust_words import paragraphs


def words(record: TrustRecord) -> str:
    said = " ".join(f"{question}: {answer}" for question, answer in paragraphs(record))
    return said.replace("\N{NO-BREAK SPACE}", " ")


def test_the_words_are_the_numbers():
    said = words(made_trust())
    for expected in (
        "With 80.0 % of its parameters gone, the pruned model is right on 92.71 % of 10,000 images",
        "the dense model on 93.39 %: 0.68 points less, more than chance (p = 0.001)",
        "218 that were right are now wrong, 150 the other way round",
        "it can be pruned to 80 % (95 % interval 70 % to 85 %); that it loses no more is certain up to 50 %",
        "2 classes lost more than chance: ship (−5.00 points), truck (−6.00 points)",
        "off by 5.0 % on average (dense: 3.0 %); one temperature makes that 0.8 %",
        "It loses most under gaussian noise of severity 5 (−4.50 points)",
        "The shifts cost it 0.82 points more than they cost the dense one",
        "falls to 30 % under jpeg compression",
        "under noise of 0.7 (in normalised units) on 65.0 %",
        "It tells cifar100 from its own data with an AUROC of 0.912",
        "Attacked by up to 8/255 a value it stays right on 4.4 % of 500 images (dense: 6.2 %)",
    ):
        assert expected in said, expected
    assert "no control" not in said


def test_what_was_not_measured_is_said():
    said = words(made_trust(several=False))
    assert "No corruption was evaluated" in said
    assert "There is no control" in said
    assert "If they shift" not in said
    assert "more than chance" in said


def test_a_censored_potential_is_told_as_a_bound():
    sheets = (sheet("nominal", 0, [9339, 9338], reach=0.9),)
    record = made_trust(several=False).model_copy(update={"sheets": sheets})
    assert "pruned to 90 % or more" in words(record)
    assert "no more than chance would do" in words(record)
    assert "≥ 90 %" in section(record).potential["wide"]


@pytest.mark.parametrize("several", [True, False])
def test_structure_is_sound_within_a_run_and_alone(several, tmp_path):
    record = made_trust(several)
    alone = write_alone(record, tmp_path).read_text()
    for page in (render(made_record(), record), alone):
        outline = Outline(page)
        assert outline.open == []
        assert outline.headings.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
        assert outline.captions == outline.tables
        assert len(outline.ids) == len(set(outline.ids))
        assert "What pruning broke" in outline.text
        assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)""", page)


def test_the_heat_map_has_every_cell_and_the_difference():
    dense, pruned, difference = section(made_trust()).heats
    assert [len(lines[1]) for lines in dense.lines] == [5] * 5
    assert dense.lines[0][1][0].value == "90.0"
    assert pruned.lines[0][1][0].value == "89.1"
    assert difference.lines[0][1][0].value == "−0.9"
    assert difference.lines[0][1][4].shade == 0  # the largest loss of all


def test_a_run_keeps_the_section_when_its_page_is_written_again(tmp_path):
    made_trust().save(tmp_path / "trust.json")
    page = write(made_record(), tmp_path)["page"].read_text()
    assert 'id="trust"' in page
    assert 'id="trust"' not in render(made_record())


def test_names_are_escaped():
    evil = "<script>alert(1)</script>"
    record = made_trust()
    models = tuple(m.model_copy(update={"name": evil + m.name}) for m in record.models)
    assert evil not in render(made_record(), record.model_copy(update={"models": models, "data": evil}))


def test_a_record_comes_back_as_it_was_and_a_damaged_one_is_named(tmp_path):
    path, record = tmp_path / "trust.json", made_trust()
    record.save(path)
    assert TrustRecord.load(path) == record
    for text, told in (("{", "cannot be read"), ('{"format": 2}', "must have format 1"), ("[]", "cannot be read")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=told):
            TrustRecord.load(path)


def test_shades_cover_the_range():
    assert [shade(v, 0.0, 1.0) for v in (-1.0, 0.0, 0.49, 0.5, 1.0)] == [0, 0, 3, 4, 7]
    assert shade(0.3, 0.3, 0.3) == 0
