"""Learning rates over a training: a schedule of `secateur.schedule` falling from 1, milestones, and a warm-up ramp."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from secateur import schedule as curves
from secateur.errors import InputError
from secateur.schedule import Schedule


def milestone(progress: float, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> float:
    """`gamma` to the number of milestones passed, each a share of the training in (0, 1).

    >>> milestone(0.6, (0.5, 0.75))
    0.1
    """
    return float(gamma ** sum(progress >= share for share in milestones))


def learning_rate(asked: str | Schedule, milestones: Sequence[float], gamma: float) -> Schedule:
    """The factor on the learning rate that a name stands for; a function is returned as it is.

    "cosine" is half a wave from 1 to 0 (Loshchilov & Hutter, SGDR, arXiv 1608.03983, equation 5, without restarts).
    """
    if callable(asked):
        return asked
    known: dict[str, Schedule] = {
        "cosine": partial(curves.cosine, start=1.0, end=0.0),
        "step": partial(milestone, milestones=tuple(milestones), gamma=gamma),
        "constant": curves.constant,
    }
    if asked not in known:
        raise InputError(
            f"The 'schedule' parameter of fit must be one of {', '.join(known)}, or a function of progress. "
            f"Got {asked!r} instead."
        )
    return known[asked]


def warm_up(steps_done: int, warmup_steps: float) -> float:
    """The linear ramp's factor for the step after `steps_done`: never 0, and 1 from the end of the ramp on."""
    return min(1.0, (steps_done + 1) / warmup_steps) if warmup_steps > 0 else 1.0
