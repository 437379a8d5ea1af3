"""How far a network can be pruned before a measure of it suffers: the prune potential, and how sure it is.

Liebenwein et al., "Lost in Pruning" (MLSys 2021, arXiv 2103.03014): of networks pruned to several ratios, the largest
ratio whose error exceeds that of the dense network by no more than a margin, both on the same data. The published code
lets a ratio qualify after a smaller one has failed; both readings are given, a value between the tested ratios, and a
flag where the largest tested one still qualified, so that the potential may be larger than was looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError

MARGIN = 0.005
"""Half a percentage point of error, as published."""

_AT_ONCE = 2**24
"""Weights of resampled images held at once: 128 MB."""

Statistic = Callable[[Tensor], Sequence[float] | Tensor]
"""From how often every sample is drawn, [samples], to what each ratio loses against dense; higher is worse."""


@dataclass(frozen=True)
class Potential:
    """Prune ratios in [0, 1]: `value` of any tested ratio, `contiguous` of those before the first that fails.

    `interpolated` goes on from `contiguous` on the straight line to the ratio that fails first, to where it meets the
    margin. `censored` says that the largest tested ratio qualified.
    """

    value: float
    contiguous: float
    interpolated: float
    censored: bool


@dataclass(frozen=True)
class Interval:
    """Quantiles [`low`, `high`] of the interpolated potential over resamples; `safe`: where worse is ruled out.

    `safe` is the largest ratio up to which the upper confidence bound of the loss stays within the margin at all
    tested ratios (non-inferiority).
    """

    low: float
    high: float
    safe: float
    confidence: float


def prune_potential(
    ratios: Sequence[float], errors: Sequence[float], dense: float, *, margin: float = MARGIN
) -> Potential:
    """The potential of networks at prune `ratios` with these `errors`, beside the `dense` one's on the same data.

    Errors are shares that should be small; of a measure that should be large, give one less it. Raises `InputError` for
    ratios outside (0, 1], repeated, or not as many as errors.

    >>> prune_potential([0.5, 0.8, 0.9], [0.101, 0.103, 0.12], dense=0.1)
    Potential(value=0.8, contiguous=0.8, interpolated=0.8117647058823529, censored=False)
    """
    order = _order(ratios, len(errors), margin)
    losses = [errors[i] - dense for i in order]
    return _potential([ratios[i] for i in order], losses, margin)


def _potential(ratios: Sequence[float], losses: Sequence[float], margin: float) -> Potential:
    """The potential of sorted ratios; a loss within rounding of the margin is within it."""
    allowed = margin + 1e-12
    within = [loss <= allowed for loss in losses]
    value = max((ratio for ratio, holds in zip(ratios, within, strict=True) if holds), default=0.0)
    first = next((i for i, holds in enumerate(within) if not holds), len(ratios))
    contiguous = ratios[first - 1] if first else 0.0
    if first == len(ratios):
        return Potential(value, contiguous, contiguous, censored=True)
    before = losses[first - 1] if first else min(0.0, margin)  # at ratio 0 stands the dense network itself
    way = (margin - before) / (losses[first] - before) if losses[first] > before else 0.0
    interpolated = contiguous + max(0.0, min(1.0, way)) * (ratios[first] - contiguous)
    return Potential(value, contiguous, interpolated, censored=within[-1])


def paired(dense: Tensor, pruned: Tensor) -> Statistic:
    """The statistic of a mean: losses of the dense network [samples] and of pruned ones [ratios, samples]."""
    if pruned.dim() != 2 or dense.shape != pruned.shape[1:]:
        raise InputError(
            "Paired losses need [samples] of the dense network and [ratios, samples] of the pruned ones. "
            f"Got {list(dense.shape)} and {list(pruned.shape)}."
        )
    differences = pruned.double() - dense.double()

    def statistic(drawn: Tensor) -> Tensor:
        return differences @ (drawn / drawn.sum())

    return statistic


def potential_interval(
    ratios: Sequence[float],
    nets: Sequence[Statistic],
    samples: int,
    *,
    margin: float = MARGIN,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How sure a potential is, by a paired bootstrap over samples and nets.

    Every draw takes `samples` of them with replacement, the same for dense and pruned networks; where there are several
    `nets` (seeds), as many of these, whose potentials are averaged. A statistic gives what each of `ratios` loses on a
    draw: `paired` for errors, or any function of the draw for IoU and the like.

    >>> potential_interval([0.5, 0.9], [paired(dense_wrong, pruned_wrong)], len(dense_wrong))
    """
    order = _order(ratios, len(ratios), margin)
    if not nets or samples < 1 or draws < 1 or not 0 < confidence < 1:
        raise InputError(
            "An interval of a potential needs nets, samples, draws, and a confidence in (0, 1). "
            f"Got {len(nets)}, {samples}, {draws} and {confidence!r}."
        )
    generator = torch.Generator().manual_seed(seed)
    ordered = [ratios[i] for i in order]
    found, losses = [], []
    for drawn in _resamples(samples, draws, generator):
        chosen = torch.randint(0, len(nets), (len(nets),), generator=generator).tolist()
        values = {net: torch.as_tensor(nets[net](drawn)).tolist() for net in set(chosen)}
        own = [[values[net][i] for i in order] for net in chosen]
        found.append(sum(_potential(ordered, each, margin).interpolated for each in own) / len(own))
        losses.append([sum(each) / len(own) for each in zip(*own, strict=True)])
    tail = (1 - confidence) / 2
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    upper = torch.tensor(losses, dtype=torch.float64).quantile(1 - tail, dim=0).tolist()
    return Interval(low, high, _potential(ordered, upper, margin).contiguous, confidence)


def _resamples(samples: int, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    """How often each sample is drawn, one [samples] a draw; made in parts that fit."""
    part = max(1, _AT_ONCE // samples)
    for start in range(0, draws, part):
        size = min(part, draws - start)
        chosen = torch.randint(0, samples, (size, samples), generator=generator)
        chosen += samples * torch.arange(size).unsqueeze(1)
        yield from torch.bincount(chosen.view(-1), minlength=size * samples).view(size, samples).double()


def _order(ratios: Sequence[float], errors: int, margin: float) -> list[int]:
    """The places of the ratios from small to large."""
    if not ratios or len(ratios) != errors or len(set(ratios)) < len(ratios):
        raise InputError(
            f"A prune potential needs different ratios and one error each. Got {len(ratios)} ratios, {errors} errors."
        )
    if any(not 0 < ratio <= 1 for ratio in ratios):
        raise InputError(f"Prune ratios must lie in (0, 1]. Got {sorted(ratios)}.")
    if margin < 0:
        raise InputError(f"The 'margin' parameter of prune_potential must be at least 0. Got {margin!r} instead.")
    return sorted(range(len(ratios)), key=lambda i: ratios[i])
