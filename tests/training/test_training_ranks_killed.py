"""Two processes, of which one or both are killed, started again by the same command: the same bits on both ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_training_killed import deaths


def check(told: dict) -> None:
    assert told["differing"] == []
    assert told["hung"] == [], "a survivor must notice that the other rank is dead"
    assert told["epochs"] == [1, 2, 3]
    assert sum(told["kills"].values()) >= len(told["kills"])


@pytest.mark.slow
def test_ranks_that_are_killed_go_on_together(tmp_path: Path) -> None:
    check(deaths("mortal_ranks.py", tmp_path, 1))
