"""Keeps what SiPP's bounds say of the neurons of a run's dense network, beside the errors that are measured.

python experiments/run.py    experiments/lost_in_pruning/lenet_300_100_short_sipp.yaml    the run comes first
python experiments/bounds.py experiments/lost_in_pruning/lenet_300_100_short_sipp.yaml    then this, the same options

Sensitivities are those of the validation split, or of the training data where none is held out; bounds are told, and
errors measured on as many test images, when weights go at once, without any retraining: those kept stay as they are,
or are drawn and rescaled. Results that exist are left alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from command import each, finished, parser
from tabled.bounds import FOLDER, Bounds, LayerRow
from torch import Tensor, nn

import secateur
from secateur.data import Data
from secateur.folder import completed
from secateur.report import gather
from secateur.run.experiments import Experiment
from secateur.run.subjects import of_run
from secateur.sensitivity import relative_errors, sipp, sipp_bound

LEFT = (95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)
"""Per cent of the weights."""
VARIANTS: dict[Literal["deterministic", "random"], Literal["global", "own"]] = {
    "deterministic": "global",
    "random": "own",
}
"""With where their allocation comes from."""
PARTS = (0.1, 0.5, 0.9)


def rows(dense: nn.Module, data: Data) -> Iterator[LayerRow]:
    """Every layer of every plan: bounds and errors over its neurons, negative and positive weights apart."""
    weights = secateur.elements(dense, next(iter(data.test))[0][:2])
    for variant, allocation in VARIANTS.items():
        scores = sipp(weights, data.validation or data.train, variant=variant)
        for left in LEFT:
            plan = secateur.plan(weights, scores, f"{left}% weights", allocation=allocation)
            bounds, errors = sipp_bound(scores, plan), relative_errors(weights, scores, plan, data.test)
            for name, bound in bounds.items():
                yield _row(variant, 1 - left / 100, name, bound.flatten(), errors[name].flatten())


def _row(variant: str, ratio: float, layer: str, bound: Tensor, error: Tensor) -> LayerRow:
    spreads = [each.quantile(torch.tensor(PARTS, dtype=each.dtype), interpolation="lower") for each in (bound, error)]
    return LayerRow(
        variant=variant,
        ratio=round(ratio, 6),
        layer=layer,
        neurons=len(bound) // 2,
        bound=tuple(spreads[0].tolist()),
        error=tuple(spreads[1].tolist()),
        held=float((error <= bound).double().mean()),
        says=float((bound < 1).double().mean()),
    )


def measured(experiment: Experiment, given: argparse.Namespace) -> tuple[Path, bool]:
    """The file of an experiment's bounds, and whether there was anything to do.

    Raises `CheckpointError` where its run is not finished.
    """
    record, own = finished(experiment, given.results), experiment.result(given.results)
    path = own.parent / FOLDER / own.name
    if path.exists() and completed(Bounds.load(path).recipe) == completed(record.recipe):
        return path, False
    started = time.perf_counter()
    subjects, data, _ = of_run(given.work / experiment.name)
    found = tuple(rows(subjects[0].model, data))
    Bounds(
        experiment=experiment.name, model=record.model, data=record.data, recipe=record.recipe, seeds=record.seeds,
        versions=gather.versions(), hardware=gather.hardware(torch.device("cpu")), rows=found,
        seconds=round(time.perf_counter() - started, 1),
    ).save(path)  # fmt: skip
    return path, True


if __name__ == "__main__":
    sys.exit(each(parser(__doc__).parse_args(), measured))
