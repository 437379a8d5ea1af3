"""Running modules that `torch.compile` wrapped as they were written: recordings and proofs watch every operator."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Runs the block, or a function that it decorates, without compiling: trial cuts would be compiled one by one."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
