"""Sharding: a model whose parameters are spread over the ranks (FSDP2), for one that no device can hold whole.

Only a training whose methods all say `sharded = True` can have it: scores, masks and cuts are made of whole tensors,
and a parameter here is a `DTensor` of which each rank has some rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import TrainingError
from secateur.ranks import world
from secateur.training.batches import device_of


def asked_for() -> bool:
    """Whether the launcher asks for sharded weights (`accelerate launch --use_fsdp --fsdp_version 2`)."""
    return world()[1] > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def check_shardable(methods: Sequence[Any], whole_only: Mapping[str, Any]) -> None:
    """Raise `TrainingError` unless all methods can do with shards; `whole_only` are settings that cannot, if they hold.

    A method says that it can by an attribute `sharded = True`.
    """
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError("Sharded weights need FSDP2. The launcher asks for version 1; give it --fsdp_version 2.")
    needing = [f"the method {type(method).__name__}" for method in methods if not getattr(method, "sharded", False)]
    needing += [f"{name!r}" for name, value in whole_only.items() if value]
    if needing:
        raise TrainingError(
            f"Sharded weights (FSDP) were asked for by the launcher, but whole tensors are needed by "
            f"{', '.join(needing)}. Start without FSDP, or leave out what needs them."
        )


def shard(model: nn.Module) -> None:
    """Spread the parameters over all ranks, in place: the members of every list and sequence of modules, then the rest.

    The model goes on working as before, on all ranks at once; each has the same weights to begin with.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_of(model).type, (world()[1],))
    parts = [part for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential) for part in module]
    for part in reversed(parts):
        if any(True for _ in part.parameters()) and not isinstance(part, nn.ModuleList | nn.Sequential):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_shard(value: object) -> bool:
    """Whether this is a tensor of which each rank has a part; told without the import of seconds that DTensor is."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """`value` with every sharded tensor in its dicts, lists and tuples put together; all ranks must call it."""
    if is_shard(value):
        full: Tensor = value.detach().full_tensor()
        return full
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded as `like` is, or as it is where that is whole."""
    if not is_shard(like) or is_shard(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def load_whole(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Load a state dict of whole tensors."""
    own = model.state_dict()
    model.load_state_dict({name: spread(value, own[name]) if name in own else value for name, value in stored.items()})


@torch.no_grad()
def spread_state(optimizer: Optimizer) -> None:
    """Shard the optimizer's state (momentum and the like) as the parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = spread(value, parameter)
