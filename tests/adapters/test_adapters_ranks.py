"""Under DDP all ranks of a host hold the same weights, masks and parameters of methods."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("host", ["lightning", "transformers"])
def test_two_ranks_come_to_the_same(host: str) -> None:
    pytest.importorskip(host, reason=f"needs {host}")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if host == "transformers" else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, "on_two_ranks.py", host],
        cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "alike" in done.stdout
