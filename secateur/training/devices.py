"""Devices: one training on several of them, each a process (a rank) with its share of every batch, by Accelerate.

Started by `torchrun` or `accelerate launch`, `fit` lets DistributedDataParallel average the gradients; the model on a
CUDA device goes to the one of its rank, a model on the CPU stays there (gloo). Weights start as rank 0's. Each rank
normalises by the statistics of its own batches; the running ones are the mean over ranks after every step. So all that
a method can see in the state but `batch` and `outputs` is the same on all ranks, to the last bit, and rank 0 alone
writes checkpoints, logs and progress.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ranks import from_first_rank, join, mean_over_ranks, world
from secateur.training.batches import device_of


def enter(model: nn.Module) -> None:
    """Meet the other ranks, and give the model its rank's device and rank 0's weights; alone, do nothing."""
    if join()[1] == 1:
        return
    if device_of(model).type == "cuda":
        model.to(torch.device("cuda", torch.cuda.current_device()))
    from_first_rank([*model.parameters(), *model.buffers()])


def is_first() -> bool:
    """Whether this process is the one that writes and shows."""
    return world()[0] == 0


def on_all_ranks(module: nn.Module, *, some_unused: bool) -> nn.Module:
    """`module` such that its backward pass averages the gradients over ranks; alone, the module itself.

    `some_unused` says that a step does not reach all of its parameters, which costs time to look out for.
    """
    if join()[1] == 1:
        return module
    accelerator = _accelerator(device_of(module), find_unused_parameters=some_unused)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers`")  # its successor is younger than torch 2.10
        return accelerator.prepare_model(module, device_placement=False)  # type: ignore[no-any-return]


@torch.no_grad()
def agree_on_statistics(model: nn.Module) -> None:
    """Set the model's floating-point buffers to their means over ranks."""
    if buffers := [buffer for buffer in model.buffers() if buffer.is_floating_point()]:
        torch._foreach_copy_(buffers, mean_over_ranks(buffers))


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Set the gradients of parameters outside the model (a method's own) to their means over ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_copy_(gradients, mean_over_ranks(gradients))


def tell_accelerate(device: torch.device) -> None:
    """Let Accelerate see what this process is one of, as its trackers ask; whoever told it before is not overruled."""
    from accelerate import PartialState

    PartialState(cpu=world()[1] > 1 and device.type == "cpu")


def _accelerator(device: torch.device, **ddp: bool) -> Any:
    """An Accelerator for the kind of device that is in use; it decides on the number format of nothing."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, **ddp)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[kwargs])
