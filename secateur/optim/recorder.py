"""What training does to weights: how many move, how large and how varied they are, and the gradients they see.

For the question whether a sampling optimizer makes weights larger and more varied, as its paper says, and whether that
is why they can be pruned (V.-D. Yun, arXiv 2312.16020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.hashing import Draw
from secateur.optim.places import bases, local, place, whole_mask
from secateur.optim.sampling import sampler_of
from secateur.optim.weights import check_number, matrices

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(frozen=True)
class Observed:
    """One step, over all entries of the weight matrices together.

    `moved` is the share of weights that the step changed. Sizes are means of absolute values, variances have no
    correction. `seen` is the gradient as it enters the optimizer's moments: the sampled one, where it is sampled.
    """

    step: int
    moved: float
    weight_size: float
    weight_variance: float
    gradient_size: float
    gradient_variance: float
    seen_size: float
    seen_variance: float


class Recorder:
    """A method for `fit` that changes nothing: `rows` has the first step and then every `every`-th.

    >>> recorder = Recorder(every=100)
    >>> fit(model, data, epochs=10, optimizer=StochGradAdam, methods=[recorder])
    >>> [(row.step, row.moved) for row in recorder.rows]
    """

    def __init__(self, every: int = 100) -> None:
        check_number(every, "every", "Recorder", 1)
        self.every = int(every)
        self.rows: list[Observed] = []
        self._before: dict[str, Tensor] = {}
        self._gradients: tuple[float, ...] = ()

    def before_step(self, state: State) -> None:
        """Keep what the step is to be compared with, if it is one to look at."""
        self._before = {}
        if state.step % self.every:
            return
        weights = {name: p for name, p in matrices(state.model).items() if p.grad is not None}
        self._before = {name: p.detach().clone() for name, p in weights.items()}
        dense = [local(p.grad.detach()) for p in weights.values() if p.grad is not None]
        masks = dict(_masks(state.optimizer))
        seen = [
            g if p not in masks else torch.where(masks[p], g, 0) for p, g in zip(weights.values(), dense, strict=True)
        ]
        self._gradients = (*_shape(dense), *_shape(seen))

    def after_step(self, state: State) -> None:
        """Look at what moved."""
        if not self._before:
            return
        weights = matrices(state.model)
        kept = {name: before for name, before in self._before.items() if name in weights}
        moved = sum(int((weights[name].detach() != before).sum()) for name, before in kept.items())
        total = sum(before.numel() for before in kept.values())
        size, variance = _shape([weights[name].detach() for name in kept])
        self.rows.append(Observed(state.step, moved / max(1, total), size, variance, *self._gradients))
        self._before = {}

    def state_dict(self) -> dict[str, Any]:
        """The rows, for a run that goes on."""
        return {"rows": [asdict(row) for row in self.rows]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """The rows so far."""
        self.rows = [Observed(**row) for row in saved["rows"]]


def _shape(tensors: list[Tensor]) -> tuple[float, float]:
    """The mean size and the variance of all entries."""
    if not tensors:
        return 0.0, 0.0
    every = torch.cat([t.flatten().float() for t in tensors])
    return float(every.abs().mean()), float(every.var(correction=0))


def _masks(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters whose gradients the next step samples, with their masks."""
    sampler = sampler_of(optimizer)
    if sampler is not None and sampler.mode not in ("gradient", "lazy"):
        return
    first = bases(optimizer.param_groups)
    for group in optimizer.param_groups:
        rate = float(group.get("sampling_rate", 1.0))
        if rate == 1:
            continue
        granularity = group["granularity"] if sampler is None else sampler.granularity
        draw = Draw(group["seed"], int(group["sampling_step"]) + 1, rate)
        for p in group["params"]:
            yield p, whole_mask(place(p, first[p], granularity), draw, local(p).device)
