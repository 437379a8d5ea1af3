"""Networks that nobody wrote: drawn at random, cut at random, and held against the laws.

`benchmarks/fuzz.py` runs as many as one likes; what fails is told with the few steps that it needs.
"""

from __future__ import annotations

import pytest
import torch
from laws.fuzzing import HEADS, LAYOUTS, Network, Spec, check, drawn, example, failure, smallest
from laws.reference import redraw
from laws.steps import STEPS

import secateur
from secateur.errors import BudgetError
from secateur.graph.rules import RULES

SHUFFLED = 2  # a step that calls torch's own channel shuffle

MET = (
    Spec("line", (("Mixing", 58), ("Standardised", 34)), "mean", seed=16302),  # weights centred beside other biases
    Spec("volume", (("Mixing", 41), ("Standardised", 68)), "mean", seed=14742, share=0.75),
    Spec("line", (("Product", 41), ("Split", 71), ("Transposed", 20)), "mean", seed=19278, share=0.75),  # 6 + 6 = 3 * 4
)


def check_seeds(seeds: range) -> None:
    """Every network of the seeds keeps the laws; the first that does not is told, made small."""
    for seed in seeds:
        if failure(drawn(seed)):
            small = smallest(drawn(seed))
            pytest.fail(f"seed {seed}: {failure(small)}\ncheck({small!r}, print)")


@pytest.mark.parametrize("first", range(0, 40, 5))
def test_random_networks(first: int) -> None:
    check_seeds(range(first, first + 5))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(40, 2040, 100))
def test_many_random_networks(first: int) -> None:
    check_seeds(range(first, first + 100))


@pytest.mark.parametrize("kind", sorted(STEPS))
def test_every_step_alone(kind: str) -> None:
    for number in range(2):
        spec = Spec(STEPS[kind].layout, ((kind, number),), HEADS[number], number)
        assert failure(spec) == "", repr(spec)


@pytest.mark.parametrize("spec", MET, ids=lambda spec: "-".join(name for name, _ in spec.steps))
def test_what_the_fuzzer_has_met(spec: Spec) -> None:
    """Networks that were refused, found among 20,000."""
    assert failure(spec) == "", repr(spec)


def test_a_seed_is_a_network() -> None:
    assert drawn(5) == drawn(5) != drawn(6)
    assert {drawn(seed).start for seed in range(50)} == set(LAYOUTS)
    assert {name for seed in range(400) for name, _ in drawn(seed).steps} == set(STEPS)


def test_a_wrong_rule_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel shuffles whose rule forgets that they reorder channels, in a network of many other steps."""
    for name in ("channel_shuffle", "native_channel_shuffle"):
        monkeypatch.setitem(RULES, name, lambda terms, call: [list(call["self"].dims)])
    wrong = Spec("image", (("Conv", 1), ("Shuffle", SHUFFLED), ("Residual", 3), ("BatchNorm", 0)), "flatten", seed=1)
    assert failure(wrong)
    assert set(smallest(wrong).steps) == {("Conv", 1), ("Shuffle", SHUFFLED)}


@pytest.mark.parametrize("seed", range(8))
def test_a_budget_is_met_or_refused_in_words(seed: int) -> None:
    spec = drawn(seed)
    torch.manual_seed(seed)
    share = (0.1, 0.35, 0.6, 0.85)[seed % 4]
    groups = secateur.groups(redraw(Network(spec)), example(spec))
    least = groups.cost(groups.balance(dict.fromkeys((g.name for g in groups), 1))).params
    budget = f"{100 * share:.4g}% params"
    if share * groups.cost().params < least:
        with pytest.raises(BudgetError, match="cannot be reached"):
            secateur.plan(groups, budget=budget, round_to=1, minimum=1)
        return
    plan = secateur.plan(groups, budget=budget, round_to=1, minimum=1)
    slim = secateur.slim(groups, plan)
    assert sum(p.numel() for p in slim.parameters()) == plan.reached.params <= 1.01 * share * plan.dense.params
    proof = secateur.record(slim).proof
    assert proof is None or proof.holds


def test_what_a_check_tells() -> None:
    told: list[str] = []
    assert check(Spec("line", (("Conv1d", 3),), "mean"), told.append).groups == 3
    assert told[0] == "line 12; Conv1d(3) 12 -> 8"
