"""What `secateur evaluate` does beyond measuring a run again: which models, images and shifts its options mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from secateur import console, report, zoo
from secateur import data as data_sets
from secateur.data import Data
from secateur.data.corruptions import cifar10_1, cifar10_c, kinds, mnist_c
from secateur.data.pictures import Pictures
from secateur.data.sets import Images
from secateur.errors import CheckpointError, DataError, InputError
from secateur.report import trust as trust_page
from secateur.report.page import FILES
from secateur.report.record import RunRecord
from secateur.report.trust_record import TrustRecord
from secateur.report.trust_words import paragraphs
from secateur.run.evaluation import Further, Metric, Settings
from secateur.run.shifts import synthetic
from secateur.run.subjects import Subject, beside, of_files, of_run
from secateur.run.trusting import trust
from secateur.zoo.userfile import load_function

SIBLINGS: Mapping[str, str] = {"cifar10": "cifar100", "cifar100": "cifar10", "mnist": "fashion", "fashion": "mnist"}
"""Data sets of the same shape whose images are strange to a model of the other."""
OFFICIAL: Mapping[str, str] = {"cifar10-c": "cifar10", "cifar10.1": "cifar10", "mnist-c": "mnist"}
"""Shifts that are read from published files, and the data set whose they are."""


@dataclass(frozen=True)
class Asked:
    """The options of the command line, as they were given."""

    folder: Path | None = None
    shifts: str = ""
    model: str | None = None
    data: str | None = None
    data_root: Path | None = None
    dense: Path | None = None
    pruned: Sequence[Path] = ()
    controls: Sequence[Path] = ()
    ood: str | None = None
    out: Path | None = None
    images: int = 10_000
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    rounds: bool = False
    seeds: Sequence[Path] = ()
    metrics: Sequence[str] = ()


def evaluated(asked: Asked, settings: Settings) -> tuple[TrustRecord, Path]:
    """The record of the evaluation that the options mean, and the page that shows it.

    Raises `InputError` for options that do not go together.
    """
    subjects, data, root, out = _subjects(asked)
    pictures = Pictures.of(data.test, asked.images, settings.seed, data.class_names)
    names = asked.shifts.replace(",", " ").split()
    given = official(names, data.name, pictures, root, settings.severities)
    names = [name for name in names if name not in OFFICIAL]
    nets = [of_run(folder, asked.data_root, rounds=asked.rounds)[0] for folder in asked.seeds]
    further = Further(given, dict(map(metric, asked.metrics)), nets)
    strange = strange_for(asked.ood, data, pictures, settings.seed, root) if "ood" in names else None
    with console.stages() as progress:
        record = trust(
            subjects,
            pictures,
            out,
            data=data.name,
            asked=names,
            settings=settings,
            strange=strange,
            further=further,
            progress=progress,
        )
    if (out / FILES["json"]).exists():
        return record, report.write(RunRecord.load(out / FILES["json"]), out)["page"]
    return record, trust_page.write(record, out)


def _subjects(asked: Asked) -> tuple[list[Subject], Data, Path | None, Path]:
    """The models, the data, where these lie, and the folder for the result."""
    if asked.folder is not None:
        if asked.model is not None or asked.dense is not None or asked.data is not None:
            raise InputError("Give evaluate the folder of a run, or --model, --data, --dense and --pruned; not both.")
        subjects, data, recipe = of_run(asked.folder, asked.data_root, rounds=asked.rounds)
        source = zoo.resolve(recipe.model.spec, classes=data.classes, shape=data.shape, **recipe.model.kwargs)
        subjects += beside(source, asked.pruned, asked.controls)
        root = asked.data_root or (Path(recipe.data.root) if recipe.data.root else None)
        return subjects, data, root, asked.out or asked.folder
    needed = {"--model": asked.model, "--data": asked.data, "--dense": asked.dense, "--out": asked.out}
    missing = [name for name, value in needed.items() if value is None]
    if missing or not asked.pruned:
        missing += [] if asked.pruned else ["--pruned"]
        raise InputError(
            "Give evaluate the folder of a run, or two models by --model, --data, --dense, --pruned and --out. "
            f"Missing: {', '.join(missing)}."
        )
    assert asked.model is not None
    assert asked.data is not None
    assert asked.dense is not None
    assert asked.out is not None
    if asked.rounds or asked.seeds:
        raise InputError("The options --rounds and --seed-run of evaluate need the folder of a run.")
    data = data_sets.load(asked.data, asked.data_root, mean=asked.mean, std=asked.std)
    source = zoo.resolve(asked.model, classes=data.classes, shape=data.shape)
    return of_files(source, asked.dense, asked.pruned, asked.controls), data, asked.data_root, asked.out


def strange_for(
    name: str | None, data: Data, like: Pictures, seed: int, root: Path | None = None
) -> dict[str, Pictures]:
    """Images from elsewhere: the named data set, or a sibling where its files are there, and images of no object.

    Raises `InputError` where the named images have another shape.
    """
    made = synthetic(like, seed)
    wanted = name or SIBLINGS.get(data.name)
    if wanted is None:
        return made
    try:
        found = Pictures.of(data_sets.load(wanted, root, validation=0).test, len(like), seed)
    except (DataError, CheckpointError):
        if name is not None:
            raise
        return made
    if found.shape != like.shape:
        raise InputError(
            f"Images from elsewhere must have the shape of the data, {list(like.shape)}. Those of {wanted} have "
            f"{list(found.shape)}."
        )
    return {wanted: found, **made}


def official(
    names: Sequence[str], data: str, like: Pictures, root: Path | None, severities: Sequence[int]
) -> dict[tuple[str, int], Callable[[], Pictures]]:
    """The published files that `names` ask for: sheets of their own, each read when its turn comes.

    Files of CIFAR-10-C and MNIST-C hold the test images in their order, of which those are taken that `like` has.
    Raises `InputError` for files of another data set, `DataError` where they are missing or of other images.
    """
    found: dict[tuple[str, int], Callable[[], Pictures]] = {}
    for name in (name for name in names if name in OFFICIAL):
        if OFFICIAL[name] != data:
            raise InputError(f"The shift {name!r} is made of {OFFICIAL[name]}. The models are evaluated on {data}.")
        folder = Path(root or os.environ.get("SECATEUR_DATA", ".")).expanduser()
        if name == "cifar10.1":
            found[name, 1] = partial(_read, like, name, partial(cifar10_1, folder), None)
            continue
        for kind in kinds("cifar" if name == "cifar10-c" else "mnist"):
            for level in severities if name == "cifar10-c" else (1,):
                read = (
                    partial(cifar10_c, folder, kind, level) if name == "cifar10-c" else partial(mnist_c, folder, kind)
                )
                found[f"{name}_{kind}", level] = partial(_read, like, name, read, like.numbers)
    return found


def _read(like: Pictures, name: str, read: Callable[[], Images], numbers: Tensor | None) -> Pictures:
    """The images of a published file, those at `numbers` if given, to be fed as those of `like` are."""
    images = read()
    if numbers is None:
        return Pictures(images.pixels, images.labels, like.mean, like.std, names=like.names)
    labels = images.labels[numbers]
    if like.labels is not None and not torch.equal(labels, like.labels.cpu().long()):
        raise DataError(f"The labels of {name} must be those of the test images, in their order. They differ.")
    return Pictures(images.pixels[numbers], labels, like.mean, like.std, numbers=numbers, names=like.names)


def metric(given: str) -> tuple[str, Metric]:
    """The name of a metric and the function, from "path/to/file.py:function"."""
    path, _, name = given.rpartition(":")
    return name, load_function(Path(path).expanduser(), name)


def levels(given: str) -> list[int]:
    """The severities that an option names, such as "1,3,5"."""
    try:
        return [int(level) for level in given.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"The '--severities' option must be whole numbers such as 1,3,5. Got {given!r}.") from None


def tell(record: TrustRecord, page: Path) -> None:
    """The evaluation in words, and where everything lies."""
    for question, words in paragraphs(record):
        console.out.print(f"\n[bold]{question}.[/]")
        console.out.print(words, markup=False)
    console.out.print()
    console.tell_places([("report", page), ("numbers", page.parent / trust_page.FILES["json"])])
