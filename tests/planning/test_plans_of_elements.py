from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import chain_groups, small_groups

from secateur.errors import BudgetError
from secateur.graph.elements import blocks, elements
from secateur.planning import plan

laws = settings(max_examples=60, deadline=None)


@laws
@given(st.integers(1, 100), st.sampled_from(["global", "local", "uniform"]))
def test_element_budgets_are_met_exactly(percent, allocation):
    groups = elements(chain_groups([20, 30]).model)
    others = groups.cost().weights - sum(g.units for g in groups)
    asked = groups.cost().weights * percent / 100
    if asked * 1.01 < others + len(groups):
        with pytest.raises(BudgetError, match=r"one unit of each group|cannot be pruned"):
            plan(groups, None, f"{percent}% weights", allocation=allocation)
        return
    made = plan(groups, None, f"{percent}% weights", allocation=allocation)
    assert made.reached.weights == others + sum(made.counts.values())
    assert made.reached.weights <= max(asked, others + len(groups))
    if allocation == "global":
        assert made.reached.weights > asked - 1
    assert made.reached.weights > 0.999 * asked - len(groups)


def test_elements_keep_the_largest_weights_of_the_network():
    groups = elements(small_groups().model, torch.zeros(1, 1, 8, 8))
    made = plan(groups, None, "4x weights")
    weights = {g.name: groups.tensor(g.name).detach().abs().flatten() for g in groups}
    kept = torch.cat([weights[g.name][made.keep[g.name]] for g in groups])
    gone = torch.cat([weights[g.name][made.removed(g.name)] for g in groups])
    assert kept.min() >= gone.max()
    assert made.reached.nonzero_macs < made.reached.macs == made.dense.macs


def test_masks_do_not_change_macs_so_such_budgets_are_refused():
    for groups in (elements(small_groups().model), blocks(small_groups().model, 2, 2)):
        for budget in ("50% macs", "50% params", "50% channels"):
            with pytest.raises(BudgetError, match="such as '50% weights'"):
                plan(groups, None, budget)
        assert plan(groups).budget == "50% weights"


def test_weights_means_parameters_for_slices():
    groups = small_groups()
    assert plan(groups, None, "50% weights").counts == plan(groups, None, "50% params").counts
