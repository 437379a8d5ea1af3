from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from made import made_record

from secateur.report import render, write
from secateur.report.page import FILES
from secateur.report.record import FrozenRow, ProofRow, RunRecord
from secateur.report.summary import blocked, lede, verdict

VOID = {"meta", "link", "input", "br", "img"}


class Outline(HTMLParser):
    """Text and structure of a page; raises where tags do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.tables = self.captions = 0
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_page_contains_the_numbers():
    words = Outline(render(made_record())).text
    for expected in (
        "zoo:resnet56 on cifar10", "93.39 %", "92.71 %", "−0.68 points", "92.20–93.22", "19.23 %", "84.17 %",
        "125.5 M", "62.4 M", "855.8 k", "2.01× fewer", "1.75 MB", "7.32 ms", "1.56× faster",
        "1.49–1.63×", "10,000 test inputs",
        "The cut is proven", "2.1e-15", "1e-9 is allowed", "15 min 35 s in all", "aten.constant_pad_nd",
        "budget: 2x macs", "10 epochs, bf16, channels last, 2 ranks", "Example CPU @ 2.60 GHz",
        "2.15.0", "layer2.3.conv1",
    ):  # fmt: skip
        assert expected in words, expected


def test_structure_is_sound():
    outline = Outline(render(made_record()))
    assert outline.open == []
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert outline.captions == outline.tables > 4
    assert len(outline.ids) == len(set(outline.ids))


def test_nothing_refers_outside_the_page():
    page = render(made_record())
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_every_string_is_escaped():
    evil = "<script>alert('x')</script>&\"'"
    record = made_record(
        model=evil,
        data=evil,
        recipe={"note": evil},
        versions={evil: evil},
        frozen=[FrozenRow(name=evil, units=3, reason=evil, operator=evil, module=evil)],
        seconds={evil: 1.0},
    )
    group = record.groups[0].model_copy(update={"name": evil, "proof": evil})
    page = render(record.model_copy(update={"groups": (group,)}))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert") >= 8
    assert Outline(page).open == []


@pytest.mark.parametrize(("groups", "limit"), [(30, 100_000), (1000, 1_000_000)])
def test_the_page_stays_small(groups, limit):
    assert len(render(made_record(groups=groups)).encode()) < limit


def test_write_leaves_page_json_and_csv(tmp_path):
    record = made_record()
    paths = write(record, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(FILES.values())
    assert RunRecord.load(paths["json"]) == record
    assert paths["page"].read_text(encoding="utf-8") == render(record)


def test_a_record_of_few_things_makes_a_page():
    record = made_record(groups=1)
    bare = record.model_copy(
        update={
            "stages": (record.dense.model_copy(update={"accuracy": None, "loss": None, "latency": None}),),
            "groups": (), "frozen": (), "proof": None, "curves": (),
            "speedup": None, "seconds": {}, "recipe": {}, "versions": {},
        }
    )  # fmt: skip
    words = Outline(render(bare)).text
    assert "Not proven" in words
    assert "Nothing: every dimension" in words
    assert "Test accuracy 9" not in words


def test_runs_that_only_zero_weights_report_what_is_not_zero():
    dense = made_record().dense
    sparse = dense.model_copy(update={"stage": "fine-tuned", "nonzero_macs": 12_549_000, "nonzero_params": 85_577})
    record = made_record(stages=(dense, sparse))
    words = Outline(render(record)).text
    assert "90.0 % of the weights are zero" in lede(record).replace("\N{NO-BREAK SPACE}", " ")
    assert "Non-zero MACs 125.5 M 12.5 M 10.0× fewer" in words
    assert "logarithmic" in words
    assert "Nothing was cut" in words


@pytest.mark.parametrize(
    ("proof", "kind", "words"),
    [
        (None, "none", "did not check"),
        (ProofRow(proven=True, tolerance=1e-9, dtype="float64"), "proven", "switched off"),
        (ProofRow(proven=False), "failed", "Do not use this model"),
    ],
)
def test_verdicts(proof, kind, words):
    said = verdict(made_record(proof=proof))
    assert said.kind == kind
    assert words in said.words


def test_what_is_blocked_is_gathered_by_reason_largest_first():
    rows = [
        FrozenRow(name="a", units=3, reason="input"),
        FrozenRow(name="b", units=64, reason="pad", operator="aten.pad"),
        FrozenRow(name="c", units=32, reason="pad", operator="aten.pad"),
    ]
    entries = blocked(rows)
    assert [(e.reason, e.units, len(e.rows)) for e in entries] == [("pad", 96, 2), ("input", 3, 1)]
