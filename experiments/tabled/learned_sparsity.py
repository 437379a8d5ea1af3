"""Weights and topology learned together: what accuracy is left at how many weights, a row an experiment."""

from __future__ import annotations

from secateur.report.seeds import spread
from secateur.report.text import duration
from tabled.common import ACCURACIES, Records, epochs, gathered, percent, table

QUESTION = "learned_sparsity/"


def learned(given: Records | None = None) -> str:
    """One row an experiment, with the weights that its networks keep."""
    lines = []
    for title, records in (gathered() if given is None else given).items():
        if not title.startswith(QUESTION):
            continue
        first = records[0]
        kept = spread([sum(group.after for group in record.groups) for record in records])
        time = spread([sum(record.seconds.values()) for record in records])
        lines.append([
            title.removeprefix(QUESTION),
            f"{first.model}, {first.data}",
            f"{kept.mean:,.0f} of {sum(group.before for group in first.groups):,}" if kept else "",
            str(len(records)),
            percent([record.final for record in records]),
            str(epochs(first)),
            duration(time.mean if time else None),
        ])  # fmt: skip
    head = ["experiment", "network, data", "weights", "seeds", "test accuracy", "epochs", "time of a run"]
    command = "python experiments/run.py experiments/learned_sparsity/NAME.yaml"
    if not lines:
        return f"Not measured yet: `{command}` keeps a result."
    return f"{table(head, lines)}\n\n{ACCURACIES}{curves(given)}"


def curves(given: Records | None = None) -> str:
    """A row for every budget that a training passed through on its way, or nothing where none was asked for."""
    lines = []
    for title, records in (gathered() if given is None else given).items():
        asked = dict.fromkeys(row.budget for record in records for row in record.snapshots)
        for budget in asked if title.startswith(QUESTION) else ():
            rows = [row for record in records for row in record.snapshots if row.budget == budget]
            kept = spread([row.spent for row in rows])
            name = title.removeprefix(QUESTION)
            tuned = spread([row.tuned.value for row in rows if row.tuned])
            left = f"{kept.mean:,.0f}" if kept else ""
            lines.append([name, budget, left, str(len(rows)), percent(rows), tuned.words() if tuned else ""])
    head = ["on the way", "budget", "weights left", "seeds", "test accuracy", "fine-tuned"]
    told = "Snapshots of these trainings, as they were and, where asked for, fine-tuned under their masks."
    return f"\n\n{table(head, lines)}\n\n{told}" if lines else ""


TABLES = {"learned sparsity": learned}
