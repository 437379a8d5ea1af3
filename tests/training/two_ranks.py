"""What two processes train together, run by torchrun: each scenario's end is written to FOLDER/SCENARIO-RANK.pt."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tinynet import Net, batches, net
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.criteria import taylor
from secateur.data import load
from secateur.errors import SecateurError, TrainingError
from secateur.masks import Masks
from secateur.methods import HESSO
from secateur.ranks import done_by_first, join, mean_over_ranks, same_on_all_ranks, world
from secateur.removal import Adaptive, Rectify
from secateur.training import fit
from secateur.training.sharding import whole

PLAIN = {"epochs": 2, "progress": False, "precision": "fp32", "optimizer": partial(SGD, lr=0.1, momentum=0.9)}


def dense(seed: int = 0) -> nn.Module:
    """A model without batch statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(25, 16), nn.Tanh(), nn.Linear(16, 3))


def numbers(history) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy) for r in history.rows]


class Data:
    """Training batches, and validation batches whose number the ranks do not divide."""

    def __init__(self, train, size: int = 8) -> None:
        self.train, self.validation = train, batches(3, size, seed=9)


class Sharp:
    """Sharpness-aware steps: the gradient is taken where the loss is higher nearby."""

    def before_step(self, state) -> None:
        held = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
        moves = [0.05 * parameter.grad.sign() for parameter in held]
        with torch.no_grad():
            torch._foreach_add_(held, moves)
        self.value = state.closure()
        with torch.no_grad():
            torch._foreach_sub_(held, moves)


class Cutting:
    """Scores on the batch at hand, then masks; a cut in the middle of training; a parameter of its own."""

    def setup(self, state) -> list[dict[str, Any]]:
        self.groups = secateur.groups(state.model, batches(1)[0][0])
        self.gate = nn.Parameter(torch.rand(4))
        self.kept: list[Any] = []
        return [{"params": [self.gate], "lr": 0.1}]

    def penalty(self, state) -> torch.Tensor:
        return 0.1 * (self.gate * state.outputs.mean() - state.model.head.bias.mean()).square().sum()

    def after_step(self, state) -> None:
        if state.step == 2:
            scores = taylor(self.groups, [state.batch])
            plan = secateur.plan(self.groups, scores, "60% macs", round_to=1)
            self.kept.append({name: indices.clone() for name, indices in plan.keep.items()})
            Masks(self.groups, plan).apply()
            state.replace(secateur.slim(self.groups, plan, optimizer=state.optimizer), optimizer=state.optimizer)


class Spare(Net):
    """A network with a layer that no step reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)


def averaged(rank: int) -> dict[str, Any]:
    """Gradients are means over ranks; a rank's own start and place in the data do not show."""
    model = dense(seed=rank)
    history = fit(model, Data(batches(6)), **PLAIN, clip=0.5)
    return {"model": model.state_dict(), "rows": numbers(history)}


def accumulated(rank: int) -> dict[str, Any]:
    model, method = dense(), Sharp()
    fit(model, batches(8, 4), **PLAIN, accumulate=2, methods=[method])
    return {"model": model.state_dict(), "value": method.value}


def cut(rank: int) -> dict[str, Any]:
    model, method = net(), Cutting()
    settings = {**PLAIN, "optimizer": partial(AdamW, lr=0.02)}
    history = fit(model, Data(batches(6)), **settings, ema=0.9, methods=[method])
    end = {"model": history.model.state_dict(), "average": history.ema, "gate": method.gate.detach()}
    return {**end, "kept": method.kept, "rows": numbers(history)}


def decaying(rank: int) -> dict[str, Any]:
    """Units chosen, paced, decayed and released by what each rank saw of gradients and steps."""
    model = net(width=16)
    groups = secateur.groups(model, batches(1)[0][0])
    removal = Adaptive(4, Rectify(rate=-0.5, length=0.0, after=1, memory=0.0), mean=0.75, least=0.5)
    method = HESSO(groups=groups, removal=removal, rounds=2, stop=0.9, planning={"round_to": 1})
    history = fit(model, Data(batches(12)), **PLAIN, methods=[method])
    return {"model": history.model.state_dict(), "events": method.story.events, "rows": numbers(history)}


def unused(rank: int) -> dict[str, Any]:
    model = Spare()
    fit(model, batches(4), **PLAIN)
    return {"model": model.state_dict()}


def digits(rank: int) -> dict[str, Any]:
    data = load("digits", batch_size=64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    history = fit(model, data, **PLAIN, steps_per_epoch=10)  # whole batches alone
    return {"model": model.state_dict(), "rows": numbers(history)}


def loaded(rank: int) -> dict[str, Any]:
    """A DataLoader of the user's, shared out."""
    seen: list[int] = []
    inputs, targets = torch.arange(32.0)[:, None].expand(32, 25), torch.arange(32) % 3
    data = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
    note = type("Note", (), {"after_step": lambda self, state: seen.extend(state.batch[0][:, 0].int().tolist())})()
    fit(dense(), data, **{**PLAIN, "epochs": 1}, methods=[note])
    return {"seen": seen}


def resumed(rank: int, folder: Path) -> dict[str, Any]:
    """Broken off on both ranks after an epoch, and gone on with."""

    def stop(row) -> None:
        if row.epoch == 1:
            raise KeyboardInterrupt

    place = same_on_all_ranks(str(folder / "checkpoint"))
    ends = []
    for interrupt in (None, stop, None):
        model = net()
        where = {} if interrupt is None and not ends else {"checkpoint": place, "log": folder / "log"}
        try:
            fit(model, batches(6), **PLAIN, **where, on_epoch=interrupt)
        except KeyboardInterrupt:
            continue
        ends.append(model.state_dict())
    return {"model": ends[1], "whole": ends[0]}


class Rows:
    """A method that can do with shards."""

    sharded = True

    def after_step(self, state) -> None:
        self.rows = state.model[1].weight.to_local().shape[0]


def sharded(rank: int, folder: Path) -> dict[str, Any]:
    """Every rank holds some rows of each weight; broken off and gone on with."""
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")

    def stop(row) -> None:
        if row.epoch == 1:
            raise KeyboardInterrupt

    ends, refused = [], []
    for interrupt in (stop, None):
        model, method = dense(seed=rank), Rows()
        try:
            where = {"checkpoint": folder / "sharded", "on_epoch": interrupt}
            history = fit(model, Data(batches(6)), **PLAIN, clip=0.5, methods=[method], **where)
        except KeyboardInterrupt:
            continue
        ends.append({"model": whole(dict(model.state_dict())), "rows": numbers(history), "held": method.rows})
    for change in ({"methods": [Sharp()]}, {"ema": 0.9}):
        try:
            fit(dense(), batches(2), **PLAIN, **change)
        except TrainingError as error:
            refused.append(str(error))
    return {**ends[0], "refused": refused}


def apart(rank: int, folder: Path) -> dict[str, Any]:
    """Folders that the ranks do not share, and work that the first rank does for both."""
    place = folder / f"apart-{rank}"
    if rank == 0:
        place.mkdir()
        (place / "training.safetensors").touch()
    told = []
    for act in (
        lambda: fit(net(), batches(2), **PLAIN, checkpoint=place),
        lambda: done_by_first(lambda: mean_over_ranks([torch.tensor(float(rank))])[0].item() + world()[1]),
        lambda: done_by_first(lambda: fit(net(), [], **PLAIN)),
        lambda: done_by_first(Unsaid.raised),
    ):
        try:
            told.append(act())
        except SecateurError as error:
            told.append((type(error).__name__, str(error)))
        except Unsaid:
            told.append("its own")
    return {"told": told}


class Unsaid(Exception):
    """An error that no other process can be told."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be told")

    @classmethod
    def raised(cls) -> None:
        raise cls("a secret")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, _ = join()
    for scenario in (averaged, accumulated, cut, decaying, unused, digits, loaded, resumed, apart, sharded):
        end = scenario(rank, folder) if scenario in (resumed, apart, sharded) else scenario(rank)
        torch.save(end, folder / f"{scenario.__name__}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
