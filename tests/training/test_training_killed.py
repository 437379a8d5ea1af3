"""Killed at any moment, also within a checkpoint's write, and started again: the same bits as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def deaths(program: str, folder: Path, *seeds: int) -> dict:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / program), str(folder), *map(str, seeds)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=1200,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(told: dict) -> None:
    assert told["differing"] == []
    assert told["epochs"] == [1, 2, 3]  # the log has each epoch once
    for case, kills in told["kills"].items():
        assert kills == signal.SIGKILL if "seed" not in case else kills >= 1, case


def test_killed_at_random_and_within_writes(tmp_path: Path) -> None:
    check(deaths("mortal.py", tmp_path, 1))


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path: Path) -> None:
    check(deaths("mortal.py", tmp_path, *range(2, 10)))
