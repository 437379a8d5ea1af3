"""How long a forward pass takes, and how much faster one model is than another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.errors import InputError
from secateur.training.batches import call, count, device_of
from secateur.training.keeping import kept_modes


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass of `batch` samples: the median, and `low` and `high`, its spread.

    The spread is the tenth and the ninetieth percentile of `runs` passes on `device` with `threads` threads of the CPU;
    `throughput` is samples a second at the median.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    throughput: float
    batch: int
    threads: int
    device: str
    runs: int

    def __str__(self) -> str:
        spread = f"{self.median_ms:.3g} ms [{self.low_ms:.3g}, {self.high_ms:.3g}]"
        return f"{spread}, batch {self.batch}, {self.device}, {self.threads} threads"


@dataclass(frozen=True)
class Comparison:
    """Two models timed in turn; `ratio` is the median of (time of a) / (time of b): above 1, b is faster.

    `low` and `high` are the tenth and ninetieth percentile of the ratio.
    """

    a: Latency
    b: Latency
    ratio: float
    low: float
    high: float


def latency(model: nn.Module, example: Any, *, runs: int = 30, warmup: int = 5, threads: int | None = None) -> Latency:
    """The time of a forward pass of `model` on `example`, in evaluation mode and without gradients; modes are put back.

    `example` is a tensor, a tuple of positional or a dict of keyword arguments, on the model's device. `threads` is the
    number of CPU threads, as it is if None. `warmup` passes come first and are not counted.

    >>> latency(model, torch.randn(1, 3, 32, 32), threads=1).median_ms
    """
    _check(runs=runs, warmup=warmup, threads=threads)
    with _measured(threads, model):
        run = _timer(model, example)
        times = [run() for _ in range(warmup + runs)][warmup:]
        return _summary(times, model, example)


def compare(
    a: nn.Module, b: nn.Module, example: Any, *, runs: int = 30, warmup: int = 5, threads: int | None = None
) -> Comparison:
    """Two models timed on the same example in turn, a b a b.

    What slows the machine for a while slows both, so the ratio holds where the times do not.

    >>> compare(dense, slim, torch.randn(1, 3, 224, 224)).ratio
    1.7
    """
    _check(runs=runs, warmup=warmup, threads=threads)
    with _measured(threads, a, b):
        run_a, run_b = _timer(a, example), _timer(b, example)
        pairs = [(run_a(), run_b()) for _ in range(warmup + runs)][warmup:]
        times_a, times_b = zip(*pairs, strict=True)
        low, ratio, high = np.percentile([one / other for one, other in pairs], (10, 50, 90))
        first, second = _summary(times_a, a, example), _summary(times_b, b, example)
    return Comparison(first, second, float(ratio), float(low), float(high))


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        least = 0 if name == "warmup" else 1
        if value is not None and (not isinstance(value, int) or value < least):
            raise InputError(
                f"The '{name}' parameter of latency must be an integer of at least {least}. Got {value!r} instead."
            )


@contextmanager
def _measured(threads: int | None, *models: nn.Module) -> Iterator[None]:
    """A block with the models in evaluation mode, without gradients, with so many threads; all of it is put back."""
    before = torch.get_num_threads()
    root = nn.ModuleList(models)
    with kept_modes(root), torch.no_grad():
        root.eval()
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(before)


def _timer(model: nn.Module, example: Any) -> Callable[[], float]:
    """A function that runs the model once and returns the seconds it took, the device's work included."""
    device = device_of(model)
    wait: Callable[[], object] = (
        (lambda: None) if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)
    )

    def run() -> float:
        wait()
        start = time.perf_counter()
        call(model, example)
        wait()
        return time.perf_counter() - start

    return run


def _summary(times: Any, model: nn.Module, example: Any) -> Latency:
    low, median, high = (float(value) for value in np.percentile(np.asarray(times) * 1000, (10, 50, 90)))
    batch = count(example)
    return Latency(
        median_ms=median,
        low_ms=low,
        high_ms=high,
        throughput=batch / median * 1000,
        batch=batch,
        threads=torch.get_num_threads(),
        device=str(device_of(model)),
        runs=len(times),
    )
