"""Sampling followed by torch's fused Adam, bucket by bucket, on the CPU.

What is sampled is updated while it is in the cache, and its memory is used again for the next bucket: sampled gradients
are never written out, and weigh one bucket instead of a copy of all gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from secateur.hashing import Draw
from secateur.optim.gradients import choose
from secateur.optim.kernel import Ready
from secateur.optim.native import Table
from secateur.optim.places import Batch, Hasher, Piece, batches, chunk_of, grid

BUCKET = 1 << 19  # entries sampled by a compiled kernel at a time; with fewer, calls cost more than the cache saves


def takes(p: Tensor, gradient: Tensor, granularity: str) -> bool:
    """Whether `fused_in_buckets` takes this parameter: on the CPU, real, and laid out without gaps."""
    return (
        granularity == "element"
        and p.device.type == "cpu"
        and p.is_floating_point()
        and p.stride() == gradient.stride()
        and not hasattr(p, "to_local")
        and grid(p) is not None
    )


def fused_in_buckets(ready: Sequence[Ready], draw: Draw, group: dict[str, Any]) -> None:
    """Count a step of all parameters, sample their gradients, and update them."""
    if ready:
        torch._foreach_add_([one.step for one in ready], 1)
    of_kind: dict[torch.dtype, list[Ready]] = {}
    for one in ready:
        of_kind.setdefault(one.p.dtype, []).append(one)
    for some in of_kind.values():
        places = tuple(one.where for one in some)
        units = sum(where.units for where in places)
        found = batches(places, min(BUCKET, units // 8 + 1) if group["compiled"] else chunk_of(units))
        if found:
            _update_all(some, found, draw, group)


def _update_all(ready: Sequence[Ready], found: Sequence[Batch], draw: Draw, group: dict[str, Any]) -> None:
    """Sample and update batch by batch, in memory for one of them."""
    device = torch.device("cpu")
    hasher = None if group["compiled"] else Hasher(draw, [one.where for one in ready], found, device)
    room = torch.empty(max(batch.units for batch in found), dtype=ready[0].p.dtype)
    for batch in found:
        gradients = [piece.of(ready[piece.number].gradient) for piece in batch.pieces]
        ends = accumulate((piece.units for piece in batch.pieces), initial=0)
        sampled = [room.as_strided(g.shape, g.stride(), end) for g, end in zip(gradients, ends, strict=False)]
        if hasher is None:
            table = Table(draw)
            for piece, given, phi in zip(batch.pieces, gradients, sampled, strict=True):
                table.add(given, piece.start, batch.high, (given.data_ptr(), phi.data_ptr()))
            table.run("sample", room.dtype.itemsize)
        else:
            for (_, mask), given, phi in zip(hasher.masks(batch), gradients, sampled, strict=True):
                choose(given, mask, phi)
        _update([(ready[piece.number], piece) for piece in batch.pieces], sampled, group)


def _update(parts: Sequence[tuple[Ready, Piece]], sampled: list[Tensor], group: dict[str, Any]) -> None:
    """One call of torch's kernel; the step was counted before."""
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    kernel(
        [piece.of(one.p) for one, piece in parts],
        sampled,
        [piece.of(one.state.m) for one, piece in parts],
        [piece.of(one.state.v) for one, piece in parts],
        [piece.of(one.state.largest) for one, piece in parts if one.state.largest is not None],
        [one.step for one, _ in parts],
        lr=float(group["lr"]),
        beta1=float(beta1),
        beta2=float(beta2),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )
