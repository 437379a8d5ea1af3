"""What the command line shows: the stages of a run as they pass, and tables of what came out.

Progress and errors go to standard error, results to standard output. Where standard error is no terminal, stages are
plain lines and trainings a line an epoch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from secateur.report import summary, text
from secateur.report.page import FILES
from secateur.report.record import RunRecord, StageRow
from secateur.report.seeds import spread

if TYPE_CHECKING:
    from secateur.training import Epoch

TRAININGS = ("train", "fine-tune")
"""How stages begin whose steps a training shows by itself."""

PIPED_WIDTH = 140
"""Columns of tables that go to a file or another program, where no window limits them."""

_LATER_RANK = os.environ.get("RANK", "0") != "0"  # of several processes of one run the first one tells

out = Console(quiet=_LATER_RANK, highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, highlight=False)


class Lines:
    """The stages of a run as plain lines."""

    bars: bool | Progress = False

    def __init__(self, console: Console = err) -> None:
        self._console = console
        self._begun, self._first = time.perf_counter(), sys.maxsize

    def begin(self, stage: str) -> None:
        """Say that a training starts; other stages speak when they are done."""
        if stage.startswith(TRAININGS):
            self._begun, self._first = time.perf_counter(), sys.maxsize
            self._print(f"{stage} ...")

    def epoch(self, row: Epoch, of: int) -> None:
        """One line an epoch, with the time that the training has left at the pace it had since it was begun."""
        now = time.perf_counter()
        self._first = min(self._first, row.epoch)
        left = (now - self._begun) / (row.epoch - self._first + 1) * (of - row.epoch)
        held_out = f", validation {row.val_accuracy:.2%}" if row.val_accuracy is not None else ""
        rest = f", {text.duration(left)} left" if left else ""
        self._print(f"  epoch {row.epoch}/{of}: loss {row.train_loss:.4f}{held_out}, {row.seconds:.1f} s{rest}")

    def end(self, stage: str, seconds: float, result: str) -> None:
        """One line a stage."""
        self._print(f"{stage}: {result + ', ' if result else ''}{text.duration(seconds)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class Live:
    """The stages of a run on a terminal: what is done above, what goes on below with its bar."""

    def __init__(self, console: Console = err) -> None:
        self.bars: bool | Progress = (progress := _progress(console))
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, stage: str) -> None:
        """Show the stage as going on."""
        if not stage.startswith(TRAININGS):
            self._task = self._progress.add_task(stage, total=None, text="")

    def epoch(self, row: Epoch, of: int) -> None:
        """Nothing: the bar tells."""

    def end(self, stage: str, seconds: float, result: str) -> None:
        """Move the stage to what is done."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        words = f"[green]✓[/] {escape(stage)}"
        told = f"  [dim]{escape(result)}[/]" if result else ""
        self._progress.console.print(f"{words}{told}  [dim]{text.duration(seconds)}[/]")


def _progress(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


@contextmanager
def stages() -> Iterator[Lines | Live]:
    """A block in which a run shows its stages, in the way that standard error can."""
    if not err.is_terminal:
        yield Lines()
        return
    live = Live()
    assert isinstance(live.bars, Progress)
    with live.bars:
        yield live


def tell_error(message: str) -> None:
    """One red line on standard error."""
    err.print(f"[bold red]Error:[/] [red]{escape(message)}[/]", soft_wrap=True)


def tell_result(record: RunRecord, folder: Path) -> None:
    """The table of a run, its verdict, and where everything lies."""
    out.print(result_table(record))
    if record.plan is not None:
        verdict = summary.verdict(record)
        colour = {"proven": "green", "failed": "red", "none": "yellow"}[verdict.kind]
        out.print(f"[{colour}]{verdict.title}.[/] Asked for {record.plan.asked}, reached {record.plan.reached}.")
        for note in record.plan.notes:
            out.print(note, markup=False)
    places = {"report": FILES["page"], "numbers": f"{FILES['json']}, {FILES['csv']}", "checkpoint": "model.safetensors"}
    tell_places([(name, folder / file) for name, file in places.items()])


def tell_spread(records: Sequence[RunRecord]) -> None:
    """One line on the accuracies of runs that differ in their seed."""
    found = spread([r.final.accuracy.value for r in records if r.final.accuracy])
    if found is not None:
        seeds = ", ".join(str(seed) for record in records for seed in record.seeds)
        out.print(f"Test accuracy over seeds {seeds}: {found.words()}.", markup=False)


def tell_places(places: Sequence[tuple[str, Path | str]]) -> None:
    """Names and paths or commands in two columns, never wrapped, so that they can be copied."""
    for name, place in places:
        out.print(f"  [dim]{name:<11}[/]{escape(str(place))}", soft_wrap=True)


def result_table(record: RunRecord) -> Table:
    """Dense beside slim, or the dense model alone where nothing was cut."""
    table = Table(title=f"{record.model} on {record.data}", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in [*(name for name, _ in summary.columns(record)), *(["change"] if record.plan else [])]:
        table.add_column(name, justify="right")
    for line in summary.headline(record):
        cells = [f"{value}\n[dim]{note}[/]" if note else value for value, note in line.cells]
        spread = f"\n[dim]{line.spread}[/]" if line.spread else ""
        table.add_row(line.name, *cells, *([f"[bold]{line.change}[/]{spread}"] if record.plan else []))
    return table


def comparison_table(recorded: StageRow, found: StageRow) -> Table:
    """What a run recorded beside what was measured now."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("recorded", "now"):
        table.add_column(name, justify="right")
    for name, before, now in comparison(recorded, found):
        table.add_row(name, before, now)
    return table


def comparison(recorded: StageRow, found: StageRow) -> list[tuple[str, str, str]]:
    """Name, recorded value and value now of everything that both rows have."""

    def row(name: str, show: Any, pick: Any) -> tuple[str, str, str]:
        return name, show(pick(recorded)), show(pick(found))

    rows = [
        row("Test accuracy", text.share, lambda r: r.accuracy.value if r.accuracy else None),
        row("Test loss", text.number, lambda r: r.loss),
        row("MACs", text.count, lambda r: r.macs),
        row("Parameters", text.count, lambda r: r.params),
        row("File", text.size, lambda r: r.bytes),
        row("Latency", text.milliseconds, lambda r: r.latency.median_ms if r.latency else None),
    ]
    return [values for values in rows if values[1] != text.MISSING or values[2] != text.MISSING]
