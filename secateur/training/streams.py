"""The random streams a training step can draw from: saved, restored, and seeded by name.

Each step starts from seeds that are a function of the run's seed, the epoch and the step alone, so a run that goes on
in the middle of an epoch draws what an uninterrupted one drew, and no stream's state has to be stored.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Streams:
    """The positions of torch's CPU and CUDA generators, NumPy's and Python's, and of generators handed in."""

    cpu: Tensor
    cuda: Tensor | None
    numpy: dict[str, Any]
    python: tuple[Any, ...]
    generators: tuple[tuple[torch.Generator, Tensor], ...]


def snapshot(device: torch.device, *generators: torch.Generator) -> Streams:
    """Where all streams stand; `device` says which CUDA generator is among them."""
    return Streams(
        cpu=torch.random.get_rng_state(),
        cuda=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        numpy=np.random.get_state(legacy=False),
        python=random.getstate(),
        generators=tuple((generator, generator.get_state()) for generator in generators),
    )


def restore(streams: Streams, device: torch.device) -> None:
    """Put all streams back to where `snapshot` found them."""
    torch.random.set_rng_state(streams.cpu)
    if streams.cuda is not None:
        torch.cuda.set_rng_state(streams.cuda, device)
    np.random.set_state(streams.numpy)
    random.setstate(streams.python)
    for generator, position in streams.generators:
        generator.set_state(position)


@contextmanager
def kept_streams(device: torch.device, *generators: torch.Generator, start: Streams | None = None) -> Iterator[None]:
    """A block that may draw what it likes: the streams stand where they stood when it ends.

    With `start`, an earlier snapshot, the block draws from there.
    """
    before = snapshot(device, *generators)
    if start is not None:
        restore(start, device)
    try:
        yield
    finally:
        restore(before, device)


def derive(seed: int, *path: str | int) -> int:
    """A seed in [0, 2**63) for one named use of `seed`; different paths give unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, (seed, *path))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_streams(seed: int, device: torch.device, *generators: torch.Generator) -> None:
    """Seed torch (CPU, and the CUDA device if `device` is one), NumPy, Python, and the generators given."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    for generator in generators:
        generator.manual_seed(seed)
