"""What a recipe names, made: the device, the data, the model's source, its groups and the cut."""

from __future__ import annotations

import inspect
import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur import data as data_sets
from secateur import zoo
from secateur.criteria import Scores, shuffled
from secateur.data import Data
from secateur.errors import InputError
from secateur.graph import discovery, elements
from secateur.graph.units import Groups
from secateur.methods import Pruner
from secateur.planning import Budget, Plan, plan
from secateur.planning.fitting import Target
from secateur.recipe import CRITERIA, METHODS, MethodPart, PruningPart, Recipe
from secateur.surgery.slim import slim


def device_of(recipe: Recipe) -> torch.device:
    """The device of a run: what the recipe says, or a CUDA device where there is one."""
    if recipe.device != "auto":
        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise InputError("The 'device' of the recipe is 'cuda', and there is no CUDA device. Say 'cpu' or 'auto'.")
        return torch.device(recipe.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_file(name: str) -> Path:
    """Where the weights that a recipe names lie: there, or else in the folder that SECATEUR_WEIGHTS names."""
    path, folder = Path(name).expanduser(), os.environ.get("SECATEUR_WEIGHTS")
    if folder and not path.exists() and (Path(folder) / path).exists():
        return Path(folder) / path
    return path


def load_data(recipe: Recipe, device: torch.device, root: str | Path | None = None) -> Data:
    """The data set of a recipe; `root` takes the place of the recipe's."""
    part = recipe.data
    data = data_sets.load(
        part.name,
        root if root is not None else part.root,
        batch_size=part.batch_size,
        eval_batch_size=part.eval_batch_size,
        validation=recipe.validation,
        seed=recipe.the_seed,
        device=device,
        augment=part.augment,
        mean=part.mean,
        std=part.std,
        limit=part.limit,
        download=part.download,
        size=part.size,
        workers=part.workers,
    )
    if data.numbers:
        raise InputError(
            f"The data of a recipe must have classes. The targets of '{part.name}' are numbers; train on it with "
            "secateur.fit and a loss of your own."
        )
    return data


def source_of(recipe: Recipe, data: Data) -> zoo.Source:
    """Where the model comes from, for the classes and input shape of the data."""
    part = recipe.model
    classes = part.classes if part.classes is not None else data.classes
    return zoo.resolve(part.spec, classes=classes, shape=data.shape, **part.kwargs)


def on_device(example: Any, device: torch.device, batch: int | None = None) -> Any:
    """The example on a device, with its first input repeated to a batch where one is asked for."""

    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        return tensor if batch is None else tensor[:1].expand(batch, *tensor.shape[1:]).contiguous()

    return tree_map_only(Tensor, moved, example)


def find_groups(part: PruningPart, model: nn.Module, example: Any) -> Groups:
    """The groups of the units that a recipe prunes."""
    if part.units == "weights":
        return elements.elements(model, example)
    if part.units == "blocks":
        return elements.blocks(model, *part.block, example)
    return discovery.groups(model, example)


def counts(model: nn.Module, example: Any) -> dict[str, int]:
    """What the shapes of a model cost on the example, by the names of a record."""
    dense = elements.elements(model, example).cost_model.dense
    return {"macs": dense.macs, "params": dense.params}


def scores_of(part: PruningPart, seed: int, groups: Groups, data: Data) -> Scores:
    """The scores by the recipe's criterion.

    One that needs gradients sees the first batches of the training data, one that looks at examples those of the
    validation data, or of the training data where none are held out.
    """
    criterion = CRITERIA[part.criterion]
    taken = inspect.signature(criterion).parameters
    options = dict(part.options)
    if "batches" in taken:
        data.train.set_epoch(0)
        options["batches"] = islice(data.train, part.batches)
    if "examples" in taken:
        data.train.set_epoch(0)
        options["examples"] = data.train if data.validation is None else data.validation
    if "seed" in taken:
        options["seed"] = seed
    found = criterion(groups, **options)
    return shuffled(found, seed) if part.shuffled else found


def amount(groups: Groups, budget: str) -> float:
    """What a budget counts of the model as it is: MACs, parameters, channels or weights."""
    return Target(groups, Budget.parse(budget)).spent()


def round_budget(part: PruningPart, number: int, step: int, whole: float, groups: Groups) -> Budget:
    """What a step of round `number` of a pruning must leave of `groups`; `whole` is what its budget counts when dense.

    The last round meets the budget. Every step of a round keeps the same share of what the one before left.
    """
    wish = Budget.parse(part.budget)
    if part.turns == part.steps == 1:
        return wish
    last = wish.target(whole) / whole
    before, after = part.left(number - 1, last), part.left(number, last)
    left = min(whole * before * (after / before) ** (step / part.steps), amount(groups, part.budget))
    return Budget(left, "absolute", wish.unit)


def planning(part: PruningPart) -> dict[str, Any]:
    """How a recipe spends a budget, as keywords of `plan`."""
    return {name: getattr(part, name) for name in ("allocation", "round_to", "minimum", "keep")}


def method_of(part: PruningPart, method: MethodPart, seed: int, groups: Groups) -> Pruner:
    """The method under which a recipe prunes `groups` while their model trains."""
    more: dict[str, Any] = dict(method.options)
    if method.takes_criterion:
        criterion = CRITERIA[part.criterion]
        drawn = {"seed": seed} if "seed" in inspect.signature(criterion).parameters else {}
        more["criterion"] = "taylor" if part.criterion == "taylor" else partial(criterion, **drawn, **part.options)
    removal = method.removal.policy() if method.removal is not None else None
    return METHODS[method.name](groups=groups, budget=part.budget, removal=removal, planning=planning(part), **more)


def cut(part: PruningPart, groups: Groups, scores: Scores, budget: Budget) -> tuple[Plan, nn.Module]:
    """The plan and the slim model. If a group cannot be proven the rest is planned anew, so that the budget holds."""
    while True:
        frozen = len(groups.frozen)
        chosen = plan(groups, scores.among(groups), budget, **planning(part))
        made = slim(groups, chosen, verify=part.verify)
        if len(groups.frozen) == frozen:
            return chosen, made
