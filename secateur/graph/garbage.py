"""Collections of garbage that leave alone what was there before a stage began."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def only_new() -> Iterator[None]:
    """Runs the block, or a function that it decorates, with collections that look at the objects it makes alone.

    Recordings and copies of a model are tens of thousands of objects, enough to set off a full collection. That would
    go through everything the process has imported, find nothing, and take longer than most models' surgery. Processes
    that have frozen objects themselves, or collect none, are left as they are.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
