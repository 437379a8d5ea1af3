from __future__ import annotations

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import InputError
from secateur.schedule import constant, cosine, cubic, exponential, linear, steps

MOVING = [linear, cosine, cubic, exponential]


@pytest.mark.parametrize("schedule", MOVING)
@given(start=st.floats(0.01, 10), end=st.floats(0.01, 10), a=st.floats(0, 1), b=st.floats(0, 1))
def test_schedules_go_from_start_to_end_and_never_turn_back(schedule, start, end, a, b):
    move = partial(schedule, start=start, end=end)
    assert move(0.0) == pytest.approx(start)
    assert move(1.0) == pytest.approx(end)
    low, high = move(min(a, b)), move(max(a, b))
    assert (high - low) * (end - start) >= -1e-9


def test_values_in_the_middle():
    assert linear(0.25, 0.0, 0.8) == pytest.approx(0.2)
    assert cosine(0.25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert cubic(0.5, 0.0, 0.8) == pytest.approx(0.8 - 0.8 / 8)  # Zhu & Gupta: seven eighths are gone half way
    assert exponential(0.5, 1.0, 0.01) == pytest.approx(0.1)
    assert constant(0.3, 5.0) == 5.0
    assert [steps(p, (1, 2, 4)) for p in (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)] == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("schedule", [*MOVING, constant, partial(steps, values=(1.0,))])
@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_outside_the_run_is_an_error(schedule, progress):
    arguments = {"start": 1.0, "end": 2.0} if schedule in MOVING else {}
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        schedule(progress, **arguments)


def test_ends_that_make_no_sense():
    with pytest.raises(InputError, match="must be positive"):
        exponential(0.5, 0.0, 1.0)
    with pytest.raises(InputError, match="at least one number"):
        steps(0.5, ())
