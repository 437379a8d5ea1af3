from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import BudgetError
from secateur.planning import Budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% macs", Budget(50, "share", "macs")),
        ("  50 % of MACs ", Budget(50, "share", "macs")),
        ("2x macs", Budget(2, "factor", "macs")),
        ("2.5X params", Budget(2.5, "factor", "params")),
        ("1.2M params", Budget(1.2e6, "absolute", "params")),
        ("300M macs", Budget(3e8, "absolute", "macs")),
        ("3e8 macs", Budget(3e8, "absolute", "macs")),
        ("1.5 G macs", Budget(1.5e9, "absolute", "macs")),
        ("1500 parameters", Budget(1500, "absolute", "params")),
        ("30% channels", Budget(30, "share", "channels")),
        ("12 units", Budget(12, "absolute", "channels")),
        ("10% weights", Budget(10, "share", "weights")),
        ("100% weight", Budget(100, "share", "weights")),
        ("1x macs", Budget(1, "factor", "macs")),
    ],
)
def test_budgets_are_read(text, expected):
    assert Budget.parse(text) == expected
    assert Budget.parse(expected) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (0.5, "It has no unit: did you mean '50% macs'"),
        ("0.5", "did you mean '50% macs'"),
        (2, "It has no unit"),
        (True, "must read like"),
        (None, "must read like"),
        ("", "must read like"),
        ("half", "must read like"),
        ("50%", "of what: did you mean '50% macs'"),
        ("2x", "did you mean '2x macs'"),
        ("50% mcas", "Did you mean '50% macs'"),
        ("10x wieghts", "Did you mean '10x weights'"),
        ("600M flops", "say '300M macs'"),
        ("50% flops", "say '50% macs'"),
        ("3 ms latency", "must read like"),
        ("5Q macs", "'Q' is no multiplier"),
        ("0% macs", "above 0 %"),
        ("-50% macs", "what remains, not what is removed"),
        ("120% macs", "at most 100 %"),
        ("nan% macs", "Got nan"),
        ("0x macs", "at least 1"),
        ("0.5x macs", "Did you mean '2x macs'"),
        ("infx macs", "Got inf"),
        ("0.5 macs", "Did you mean '50% macs'"),
        ("-5 params", "at least 1"),
        ("inf macs", "Got inf"),
    ],
)
def test_budgets_that_make_no_sense_are_explained(text, message):
    with pytest.raises(BudgetError) as error:
        Budget.parse(text)
    assert message in str(error.value)


@given(
    st.one_of(
        st.builds(Budget, st.floats(1e-3, 100), st.just("share"), st.sampled_from(["macs", "params"])),
        st.builds(Budget, st.floats(1, 1e6), st.just("factor"), st.sampled_from(["channels", "weights"])),
        st.builds(Budget, st.floats(1, 1e13), st.just("absolute"), st.sampled_from(["macs", "weights"])),
    )
)
def test_budgets_print_as_what_they_are_read_from(budget):
    assert Budget.parse(str(budget)) == budget


def test_targets():
    assert Budget.parse("25% macs").target(200) == 50
    assert Budget.parse("4x macs").target(200) == 50
    assert Budget.parse("150 macs").target(200) == 150
    with pytest.raises(BudgetError, match=r"'300 macs' is above the 200 macs"):
        Budget.parse("300 macs").target(200)
