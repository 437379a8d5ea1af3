"""Draws that are unbiased and of a stated number, and the program that shares a budget out over neurons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from secateur.sensitivity.drawing import distinct, draw, draws_for
from secateur.sensitivity.neurons import Neurons, random_error

ROWS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
WEIGHTS = np.array([5.0, 1.0, 0.1, 2.0, 1.0, 1.0, 0.0, 3.0, 1e-3, 0.5])
COUNTS = np.array([2, 2, 1])


def test_as_many_distinct_units_are_drawn_as_were_asked_for():
    for seed in range(20):
        kept, factors = draw(WEIGHTS, ROWS, COUNTS, np.random.default_rng(seed))
        assert np.bincount(ROWS, kept).tolist() == [2, 2, 1]
        assert (factors[kept] > 0).all()
        assert not factors[~kept].any()
        assert factors[4:7].tolist() == [1, 1, 0]  # as many as have a weight stay as they are


def test_factors_are_one_on_average():
    rng = np.random.default_rng(0)
    drawn = np.stack([draw(WEIGHTS, ROWS, COUNTS, rng).factors for _ in range(20_000)])
    mean, error = drawn.mean(0), drawn.std(0) / 20_000**0.5
    likely = [0, 1, 2, 3, 7, 9]  # what is drawn once in a thousand times needs more of them
    assert (abs(mean[likely] - 1) < 4.5 * error[likely] + 1e-12).all(), mean
    assert drawn.std(0)[0] > 0.1


def test_a_weighted_sum_of_a_row_is_right_on_average_and_exact_in_proportion_to_the_weights():
    """What is drawn with p_j and divided by it: sums of values in proportion to p are right in every single draw."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        factors = draw(WEIGHTS, ROWS, COUNTS, rng).factors
        assert np.bincount(ROWS, factors * WEIGHTS) == pytest.approx(np.bincount(ROWS, WEIGHTS))


def test_one_draw_of_a_unit_equals_drawing_by_hand():
    """Two units of which one is kept: drawn until the other shows up, the first is kept with its own probability."""
    rng = np.random.default_rng(2)
    weights, rows = np.array([3.0, 1.0]), np.array([0, 0])
    kept = np.stack([draw(weights, rows, np.array([1]), rng).kept for _ in range(4000)])
    assert kept[:, 0].mean() == pytest.approx(0.75, abs=0.03)


def test_expected_distinct_units_and_the_draws_they_take():
    shares = np.array([0.5, 0.3, 0.2, 0.0])
    assert distinct(shares, 1) == pytest.approx(1)
    assert distinct(shares, 3) == pytest.approx(sum(1 - (1 - p) ** 3 for p in shares))
    assert distinct(shares, draws_for(shares, 2.5)) == pytest.approx(2.5)
    assert draws_for(shares, 1) == 1
    assert draws_for(shares, 3) == float("inf")
    assert distinct(np.array([1.0]), 5) == 1


def problem(seed: int = 0) -> Neurons:
    rng = np.random.default_rng(seed)
    alpha, sizes = rng.uniform(5, 500, 8), rng.integers(3, 40, 8)
    return Neurons(alpha, np.repeat([0.5, 0.25], 4), sizes, np.repeat([0, 1], 4))


@pytest.mark.parametrize("budget", [8, 40, 90])
def test_the_budget_is_spent_as_a_general_solver_spends_it(budget):
    neurons = problem()

    def cost(kept: np.ndarray) -> float:
        return float((neurons.share * random_error(neurons.alpha, np.maximum(kept, 1e-9))).sum())

    spent = neurons.spend(budget)
    assert spent.sum() == budget
    assert (spent <= neurons.sizes).all()
    found = minimize(
        cost,
        np.full(8, budget / 8.0).clip(max=neurons.sizes),
        bounds=[(1e-3, size) for size in neurons.sizes],
        constraints={"type": "eq", "fun": lambda kept: kept.sum() - budget},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert abs(spent - found.x).max() < 1.05
    exact = neurons.kept(brentq(lambda at: neurons.kept(at).sum() - budget, *neurons.ends))
    assert cost(exact) == pytest.approx(found.fun, rel=2e-3)


def test_everything_nothing_and_neurons_without_a_sum():
    neurons = problem()
    assert (neurons.spend(10_000) == neurons.sizes).all()
    assert neurons.spend(0).sum() == 0
    assert neurons.spend(1).sum() == 1
    still = Neurons(np.array([0.0, 3.0]), np.ones(2), np.array([0, 5]), np.zeros(2, dtype=np.int64))
    assert still.spend(3).tolist() == [0, 3]
    assert random_error(np.array([3.0, 0.0]), np.array([0.0, 0.0])).tolist() == [np.inf, 0.0]
    assert random_error(np.array([6.0]), np.array([1.0]))[0] == pytest.approx((16**0.5 + 2) / 2)
