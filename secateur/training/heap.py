"""The heap: on a CPU, memory that one step frees stays with the process, so that the next finds its pages in place.

The C library gives blocks of some megabytes back to the system as soon as they are free, and a step of training asks
for all of them again: ResNet-20 on batches of 128 takes some 15,000 page faults a step, VGG-16 212,000.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of glibc's mallopt
_MAPPED = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
"""What glibc comes to by itself in a program that frees large blocks: its thresholds move up to these."""
_KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}


@contextmanager
def kept_heap(device: torch.device) -> Iterator[None]:
    """A block in which freed memory stays with the process; afterwards the system gets back what is free.

    Without glibc, or on another device than the CPU, nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        tune, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        tune = None
    if tune is None or device.type != "cpu":
        yield
        return
    for parameter, value in _KEPT.items():
        tune(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _MAPPED.items():
            tune(parameter, value)
        trim(0)
