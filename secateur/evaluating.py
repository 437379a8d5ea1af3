"""What `secateur evaluate` does beyond measuring a run again: which models, images and shifts its options mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur import console, report, zoo
from secateur import data as data_sets
from secateur.data import Data
from secateur.data.pictures import Pictures
from secateur.errors import CheckpointError, DataError, InputError
from secateur.report import trust as trust_page
from secateur.report.page import FILES
from secateur.report.record import RunRecord
from secateur.report.trust_record import TrustRecord
from secateur.report.trust_words import paragraphs
from secateur.run.evaluation import Settings
from secateur.run.shifts import synthetic
from secateur.run.subjects import Subject, beside, of_files, of_run
from secateur.run.trusting import trust

SIBLINGS: Mapping[str, str] = {"cifar10": "cifar100", "cifar100": "cifar10", "mnist": "fashion", "fashion": "mnist"}
"""Data sets of the same shape whose images are strange to a model of the other."""


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


def evaluated(asked: Asked, settings: Settings) -> tuple[TrustRecord, Path]:
    """The record of the evaluation that the options mean, and the page that shows it.

    Raises `InputError` for options that do not go together.
    """
    subjects, data, root, out = _subjects(asked)
    pictures = Pictures.of(data.test, asked.images, settings.seed, data.class_names)
    names = [name for name in asked.shifts.replace(",", " ").split() if name]
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
        subjects, data, recipe = of_run(asked.folder, asked.data_root)
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
