"""Runs of two processes, forked by this program and killed by it: FOLDER/NAME-RANK.json says what each rank was given.

python run_on_ranks.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import tiny
import torch
from mortal_ranks import ended, pair

from secateur.errors import SecateurError
from secateur.run import run

CHANGES = {
    "training__epochs": 2, "training__checkpoint_minutes": 1e-6, "data__batch_size": 32, "data__validation": 0.2,
    "pruning__rounds": 2, "pruning__criterion": "taylor", "fine_tuning__epochs": 1,
    "fine_tuning__rewind": {"weights": 1}, "fine_tuning__distill": {"weight": 1.0}, "measures__latency": False,
}  # fmt: skip


def numbers(out: Path, **changes: object) -> list[object]:
    """What a run gives that must be the same for the same recipe, or its error."""
    try:
        record = run(tiny.recipe(out, **{**CHANGES, **changes}))
    except SecateurError as error:
        return [type(error).__name__, str(error)]
    rows = [(s.stage, s.round, s.loss, s.macs, s.accuracy.correct if s.accuracy else None) for s in record.stages]
    curves = [[e.train_loss for e in curve.epochs] for curve in record.curves]
    return [rows, curves, [curve.manner.ranks for curve in record.curves if curve.manner]]


def left(folder: Path, name: str, rank: int, out: Path, **changes: object) -> None:
    """Leave what a rank was given by a run."""
    (folder / f"{name}-{rank}.json").write_text(json.dumps(numbers(out, **changes)))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    ended(pair(lambda rank: left(folder, "whole", rank, folder / "whole")))
    seconds = time.monotonic() - started
    ended(pair(lambda rank: left(folder, "again", rank, folder / "whole")))
    ended(pair(lambda rank: left(folder, "other", rank, folder / "whole", data__limit=100)))
    for number, victims in enumerate(((0,), (1,), (0, 1))):
        pids = pair(lambda rank: left(folder, "killed", rank, folder / "killed"))
        time.sleep(seconds * (0.4, 0.3, 0.2)[number])
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        codes, hung = ended(pids, 30)
        (folder / f"kill-{number}.json").write_text(json.dumps({"codes": codes, "hung": hung}))
    ended(pair(lambda rank: left(folder, "killed", rank, folder / "killed")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
