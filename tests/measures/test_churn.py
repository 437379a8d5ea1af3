from __future__ import annotations

import pytest
import torch
from scipy.stats import ttest_ind

from secateur.errors import DataError, InputError
from secateur.measures.churn import flips, mcnemar, worst
from secateur.measures.damage import class_damage, class_damage_over, holm
from secateur.measures.exemplars import identified_exemplars


def test_a_table_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    before = torch.tensor([0, 0, 1, 0, 0, 2])
    after = torch.tensor([0, 1, 0, 1, 1, 2])
    found = flips(before, after, labels)
    assert (found.total, found.changed, found.negative, found.positive) == (6, 4, 2, 1)
    assert found.churn == 4 / 6
    assert found.p_value == 1.0


def test_accuracy_changes_by_the_flips() -> None:
    labels, before, after = torch.randint(0, 3, (3, 200))
    found = flips(before, after, labels)
    change = ((after == labels).double().mean() - (before == labels).double().mean()).item()
    assert found.positive_rate - found.negative_rate == pytest.approx(change)


@pytest.mark.parametrize(("negative", "positive", "expected"), [(0, 0, 1.0), (5, 0, 2 / 32), (8, 2, 2 * 56 / 1024)])
def test_mcnemar_is_the_binomial(negative: int, positive: int, expected: float) -> None:
    assert mcnemar(negative, positive) == pytest.approx(expected)


def test_the_worst_are_those_surely_wrong() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    before, after = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 1, 1, 0])
    assert worst(before, after, labels, torch.tensor([0.6, 0.9, 0.99, 1.0]), 5) == [1, 0]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_only_the_damaged_class_is_named() -> None:
    labels = torch.arange(4).repeat_interleave(100)[:300]  # class 3 has no image
    before = labels.clone()
    after = labels.clone()
    after[:30] = 1
    after[150] = 0
    rows = class_damage(before, after, labels, classes=4)
    assert [row.significant for row in rows] == [True, False, False, False]
    assert rows[0].change == pytest.approx(-0.3)
    assert (rows[3].images, rows[3].p_value) == (0, 1.0)
    assert rows[3].before != rows[3].before


def test_no_damage_is_found_where_there_is_none() -> None:
    labels = torch.randint(0, 50, (5000,))
    before, after = (torch.where(torch.rand(5000) < 0.9, labels, (labels + 1) % 50) for _ in range(2))
    assert not any(row.significant for row in class_damage(before, after, labels, classes=50))


def test_populations_are_compared_by_welch() -> None:
    labels = torch.randint(0, 3, (300,))
    sides = [[torch.where(torch.rand(300) < p, labels, 2) for _ in range(4)] for p in (0.9, 0.6)]
    rows = class_damage_over(*sides, labels, classes=4)
    raw = []
    for c in range(3):
        own = [[(m[labels == c] == c).double().mean() - (m == labels).double().mean() for m in side] for side in sides]
        raw.append(float(ttest_ind(*(torch.stack(each).numpy() for each in own), equal_var=False).pvalue))
    assert [row.p_value for row in rows] == pytest.approx(holm([*raw, 1.0]))
    with pytest.raises(InputError, match="at least two"):
        class_damage_over(sides[0][:1], sides[1], labels, classes=4)


def test_exemplars_are_those_whose_usual_label_differs() -> None:
    labels = torch.tensor([0, 0, 1])
    dense = [torch.tensor(p) for p in ([0, 0, 1], [0, 1, 1], [0, 0, 0])]
    pruned = [torch.tensor(p) for p in ([0, 1, 1], [1, 1, 1], [0, 0, 1])]
    found = identified_exemplars(dense, pruned, labels)
    assert found.images == (1,)
    assert found.identified == pytest.approx((2 / 3, 1 / 3))
    assert found.rest == pytest.approx((5 / 6, 5 / 6))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        flips(torch.zeros(2), torch.zeros(3), torch.zeros(2))
    with pytest.raises(DataError, match="at least one"):
        flips(*torch.zeros(3, 0))
    with pytest.raises(InputError, match="One side is empty"):
        identified_exemplars([], [], torch.zeros(1))
