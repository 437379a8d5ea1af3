"""What gradient sampling does while a network trains, and how much hangs on its rate."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from secateur.report.record import DynamicsRow, RunRecord
from secateur.report.seeds import spread
from tabled.common import Records, gathered, table
from tabled.gradient_sampling import ARMS, NOT_MEASURED, QUESTION, RATE, accuracies, families

COLUMNS = ((0.0, False), (0.5, False), (0.7, False), (0.5, True), (0.7, True))
VIEWS = {
    "weights that a step moves": ("moved", 100.0, " %"),
    "mean size of weights": ("weight_size", 1.0, ""),
    "their variance": ("weight_variance", 1.0, ""),
    "size of gradients": ("gradient_size", 1.0, ""),
    "as sampled": ("seen_size", 1.0, ""),
    "variance of gradients": ("gradient_variance", 1.0, ""),
    "as sampled ": ("seen_variance", 1.0, ""),
}


def dynamics(found: Records | None = None) -> str:
    """One row an optimizer: weights and gradients at the first and the last step that was looked at."""
    lines = []
    for family in families(gathered() if found is None else found):
        for arm, records in family.arms.items():
            seen = [record.dynamics for record in records if record.dynamics]
            if seen:
                cells = [_first_and_last(seen, *view) for view in VIEWS.values()]
                lines.append([f"{family.title}: {ARMS[arm]}", str(len(seen)), *cells])
    told = "At the first step and at the last that was looked at, means over the seeds; “as sampled”: with the zeros."
    return f"{table(['optimizer', 'seeds', *VIEWS], lines)}\n\n{told}" if lines else NOT_MEASURED


def _first_and_last(seen: Sequence[Sequence[DynamicsRow]], name: str, scale: float, unit: str) -> str:
    first, last = (scale * fmean(getattr(rows[at], name) for rows in seen) for at in (0, -1))
    return f"{first:.3g} → {last:.3g}{unit}"


def sensitivity(found: Records | None = None) -> str:
    """One row a sampling rate, the recipe's own among them, wherever another was tried."""
    found = gathered() if found is None else found
    changed = [
        title for title in found if title.startswith(QUESTION) and title.partition("-")[2].startswith(f"{RATE}=")
    ]
    tried: dict[str, dict[float, list[RunRecord]]] = {}
    for title in changed:
        name = title.partition("-")[0]
        for records in (found[title], found.get(name, [])):
            if records:
                tried.setdefault(name, {})[_rate(records[0])] = records
    lines = [
        [f"{name.removeprefix(QUESTION)}, {rate:g}", str(len(records)), *_means(records)]
        for name, rates in tried.items()
        for rate, records in sorted(rates.items())
    ]
    heads = ["dense", *(f"{100 * s:.0f} %{', + batch norm' if again else ''}" for s, again in COLUMNS[1:])]
    command = f"`python experiments/run.py experiments/gradient_sampling/NAME.yaml --set {RATE}=0.5`"
    return table(["recipe, rate", "seeds", *heads], lines) if lines else f"Not measured yet: {command} keeps a result."


def _rate(record: RunRecord) -> float:
    return float(record.recipe["training"]["options"]["sampling_rate"])


def _means(records: Sequence[RunRecord]) -> list[str]:
    found = [spread(list(accuracies(records, s, again=again).values())) for s, again in COLUMNS]
    return [mean.words() if mean else "" for mean in found]


TABLES = {"gradient sampling dynamics": dynamics, "gradient sampling rates": sensitivity}
