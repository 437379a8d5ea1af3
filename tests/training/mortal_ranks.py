"""Trainings of two processes that die, one of them or both: run as a program, it starts each again until it ends.

    python mortal_ranks.py FOLDER SEED...

The last line printed is JSON: the kills by scenario, the scenarios whose end differs from that of an uninterrupted
training of two, and those in which the survivor of a kill had to be ended too, for it waited for the dead.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mortal import CASES, forked, same, train

import secateur.training.tree

PATIENCE = 20.0  # seconds that a survivor may take to notice that the other rank is dead


def pair(work: Callable[[int], Any]) -> list[int]:
    """The process ids of two ranks that do the work together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a survivor's complaint is no news
        work(rank)

    return [forked(partial(ranked, rank)) for rank in (0, 1)]


def ended(pids: Sequence[int], patience: float = 120.0) -> tuple[list[int], bool]:
    """The exit codes of the processes (negative: the signal), and whether one had to be killed for it did not end."""
    codes: dict[int, int] = {}
    until, hung = time.monotonic() + patience, False
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            hung = True
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in pids], hung


def whole(name: str, folder: Path) -> None:
    """A training of two to its end, which each rank leaves in FOLDER/end-RANK."""
    codes, _ = ended(pair(lambda rank: train(name, folder, folder / f"end-{rank}", 0.01)))
    if codes != [0, 0]:
        raise RuntimeError(f"a training of two failed: {codes}")


def killed_at_random(name: str, folder: Path, victims: Sequence[int], seed: int, seconds: float) -> tuple[int, bool]:
    """How many times the victims were killed before the last start, and whether a survivor hung."""
    draw, kills, hangs = random.Random(seed), 0, False
    while kills < 2:
        pids = pair(lambda rank: train(name, folder, folder / f"end-{rank}", 0.01))
        time.sleep(draw.uniform(0.1, 0.9) * seconds)
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        codes, hung = ended(pids, PATIENCE)
        hangs = hangs or hung
        if not any(codes):
            break
        kills += 1
    whole(name, folder)
    return kills, hangs


def killed_in_a_write(name: str, folder: Path, number: int) -> tuple[int, bool]:
    """The same of a training whose first rank dies with its checkpoint of that number half written."""

    def dying(rank: int) -> None:
        save, count = secateur.training.tree.save_file, [0]

        def saving(tensors: Any, path: str, metadata: Any) -> None:
            count[0] += 1
            save(tensors, path, metadata=metadata)
            if count[0] == number:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        secateur.training.tree.save_file = saving
        train(name, folder)

    codes, hung = ended(pair(dying), PATIENCE)
    if codes[0] != -signal.SIGKILL or codes[1] == 0:
        raise RuntimeError(f"the first rank must die and the second must notice: {codes}")
    whole(name, folder)
    return 1, hung


def main(root: Path, seeds: list[int]) -> None:
    torch.set_num_threads(1)
    kills: dict[str, int] = {}
    differing, hung = [], []
    for number, name in enumerate(CASES):
        place = root / str(number)
        started = time.perf_counter()
        whole(name, place)
        seconds = time.perf_counter() - started
        expected = torch.load(place / "end-0")
        runs: dict[str, Callable[[Path], tuple[int, bool]]] = {
            f"{who}, seed {seed}": partial(killed_at_random, name, victims=victims, seed=seed, seconds=seconds)
            for seed in seeds
            for who, victims in (("both", (0, 1)), ("the first", (0,)), ("the second", (1,)))
        }
        runs["in a write"] = partial(killed_in_a_write, name, number=4)
        for label, run in runs.items():
            folder = root / f"{number}-{label.replace(' ', '-')}"
            kills[f"{name}: {label}"], waited = run(folder)
            first, second = (torch.load(folder / f"end-{rank}") for rank in (0, 1))
            second["logged"] = first["logged"]  # the second rank may come to its end before the first one's last line
            if not (same(first, expected) and same(second, expected)):
                differing.append(f"{name}: {label}")
            if waited:
                hung.append(f"{name}: {label}")
    print(json.dumps({"kills": kills, "differing": differing, "hung": hung, "epochs": expected["logged"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
