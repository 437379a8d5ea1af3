"""Several trainings of the same models beside each other: what pruning does as a rule, and not to one network.

Potentials are averaged over networks and their interval is that of a bootstrap over networks and images; classes are
compared by Welch's test over networks (Hooker et al., arXiv 1911.05248), and an image is identified where the most
frequent answers of the dense and of the pruned networks differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from secateur.data.pictures import Pictures
from secateur.errors import InputError
from secateur.measures.answers import Answers
from secateur.measures.cost import size
from secateur.measures.damage import class_damage_over
from secateur.measures.exemplars import identified_exemplars
from secateur.measures.potential import MARGIN, paired, potential_interval, prune_potential
from secateur.report.trust_record import NOMINAL, ClassRow, PopulationRow
from secateur.run.quick import quick
from secateur.run.sheets import RESAMPLES, answers
from secateur.run.subjects import Subject, checked

Nets = Sequence[Sequence[Subject]]
"""One entry a training: its dense model and the pruned ones, in the same order in each."""


def population(
    nets: Nets,
    pictures: Pictures,
    *,
    kind: str = NOMINAL,
    severity: int = 0,
    strengths: str = "cifar",
    margin: float = MARGIN,
    seed: int = 0,
    batch: int = 250,
    probabilities: bool = False,
) -> PopulationRow:
    """Potentials, damage to classes and identified exemplars over `nets`, on pictures as they are or corrupted.

    Classes and exemplars are those of the most pruned model of each net. Raises `InputError` for fewer than two nets,
    or nets that do not hold the same number of pruned models.

    >>> population([[Subject("dense", a, "dense"), Subject("pruned", b)], [...]], pictures).potential
    """
    ordered = [[each for each in checked(net) if each.role != "control"] for net in nets]
    if len(ordered) < 2 or len({len(net) for net in ordered}) > 1:
        raise InputError(
            "A population needs at least two trainings with the same number of pruned models each. "
            f"Got {len(ordered)} with {', '.join(str(len(net) - 1) for net in ordered) or 'none'}."
        )
    ratios = [_ratios(net) for net in ordered]
    ordered = [
        [net[0], *(net[i + 1] for i in sorted(range(len(own)), key=own.__getitem__))]
        for net, own in zip(ordered, ratios, strict=True)
    ]
    means = [fmean(column) for column in zip(*map(sorted, ratios), strict=True)]
    found = []
    for net in ordered:
        example = pictures.normalised(pictures.shares(next(pictures.batches(batch))[0]))
        networks = {str(i): quick(each.model, example, False, 0)[0] for i, each in enumerate(net)}
        said = answers(
            networks, pictures, batch=batch, kind=kind, severity=severity, strengths=strengths, seed=seed,
            probabilities=probabilities,
        )  # fmt: skip
        found.append([said[str(i)] for i in range(len(net))])
    reach = _potentials(found, means, margin, seed)
    return PopulationRow(kind=kind, severity=severity, nets=len(ordered), ratios=tuple(means), **reach,
                         **_forgotten(found, pictures))  # fmt: skip


def _ratios(net: Sequence[Subject]) -> list[float]:
    """The shares of the dense model's non-zero parameters that the pruned ones lack."""
    dense = size(net[0].model).nonzero
    return [max(0.0, 1 - size(each.model).nonzero / dense) for each in net[1:]]


def _potentials(
    found: Sequence[Sequence[Answers]], ratios: Sequence[float], margin: float, seed: int
) -> Mapping[str, object]:
    """The potential of every net, their interval together, and where worse is ruled out."""
    wrong = [torch.stack([~each.right for each in net]) for net in found]
    each = []
    for net in wrong:
        dense, *errors = net.double().mean(dim=1).tolist()
        each.append(prune_potential(ratios, errors, dense, margin=margin).interpolated)
    statistics = [paired(net[0], net[1:]) for net in wrong]
    sure = potential_interval(ratios, statistics, wrong[0].shape[1], margin=margin, draws=RESAMPLES, seed=seed)
    return {"potentials": tuple(each), "low": sure.low, "high": sure.high, "safe": sure.safe}


def _forgotten(found: Sequence[Sequence[Answers]], pictures: Pictures) -> Mapping[str, object]:
    """Classes and images that the most pruned models treat differently as a rule."""
    dense, pruned = ([net[place].predictions for net in found] for place in (0, -1))
    labels = found[0][0].labels
    classes = 1 + int(max(each.max() for each in (labels, *dense, *pruned)))
    rows = class_damage_over(dense, pruned, labels, classes)
    seen = identified_exemplars(dense, pruned, labels)
    names = pictures.names or ()
    assert pictures.numbers is not None
    return {
        "classes": tuple(
            ClassRow(label=row.label, name=names[row.label] if row.label < len(names) else str(row.label),
                     images=row.images, before=row.before, after=row.after, p_value=row.p_value)
            for row in rows
        ),
        "exemplars": tuple(int(pictures.numbers[i]) for i in seen.images),
        "identified": seen.identified,
        "rest": seen.rest,
    }  # fmt: skip
