"""Learning rates by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
from tinynet import QUIET, batches, net
from torch.optim import SGD

from secateur.training import fit
from secateur.training.schedules import learning_rate, milestone, warm_up


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 1.0), (0.25, (1 + math.sqrt(0.5)) / 2), (0.5, 0.5), (1.0, 0.0)])
def test_cosine(progress: float, factor: float) -> None:
    assert learning_rate("cosine", (), 0.1)(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1.0), (0.49, 1.0), (0.5, 0.1), (0.74, 0.1), (0.75, 0.01), (1, 0.01)]
)
def test_milestones(progress: float, factor: float) -> None:
    assert milestone(progress) == pytest.approx(factor)


def test_the_ramp_is_never_zero_and_ends_at_one() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0
    assert warm_up(0, 0.5) == 1.0


class Rates:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_step(self, state) -> None:
        self.seen.append(state.optimizer.param_groups[0]["lr"])


def rates(**kw) -> list[float]:
    method = Rates()
    fit(net(), batches(2), epochs=2, methods=[method], **{**QUIET, "optimizer": partial(SGD, lr=1.0)}, **kw)
    return method.seen


def test_every_step_of_fit_has_its_rate() -> None:
    assert rates(schedule="constant") == [1.0] * 4
    assert rates() == pytest.approx([(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
    assert rates(schedule="step", milestones=[0.75], gamma=0.5) == pytest.approx([1, 1, 1, 0.5])
    assert rates(schedule=lambda progress: 1 - progress) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(schedule="constant", warmup=1.5) == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates(schedule="step", milestones=[0.5], warmup=1) == pytest.approx([0.5, 1, 0.1, 0.1])
