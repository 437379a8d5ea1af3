from __future__ import annotations

import math

import pytest

from secateur.report import text


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (text.count(125_490_000), "125.5 M"),
        (text.count(855_770), "855.8 k"),
        (text.count(999_960), "1.00 M"),
        (text.count(512), "512"),
        (text.count(0), "0"),
        (text.count(None), "–"),
        (text.tick(50_000_000), "50 M"),
        (text.size(3_454_100), "3.45 MB"),
        (text.size(512), "512 B"),
        (text.share(0.9339), "93.39 %"),
        (text.share(math.nan), "–"),
        (text.points(-0.0068), "−0.68 points"),
        (text.points(0.00001), "±0.00 points"),
        (text.points(0.012), "+1.20 points"),
        (text.number(0.28394), "0.284"),
        (text.number(math.inf), "infinite"),
        (text.number(math.nan), "not a number"),
        (text.error(1e-9), "1e-9"),
        (text.error(2.1e-15), "2.1e-15"),
        (text.error(0.0), "0"),
        (text.milliseconds(0.0421), "42.1 µs"),
        (text.milliseconds(4.8213), "4.82 ms"),
        (text.milliseconds(4821.3), "4.82 s"),
        (text.duration(0.042), "42 ms"),
        (text.duration(3.21), "3.2 s"),
        (text.duration(59.99), "1 min 0 s"),
        (text.duration(754.2), "12 min 34 s"),
        (text.duration(7300), "2 h 1 min"),
        (text.change(2.013, "fewer", "more"), "2.01× fewer"),
        (text.change(0.5, "faster", "slower"), "2.00× slower"),
        (text.change(1.0, "fewer", "more"), "unchanged"),
        (text.change(None, "fewer", "more"), "–"),
    ],
)
def test_numbers_as_a_person_reads_them(made, expected):
    assert made.replace("\N{NO-BREAK SPACE}", " ") == expected
