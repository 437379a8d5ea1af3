"""What an evaluation says in plain words: may this model be shipped, if the data stay, if they shift, and what is open.

Every sentence is generated from the numbers of the record; where a number is missing the sentence says so.
"""

from __future__ import annotations

from secateur.measures.excess import excess_difference, excess_slope
from secateur.report import text
from secateur.report.trust_record import NOMINAL, PotentialRow, SheetRow, TrustRecord

DOUBT = 0.05
"""The p-value below which a difference is told as more than chance."""
_NONE = 5e-5
"""A difference that is told as none: it would be rounded to 0.00 points."""


def named(kind: str) -> str:
    """A corruption as people read it."""
    return kind.replace("_", " ")


def lost(row: SheetRow, model: int) -> float:
    """The accuracy that a model lacks against the dense one on a sheet; negative where it is better."""
    return row.answers[0].accuracy.value - row.answers[model].accuracy.value


def paragraphs(record: TrustRecord) -> list[tuple[str, str]]:
    """Each with the question it answers: the data as they are, shifted as named, confidence, and what is not known."""
    made = [("If the data stay as they are", _stay(record))]
    if record.kinds:
        made.append(("If they shift as named here", _shift(record)))
    if record.noise is not None or record.ood or record.adversarial is not None:
        made.append(("If they shift further", _further(record)))
    return [*made, ("What is not known", _open(record))]


def _stay(record: TrustRecord) -> str:
    sheet = record.at(NOMINAL, 0)
    assert sheet is not None
    last = record.pruned[-1]
    model, flips = record.models[last], sheet.flips[last]
    assert flips is not None
    loss, images = lost(sheet, last), record.images
    sure = "more than chance" if flips.p_value < DOUBT else "no more than chance would do"
    words = [
        f"With {text.share(model.ratio, 1)} of its parameters gone, {_quoted(model.name)} is right on "
        f"{text.share(sheet.answers[last].accuracy.value)} of {images:,} images, the dense model on "
        f"{text.share(sheet.answers[0].accuracy.value)}: {_difference(loss)}, {sure} "
        f"(p = {text.number(flips.p_value, 2)}).",
        f"It answers {text.share(flips.changed / images, 1)} of the images differently; {flips.negative:,} that were "
        f"right are now wrong, {flips.positive:,} the other way round.",
    ]
    if sheet.potential is not None:
        words.append(_potential(sheet.potential, record.margin))
    if record.nominal is not None:
        hurt = [row for row in record.nominal.classes[last] if row.p_value < DOUBT and row.after < row.before]
        before, after = record.nominal.calibration[0].ece, record.nominal.calibration[last].ece
        names = ", ".join(f"{row.name} ({text.points(row.after - row.before)})" for row in hurt[:4])
        words.append(
            f"{len(hurt)} class{'' if len(hurt) == 1 else 'es'} lost more than chance: {names}."
            if hurt
            else "No single class lost more than chance, corrected for their number."
        )
        words.append(
            f"Its confidence is off by {text.share(after, 1)} on average (dense: {text.share(before, 1)}); one "
            f"temperature makes that {text.share(record.nominal.calibration[last].ece_after, 1)}."
        )
    return " ".join(words)


def _potential(found: PotentialRow, margin: float) -> str:
    reach = f"{text.share(found.interpolated, 0)}{' or more' if found.censored else ''}"
    interval = f"{text.share(found.low, 0)} to {text.share(found.high, 0)}"
    safe = f"up to {text.share(found.safe, 0)}" if found.safe else "at no tested ratio"
    allowed = f"{100 * margin:g} points"
    return (
        f"Within {allowed} of error it can be pruned to {reach} (95 % interval {interval}); that it loses no more is "
        f"certain {safe}."
    )


def _shift(record: TrustRecord) -> str:
    last = record.pruned[-1]
    rows = [row for row in record.sheets if row.severity]
    means = [sum(row.answers[i].accuracy.value for row in rows) / len(rows) for i in (0, last)]
    worst, best = max(rows, key=lambda r: lost(r, last)), min(rows, key=lambda r: lost(r, last))
    words = [
        f"Over {len(record.kinds)} corruption{'' if len(record.kinds) == 1 else 's'} the dense model is right on "
        f"{text.share(means[0], 1)}, the pruned one on {text.share(means[1], 1)}: {_difference(means[0] - means[1])}.",
        f"It loses most under {named(worst.kind)} of severity {worst.severity} ({text.points(-lost(worst, last))}) and "
        f"least under {named(best.kind)} of severity {best.severity} ({text.points(-lost(best, last))}).",
    ]
    differences = [excess(record, rows, model) for model in record.pruned]
    more = "as much as" if abs(differences[-1]) < _NONE else f"{_difference(differences[-1], 'more', 'less')} than"
    words.append(f"The shifts cost it {more} they cost the dense one.")
    if len(differences) > 1:
        line = excess_slope([record.models[i].ratio for i in record.pruned], differences)
        words.append(
            f"Over the prune ratio that excess grows by {100 * line.value:.2f} points to all parameters gone "
            f"(95 % interval {100 * line.low:.2f} to {100 * line.high:.2f})."
        )
    potentials = [row.potential.interpolated for row in rows if row.potential is not None]
    if potentials:
        mean, least = sum(potentials) / len(potentials), min(potentials)
        where = named(next(r.kind for r in rows if r.potential and r.potential.interpolated == least))
        words.append(
            f"The prune potential averages {text.share(mean, 0)} over these shifts and falls to {text.share(least, 0)} "
            f"under {where}: that is how far it can be pruned if any of them may come."
        )
    return " ".join(words)


def excess(record: TrustRecord, rows: list[SheetRow], model: int) -> float:
    """The difference in excess error of a model over these sheets."""
    sheet = record.at(NOMINAL, 0)
    assert sheet is not None
    dense, pruned = (1 - sheet.answers[i].accuracy.value for i in (0, model))
    shifted = [[1 - row.answers[i].accuracy.value for row in rows] for i in (0, model)]
    return excess_difference(dense, pruned, *shifted)


def _further(record: TrustRecord) -> str:
    last, words = record.pruned[-1], []
    if record.noise is not None:
        first, end = record.noise.levels[last][0], record.noise.levels[last][-1]
        words.append(
            f"Without noise the pruned model agrees with the dense one on {text.share(first.agreement, 1)} of the "
            f"images, under noise of {record.noise.epsilons[-1]:g} (in normalised units) on "
            f"{text.share(end.agreement, 1)}."
        )
    words += [
        f"It tells {row.name} from its own data with an AUROC of {row.msp[last].auroc:.3f} (dense: "
        f"{row.msp[0].auroc:.3f})."
        for row in record.ood
    ]
    if record.adversarial is not None:
        found = record.adversarial
        words.append(
            f"Attacked by up to {255 * found.epsilon:g}/255 a value it stays right on "
            f"{text.share(found.accuracies[last].value, 1)} of {found.accuracies[last].total} images (dense: "
            f"{text.share(found.accuracies[0].value, 1)}); a stronger attack may find more."
        )
    return " ".join(words)


def _open(record: TrustRecord) -> str:
    words = []
    if not record.kinds:
        words.append("No corruption was evaluated, so nothing is said about data that shift.")
    else:
        words.append("Corruptions are computed, not photographed: shifts of other kinds were not seen.")
    if not any(model.role == "control" for model in record.models):
        words.append(
            "There is no control: how much a dense model trained once more would differ from this one was not measured."
        )
    if len(record.pruned) == 1:
        words.append("One pruned model was measured, so potentials between it and the dense one are read off a line.")
    words.append("All of this is one trained network; another seed may fare differently.")
    return " ".join(words)


def _difference(loss: float, worse: str = "less", better: str = "more") -> str:
    return f"{abs(100 * loss):.2f} points {worse if loss > 0 else better}" if abs(loss) >= _NONE else "no difference"


def _quoted(name: str) -> str:
    return f"the {name} model" if name == "pruned" else f"“{name}”"
