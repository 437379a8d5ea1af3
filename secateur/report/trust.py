"""The section on trust: what pruning broke, as words, charts and tables; where there is no run, a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from secateur.files import atomic_write
from secateur.measures.excess import excess_slope
from secateur.report import charts, text
from secateur.report.trust_charts import Banded, Bar, banded, bars, change_bar, reliability, shade, through_origin
from secateur.report.trust_record import NOMINAL, ClassRow, PopulationRow, SheetRow, TrustRecord, WorstRow
from secateur.report.trust_words import DOUBT, excess, lost, named, paragraphs

FILES = {"json": "trust.json", "page": "trust.html"}
SHOWN_CLASSES = 20
KINDS = ("dense", "slim", "train", "cut", "gone")
"""Colours of the models, by the classes of the style sheet."""


@dataclass(frozen=True)
class Cell:
    """A number of a coloured table and the step of its colour."""

    value: str
    shade: int


@dataclass(frozen=True)
class Heat:
    """A coloured table: one line a corruption, one column a severity."""

    name: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]
    diverging: bool = False


@dataclass(frozen=True)
class ClassLine:
    """One class as the table of damage shows it."""

    row: ClassRow
    bar: Markup
    significant: bool


@dataclass(frozen=True)
class Table:
    """A plain table of numbers."""

    caption: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """What the page shows of an evaluation."""

    words: list[tuple[str, str]]
    summary: Table
    potential: dict[str, Markup]
    curves: dict[str, Markup]
    excess: dict[str, Markup]
    heats: list[Heat]
    reliability: list[Markup]
    calibration: Table | None
    classes: list[ClassLine]
    classes_left: int
    worst: list[tuple[str, list[WorstRow]]]
    noise: list[Markup]
    tables: list[Table]


def section(record: TrustRecord) -> Section:
    """Everything that the page shows of an evaluation."""
    classes = _classes(record)
    return Section(
        words=paragraphs(record),
        summary=_summary(record),
        potential=_sized(record, _potentials),
        curves=_sized(record, _curves),
        heats=_heats(record),
        reliability=_reliability(record),
        calibration=_calibration(record),
        classes=classes[:SHOWN_CLASSES],
        classes_left=max(0, len(classes) - SHOWN_CLASSES),
        worst=_worst(record),
        noise=_noise(record),
        excess=_sized(record, _excess),
        tables=[
            table
            for table in (*_metrics(record), *_populations(record), _ood(record), _attack(record), _features(record))
            if table is not None
        ],
    )


def write(record: TrustRecord, folder: str | Path) -> Path:
    """Write a page of this section alone to a folder, for models without a run; comes back with its path."""
    from secateur.report.page import environment

    path = Path(folder) / FILES["page"]
    page = environment().get_template("trust_page.html").render(record=record, trust=section(record), trusted=record)
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _sized(record: TrustRecord, draw: Callable[[TrustRecord, int, str], Markup | None]) -> dict[str, Markup]:
    """A drawing for wide and for narrow screens; nothing where there is nothing to draw."""
    made = {name: draw(record, width, name) for name, width in (("wide", 920), ("narrow", 380))}
    return {name: drawn for name, drawn in made.items() if drawn is not None}


def _summary(record: TrustRecord) -> Table:
    """One line a model: as they are, the mean and the least over shifts, and what changed."""
    sheet = record.at(NOMINAL, 0)
    assert sheet is not None
    shifted = [row for row in record.sheets if row.severity]
    lines = []
    for i, model in enumerate(record.models):
        values = [row.answers[i].accuracy.value for row in shifted]
        flips = sheet.flips[i]
        lines.append(
            (
                model.name,
                model.role,
                text.share(model.ratio, 1),
                text.share(sheet.answers[i].accuracy.value),
                text.share(sum(values) / len(values)) if values else text.MISSING,
                text.share(min(values)) if values else text.MISSING,
                text.share(flips.changed / record.images, 1) if flips else text.MISSING,
                f"{flips.negative:,}" if flips else text.MISSING,
            )
        )
    heads = (
        "model",
        "as",
        "parameters gone",
        "accuracy",
        "mean shifted",
        "worst shift",
        "other answers",
        "right → wrong",
    )
    return Table(f"{record.images:,} images of {record.data}.", heads, tuple(lines))


def _sheets(record: TrustRecord) -> list[tuple[str, list[SheetRow]]]:
    """The nominal sheet and those of every corruption, under the names that charts show."""
    found = [(NOMINAL, [row for row in record.sheets if not row.severity])]
    return found + [(named(kind), [row for row in record.sheets if row.kind == kind]) for kind in record.kinds]


def _potentials(record: TrustRecord, width: int, key: str) -> Markup | None:
    """The potential under every shift, of several severities that nearest to 3, the paper's."""
    rows = []
    for name, sheets in _sheets(record):
        sheet = min(sheets, key=lambda row: abs(row.severity - 3))
        found = sheet.potential
        if found is not None:
            kind = "dense" if name == NOMINAL else "slim"
            label = "as they are" if name == NOMINAL else name
            rows.append(Bar(label, found.interpolated, found.low, found.high, kind, found.censored))
    if not rows:
        return None
    return bars(rows, title="Prune potential by shift", name="prune ratio, %", key=f"potential-{key}", width=width)


def _curves(record: TrustRecord, width: int, key: str) -> Markup | None:
    """Accuracy over the prune ratio as images are, under the mean of shifts and the worst; of several pruned models."""
    if len(record.pruned) < 2:
        return None
    shifted = [row for row in record.sheets if row.severity]
    last = record.pruned[-1]
    chosen = [("as they are", [row for row in record.sheets if not row.severity], "dense")]
    if shifted:
        chosen.append(("mean of shifts", shifted, "slim"))
        chosen.append(("worst shift", [max(shifted, key=lambda row: lost(row, last))], "cut"))
    curves = [
        Banded(name, tuple(_point(record, sheets, i) for i in (0, *record.pruned)), kind)
        for name, sheets, kind in chosen
    ]
    title = "Accuracy over the prune ratio"
    return banded(curves, title=title, name="accuracy, %", across="prune ratio, %", key=f"curves-{key}", width=width)


def _point(record: TrustRecord, sheets: Sequence[SheetRow], model: int) -> tuple[float, float, float, float]:
    """Ratio, mean accuracy and its band: the confidence interval of one sheet, the middle half of several."""
    found = [sheet.answers[model].accuracy for sheet in sheets]
    values = sorted(row.value for row in found)
    quarter = len(values) // 4
    low, high = (found[0].low, found[0].high) if len(found) == 1 else (values[quarter], values[-1 - quarter])
    return record.models[model].ratio, sum(values) / len(values), low, high


def _excess(record: TrustRecord, width: int, key: str) -> Markup | None:
    """The excess error of every pruned model over its ratio, with the line through the dense one."""
    rows = [row for row in record.sheets if row.severity]
    if not rows or len(record.pruned) < 2:
        return None
    points = [(record.models[i].ratio, excess(record, rows, i)) for i in record.pruned]
    line = excess_slope([ratio for ratio, _ in points], [value for _, value in points])
    return through_origin(points, (line.value, line.low, line.high), title="Excess error over the prune ratio",
                          name="excess error, points", across="prune ratio, %", key=f"excess-{key}",
                          width=width)  # fmt: skip


def _metrics(record: TrustRecord) -> list[Table]:
    """A table a metric of the user's: its values, and how far the pruned models keep it."""
    made = []
    shifted = [row for row in record.sheets if row.severity]
    for place, first in enumerate(record.sheets[0].metrics):
        others = [row.metrics[place] for row in shifted]
        lines = [
            (
                model.name,
                text.number(first.values[i]),
                text.number(sum(row.values[i] for row in others) / len(others)) if others else text.MISSING,
                text.number(min(row.values[i] for row in others)) if others else text.MISSING,
            )
            for i, model in enumerate(record.models)
        ]
        reach = first.potential
        told = "" if reach is None else (
            f" Within {100 * record.margin:g} points of it the models can be pruned to "
            f"{text.share(reach.interpolated, 0)} (95 % interval {text.share(reach.low, 0)} to "
            f"{text.share(reach.high, 0)})."
        )  # fmt: skip
        heads = ("model", "as they are", "mean shifted", "worst shift")
        made.append(Table(f"The metric {first.name}.{told}", heads, tuple(lines)))
    return made


def _populations(record: TrustRecord) -> list[Table]:
    """What several trainings say together, about images as they are and under shifts."""
    if not record.populations:
        return []
    row, *shifted = record.populations
    number = len(row.potentials)
    before, after = row.identified
    lines = [
        ("potential, mean", text.share(sum(row.potentials) / number, 1)),
        ("potential, training by training", ", ".join(text.share(each, 1) for each in row.potentials)),
        ("95 % interval over trainings and images", f"{text.share(row.low, 1)} to {text.share(row.high, 1)}"),
        ("no worse for certain up to", text.share(row.safe, 1)),
        ("classes that lost more than chance", ", ".join(_hurt(row)) or "none"),
        ("images answered differently as a rule", f"{len(row.exemplars):,}"),
    ]
    if row.exemplars:
        lines.append(("accuracy on those, dense → pruned", f"{text.share(before, 1)} → {text.share(after, 1)}"))
    caption = (
        f"{row.nets} trainings of the same models, images as they are; classes by Welch’s test over trainings, "
        f"corrected after Holm.{' Fewer than five say little about images.' if row.nets < 5 else ''}"
    )
    made = [Table(caption, ("over trainings", "value"), tuple(lines))]
    if shifted:
        heads = ("over trainings", "potential, mean", "95 % interval", "no worse for certain up to", "lost classes")
        rows = tuple(
            (
                f"{named(each.kind)} {each.severity}",
                text.share(sum(each.potentials) / len(each.potentials), 1),
                f"{text.share(each.low, 1)} to {text.share(each.high, 1)}",
                text.share(each.safe, 1),
                ", ".join(_hurt(each)) or "none",
            )
            for each in shifted
        )
        made.append(Table(f"{row.nets} trainings of the same models under shifts.", heads, rows))
    return made


def _hurt(row: PopulationRow) -> list[str]:
    """The classes that lost more than chance."""
    return [each.name for each in row.classes if each.p_value < DOUBT and each.after < each.before]


def _heats(record: TrustRecord) -> list[Heat]:
    """Accuracy of the dense and of the most pruned model by corruption and severity, and the difference."""
    if not record.kinds:
        return []
    last = record.pruned[-1]
    severities = sorted({row.severity for row in record.sheets if row.severity})
    columns = tuple(str(level) for level in severities)
    shifted = [row for row in record.sheets if row.severity]
    values = [row.answers[i].accuracy.value for row in shifted for i in (0, last)]
    largest = max(0.01, *(abs(lost(row, last)) for row in shifted))
    made = []
    for name, model in (("Dense", 0), ("Pruned", last), ("Difference", None)):
        lines = []
        for kind in record.kinds:
            cells = [
                _cell(record.at(kind, level), model, (min(values), max(values)), largest, last) for level in severities
            ]
            lines.append((named(kind), tuple(cells)))
        made.append(Heat(name, columns, tuple(lines), diverging=model is None))
    return made


def _cell(row: SheetRow | None, model: int | None, bounds: tuple[float, float], largest: float, last: int) -> Cell:
    """The accuracy of a model, or with None what the pruned one loses or gains."""
    if row is None:
        return Cell(text.MISSING, 0)
    if model is None:
        moved = -lost(row, last)
        told = f"{100 * moved:+.1f}".replace("-", "−")
        return Cell("0.0" if told in ("+0.0", "−0.0") else told, shade(moved, -largest, largest))
    value = row.answers[model].accuracy.value
    return Cell(f"{100 * value:.1f}", shade(value, *bounds))


def _reliability(record: TrustRecord) -> list[Markup]:
    if record.nominal is None:
        return []
    last = record.pruned[-1]
    return [
        reliability(
            record.nominal.calibration[i].bins,
            name=record.models[i].name,
            key=f"reliability-{i}",
            kind=kind,
        )
        for i, kind in ((0, "dense"), (last, "slim"))
    ]


def _calibration(record: TrustRecord) -> Table | None:
    if record.nominal is None:
        return None
    lines = tuple(
        (
            model.name, text.share(row.ece), text.share(row.ece_after), text.number(row.nll),
            text.number(row.nll_after), text.number(row.brier), text.number(row.temperature), text.share(row.aurc),
        )
        for model, row in zip(record.models, record.nominal.calibration, strict=True)
    )  # fmt: skip
    caption = (
        "Calibration before and after one temperature, fitted on one half of the images and told of the other. AURC is "
        "the mean error over all shares of answers that are withheld, the least sure first."
    )
    heads = ("model", "ECE", "after", "NLL", "after", "Brier", "temperature", "AURC")
    return Table(caption, heads, lines)


def _classes(record: TrustRecord) -> list[ClassLine]:
    """The classes of the most pruned model, those that lost most first."""
    if record.nominal is None:
        return []
    rows = [row for row in record.nominal.classes[record.pruned[-1]] if row.images]
    rows.sort(key=lambda row: row.after - row.before)
    largest = max((abs(row.after - row.before) for row in rows), default=0.0)
    return [ClassLine(row, change_bar(row.after - row.before, largest), row.p_value < DOUBT) for row in rows]


def _worst(record: TrustRecord) -> list[tuple[str, list[WorstRow]]]:
    """The worst images by the shift they are under."""
    places = dict.fromkeys((row.kind, row.severity) for row in record.worst)
    return [
        (
            "as they are" if kind == NOMINAL else f"under {named(kind)}, severity {severity}",
            [row for row in record.worst if (row.kind, row.severity) == (kind, severity)],
        )
        for kind, severity in places
    ]


def _noise(record: TrustRecord) -> list[Markup]:
    """Agreement and distance over the level of noise, and the potential."""
    row = record.noise
    if row is None:
        return []

    def line(i: int, field: str) -> charts.Line:
        values = tuple((e, float(getattr(level, field))) for e, level in zip(row.epsilons, row.levels[i], strict=True))
        return charts.Line(record.models[i].name, values, KINDS[min(i, len(KINDS) - 1)])

    others = list(range(1, len(record.models)))[:4]
    drawn = [
        charts.lines([line(i, "agreement") for i in others], title="Same answer as the dense model under noise",
                     name="same answer, %", key="noise-agreement", percent=True, across="noise, ±"),
        charts.lines([line(i, "distance") for i in others], title="Distance of the probabilities under noise",
                     name="distance of probabilities", key="noise-distance", across="noise, ±"),
    ]  # fmt: skip
    if row.potential:
        values = tuple(zip(row.epsilons, row.potential, strict=True))
        drawn.append(
            charts.lines([charts.Line("potential", values, "slim")], title="Prune potential under noise",
                         name="prune potential, %", key="noise-potential", percent=True, across="noise, ±")
        )  # fmt: skip
    return drawn


def _ood(record: TrustRecord) -> Table | None:
    if not record.ood:
        return None
    heads = ["strange images"]
    for model in record.models:
        heads += [f"{model.name}: AUROC", "FPR at 95 %", "energy: AUROC"]
    lines = []
    for row in record.ood:
        cells = [f"{row.name} ({row.images:,})"]
        for msp, energy in zip(row.msp, row.energy, strict=True):
            cells += [f"{msp.auroc:.3f}", text.share(msp.fpr95, 1), f"{energy.auroc:.3f}" if energy else text.MISSING]
        lines.append(tuple(cells))
    caption = "Detection of images from elsewhere by the largest probability, and by the energy; 0.5 is guessing."
    return Table(caption, tuple(heads), tuple(lines))


def _attack(record: TrustRecord) -> Table | None:
    row = record.adversarial
    if row is None:
        return None
    lines = tuple(
        (model.name, text.share(found.value, 1), f"{100 * found.low:.1f}–{100 * found.high:.1f}")
        for model, found in zip(record.models, row.accuracies, strict=True)
    )
    size = f"{255 * row.epsilon:g}/255"
    attack = row.kind if row.steps is None else f"{row.kind.upper()} of {row.steps} steps"
    caption = f"Accuracy under {attack}, every value changed by at most {size}."
    return Table(caption, ("model", "still right", "interval"), lines)


def _features(record: TrustRecord) -> Table | None:
    row = record.features
    if row is None:
        return None
    names = [model.name for model in record.models]
    lines = tuple((name, *(text.share(v, 0) for v in found)) for name, found in zip(names, row.confidence, strict=True))
    caption = (
        f"Mean confidence in the true class of a model (column) that sees only the {text.share(row.share, 0)} of the "
        f"pixels that another (row) decides by; {row.images} images, pixels ranked by "
        f"{'BackSelect' if row.exact else 'gradients'}."
    )
    return Table(caption, ("pixels of", *names), lines)
