"""Evaluates every round of finished cascades under shifts, and keeps how far each can be pruned under each.

python experiments/run.py experiments/lost_in_pruning/resnet20_short_*.yaml            the cascades come first
python experiments/shifts.py experiments/lost_in_pruning/resnet20_short_*.yaml         then this, with the same options
python experiments/shifts.py FILE --seeds 0 1 --set data.augment=corrupt+crop --work DIR

Of every cascade the dense model and the model of each round see the test images as they are, under all corruptions of
the strengths that fit (or --strengths) at severity 3, and under noise. Every corruption is kept below the run's folder
when it is done: killed, the same command goes on with the next. Results that exist are left alone; one that was made
with other options is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from command import each, finished, parser
from tabled.cascades import FOLDER, Cascade

from secateur import console
from secateur.data.pictures import Pictures
from secateur.errors import InputError
from secateur.folder import completed
from secateur.report import gather
from secateur.report.record import RunRecord
from secateur.report.trust_record import TrustRecord
from secateur.run.evaluation import Settings
from secateur.run.experiments import Experiment
from secateur.run.subjects import of_run
from secateur.run.trusting import fitting, trust


def settings_of(given: argparse.Namespace, strengths: str) -> Settings:
    """What the options ask of one evaluation; digits as MNIST-C changes them have one severity each."""
    levels = (1,) if strengths == "mnist" else (given.severity,)
    return Settings(
        levels, strengths, draws=given.draws, noise_images=given.noise_images, compile=given.compile, batch=given.batch
    )


def evaluated(experiment: Experiment, given: argparse.Namespace) -> tuple[Path, bool]:
    """The file of what an experiment's cascade is worth under shifts, and whether there was anything to do.

    Raises `CheckpointError` where the cascade is not finished or left no rounds.
    """
    run = given.work / experiment.name
    record, own = finished(experiment, given.results), experiment.result(given.results)
    subjects, data, _ = of_run(run, rounds=True)
    pictures = Pictures.of(data.test, given.images, names=data.class_names)
    strengths = given.strengths or fitting(pictures, data.name)
    path = own.parent / FOLDER / strengths / own.name
    settings = settings_of(given, strengths)
    if path.exists() and completed((before := Cascade.load(path)).recipe) == completed(record.recipe):
        require_same(path, before, {"images": len(pictures.images), **settings.identity()})
        return path, False
    with console.stages() as progress:
        found = trust(
            subjects, pictures, run / FOLDER / strengths, data=data.name, asked=("corruptions", "noise"),
            settings=settings, progress=progress,
        )  # fmt: skip
    kept(experiment, record, found).save(path)
    return path, True


def require_same(path: Path, before: Cascade, asked: Mapping[str, object]) -> None:
    """Raise `InputError` if the result at `path` was not made with what is asked for now."""
    then = {"images": before.images, **before.settings}
    differing = [f"{key} {then.get(key)} instead of {value}" for key, value in asked.items() if then.get(key) != value]
    if differing:
        raise InputError(
            f"The result {path} is of another evaluation: {', '.join(differing)}. Ask for the same, or remove it to "
            "make it anew."
        )


def kept(experiment: Experiment, record: RunRecord, found: TrustRecord) -> Cascade:
    """What is kept of an evaluation, with the versions and the machine of this process."""
    told = {"versions": gather.versions(), "hardware": gather.hardware(torch.device("cpu"))}
    return Cascade.of(experiment.name, record, found, told)


def main() -> int:
    """Evaluate what the arguments name; 2 for an error that a user can mend."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=10_000, help="at most so many test images, stratified")
    options.add_argument("--severity", type=int, default=3, help="of the corruptions")
    options.add_argument("--strengths", choices=("cifar", "imagenet", "mnist"), help="what fits if left out")
    options.add_argument("--draws", type=int, default=10, help="of the noise; the paper has 100")
    options.add_argument("--noise-images", type=int, default=1000, help="that see the noise")
    options.add_argument("--batch", type=int, default=500, help="images that a network sees at once")
    options.add_argument("--compile", action="store_true", help="compile the networks; pays for ResNet-20 in full")
    return each(options.parse_args(), evaluated)


if __name__ == "__main__":
    sys.exit(main())
