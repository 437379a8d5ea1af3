"""Ranks: the processes of one training, and how they come to the same numbers.

One process is rank 0 of 1, and everything here then costs nothing. `torchrun` and `accelerate launch` start several,
each with a part of the data; what they decide from it (scores, masks, plans) must be reduced first, so that all decide
alike. Every function but `world` must be called by all ranks.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from secateur.errors import InputError, SecateurError

T = TypeVar("T")
WAIT = timedelta(hours=4)  # for a rank that works alone, as on a test set; one that died is noticed at once
_alone = ContextVar("alone", default=False)
_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher puts into the environment


def world() -> tuple[int, int]:
    """The rank of this process, and how many ranks there are: (0, 1) unless a launcher started several.

    >>> rank, ranks = world()
    """
    if _alone.get():
        return 0, 1
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
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
        atexit.register(_leave)
    return rank, ranks


def _leave() -> None:
    """Part from the others while the interpreter is whole: a thread of gloo that outlives it aborts the process."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


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


def done_by_first(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, on every rank; the others wait. An error that it raises is raised on all of them.

    While it works rank 0 is as one process alone, so that nothing in it is reduced over ranks.

    >>> row = done_by_first(lambda: measure(model))
    """
    rank, ranks = join()
    if ranks == 1:
        return work()
    value, failure = _attempted(work) if rank == 0 else (None, None)
    value, told = same_on_all_ranks((value, _told(failure)))
    if told is not None:
        raise failure or told
    return value  # type: ignore[return-value] # it is what `work` gave


def _attempted(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `work` gives, or the error that it raises, with this process as one alone."""
    before = _alone.set(True)
    try:
        return work(), None
    except Exception as error:
        return None, error
    finally:
        _alone.reset(before)


def _told(error: Exception | None) -> Exception | None:
    """The error as other ranks can have it: itself, or its words where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SecateurError(f"Rank 0 stopped. {type(error).__name__}: {error}")
    return error


def _of_one_kind(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the tensors that share type and device, in order."""
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(index)
    return list(kinds.values())
