"""Trainings that die: run as a program, it forks each one, kills it at random moments and starts it again.

    python mortal.py FOLDER SEED...

A process of its own, for forked children may not use autograd once their parent has. The last line printed is JSON:
the number of kills by case and seed, and the cases whose end differs from that of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tinynet import batches, net
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset

import secateur
import secateur.training.tree
from secateur.masks import Masks
from secateur.training import fit


class Noise:
    """A method with all that a resume must bring back: a parameter of its own, a count, a tensor, draws."""

    def __init__(self) -> None:
        self.count = 0
        self.trace = torch.zeros(())

    def setup(self, state):
        self.scale = nn.Parameter(torch.rand(()))
        return [{"params": [self.scale], "lr": 0.01}]

    def penalty(self, state):
        return 0.1 * (self.scale - state.model.head.bias.sum()).square()

    def after_step(self, state) -> None:
        self.count += 1
        self.trace = self.trace + torch.rand((), generator=state.generator)
        with torch.no_grad():
            state.model.head.bias.add_(0.01 * torch.randn(3, generator=state.generator))

    def state_dict(self):
        return {"count": self.count, "trace": self.trace, "scale": self.scale}

    def load_state_dict(self, saved) -> None:
        self.count, self.trace = saved["count"], saved["trace"]


class Held:
    """A method that removes a unit in the middle of an epoch, and keeps what is removed at zero."""

    def setup(self, state) -> None:
        with torch.random.fork_rng():
            self.masks = Masks(secateur.groups(state.model, batches(1)[0][0]))
        self.hold: Any = None

    def before_step(self, state) -> None:
        self.hold = self.hold or self.masks.hold(state.optimizer)

    def after_step(self, state) -> None:
        if state.step in (2, 6):
            name = next(iter(self.masks.kept))
            self.masks.remove({name: torch.tensor([state.step // 4])})

    def finish(self, state) -> None:
        self.hold = self.hold and self.hold.remove()

    def state_dict(self):
        return self.masks.state_dict()

    def load_state_dict(self, saved) -> None:
        self.masks.load_state_dict(saved)


class Jittered(Dataset):
    """Images that are moved by draws from all three global streams whenever they are asked for."""

    def __init__(self) -> None:
        self.inputs, self.targets = (torch.cat(parts) for parts in zip(*batches(4), strict=True))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int):
        moved = self.inputs[index] + torch.randn(()) + random.random() + np.random.rand()
        return moved, self.targets[index]


def shuffled() -> DataLoader:
    """Its order comes from a generator of its own, whose state goes on from epoch to epoch."""
    return DataLoader(Jittered(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5))


CASES: dict[str, dict[str, Any]] = {
    "adam, average, method": {
        "data": shuffled,
        "methods": [Noise],
        "optimizer": partial(Adam, lr=0.02),
        "ema": 0.9,
        "warmup": 1.0,
    },
    "sgd, masks, accumulated": {
        "data": lambda: DataLoader(Jittered(), batch_size=4, shuffle=True),
        "methods": [Held, Noise],
        "optimizer": partial(SGD, lr=0.05, momentum=0.9),
        "accumulate": 2,
        "clip": 1.0,
        "channels_last": True,
    },
}


def train(name: str, folder: Path, out: Path | None = None, pause: float = 0.0) -> dict[str, Any]:
    """What the training of a case ends with, also written to `out`; `pause` makes each step last longer."""
    case = dict(CASES[name])
    data, methods = case.pop("data")(), [make() for make in case.pop("methods")]
    waiting = type("Wait", (), {"after_step": lambda self, state: time.sleep(pause)})()
    settings = {"epochs": 3, "progress": False, "precision": "fp32", "checkpoint": folder, "log": folder / "log"}
    history = fit(net(), data, methods=[*methods, waiting], checkpoint_minutes=1e-9, **settings, **case)
    end = {
        "model": dict(history.model.state_dict()),
        "average": history.ema or {},
        "methods": [method.state_dict() for method in methods],
        "rows": [(r.epoch, r.lr, r.train_loss, r.train_accuracy) for r in history.rows],
        "logged": [json.loads(line)["epoch"] for line in (folder / "log" / "epochs.jsonl").read_text().splitlines()],
    }
    if out is not None:
        torch.save(end, out)
    return end


def forked(work: Callable[[], Any]) -> int:
    """The process id of a child that does the work and nothing else."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """The signal that ended the child, or 0. Raises if the child failed by itself."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"a training failed with status {os.WEXITSTATUS(status)}")
    return 0


def killed_at_random(name: str, folder: Path, seed: int, seconds: float) -> int:
    """How many times the case had to be started again until it came to its end."""
    draw, kills = random.Random(seed), 0
    while True:
        pid = forked(partial(train, name, folder, folder / "end", 0.01))
        if kills < 4:
            time.sleep(draw.uniform(0.05, 1.0) * seconds)
            os.kill(pid, signal.SIGKILL)
        if ended(pid) == 0:
            return kills
        kills += 1


def killed_in_a_write(name: str, folder: Path, where: str, number: int) -> int:
    """The signal that ended a training inside its checkpoint write of that number; then it runs to its end."""

    def dying() -> None:
        tree, count = secateur.training.tree, [0]
        save, move = tree.save_file, os.replace

        def die_here(point: str) -> None:
            if point == where and count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def saving(tensors: Any, path: str, metadata: Any) -> None:
            count[0] += 1
            save(tensors, path, metadata=metadata)
            if where == "half written" and count[0] == number:
                os.truncate(path, os.path.getsize(path) // 2)
            die_here("half written")

        def moving(source: Any, target: Any) -> None:
            inside = Path(target).name == "training.safetensors"
            die_here("before the move") if inside else None
            move(source, target)
            die_here("after the move") if inside else None

        tree.save_file, os.replace = saving, moving
        train(name, folder)

    how = ended(forked(dying))
    ended(forked(partial(train, name, folder, folder / "end")))
    return how


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def main(root: Path, seeds: list[int]) -> None:
    torch.set_num_threads(1)
    kills: dict[str, int] = {}
    differing: list[str] = []
    for number, name in enumerate(CASES):
        whole = root / f"{number}-whole"
        started = time.perf_counter()
        ended(forked(partial(train, name, whole, whole / "end", 0.01)))
        seconds = time.perf_counter() - started
        expected = torch.load(whole / "end")
        runs = {f"seed {seed}": partial(killed_at_random, seed=seed, seconds=seconds / 3) for seed in seeds}
        for place, write in (("half written", 3), ("before the move", 5), ("after the move", 6)) if not number else ():
            runs[place] = partial(killed_in_a_write, where=place, number=write)
        for label, run in runs.items():
            folder = root / f"{number}-{label.replace(' ', '-')}"
            kills[f"{name}: {label}"] = run(name, folder)
            left = sorted(path.name for path in folder.iterdir())
            if not same(torch.load(folder / "end"), expected) or left != ["end", "log", "training.safetensors"]:
                differing.append(f"{name}: {label}")
            shutil.rmtree(folder)
    print(json.dumps({"kills": kills, "differing": differing, "epochs": expected["logged"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
