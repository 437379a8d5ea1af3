"""Accuracy by hand, and Wilson's interval against published values."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from secateur.errors import DataError, InputError
from secateur.measures import accuracy
from secateur.measures.classification import wilson


def test_counts_loss_and_top5_by_hand() -> None:
    scores = torch.tensor(
        [
            [9.0, 1, 2, 3, 4, 5, 6],  # label 0: right
            [9.0, 1, 2, 3, 4, 5, 6],  # label 6: second
            [9.0, 1, 2, 3, 4, 5, 6],  # label 1: last
        ]
    )
    labels = torch.tensor([0, 6, 1])
    found = accuracy(nn.Identity(), [(scores[:2], labels[:2]), (scores[2:], labels[2:])])
    assert (found.correct, found.total) == (1, 3)
    assert found.value == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(F.cross_entropy(scores, labels).item())
    assert str(found).startswith("33.33% [")


def test_five_classes_or_fewer_are_all_among_the_top() -> None:
    assert accuracy(nn.Identity(), [(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))]).top5 == 1.0


def test_every_pixel_counts_in_segmentation() -> None:
    scores = torch.zeros(2, 3, 4, 4)
    scores[:, 1] = 1.0
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    labels[0, 0] = 2
    found = accuracy(nn.Identity(), [(scores, labels)])
    assert (found.correct, found.total) == (28, 32)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("total", "confidence"), [*product((1, 10, 10000), (0.5, 0.95, 0.999))])
def test_wilson_agrees_with_scipy_and_stays_in_bounds(total: int, confidence: float) -> None:
    for correct in {0, total // 3, total}:
        expected = binomtest(correct, total).proportion_ci(confidence, method="wilson")
        assert wilson(correct, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)
        low, high = wilson(correct, total, confidence)
        assert 0 <= low <= correct / total <= high <= 1


def test_the_model_is_evaluated_and_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    model[1].eval()
    before = model[0].running_mean.clone()
    accuracy(model, [(torch.randn(8, 3), torch.zeros(8, dtype=torch.long))])
    assert torch.equal(model[0].running_mean, before)
    assert [module.training for module in model.modules()] == [True, True, False]
    with pytest.raises(InputError):
        accuracy(model, [(torch.randn(8, 3), torch.zeros(8))])
    assert model.training


def test_bf16_rounds() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(64, 10), (torch.randn(256, 64), torch.randint(10, (256,)))
    exact, rounded = (accuracy(model, [batch], precision=precision).loss for precision in ("fp32", "bf16"))
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert rounded != exact


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], DataError, "It is empty"),
        (
            [(torch.ones(2, 3), torch.tensor([0, 3]))],
            InputError,
            r"Labels must lie in \[0, 3\).*Got labels from 0 to 3",
        ),
        ([(torch.ones(2), torch.tensor([0, 1]))], InputError, r"Got outputs \[2\] and targets \[2\]"),
        ([(torch.ones(2, 3), torch.tensor([0]))], InputError, r"Got outputs \[2, 3\] and targets \[1\]"),
        ([(torch.ones(2, 3), [0, 1])], InputError, "targets list"),
        ([torch.ones(2, 3)], InputError, "pairs"),
    ],
)
def test_bad_batches(loader, error, message) -> None:
    with pytest.raises(error, match=message):
        accuracy(nn.Identity(), loader)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_bad_confidence(confidence: float) -> None:
    with pytest.raises(InputError, match="'confidence' parameter of accuracy"):
        accuracy(nn.Identity(), [(torch.ones(1, 2), torch.tensor([0]))], confidence=confidence)
