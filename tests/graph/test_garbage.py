"""Collections while a stage works."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import secateur
from secateur.graph.garbage import only_new


class Knot:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_new_garbage_is_collected_and_older_waits() -> None:
    knot = Knot()
    older = weakref.ref(knot)
    with only_new():
        del knot
        newer = weakref.ref(Knot())
        gc.collect()
        assert newer() is None
        assert older() is not None
    gc.collect()
    assert older() is None


def test_blocks_within_each_other_and_errors_end_well() -> None:
    with only_new():
        with only_new():
            pass
        assert gc.get_freeze_count() > 0
    with pytest.raises(ValueError, match="told"), only_new():
        raise ValueError("told")
    assert gc.get_freeze_count() == 0


def test_what_a_process_does_itself_is_left_alone() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with only_new():
        pass
    assert gc.get_freeze_count() == frozen
    gc.unfreeze()
    gc.disable()
    with only_new():
        assert gc.get_freeze_count() == 0
    assert not gc.isenabled()


def test_stages_look_at_their_own_objects_alone() -> None:
    counted = []

    class Counting(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
            counted.append(gc.get_freeze_count())
            return super().forward(input)

    model = nn.Sequential(Counting(4, 6), nn.Linear(6, 3))
    small = secateur.prune(model, torch.randn(2, 4), round_to=1)
    assert counted
    assert min(counted) > 0
    assert gc.get_freeze_count() == 0
    assert small[0].out_features < 6
