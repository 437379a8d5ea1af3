"""Memory that a step frees is there for the next one, and the system's again after the training."""

from __future__ import annotations

import platform
import resource

import pytest
import torch
from tinynet import QUIET, batches, net

from secateur.training import fit
from secateur.training.heap import kept_heap

LARGE = 6 * 2**20  # floats: 24 MiB, of 4 KiB pages 6144
PAGES = LARGE * 4 // resource.getpagesize()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def touched() -> int:
    """The page faults of making a large tensor and freeing it again."""
    before = faults()
    torch.ones(LARGE)
    return faults() - before


def resident() -> int:
    """Bytes of memory that the process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other ways")
def test_pages_are_taken_once_inside_and_given_back_after() -> None:
    with kept_heap(torch.device("cpu")):
        touched()
        assert sum(touched() for _ in range(10)) < 3 * PAGES
        inside = resident()
    assert inside - resident() > 2 * LARGE


def test_other_devices_have_their_own_allocators() -> None:
    with kept_heap(torch.device("meta")):
        assert torch.ones(3).sum() == 3


def test_a_training_leaves_no_memory_behind() -> None:
    def swell(state) -> None:
        torch.ones(LARGE)

    method = type("Swell", (), {"after_step": staticmethod(swell)})()
    fit(net(), batches(1), epochs=1, **QUIET)
    before = resident()
    fit(net(), batches(4), epochs=1, methods=[method], **QUIET)
    assert resident() - before < 4 * LARGE / 2
