"""Out-of-distribution detection, selective prediction, attacks."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_curve
from torch import nn

from secateur.errors import DataError, InputError
from secateur.measures.adversarial import Attack, Normalised, adversarial_right
from secateur.measures.coverage import selective
from secateur.measures.ood import detection


def test_ranking_by_hand() -> None:
    found = detection(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.8]))
    assert found.auroc == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert found.fpr95 == 0.5


def test_the_false_positive_rate_is_that_of_the_curve() -> None:
    known, strange = torch.randn(400) + 1, torch.randn(300)
    rates = roc_curve([1] * 400 + [0] * 300, torch.cat([known, strange]).numpy(), drop_intermediate=False)
    expected = next(f for f, t, _ in zip(*rates, strict=True) if t >= 0.95)
    assert detection(known, strange).fpr95 == pytest.approx(expected)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        detection(torch.tensor([torch.nan]), torch.tensor([1.0]))
    with pytest.raises(DataError, match="empty"):
        detection(torch.tensor([]), torch.tensor([1.0]))


def test_risk_and_coverage_by_hand() -> None:
    found = selective(torch.tensor([0.9, 0.8, 0.6]), torch.tensor([True, False, True]), (0.34, 1.0))
    assert found.aurc == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert found.excess == pytest.approx(found.aurc - (0 + 0 + 1 / 3) / 3)
    assert found.risk == ((0.34, 0.0), (1.0, pytest.approx(1 / 3)))


def linear(weight: float = 4.0) -> nn.Module:
    """Scores (-s, s) of a threshold at a mean of a half over 2x2 grey images."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(weight * torch.tensor([[-1.0] * 4, [1.0] * 4]))
        net[1].bias.copy_(weight * torch.tensor([2.0, -2.0]))
    return net


@pytest.mark.parametrize("kind", ["pgd", "apgd"])
def test_a_linear_network_is_broken_exactly_within_its_distance(kind: str) -> None:
    means = torch.tensor([0.52, 0.54, 0.56, 0.58, 0.44])
    images = means.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    right = adversarial_right(linear(), images, (means > 0.5).long(), Attack(0.05, 20, kind))
    assert right.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("kind", ["pgd", "apgd"])
def test_an_attack_stays_within_its_bounds(kind: str) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5))
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(0, 5, (16,))
    changed = Attack(0.03, 8, kind)(net, images, labels)
    assert (changed - images).abs().max() <= 0.03 + 1e-6
    assert changed.min() >= 0
    assert changed.max() <= 1
    loss = [nn.functional.cross_entropy(net(x), labels).item() for x in (images, changed)]
    assert loss[1] > loss[0] + 0.05
    assert torch.equal(changed, Attack(0.03, 8, kind)(net, images, labels))


def test_apgd_finds_at_least_what_pgd_finds() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 6))
    images, labels = torch.rand(64, 3, 4, 4), torch.randint(0, 6, (64,))
    loss = {}
    for kind in ("pgd", "apgd"):
        changed = Attack(0.1, 20, kind)(net, images, labels)
        loss[kind] = nn.functional.cross_entropy(net(changed), labels).item()
    assert loss["apgd"] >= 0.98 * loss["pgd"]


def test_normalisation_inside_is_that_outside() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, mean, std = torch.rand(2, 3, 2, 2), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(Normalised(net, mean, std, torch.device("cpu"))(images), net(by_hand))


def test_a_bad_attack_is_refused() -> None:
    with pytest.raises(InputError, match="epsilon"):
        Attack(epsilon=2.0)
