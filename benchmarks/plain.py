"""A network trained by a plain PyTorch loop with the numbers of a recipe: what `fit` must be as good as.

    python benchmarks/plain.py experiments/dense/resnet20.yaml --seed 0 --set training.epochs=30

The loop is what a tutorial teaches: PIL images, torchvision's transforms, a DataLoader with two workers, SGD, float32.
Network, schedule, batch size and epochs are the recipe's, and the test images are read once, after the last epoch.
Started again after a kill, it goes on after the last whole epoch. Results are kept under results/benchmarks/plain by
the names of experiments; `python experiments/tables.py` shows them below the runs of the same recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision import transforms

from secateur import data, zoo
from secateur.errors import SecateurError
from secateur.files import atomic_write
from secateur.recipe import Recipe
from secateur.run.experiments import Experiment, experiments

ROOT = Path(__file__).parents[1]
WORKERS = 2


class PlainImages:
    """Images as torchvision's data sets give them: a PIL image made and transformed for every item."""

    def __init__(self, name: str, train: bool) -> None:
        found = data.load(name, validation=0)
        part = found.train if train else found.test
        self.arrays = part.images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.labels = part.targets.tolist()
        steps: list[Any] = []
        if train:
            steps.append(transforms.RandomCrop(self.arrays.shape[1], padding=2 if name == "mnist" else 4))
            steps += [] if name == "mnist" else [transforms.RandomHorizontalFlip()]
        steps += [transforms.ToTensor(), transforms.Normalize(found.mean, found.std)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def check(recipe: Recipe) -> None:
    """Raise `SystemExit` for a recipe that asks for more than the loop below does."""
    asked = recipe.training
    if asked.optimizer != "sgd" or asked.schedule != "cosine" or recipe.pruning is not None or recipe.data.validation:
        raise SystemExit("The recipe must train by SGD under a cosine, on all training images, and prune nothing.")


def factor(step: int, steps: int, warmup: float) -> float:
    """What multiplies the learning rate at a step: half a cosine, after a linear ramp of `warmup` steps."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / max(warmup, 1))


def begun(recipe: Recipe, batches: int) -> tuple[nn.Module, torch.optim.Optimizer, LambdaLR]:
    """A new model with its optimizer and schedule."""
    asked = recipe.training
    torch.manual_seed(recipe.seeds[0])
    model = zoo.model(recipe.model.spec.removeprefix("zoo:"))
    kept = {"lr": asked.lr, "momentum": asked.momentum, "nesterov": asked.nesterov, "weight_decay": asked.weight_decay}
    optimizer = torch.optim.SGD(model.parameters(), **kept)
    curve = partial(factor, steps=asked.epochs * batches, warmup=asked.warmup * batches)
    return model, optimizer, LambdaLR(optimizer, curve)


def train(recipe: Recipe, waiting: Path) -> dict[str, float]:
    """Test accuracy and seconds of a training; `waiting` holds what a killed one has done so far."""
    images = PlainImages(recipe.data.name, train=True)
    loader = DataLoader(images, recipe.data.batch_size, shuffle=True, num_workers=WORKERS)
    model, optimizer, scheduler = held = begun(recipe, len(loader))
    done, seconds = 0, 0.0
    if waiting.exists():
        kept = torch.load(waiting)
        for part, state in zip(held, kept["states"], strict=True):
            part.load_state_dict(state)
        done, seconds = kept["epochs"], kept["seconds"]
    criterion = nn.CrossEntropyLoss()
    for epoch in range(done, recipe.training.epochs):
        started, total = time.perf_counter(), 0.0
        torch.manual_seed(1_000_003 * recipe.seeds[0] + epoch + 1)  # the order and the augmentation, alike after a kill
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        seconds += time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}, {seconds:.0f} s in all", flush=True)
        with atomic_write(waiting) as file:
            torch.save({"states": [part.state_dict() for part in held], "epochs": epoch + 1, "seconds": seconds}, file)
    return {"accuracy": accuracy(model, recipe.data.name), "seconds": seconds}


@torch.no_grad()
def accuracy(model: nn.Module, name: str) -> float:
    """The share of the test images that are classified rightly."""
    model.eval()
    images = PlainImages(name, train=False)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(images, 500, num_workers=WORKERS))
    return right / len(images)


def carry_out(experiment: Experiment, results: Path, work: Path) -> None:
    """Train what has no result yet, and keep it."""
    path = experiment.result(results)
    if path.exists():
        print(f"{path} was there")
        return
    waiting = work / f"{experiment.name}.pt"
    waiting.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "recipe": experiment.recipe.to_dict(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "workers": WORKERS,
        "cores": os.cpu_count(),
    }
    found = train(experiment.recipe, waiting)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write_text(json.dumps({**found, **facts}, indent=1) + "\n")
    waiting.unlink()
    print(f"{path}: {100 * found['accuracy']:.2f} %")


def main() -> int:
    """Carry out what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seed", type=int, nargs="+", default=[], help="instead of those that the recipe names")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes, told in the result's name")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "plain", help="folder of unfinished runs")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks" / "plain")
    asked = parser.parse_args()
    try:
        planned = experiments(asked.recipe, seeds=asked.seed, changes=asked.set)
    except SecateurError as error:
        print(error, file=sys.stderr)
        return 2
    for experiment in planned:
        check(experiment.recipe)
        carry_out(experiment, asked.results, asked.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
