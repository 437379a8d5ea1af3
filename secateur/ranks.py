"""Ranks: the processes of one training, and how they come to the same numbers.

One process is rank 0 of 1, and everything here then costs nothing. `torchrun` and `accelerate launch` start several,
each with a part of the data; what they decide from it (scores, masks, plans) must be reduced first, so that all decide
alike. Every function but `world` must be called by all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from secateur.errors import InputError

T = TypeVar("T")
_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher puts into the environment


def world() -> tuple[int, int]:
    """The rank of this process, and how many ranks there are: (0, 1) unless a launcher started several.

    >>> rank, ranks = world()
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if not all(name in os.environ for name in _TOLD):
        return 0, 1
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        raise InputError(
            "The environment variables RANK and WORLD_SIZE must be integers, as torchrun sets them. "
            f"Got {os.environ['RANK']!r} and {os.environ['WORLD_SIZE']!r} instead."
        ) from None


def join() -> tuple[int, int]:
    """`world()`, after this process has met the others; those meet once, later calls return at once."""
    rank, ranks = world()
    if ranks > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return rank, ranks


def mean_over_ranks(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The means of floating-point tensors over all ranks, the same to the last bit on every rank.

    Every rank gives as many tensors, of the same shapes and kinds in the same order.

    >>> (loss,) = mean_over_ranks([loss])
    """
    given = list(tensors)
    _, ranks = join()
    if ranks == 1:
        return given
    found: list[Tensor] = list(given)
    for chosen in _of_one_kind(given):
        flat = _flatten_dense_tensors([given[index].detach() for index in chosen])
        dist.all_reduce(flat)
        flat /= ranks
        for index, mean in zip(chosen, _unflatten_dense_tensors(flat, [given[i] for i in chosen]), strict=True):
            found[index] = mean
    return found


def from_first_rank(tensors: Iterable[Tensor]) -> None:
    """Give the tensors the values that they have on rank 0, in place."""
    given = list(tensors)
    if join()[1] == 1:
        return
    with torch.no_grad():
        for chosen in _of_one_kind(given):
            flat = _flatten_dense_tensors([given[index].detach() for index in chosen])
            dist.broadcast(flat, 0)
            for index, value in zip(chosen, _unflatten_dense_tensors(flat, [given[i] for i in chosen]), strict=True):
                given[index].copy_(value)


def same_on_all_ranks(value: T) -> T:
    """Rank 0's `value` (anything that can be pickled) on every rank.

    >>> plan = same_on_all_ranks(plan)
    """
    if join()[1] == 1:
        return value
    held: list[T] = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def _of_one_kind(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the tensors that share type and device, in order."""
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(index)
    return list(kinds.values())
