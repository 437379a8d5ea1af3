"""A run on two ranks: all train, the first does the rest; killed or not, both are given the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secateur.report import RunRecord

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join(map(str, (HERE, HERE / "training", HERE.parent, os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, str(HERE / "run_on_ranks.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def given(folder: Path, name: str) -> Any:
    """What both ranks were given, which is the same."""
    first, second = (json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    return first


@pytest.mark.slow
def test_both_ranks_are_given_what_the_folder_holds(ends: Path) -> None:
    stages, curves, ranks = given(ends, "whole")
    record = RunRecord.load(ends / "whole" / "result.json")
    assert [s.loss for s in record.stages] == [loss for _, _, loss, *_ in stages]
    assert [stage for stage, *_ in stages] == [
        "dense", *(2 * ["cut", "batch norm re-estimated", "fine-tuned"])
    ]  # fmt: skip
    assert [len(epochs) for epochs in curves] == [2, 1, 1]
    assert ranks == [2, 2, 2]
    assert given(ends, "again") == [stages, curves, ranks]
    assert "2 ranks" in (ends / "whole" / "report.html").read_text()


@pytest.mark.slow
def test_a_run_whose_ranks_were_killed_ends_with_the_same_numbers(ends: Path) -> None:
    assert given(ends, "killed") == given(ends, "whole")
    kills = [json.loads((ends / f"kill-{number}.json").read_text()) for number in range(3)]
    assert [kill["hung"] for kill in kills] == [False] * 3
    assert sum(any(kill["codes"]) for kill in kills) >= 2
    assert all(all(kill["codes"]) for kill in kills if any(kill["codes"])), "a survivor ends too"


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_told_by_both(ends: Path) -> None:
    kind, message = given(ends, "other")
    assert kind == "InputError"
    assert "holds a run of another recipe. These differ: data.limit" in message
