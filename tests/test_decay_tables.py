"""The comparison of removal policies: paired differences, and a verdict that says no more than they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import ttest_rel
from tabled import decay

from secateur.report.record import AccuracyRow, LeavingRow, RunRecord
from secateur.report.seeds import paired

ROOT = Path(__file__).resolve().parent.parent
HOST = {0: 0.910, 1: 0.912, 2: 0.908, 3: 0.911}


def records(values, leavings=()):
    """Records of another run with the test accuracies exchanged, one a seed."""
    made = RunRecord.load(ROOT / "results" / "magnitude" / "resnet56_2x.json")
    found = []
    for seed, value in values.items():
        correct = round(10_000 * value)
        accuracy = AccuracyRow(value=value, low=value - 0.01, high=value + 0.01, correct=correct, total=10_000)
        stages = (*made.stages[:-1], made.final.model_copy(update={"accuracy": accuracy}))
        found.append(made.model_copy(update={"stages": stages, "seeds": (seed,), "leavings": tuple(leavings)}))
    return found


def shifted(by, jitter=0.0):
    return {seed: value + by + jitter * (-1) ** seed for seed, value in HOST.items()}


@pytest.fixture
def found():
    """A decay that does nothing beyond noise, and one with rectifying that gains."""
    return {
        "decay_pruning/net": records(HOST),
        "decay_pruning/net_decay": records(shifted(0.0001, 0.002)),
        "decay_pruning/net_rectify": records(shifted(0.003, 0.0005)),
        "decay_pruning/net_rectify-pruning.method.removal.steps=50": records(
            shifted(-0.01, 0.0001),
            [
                LeavingRow(step=1, group="a", what="leaving", units=(0, 1)),
                LeavingRow(step=2, group="a", what="released", units=(0, 1), kept=(0.5, 0.4)),
                LeavingRow(step=9, group="a", what="gone", units=(1,)),
            ],
        ),
        "dense/net": records(HOST),
    }


def test_a_paired_difference_is_students():
    other = {2: 0.90, 1: 0.93, 0: 0.92, 7: 0.5}
    difference = paired(HOST, other)
    test = ttest_rel([other[seed] for seed in (0, 1, 2)], [HOST[seed] for seed in (0, 1, 2)])
    expected = test.confidence_interval(0.95)
    assert difference.count == 3
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert not difference.told
    assert paired(HOST, {0: 0.9}) is None
    assert paired(HOST, shifted(0.01)).words() == "+1.00 [+1.00, +1.00]"


def test_arms_stand_beside_their_host(found):
    text = decay.arms(found)
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == [
        "| net, host alone",
        "| net, decay",
        "| net, decay and rectifying",
    ]
    assert "91.03 ± 0.17" in lines[2]
    assert "+0.30 [" in lines[4]
    assert "dense/net" not in text
    assert "steps=50" not in text


def test_the_verdict_says_what_the_intervals_say(found):
    told = decay.verdict(found).splitlines()
    assert told[0].startswith("- net: decay makes no difference larger than the noise of seeds (+0.01 [")
    assert told[1].startswith("- net: decay and rectifying gains more than the noise of seeds (+0.30 [")
    assert len(told) == 2


def test_changes_of_the_removal_are_told_beside_the_arm_they_change(found):
    line = decay.sensitivity(found).splitlines()[2]
    assert line.startswith("| net_rectify, steps=50 | 4 | 90.03 ")
    assert "| -1.30 [" in line
    assert line.endswith("| 2.0 | 50 % |")


@pytest.mark.parametrize("which", ["arms", "sensitivity", "verdict"])
def test_nothing_measured_is_said(which):
    assert "Not measured yet" in decay.TABLES[f"decay {which}"]({"dense/net": records(HOST)})
