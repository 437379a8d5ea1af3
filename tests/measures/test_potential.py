from __future__ import annotations

import pytest
import torch

from secateur.errors import InputError
from secateur.measures.corruption import mean_corruption_error
from secateur.measures.excess import excess_difference, excess_slope
from secateur.measures.potential import paired, potential_interval, prune_potential


def found(ratios, errors, dense=0.10, margin=0.005) -> tuple[float, float, float, bool]:
    made = prune_potential(ratios, errors, dense, margin=margin)
    return made.value, made.contiguous, pytest.approx(made.interpolated), made.censored


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.2, 0.3, 0.4], (0.0, 0.0, 0.5 * 0.005 / 0.1, False)),
        ([0.1, 0.105, 0.12], (0.8, 0.8, 0.8, False)),
        ([0.1, 0.103, 0.113], (0.8, 0.8, 0.8 + 0.1 * 0.2, False)),
        ([0.1, 0.2, 0.104], (0.9, 0.5, 0.5 + 0.3 * 0.05, True)),
        ([0.1, 0.1, 0.1], (0.9, 0.9, 0.9, True)),
    ],
    ids=["none qualifies", "on the margin", "between ratios", "not contiguous", "censored"],
)
def test_tables_by_hand(errors, expected) -> None:
    assert found([0.5, 0.8, 0.9], errors) == expected


def test_the_order_of_the_ratios_does_not_matter() -> None:
    assert found([0.9, 0.5, 0.8], [0.113, 0.1, 0.103]) == found([0.5, 0.8, 0.9], [0.1, 0.103, 0.113])


def losses(rates, samples=4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a dense network that is wrong on a tenth, and of networks wrong on so many more."""
    place = torch.arange(samples) / samples
    return (place < 0.1).double(), torch.stack([(place < 0.1 + rate).double() for rate in rates])


def test_the_interval_holds_the_potential_and_narrows_with_samples() -> None:
    ratios, rates = [0.5, 0.8, 0.9], [0.0, 0.003, 0.02]
    widths = []
    for samples in (1000, 16_000):
        dense, pruned = losses(rates, samples)
        value = prune_potential(ratios, pruned.mean(dim=1).tolist(), float(dense.mean())).interpolated
        made = potential_interval(ratios, [paired(dense, pruned)], samples, draws=300)
        assert made.low <= value <= made.high
        widths.append(made.high - made.low)
    assert widths[1] < 0.6 * widths[0]


def test_a_ratio_is_safe_only_where_worse_is_ruled_out() -> None:
    dense, pruned = losses([0.0, 0.0045, 0.02])
    made = potential_interval([0.5, 0.8, 0.9], [paired(dense, pruned)], len(dense), draws=300)
    assert made.safe == 0.5  # 0.8 is within the margin, but by less than it is known
    assert prune_potential([0.5, 0.8, 0.9], pruned.mean(dim=1).tolist(), 0.1).contiguous == 0.8


def test_any_measure_of_a_resample_will_do() -> None:
    """IoU of one class, whose value on a resample is no mean over samples."""
    torch.manual_seed(0)
    inside, union = torch.rand(2, 500).sort(dim=0).values
    worse = inside * torch.tensor([[0.999], [0.9]])

    def statistic(drawn: torch.Tensor) -> torch.Tensor:
        return (inside @ drawn.float() - worse @ drawn.float()) / (union @ drawn.float())

    made = potential_interval([0.4, 0.8], [statistic], 500, draws=50)
    assert 0.4 <= made.low <= made.high < 0.5


def test_several_nets_are_drawn_too() -> None:
    good, bad = losses([0.0, 0.0]), losses([0.2, 0.3])
    made = potential_interval([0.5, 0.9], [paired(*good), paired(*bad)], 4000, draws=200)
    assert made.low < 0.1
    assert made.high == 0.9


def test_the_slope_goes_through_the_origin() -> None:
    ratios = [0.2, 0.5, 0.9]
    made = excess_slope(ratios, [0.02 * ratio for ratio in ratios])
    assert made.value == pytest.approx(0.02)
    assert (made.low, made.high) == pytest.approx((0.02, 0.02))
    noisy = excess_slope([0.5, 1.0], [0.02, 0.02])
    assert noisy.value == pytest.approx((0.5 * 0.02 + 0.02) / 1.25)  # least squares by hand
    assert noisy.low == pytest.approx(0.02)
    assert noisy.high == pytest.approx(0.04)


def test_the_parent_has_no_excess_over_itself() -> None:
    assert excess_difference(0.1, 0.1, [0.3, 0.2], [0.3, 0.2]) == 0
    assert excess_difference(0.10, 0.11, [0.30, 0.20], [0.34, 0.22]) == pytest.approx(0.02)


def test_mean_corruption_error_by_hand() -> None:
    errors = {("fog", 1): 0.1, ("fog", 2): 0.3, ("snow", 1): 0.4}
    assert mean_corruption_error(errors) == pytest.approx((0.2 + 0.4) / 2)
    assert mean_corruption_error(errors, {place: 2 * error for place, error in errors.items()}) == pytest.approx(0.5)
    with pytest.raises(InputError, match="none"):
        mean_corruption_error(errors, dict.fromkeys(errors, 0.0))


@pytest.mark.parametrize(
    ("ratios", "errors", "margin"), [([], [], 0.1), ([0.5, 0.5], [0, 0], 0.1), ([1.5], [0], 0.1), ([0.5], [0], -1)]
)
def test_bad_tables_are_refused(ratios, errors, margin) -> None:
    with pytest.raises(InputError):
        prune_potential(ratios, errors, 0.0, margin=margin)
