"""What pruning broke: models evaluated beside each other under shifts, part by part, kept as they are done.

Every part (all models on all images under one corruption at one severity, the noise, the strange images, ...) is one
file below `trust/` in the output folder, moved into place when it is whole. The same evaluation started again reads
those that are there; other shifts add to them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from secateur.data.augment import SEEN, UNSEEN
from secateur.data.corruptions import kinds, severities
from secateur.data.pictures import Pictures
from secateur.errors import DataError, InputError
from secateur.folder import held
from secateur.measures.distance import EPSILONS
from secateur.report.record import Row
from secateur.report.trust_record import NOMINAL, NominalRow, PopulationRow, SheetRow, TrustRecord, WorstRow
from secateur.run import shifts
from secateur.run.evaluation import Evaluation, Further, Settings, checksum, own, timed
from secateur.run.population import population
from secateur.run.progress import Progress, Silent
from secateur.run.quick import quick
from secateur.run.sheets import sheet
from secateur.run.subjects import Subject, checked, fingerprint
from secateur.training.batches import device_of

FOLDER, RECORD = "trust", "trust.json"
SHIFTS = ("corruptions", "noise", "ood", "adversarial", "features")
SPLIT = {"seen": SEEN, "unseen": UNSEEN}
"""Names of several corruptions: those that robust training sees, and those it does not."""
USUAL = ("corruptions", "noise", "ood")
SEVERITY = 3
"""Of those asked, the one nearest to it is what several trainings are compared under; the paper's."""
WORST = 12
"""Images shown that the dense model gets right and the pruned one wrong."""


class Sheet(Row):
    """A sheet as it is kept."""

    sheet: SheetRow
    worst: tuple[WorstRow, ...]


def trust(
    subjects: Sequence[Subject],
    pictures: Pictures,
    out: str | Path,
    *,
    data: str = "images",
    asked: Sequence[str] = USUAL,
    settings: Settings | None = None,
    strange: dict[str, Pictures] | None = None,
    further: Further | None = None,
    progress: Progress | None = None,
) -> TrustRecord:
    """The record of an evaluation of `subjects`, one dense, on `pictures`, also left as `trust.json` in `out`.

    `asked` names shifts out of corruptions, noise, ood, adversarial and features, or single corruptions; images as they
    are come always. `strange` are images from elsewhere for ood; noise and blobs are made where it is left out.
    `further`: other labelled images, metrics of one's own, and further trainings of the same models. Killed, the same
    call goes on with the first part that is missing. Raises `InputError` for shifts that are not known or
    cannot be made of these images, and for models that cannot be compared; `DataError` where labels are needed and
    there are none.

    >>> trust([Subject("dense", dense, "dense"), Subject("pruned", slim)], Pictures(...), "out").at("fog", 3)
    """
    settings, progress = settings or Settings(), progress or Silent()
    ordered = checked(subjects)
    strengths = settings.strengths or fitting(pictures, data)
    corruptions, others = chosen(asked, strengths, settings.severities)
    if pictures.labels is None:
        raise DataError(
            "An evaluation needs the labels of its images: accuracy, calibration and flips are told from them. "
            "Give 'labels'; images without any can be 'strange' images of the shift ood."
        )
    out, device = Path(out), device_of(ordered[0].model)
    pictures, strange = pictures.to(device), {name: each.to(device) for name, each in (strange or {}).items()}
    with held(out):
        made = Evaluation(
            ordered, pictures, settings, out / FOLDER, progress, strengths, strange, further=further or Further()
        )
        own(made, data)
        record = _carried_out(made, data, corruptions, others)
        record.save(out / RECORD)
    return record


def fitting(pictures: Pictures, data: str) -> str:
    """The strengths that suit the images: MNIST-C's for digits of 28x28, CIFAR-10-C's up to 96 pixels, ImageNet-C's."""
    channels, height, width = pictures.shape
    if data == "mnist" and (channels, height, width) == (1, 28, 28):
        return "mnist"
    return "cifar" if min(height, width) <= 96 else "imagenet"


def chosen(asked: Sequence[str], strengths: str, levels: Sequence[int]) -> tuple[list[tuple[str, int]], list[str]]:
    """The (corruption, severity) and the other shifts that `asked` means.

    Raises `InputError` for a name that is neither, or a severity that no asked corruption has.
    """
    known = kinds(strengths)
    for name in asked:
        if name not in (*SHIFTS, *SPLIT, *known, NOMINAL):
            raise InputError(
                f"There is no shift {name!r}. Shifts are {', '.join((*SHIFTS, *SPLIT))}, or one corruption of "
                f"strengths {strengths!r}: {', '.join(known)}."
            )
    single = [kind for name in asked for kind in SPLIT.get(name, (name,))]
    wanted = known if "corruptions" in asked else [kind for kind in known if kind in single]
    found = []
    for kind in wanted:
        has = severities(kind, strengths)
        for level in levels:
            if level in has:
                found.append((kind, level))
            elif len(has) > 1 or level < 1 or level > 5:
                raise InputError(
                    f"The severities of {kind!r} of strengths {strengths!r} are {has.start} to {has.stop - 1}. "
                    f"Got {level!r} instead."
                )
    return list(dict.fromkeys(found)), [name for name in SHIFTS[1:] if name in asked]


def _carried_out(made: Evaluation, data: str, corruptions: list[tuple[str, int]], others: list[str]) -> TrustRecord:
    """All parts, in order."""
    _quickened(made, corruptions, others)
    with timed(made, NOMINAL) as stage:
        nominal = made.part("calibration", NominalRow, lambda: shifts.nominal(made))
        sheets = [_sheet(made, NOMINAL, 0)]
        stage.text = _told(sheets)
    sheets += _corrupted(made, corruptions) + _from_elsewhere(made)
    return TrustRecord(
        data=data,
        images=len(made.pictures),
        strengths=made.strengths,
        seed=made.settings.seed,
        margin=made.settings.margin,
        models=made.rows(),
        sheets=tuple(each.sheet for each in sheets),
        nominal=nominal,
        worst=_worst(made, sheets),
        **_others(made, others),
        populations=_populations(made, corruptions),
        versions=shifts.versions(),
        seconds=made.seconds,
        settings=made.settings.identity(),
    )


def _quickened(made: Evaluation, corruptions: list[tuple[str, int]], others: list[str]) -> None:
    """Make the copies that answer; they are compiled only where there is something left to compute."""
    settings = made.settings
    places = [(NOMINAL, 0), *corruptions]
    missing = sum(not (made.folder / f"{kind}-{level}.json").exists() for kind, level in places)
    planned = len(made.pictures) * missing
    if "noise" in others and not (made.folder / "noise.json").exists():
        planned += settings.noise_images * settings.draws * len(EPSILONS)
    with timed(made, "networks") as stage:
        example = next(made.pictures.batches(settings.batch))[0]
        inputs = made.pictures.normalised(made.pictures.shares(example))
        for each in made.subjects:
            asked = settings.compile if planned else False
            made.networks[each.name], made.computed[each.name] = quick(each.model, inputs, asked, planned)
        stage.text = ", ".join(f"{name} {how}" for name, how in made.computed.items())


def _corrupted(made: Evaluation, corruptions: list[tuple[str, int]]) -> list[Sheet]:
    """The sheets of all corruptions, told one corruption after the other."""
    found, names = [], list(dict.fromkeys(kind for kind, _ in corruptions))
    for number, kind in enumerate(names, 1):
        with timed(made, f"corruption: {kind}") as stage:
            own = [_sheet(made, kind, level) for other, level in corruptions if other == kind]
            stage.text = f"{_told(own)}, {number} of {len(names)}"
        found += own
    return found


def _from_elsewhere(made: Evaluation) -> list[Sheet]:
    """The sheets of other labelled images. Raises `DataError` where these have no labels or another shape."""
    found = []
    for kind, severity in made.further.shifts:
        with timed(made, f"{kind}, {severity}") as stage:
            pictures, _ = made.shown(kind, severity)
            if pictures.labels is None or pictures.shape != made.pictures.shape:
                raise DataError(
                    f"The images of the shift {kind!r} must have labels and the shape {list(made.pictures.shape)}. "
                    f"Got {'no labels' if pictures.labels is None else 'labels'} and {list(pictures.shape)}."
                )
            found.append(_sheet(made, kind, severity, f"-{checksum(pictures)}"))
            stage.text = _told(found[-1:])
    return found


def _populations(made: Evaluation, corruptions: Sequence[tuple[str, int]]) -> tuple[PopulationRow, ...]:
    """What further trainings of the same models say together, on images as they are and under one severity of each."""
    nets = [[each for each in made.subjects if each.role != "control"], *made.further.nets]
    if len(nets) < 2:
        return ()
    key = zlib.crc32("".join(fingerprint(each.model) for net in nets[1:] for each in net).encode())
    levels: dict[str, list[int]] = {}
    for kind, severity in corruptions:
        levels.setdefault(kind, []).append(severity)
    middle = {kind: min(found, key=lambda level: abs(level - SEVERITY)) for kind, found in levels.items()}
    settings, rows = made.settings, []
    with timed(made, "population") as stage:
        for kind, severity in {NOMINAL: 0, **middle}.items():
            compute = partial(
                population, nets, made.pictures, kind=kind, severity=severity, strengths=made.strengths,
                margin=settings.margin, seed=settings.seed, batch=settings.batch, probabilities=settings.probabilities,
            )  # fmt: skip
            rows.append(made.part(f"population-{kind}-{severity}-{key:08x}", PopulationRow, compute))
        stage.text = f"{rows[0].nets} trainings, {len(rows[0].exemplars)} exemplars, {len(rows) - 1} shifts"
    return tuple(rows)


def _others(made: Evaluation, asked: list[str]) -> dict[str, Any]:
    """The parts that are no corruption, by their names in the record."""
    found: dict[str, Any] = {}
    for name in asked:
        with timed(made, name) as stage:
            row, compute, tell = shifts.PARTS[name]
            left = made.part(name, row, partial(compute, made))
            found[name] = left.kinds if isinstance(left, shifts.Strange) else left
            stage.text = tell(left)
    return found


def _sheet(made: Evaluation, kind: str, severity: int, mark: str = "") -> Sheet:
    """One sheet with its worst images, computed where it is not kept; `mark` tells images from elsewhere apart."""

    def compute() -> Sheet:
        found = made.answered(kind, severity)
        row = sheet(kind, severity, found, made.rows(), made.settings.margin, made.settings.seed, made.further.metrics)
        return Sheet(sheet=row, worst=shifts.worst_rows(made, kind, severity, found, WORST))

    return made.part(f"{kind}-{severity}{mark}", Sheet, compute)


def _told(sheets: Sequence[Sheet]) -> str:
    """The mean accuracies of the first and the last model in words."""
    means = [sum(each.sheet.answers[i].accuracy.value for each in sheets) / len(sheets) for i in (0, -1)]
    return f"{means[0]:.2%} → {means[1]:.2%}"


def _worst(made: Evaluation, sheets: Sequence[Sheet]) -> tuple[WorstRow, ...]:
    """The worst images as they are, and those of the shift under which the most pruned model loses most."""
    last = max((i for i, each in enumerate(made.rows()) if each.role == "pruned"), key=lambda i: made.rows()[i].ratio)

    def lost(each: Sheet) -> float:
        return each.sheet.answers[0].accuracy.value - each.sheet.answers[last].accuracy.value

    shown = sheets[0].worst
    return shown + max(sheets[1:], key=lost).worst if len(sheets) > 1 else shown
