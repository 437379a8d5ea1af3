"""What the experiments on gradient sampling say: whether the paper's ordering holds, why, and what to use instead.

Orderings are told by differences within seeds, with their interval; a single seed is told as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from scipy.stats import spearmanr

from secateur.report.record import RunRecord
from secateur.report.seeds import paired, spread
from tabled.common import Records, gathered, table
from tabled.gradient_sampling import ARMS, NOT_MEASURED, Family, accuracies, families

PAIRS = {
    "as published": ("adam", "stochgradadam"),
    "tuned": ("adam_tuned", "stochgradadam_tuned"),
    "tuned, weight decay": ("adamw", "stochgradadamw"),
    "tuned, updates masked": ("adamw", "update_masking"),
    "given, CrAM+": ("given_sgd", "given_cram"),
    "given, 1-norm decay": ("given_sgd", "given_p_norm"),
}
"""Without and with: settings are the same, so that differences are taken within a seed."""

COLUMNS = ((0.0, False), (0.5, False), (0.7, False), (0.5, True), (0.7, True))
AIM = {0.5: "a drop of at most 0.5 points at 50 %", 0.7: "90 % or better at 70 %"}
"""For ResNet-56, with batch norm estimated anew and no fine-tuning."""


def differences(found: Records | None = None) -> str:
    """One row a pair of arms: what sampling (or preparing) changes, dense and after pruning under one threshold."""
    lines = []
    for family in families(gathered() if found is None else found):
        for name, (without, with_) in PAIRS.items():
            if without in family.arms and with_ in family.arms:
                cells = [gain(family, without, with_, s, again=again) for s, again in COLUMNS]
                lines.append([f"{family.title}: {name}", *cells])
    heads = ["dense", *(f"{100 * s:.0f} %{', + batch norm' if again else ''}" for s, again in COLUMNS[1:])]
    told = (
        "Points of test accuracy gained under one threshold, a mean over paired seeds with its 95 % interval "
        "(Student's); a single seed stands without one and says little."
    )
    return f"{table(['with − without', *heads], lines)}\n\n{told}" if lines else NOT_MEASURED


def gain(family: Family, without: str, with_: str, sparsity: float, *, again: bool) -> str:
    """How much more the second arm keeps, in points; "" where it was not measured."""
    first, second = (accuracies(family.arms[arm], sparsity, again=again) for arm in (without, with_))
    found = paired(first, second)
    if found is not None:
        return found.words()
    both = sorted(first.keys() & second.keys())
    return f"{100 * (second[both[0]] - first[both[0]]):+.2f}" if both else ""


def verdict(found: Records | None = None) -> str:
    """The questions of the paper, answered as far as results go, network by network."""
    known = families(gathered() if found is None else found)
    if not known:
        return NOT_MEASURED
    scratch, given = [f for f in known if not f.given], [f for f in known if f.given]
    tuned = [name for name in PAIRS if name.startswith("tuned")]
    parts = [
        "Does StochGradAdam keep more accuracy than Adam with half of the weights at zero?",
        "\n".join(
            [
                *_answers("(a) under the paper's weak baseline", scratch, ["as published"], again=False),
                *_answers("(b) under tuned baselines", scratch, tuned, again=False),
                *_answers("(c) after batch norm is estimated anew", scratch, ["as published", *tuned], again=True),
            ]
        ),
        *_under("Do larger, more varied weights explain it?", [_mechanism(family) for family in scratch]),
        *_under("Which setting keeps most (70 %, batch norm estimated anew where there is any)?", map(_best, known)),
        *_under("From given weights, one shot, nothing trained afterwards:", map(_aims, given)),
    ]
    return "\n\n".join(parts)


def _under(question: str, answers: Sequence[str] | map[str]) -> list[str]:
    told = [answer for answer in answers if answer]
    return [question, "\n".join(told)] if told else []


def _answers(question: str, known: Sequence[Family], names: Sequence[str], *, again: bool) -> list[str]:
    """An answer a network and pair, or that nothing was measured."""
    told = []
    for family in known:
        for name in names:
            without, with_ = PAIRS[name]
            arms = [family.arms.get(arm, []) for arm in (without, with_)]
            answer = _ordering(*(accuracies(arm, 0.5, again=again) for arm in arms))
            if answer:
                told.append(f"- {question}: {family.title}, {ARMS[with_]} against {ARMS[without]}: {answer}.")
    return told or [f"- {question}: not measured yet."]


def _ordering(without: Mapping[int, float], with_: Mapping[int, float]) -> str:
    """Whether the second is ahead of the first; "" where no seed has both."""
    both = sorted(without.keys() & with_.keys())
    if not both:
        return ""
    found = paired(without, with_)
    if found is None:
        return f"one seed alone, {100 * (with_[both[0]] - without[both[0]]):+.2f} points: too few to say"
    points = f"{found.words()} points over {found.count} paired seeds"
    if not found.told:
        return f"no difference larger than the noise of seeds ({points})"
    return f"{'holds' if found.mean > 0 else 'reversed'} ({points})"


def _mechanism(family: Family) -> str:
    """How the size, variance and shape of weights go with what is left at 70 %, over arms; "" for fewer than four."""
    rows = [(arm, [r.prunability for r in rs if r.prunability is not None]) for arm, rs in family.arms.items()]
    if len(rows) < 4:
        return ""
    left = [kept(family.arms[arm]) for arm, _ in rows]
    if any(math.isnan(value) for value in left):
        return ""
    words = []
    for name, what in (("mean_size", "mean size"), ("variance", "variance"), ("e50", "share of the smaller half")):
        values = [fmean(getattr(row.weights, name) for row in found) for _, found in rows]
        words.append(f"{what} {float(spearmanr(values, left).statistic):+.2f}")
    return (
        f"- {family.title}: over {len(rows)} optimizers, rank correlation of the share of accuracy left at 70 % with "
        f"{', '.join(words)} of the weights."
    )


def kept(records: Sequence[RunRecord]) -> float:
    """The mean share of the dense accuracy that is left at 70 %, batch norm anew where there is any; nan if unknown."""
    at = accuracies(records, 0.7, again=True) or accuracies(records, 0.7)
    dense = accuracies(records, 0.0)
    return fmean(value / dense[seed] for seed, value in at.items()) if at else math.nan


def _best(family: Family) -> str:
    """The arm with the highest mean accuracy at 70 %, and the next."""
    means = {}
    for arm, records in family.arms.items():
        found = spread(list((accuracies(records, 0.7, again=True) or accuracies(records, 0.7)).values()))
        if found is not None:
            means[arm] = found
    order = sorted(means, key=lambda arm: means[arm].mean, reverse=True)
    if len(order) < 2:
        return ""
    first, second = order[:2]
    return (
        f"- {family.title}: {ARMS[first]}, {means[first].words()} % ({_seeds(means[first].count)}); "
        f"then {ARMS[second]}, {means[second].words()} % ({_seeds(means[second].count)})."
    )


def _aims(family: Family) -> str:
    """What every arm from given weights reaches of the aim, with batch norm estimated anew."""
    told = []
    for arm, records in family.arms.items():
        dense, half, more = (accuracies(records, s, again=s > 0) for s in (0.0, 0.5, 0.7))
        if half and more:
            drop = fmean(dense[seed] - value for seed, value in half.items())
            told.append(
                f"- {family.network}, {ARMS[arm]} ({_seeds(len(half))}): {100 * fmean(dense.values()):.2f} % dense, "
                f"{100 * drop:.2f} points lost at 50 %, {100 * fmean(more.values()):.2f} % at 70 %"
                f"{_reached(family.network, drop, fmean(more.values()))}."
            )
    return "\n".join(told)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _reached(network: str, drop: float, more: float) -> str:
    if network != "resnet56":
        return ""
    at_half, at_more = ("reached" if there else "missed" for there in (drop <= 0.005, more >= 0.9))
    return f" ({AIM[0.5]}: {at_half}; {AIM[0.7]}: {at_more})"


TABLES = {"gradient sampling differences": differences, "gradient sampling verdict": verdict}
