"""Sheets: all models on all images under one shift, each image corrupted once for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from secateur.data.corruptions import corrupt
from secateur.data.pictures import Pictures
from secateur.data.prepare import WHITE
from secateur.errors import InputError
from secateur.measures.answers import Answers
from secateur.measures.churn import flips
from secateur.measures.classification import wilson
from secateur.measures.confidence import calibration
from secateur.measures.coverage import selective
from secateur.measures.potential import Interval, Potential, paired, potential_interval, prune_potential
from secateur.report.record import AccuracyRow
from secateur.report.trust_record import NOMINAL, AnswersRow, FlipsRow, MetricRow, ModelRow, PotentialRow, SheetRow
from secateur.run.quick import Network

CORRUPTED_AT_ONCE = 1000
"""Images: a corruption costs less each where many are computed together."""
RESAMPLES = 500
"""Of the bootstrap behind a potential's interval."""
METRIC_RESAMPLES = 100
"""Of a metric of the user's, which is called anew for each."""


@torch.no_grad()
def answers(
    networks: Mapping[str, Network],
    pictures: Pictures,
    *,
    batch: int,
    kind: str = NOMINAL,
    severity: int = 0,
    strengths: str = "cifar",
    seed: int = 0,
    probabilities: bool = False,
    keep: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Answers]:
    """What each network says to the pictures, corrupted where `kind` is not "nominal"; `keep` is shown the scores.

    Raises `InputError` for networks with other numbers of classes, or for what is no classification.
    """
    found: dict[str, list[Answers]] = {name: [] for name in networks}
    for images, labels, numbers in pictures.batches(CORRUPTED_AT_ONCE // batch * batch or batch):
        shares = pictures.shares(images)
        if kind != NOMINAL:
            white = pictures.white(images)
            changed = corrupt(white, kind, severity, strengths=strengths, seed=seed, indices=numbers)
            shares = pictures.shares(changed, WHITE)
        inputs = pictures.normalised(shares)
        for start in range(0, len(inputs), batch):
            own = None if labels is None else labels[start : start + batch]
            for name, outputs in asked(networks, inputs[start : start + batch]).items():
                found[name].append(Answers.of(outputs, own, probabilities=probabilities))
                if keep is not None:
                    keep(name, outputs)
    return {name: Answers.joined(parts) for name, parts in found.items()}


def asked(networks: Mapping[str, Network], inputs: Tensor) -> dict[str, Tensor]:
    """The scores of all networks for the same inputs. Raises `InputError` where their classes differ in number."""
    outputs = {name: network(inputs) for name, network in networks.items()}
    shapes = {name: tuple(each.shape[1:]) for name, each in outputs.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"'{name}' {shape[0] if shape else 'none'}" for name, shape in shapes.items())
        raise InputError(f"Models that are compared must have the same classes. They have {told}.")
    return outputs


def sheet(
    kind: str,
    severity: int,
    found: Mapping[str, Answers],
    models: Sequence[ModelRow],
    margin: float,
    seed: int,
    metrics: Mapping[str, Callable[[Tensor, Tensor], float]] = MappingProxyType({}),
) -> SheetRow:
    """The row of a sheet: every model's answers, what differs from the dense model, and the prune potential.

    Raises `InputError` for a metric that gives no finite number.
    """
    first = found[models[0].name]
    different = [None if i == 0 else _flips(first, found[model.name]) for i, model in enumerate(models)]
    return SheetRow(
        kind=kind,
        severity=severity,
        answers=tuple(_answers(found[model.name]) for model in models),
        flips=tuple(different),
        potential=_potential(first, found, models, margin, seed),
        metrics=tuple(_metric(name, each, found, models, margin, seed) for name, each in metrics.items()),
    )


def accuracy_row(right: Tensor) -> AccuracyRow:
    """An accuracy with Wilson's interval, from bool [images]."""
    correct, total = int(right.sum()), len(right)
    low, high = wilson(correct, total)
    return AccuracyRow(value=correct / total, low=low, high=high, correct=correct, total=total)


def _answers(found: Answers) -> AnswersRow:
    fits = calibration(found)
    order = selective(found.confidence, found.right)
    return AnswersRow(accuracy=accuracy_row(found.right), nll=fits.nll, brier=fits.brier, ece=fits.ece, aurc=order.aurc)


def _flips(dense: Answers, other: Answers) -> FlipsRow:
    made = flips(dense.predictions, other.predictions, dense.labels)
    return FlipsRow(changed=made.changed, negative=made.negative, positive=made.positive, p_value=made.p_value)


def _metric(
    name: str,
    metric: Callable[[Tensor, Tensor], float],
    found: Mapping[str, Answers],
    models: Sequence[ModelRow],
    margin: float,
    seed: int,
) -> MetricRow:
    """A metric of every model, and how far the pruned ones keep it, with a bootstrap over images."""
    labels = found[models[0].name].labels
    said = {model.name: found[model.name].predictions for model in models}
    values = {each: float(metric(predictions, labels)) for each, predictions in said.items()}
    wrong = [f"'{each}' {value}" for each, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise InputError(f"The metric {name!r} must give a finite number for every model. Got {', '.join(wrong)}.")
    names = [model.name for model in models]
    pruned = {model.ratio: model.name for model in models if model.role == "pruned" and model.ratio > 0}
    row = MetricRow(name=name, values=tuple(values[each] for each in names))
    if not pruned:
        return row
    ratios = sorted(pruned)
    losses = [1 - values[pruned[ratio]] for ratio in ratios]

    def statistic(drawn: Tensor) -> list[float]:
        which = torch.repeat_interleave(torch.arange(len(labels)), drawn.long())
        again = {each: float(metric(said[each][which], labels[which])) for each in (names[0], *pruned.values())}
        return [again[names[0]] - again[pruned[ratio]] for ratio in ratios]

    made = prune_potential(ratios, losses, 1 - values[names[0]], margin=margin)
    sure = potential_interval(ratios, [statistic], len(labels), margin=margin, draws=METRIC_RESAMPLES, seed=seed)
    return row.model_copy(update={"potential": _row(made, sure)})


def _potential(
    dense: Answers, found: Mapping[str, Answers], models: Sequence[ModelRow], margin: float, seed: int
) -> PotentialRow | None:
    """The potential over the pruned models; None where none of them lacks any parameter."""
    ratios = {model.ratio: found[model.name] for model in models if model.role == "pruned" and model.ratio > 0}
    if not ratios:
        return None
    wrong = {ratio: ~each.right for ratio, each in sorted(ratios.items())}
    own = ~dense.right
    errors = [float(each.double().mean()) for each in wrong.values()]
    made = prune_potential(list(wrong), errors, float(own.double().mean()), margin=margin)
    statistic = paired(own, torch.stack(list(wrong.values())))
    sure = potential_interval(list(wrong), [statistic], len(own), margin=margin, draws=RESAMPLES, seed=seed)
    return _row(made, sure)


def _row(made: Potential, sure: Interval) -> PotentialRow:
    return PotentialRow(
        value=made.value,
        contiguous=made.contiguous,
        interpolated=made.interpolated,
        censored=made.censored,
        low=sure.low,
        high=sure.high,
        safe=sure.safe,
    )
