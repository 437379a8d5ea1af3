"""Runs, a row an experiment: those that prune, those that only train, and what gradient sampling changes."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.report.record import PrunabilityRow, RunRecord, StageName
from secateur.report.seeds import Spread, spread
from secateur.report.text import duration
from tabled.common import ACCURACIES, RESULTS, Records, epochs, gathered, percent, ratio, table


def _link(title: str, records: list[RunRecord]) -> str:
    first = records[0]
    asked = f", {first.plan.asked}" if first.plan else ""
    where = f"results/{title}.json" if (RESULTS / f"{title}.json").exists() else f"results/{title.partition('/')[0]}"
    return f"[{title}]({where}): {first.model}, {first.data}{asked}, {epochs(first)} epochs"


TOLD_ELSEWHERE = ("decay_pruning/", "learned_sparsity/", "lost_in_pruning/")
"""Questions that have tables of their own."""


def runs(found: Records | None = None) -> str:
    """One row an experiment that prunes."""
    stages: tuple[StageName, ...] = ("dense", "cut", "batch norm re-estimated", "fine-tuned")
    lines = [
        [
            _link(title, records),
            str(len(records)),
            *(percent([record.stage(stage) for record in records]) for stage in stages),
            ratio([record.ratio("macs") for record in records]),
            ratio([record.ratio("params") for record in records]),
            ratio([record.ratio("latency") for record in records]),
        ]
        for title, records in (gathered() if found is None else found).items()
        if records[0].plan is not None and not title.startswith(TOLD_ELSEWHERE)
    ]
    head = ["run", "seeds", "dense", "cut", "+ batch norm", "+ fine-tuning", "MACs", "parameters", "latency"]
    return f"{table(head, lines)}\n\n{ACCURACIES}"


def dense(results: Path = RESULTS, given: Records | None = None) -> str:
    """One row an experiment that cuts nothing and asks for no more, and one for the same by a plain PyTorch loop."""
    lines = []
    for title, records in (gathered() if given is None else given).items():
        if records[0].plan is not None or records[0].prunability is not None:
            continue
        found = [record.final.accuracy.value for record in records if record.final.accuracy]
        time = spread([sum(record.seconds.values()) for record in records])
        lines.append(
            [
                _link(title, records),
                str(len(records)),
                percent([record.final for record in records]),
                f"{100 * min(found):.2f} to {100 * max(found):.2f}" if len(found) > 1 else "",
                duration(time.mean if time else None),
                records[0].hardware.device,
            ]
        )
        lines += _plain_loop(title, results)
    head = ["network", "seeds", "test accuracy", "range", "time of a run", "device"]
    return f"{table(head, lines)}\n\n{ACCURACIES}"


def _plain_loop(title: str, results: Path) -> list[list[str]]:
    """The row of `benchmarks/plain.py` with the recipe of an experiment, if there is one."""
    files = sorted((results / "benchmarks" / "plain").glob(f"{title}-seed*.json"))
    found = [json.loads(file.read_text()) for file in files]
    accuracy, time = spread([one["accuracy"] for one in found]), spread([one["seconds"] for one in found])
    if accuracy is None or time is None:
        return []
    values = [one["accuracy"] for one in found]
    between = f"{100 * min(values):.2f} to {100 * max(values):.2f}" if len(values) > 1 else ""
    name = "the same by a plain PyTorch loop (`benchmarks/plain.py`)"
    return [[name, str(len(found)), accuracy.words(), between, duration(time.mean), "cpu"]]


SPARSITIES = (0.5, 0.7, 0.9)


def gradient_sampling() -> str:
    """One row an optimizer: dense, and after one-shot pruning under one threshold, without and with batch norm."""
    lines = []
    for title, records in gathered().items():
        found = [record.prunability for record in records if record.prunability is not None]
        if not title.startswith("gradient_sampling/") or not found:
            continue
        spreads = [_pruned(found, sparsity, again) for sparsity in SPARSITIES for again in (False, True)]
        cells = [value.words() if value else "" for value in spreads]
        shape = [spread([getattr(row.weights, name) for row in found]) for name in ("e50", "mean_size")]
        lines.append(
            [
                title.partition("/")[2],
                str(epochs(records[0])),
                str(len(records)),
                percent([record.dense for record in records]),
                *cells,
                *(f"{value.mean:.3g}" if value else "" for value in shape),
            ]
        )
    heads = [f"{100 * sparsity:.0f} %{extra}" for sparsity in SPARSITIES for extra in ("", ", + batch norm")]
    head = ["network, optimizer", "epochs", "seeds", "dense", *heads, "smaller half", "mean size"]
    told = (
        f"{ACCURACIES} “+ batch norm”: its statistics estimated anew on training images; “smaller half”: the share of "
        "the squared norm that it holds."
    )
    return f"{table(head, lines)}\n\n{told}" if lines else "No results are kept yet."


def _pruned(found: list[PrunabilityRow], sparsity: float, again: bool) -> Spread | None:
    """Accuracy at one sparsity over the seeds, or None where it was not measured."""
    points = [row.at(sparsity, reestimated=again) for row in found]
    return spread([point.accuracy for point in points if point is not None])


TABLES = {"runs": runs, "dense": dense, "gradient sampling": gradient_sampling}
