"""Writes the tables of README from results/, so that no figure in it comes from anywhere else.

python experiments/tables.py            write them
python experiments/tables.py --check    exit with 1 where they are stale
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.report.record import RunRecord, StageRow

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGES = (ROOT / "README.md",)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def runs() -> str:
    """One row a run under results/, by its file's place."""
    rows = []
    for path in sorted(RESULTS.glob("*/*.json")):
        if path.parent.name == "benchmarks":
            continue
        record = RunRecord.load(path)
        stages = [record.dense, *(record.stage(name) for name in ("cut", "batch norm re-estimated", "fine-tuned"))]
        epochs = sum(len(curve.epochs) for curve in record.curves)
        name = str(path.relative_to(RESULTS).with_suffix(""))
        rows.append(
            [
                f"[{name}](results/{name}.json): {record.model}, {record.data}, {record.plan.asked}, {epochs} epochs",
                *map(percent, stages),
                f"{record.ratio('macs'):.2f}x",
                f"{record.ratio('params'):.2f}x",
                f"{record.speedup.ratio:.2f}x" if record.speedup else "",
            ]
        )
    head = ["run", "dense", "cut", "+ batch norm", "+ fine-tuning", "MACs", "parameters", "latency"]
    return table(head, rows) + "\n\nTest accuracy in per cent, one seed a run, test read once at each stage."


def percent(stage: StageRow | None) -> str:
    """The accuracy of a stage in per cent, or nothing where the run had no such stage."""
    return f"{100 * stage.accuracy.value:.2f}" if stage and stage.accuracy else ""


def surgery() -> str:
    """Seconds and memory of pruning half of the channels, beside Torch-Pruning."""
    result: dict[str, Any] = json.loads((RESULTS / "benchmarks" / "surgery.json").read_text())
    ours, proven, theirs = "secateur", "secateur, proven", "torch-pruning"
    rows = []
    for row in result["models"]:
        if "median" not in row:
            continue
        middle = row["median"]
        seconds = [f"{middle[tool]['cold']:.2f}" for tool in (theirs, ours, proven)]
        ratios = [f"{middle[tool]['cold'] / middle[theirs]['cold']:.2f}" for tool in (ours, proven)]
        rows.append([row["model"], *seconds, *ratios, f"{middle[proven]['memory'] / middle[theirs]['memory']:.2f}"])
    means = result["means"]
    rows.append(
        ["geometric mean", "", "", ""]
        + [f"**{means[tool]['cold']:.2f}**" for tool in (ours, proven)]
        + [f"**{means[proven]['memory']:.2f}**"]
    )
    head = [
        "50 % of the channels",
        "Torch-Pruning, s",
        "Secateur, s",
        "+ proof, s",
        "ratio",
        "+ proof",
        "memory, + proof",
    ]
    versions = result["versions"]
    return table(head, rows) + (
        f"\n\nFrom tracing to the cut model in a fresh process, {result['threads']} CPU threads, medians of "
        f"{result['repeats']} taken in turn; ratios below 1 are in favour of Secateur. Torch-Pruning "
        f"{versions['torch-pruning']}, torch {versions['torch'].partition('+')[0]}; `python benchmarks/surgery.py`."
    )


TABLES: dict[str, Callable[[], str]] = {"runs": runs, "surgery": surgery}


def written(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if marks.search(text):
            made = make()
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def main() -> int:
    """Write the pages, or say which are stale."""
    stale = [page for page in PAGES if written(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.name} is stale: run python experiments/tables.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(written(page.read_text()))
        print(f"wrote {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
