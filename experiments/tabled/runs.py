"""Runs, a row an experiment: those that prune and those that only train."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.report.record import RunRecord, StageName
from secateur.report.seeds import spread
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
        lines.append(
            [
                _link(title, records),
                str(len(records)),
                str(epochs(records[0])),
                percent([record.final for record in records]),
                f"{100 * min(found):.2f} to {100 * max(found):.2f}" if len(found) > 1 else "",
                records[0].hardware.device,
            ]
        )
        lines += _plain_loop(title, results)
    head = ["network", "seeds", "epochs", "test accuracy", "range", "device"]
    return f"{table(head, lines)}\n\n{ACCURACIES}"


def _plain_loop(title: str, results: Path) -> list[list[str]]:
    """The row of `benchmarks/plain.py` with the recipe of an experiment, if there is one."""
    files = sorted((results / "benchmarks" / "plain").glob(f"{title}-seed*.json"))
    found = [json.loads(file.read_text()) for file in files]
    values = [one["accuracy"] for one in found]
    accuracy = spread(values)
    if accuracy is None:
        return []
    between = f"{100 * min(values):.2f} to {100 * max(values):.2f}" if len(values) > 1 else ""
    name = "the same by a plain PyTorch loop (`benchmarks/plain.py`)"
    return [[name, str(len(found)), str(found[0]["recipe"]["training"]["epochs"]), accuracy.words(), between, "cpu"]]


TABLES = {"runs": runs, "dense": dense}
