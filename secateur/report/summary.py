"""What a record says, in words: the sentences, figures and table lines that the page and the command line show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from secateur.report import text
from secateur.report.record import CheckRow, FrozenRow, MannerRow, RunRecord, StageRow

LABELS = {
    "dense": "dense",
    "masked": "masked",
    "cut": "after the cut",
    "batch norm re-estimated": "batch norm re-estimated",
    "fine-tuned": "fine-tuned",
}
"""The stages of a run as a table names them."""


@dataclass(frozen=True)
class Tile:
    """One large figure: `figure` and its small `unit`, with a note under them."""

    name: str
    figure: str
    unit: str
    note: str


@dataclass(frozen=True)
class Line:
    """One quantity of the headline table: a value and a small note a column, the change from first to last."""

    name: str
    cells: tuple[tuple[str, str], ...]
    change: str
    spread: str = ""


@dataclass(frozen=True)
class StageLine:
    """One stage of the run as the table of stages shows it."""

    name: str
    accuracy: str
    interval: str
    loss: str
    change: str


@dataclass(frozen=True)
class Verdict:
    """The proof in plain words; `kind` is "proven", "failed" or "none"."""

    kind: str
    title: str
    words: str
    checks: tuple[CheckRow, ...] = ()


@dataclass(frozen=True)
class Blocked:
    """The dimensions that one reason keeps from being pruned."""

    reason: str
    operator: str
    rows: tuple[FrozenRow, ...]

    @property
    def units(self) -> int:
        """How many units they have together."""
        return sum(row.units for row in self.rows)


def masked_only(record: RunRecord) -> bool:
    """Whether the run zeroed weights and kept the shapes, so that the non-zero MACs are what fell."""
    final = record.final
    return final.macs == record.dense.macs and final.nonzero_macs is not None and final.nonzero_macs < final.macs


def lede(record: RunRecord) -> str:
    """The result in one or two sentences."""
    if record.plan is None:
        return _as_it_is(record.dense)
    first = _sparser(record) if masked_only(record) else _smaller(record)
    before, after = record.dense.accuracy, record.final.accuracy
    if before is None or after is None:
        return first
    moved = text.points(after.value - before.value)
    return f"{first} Test accuracy {text.share(before.value)} → {text.share(after.value)} ({moved})."


def _as_it_is(row: StageRow) -> str:
    costs = f"{text.count(row.params)} parameters, {text.count(row.macs)} MACs."
    return f"{costs} Test accuracy {text.share(row.accuracy.value)}." if row.accuracy else costs


def _sparser(record: RunRecord) -> str:
    kept = (record.final.nonzero_params or 0) / max(1, record.dense.params)
    return f"{text.share(1 - kept, 1)} of the weights are zero; the shapes are those of the dense model."


def _smaller(record: RunRecord) -> str:
    words = []
    for name, ratio in (("MACs", record.ratio("macs")), ("parameters", record.ratio("params"))):
        word = text.change(ratio, "fewer", "more")
        words.append(f"{name} unchanged" if word == "unchanged" else f"{word} {name}")
    faster = text.change(record.ratio("latency"), "faster", "slower")
    if faster != text.MISSING:
        words.append("latency unchanged" if faster == "unchanged" else faster)
    return f"{', '.join(words)}."


def tiles(record: RunRecord) -> list[Tile]:
    """The figures a reader looks for first, as far as they were measured."""
    if record.plan is None:
        return _tiles_of_one(record.dense)
    dense, final = record.dense, record.final
    made: list[Tile] = []
    if dense.accuracy and final.accuracy:
        moved = text.points(final.accuracy.value - dense.accuracy.value)
        made.append(Tile("Test accuracy", text.share(final.accuracy.value), "", f"{moved} from the dense model"))
    if masked_only(record):
        kept = text.share((final.nonzero_params or 0) / max(1, dense.params), 1)
        made.append(Tile("Weights kept", kept, "", f"{text.count(final.nonzero_params)} of {text.count(dense.params)}"))
        return made
    made.append(_tile("MACs", _fewer(record.ratio("macs")), text.count(dense.macs), text.count(final.macs)))
    made.append(_tile("Parameters", _fewer(record.ratio("params")), text.count(dense.params), text.count(final.params)))
    if dense.bytes is not None and final.bytes is not None:
        smaller = text.change(record.ratio("bytes"), "smaller", "larger")
        made.append(_tile("File", smaller, text.size(dense.bytes), text.size(final.bytes)))
    if dense.latency and final.latency:
        times = [text.milliseconds(row.latency.median_ms) for row in (dense, final) if row.latency]
        made.append(_tile("Latency", text.change(record.ratio("latency"), "faster", "slower"), *times))
    return made


def _tiles_of_one(row: StageRow) -> list[Tile]:
    found = (
        ("Test accuracy", text.share(row.accuracy.value) if row.accuracy else text.MISSING, interval(row)),
        ("MACs", text.count(row.macs), "of one input"),
        ("Parameters", text.count(row.params), ""),
        ("File", text.size(row.bytes), ""),
        ("Latency", text.milliseconds(row.latency.median_ms) if row.latency else text.MISSING, ""),
    )
    return [Tile(name, figure, "", note) for name, figure, note in found if figure != text.MISSING]


def _tile(name: str, words: str, before: str, after: str) -> Tile:
    figure, _, unit = words.partition(" ")
    return Tile(name, figure, unit, f"{before} → {after}")


def columns(record: RunRecord) -> list[tuple[str, StageRow]]:
    """The models side by side: dense, the masked one where it was measured beside the cut, and the last."""
    if record.plan is None:
        return [("dense", record.dense)]
    masked = record.stage("masked")
    between = [] if masked is None or masked_only(record) else [("masked", masked)]
    return [("dense", record.dense), *between, ("sparse" if masked_only(record) else "slim", record.final)]


def headline(record: RunRecord) -> list[Line]:
    """The columns side by side: one line a quantity that was measured."""
    rows = [row for _, row in columns(record)]
    made = [*_quality(record, rows), *_costs(record, rows), *_speed(record, rows)]
    return [line for line in made if any(value != text.MISSING for value, _ in line.cells)]


def _quality(record: RunRecord, rows: list[StageRow]) -> list[Line]:
    dense, final = record.dense, record.final
    accuracy = tuple((text.share(r.accuracy.value) if r.accuracy else text.MISSING, interval(r)) for r in rows)
    moved = final.accuracy.value - dense.accuracy.value if dense.accuracy and final.accuracy else None
    rise = final.loss - dense.loss if dense.loss is not None and final.loss is not None else None
    signed = text.MISSING if rise is None else f"{rise:+.3f}".replace("-", "−")
    loss = tuple((text.number(r.loss), "") for r in rows)
    return [Line("Test accuracy", accuracy, text.points(moved)), Line("Test loss", loss, signed)]


def _costs(record: RunRecord, rows: list[StageRow]) -> list[Line]:
    dense, final = record.dense, record.final
    made = [_counted("MACs of one input", [r.macs for r in rows], record.ratio("macs"))]
    if final.nonzero_macs and masked_only(record):
        left = [r.macs if r.nonzero_macs is None else r.nonzero_macs for r in rows]
        made.append(_counted("Non-zero MACs", left, dense.macs / final.nonzero_macs))
    made.append(_counted("Parameters", [r.params for r in rows], record.ratio("params")))
    if final.nonzero_params and masked_only(record):
        left = [r.params if r.nonzero_params is None else r.nonzero_params for r in rows]
        made.append(_counted("Non-zero parameters", left, dense.params / final.nonzero_params))
    smaller = text.change(record.ratio("bytes"), "smaller", "larger")
    return [*made, Line("File", tuple((text.size(r.bytes), "") for r in rows), smaller)]


def _speed(record: RunRecord, rows: list[StageRow]) -> list[Line]:
    found = [r.latency for r in rows]
    latency = tuple(
        (text.milliseconds(one.median_ms), f"{one.p10_ms:.3g}–{one.p90_ms:.3g}") if one else (text.MISSING, "")
        for one in found
    )
    through = tuple((f"{text.count(one.throughput)}/s" if one else text.MISSING, "") for one in found)
    faster = text.change(record.ratio("latency"), "faster", "slower")
    pairs = record.speedup
    spread = f"{pairs.low:.2f}–{pairs.high:.2f}×" if pairs else ""
    return [Line("Latency", latency, faster, spread), Line("Throughput", through, "")]


def _counted(name: str, values: list[int], ratio: float | None) -> Line:
    return Line(name, tuple((text.count(value), "") for value in values), _fewer(ratio))


def _fewer(ratio: float | None) -> str:
    return text.change(ratio, "fewer", "more")


def interval(row: StageRow) -> str:
    """The confidence interval of a stage's accuracy in percent, empty where there is none."""
    return f"{100 * row.accuracy.low:.2f}–{100 * row.accuracy.high:.2f}" if row.accuracy else ""


def label(row: StageRow) -> str:
    """What a table calls a stage."""
    return LABELS[row.stage] + (f", round {row.round}" if row.round is not None else "")


def stage_lines(record: RunRecord) -> list[StageLine]:
    """One line a stage, each against the dense model."""
    return [_stage_line(row, record.dense) for row in record.stages]


def _stage_line(row: StageRow, dense: StageRow) -> StageLine:
    moved = row.accuracy.value - dense.accuracy.value if row.accuracy and dense.accuracy and row is not dense else None
    return StageLine(
        name=label(row),
        accuracy=text.share(row.accuracy.value) if row.accuracy else text.MISSING,
        interval=interval(row),
        loss=text.number(row.loss),
        change="" if row is dense else text.points(moved),
    )


def manner(found: MannerRow | None) -> str:
    """How a training computed, empty where the record does not tell: "bf16, channels last"."""
    if found is None:
        return ""
    said = {"channels last": found.channels_last, "compiled": found.compiled, f"{found.ranks} ranks": found.ranks > 1}
    return ", ".join([found.precision, *(words for words, holds in said.items() if holds)])


def verdict(record: RunRecord) -> Verdict:
    """What the proof came to."""
    proof = record.proof
    if masked_only(record):
        words = "Weights were set to zero where they stand. All shapes are the dense model's: there is no cut to prove."
        return Verdict("none", "Nothing was cut", words)
    if proof is None:
        return Verdict("none", "Not proven", "The run did not check the cut.")
    worst = max((check.error for check in proof.checks), default=0.0)
    computed = f", computed in {proof.dtype}" if proof.dtype else ""
    allowed = f"; {text.error(proof.tolerance)} is allowed" if proof.tolerance is not None else ""
    found = f"the largest relative difference was {text.error(worst)}{computed}{allowed}."
    if not proof.proven:
        words = f"A comparison failed: {found} Do not use this model."
        return Verdict("failed", "The cut is not proven", words, proof.checks)
    words = (
        f"The slim model gives the outputs of the full-size model whose removed units are switched off: {found} "
        "Accuracy that is lost after the cut is lost because those units are gone, not by a mistake in removing them."
    )
    return Verdict("proven", "The cut is proven", words, proof.checks)


def blocked(frozen: Iterable[FrozenRow]) -> list[Blocked]:
    """What was not prunable, gathered by reason and operator, the reason that holds most units first."""
    gathered: dict[tuple[str, str], list[FrozenRow]] = {}
    for row in frozen:
        gathered.setdefault((row.reason, row.operator), []).append(row)
    made = [Blocked(reason, operator, tuple(rows)) for (reason, operator), rows in gathered.items()]
    return sorted(made, key=lambda entry: -entry.units)
