"""Rewinding: a pruned network goes back to an earlier point of its training before it is trained again.

Weights: Frankle, Dziugaite, Roy & Carbin, Stabilizing the Lottery Ticket Hypothesis (arXiv 1903.01611, 1912.05671),
after Frankle & Carbin (arXiv 1803.03635), who go back to epoch 0. What remains of the network gets back the weights
it had at an epoch of the training.

Learning rate: Renda, Frankle & Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning (arXiv
2003.02389). The network keeps its weights, and the last epochs of the training are repeated with their learning rates.
Weights and learning rate of the same epoch together are their weight rewinding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.graph.cutting import Kept, cut_tensor
from secateur.schedule import Schedule
from secateur.training.schedules import learning_rate
from secateur.training.settings import Training
from secateur.training.state import State


@dataclass
class KeptWeights:
    """A method that leaves the weights of one epoch in a file; epoch 0 is before the first step."""

    path: Path = field(repr=False)
    epoch: int = 0

    def setup(self, state: State) -> None:
        """Keep the weights that the training starts from, if it is those."""
        self._keep(state)

    def epoch_end(self, state: State) -> None:
        """Keep the weights if this is the epoch."""
        self._keep(state)

    def _keep(self, state: State) -> None:
        if state.epoch == self.epoch and state.rank == 0:
            tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in _tensors(state.model)}
            with atomic_write(self.path) as partial_file:
                save_file(tensors, str(partial_file))


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers, tied ones once."""
    persistent = set(model.state_dict())
    return [pair for pair in (*model.named_parameters(), *model.named_buffers()) if pair[0] in persistent]


@torch.no_grad()
def rewind_weights(model: nn.Module, path: Path, kept: Kept, masks: Mapping[str, Tensor] | None = None) -> None:
    """Give a pruned model the weights and statistics that `KeptWeights` left of the whole one, cut alike, in place.

    `kept` are the indices that remain of every tensor, `masks` the entries that remain of those that were masked.
    Raises `CheckpointError` for a file that is missing or of another model; nothing has moved then.
    """
    try:
        whole = load_file(path)
        own = dict(_tensors(model))
        parts = {name: cut_tensor(whole[name], kept.get(name, {})) for name in own}
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"The weights {path} cannot be gone back to: {error}") from error
    for name, tensor in own.items():
        if parts[name].shape != tensor.shape:
            raise CheckpointError(
                f"The weights {path} must be of the model that was cut. '{name}' has shape {list(parts[name].shape)} "
                f"there after the cut, and {list(tensor.shape)} in the model."
            )
    for name, tensor in own.items():
        tensor.copy_(parts[name])
        if masks and name in masks:
            tensor.mul_(masks[name].to(tensor.device))


def repeated(settings: Training, start: int) -> Training:
    """The settings that repeat a training from epoch `start` to its end, with the learning rates it had there.

    Raises `InputError` for an epoch that the training does not have, or inside its warm-up.
    """
    if not 0 <= start < settings.epochs:
        raise InputError(f"must be an epoch of the training, 0 to {settings.epochs - 1}. Got {start} instead.")
    if 0 < start < settings.warmup:
        raise InputError(f"must be 0, or at least the {settings.warmup:g} epochs of warm-up. Got {start} instead.")
    whole = learning_rate(settings.schedule, settings.milestones, settings.gamma)
    return replace(
        settings,
        epochs=settings.epochs - start,
        schedule=partial(_tail, whole=whole, start=start / settings.epochs),
        warmup=0.0 if start else settings.warmup,
    )


def _tail(progress: float, whole: Schedule, start: float) -> float:
    return whole(min(1.0, start + (1 - start) * progress))
