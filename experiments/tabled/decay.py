"""The tables of decay pruning: a host alone, with decay, and with decay and rectifying, seed by seed.

`NAME.yaml` is the host alone; in `NAME_decay.yaml`, `NAME_rectify.yaml` and `NAME_adaptive.yaml` its units fade.
They share start, data order and budget, so that differences are taken within a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.report.leaving import fought_for
from secateur.report.record import RunRecord
from secateur.report.seeds import Difference, Spread, paired, spread
from tabled.common import ACCURACIES, Records, gathered, table

QUESTION = "decay_pruning/"
ARMS = {
    "": "host alone",
    "_decay": "decay",
    "_rectify": "decay and rectifying",
    "_adaptive": "adaptive decay and rectifying",
}
REMOVAL = "pruning.method.removal."
NOT_MEASURED = (
    "Not measured yet: `python experiments/run.py experiments/decay_pruning/resnet20_short*.yaml` keeps results."
)


@dataclass(frozen=True)
class Family:
    """The arms of one comparison, in the order of `ARMS`; each holds the records of its seeds."""

    name: str
    arms: tuple[list[RunRecord], ...]

    def accuracy(self, arm: int) -> Spread | None:
        """Test accuracy of an arm over its seeds."""
        return spread(list(accuracies(self.arms[arm]).values()))

    def gain(self, arm: int, over: int = 0) -> Difference | None:
        """What an arm gains over another, on the seeds that both have."""
        return paired(accuracies(self.arms[over]), accuracies(self.arms[arm]))


def accuracies(records: Sequence[RunRecord]) -> dict[int, float]:
    """Seed -> test accuracy after the last epoch."""
    return {r.seeds[0]: r.final.accuracy.value for r in records if r.final.accuracy is not None}


def families(found: Records) -> list[Family]:
    """The comparisons of which an arm was measured; `found` are records by the title of their experiment."""
    own = {title.removeprefix(QUESTION): records for title, records in found.items() if title.startswith(QUESTION)}
    names = {}
    for title in own:
        stem, mark, changes = title.partition("-")
        host = next((stem.removesuffix(arm) for arm in ARMS if arm and stem.endswith(arm)), stem)
        if REMOVAL not in changes:
            names[host + mark + changes] = (host, mark + changes)
    return [
        Family(name, tuple(own.get(f"{host}{arm}{changes}", []) for arm in ARMS))
        for name, (host, changes) in names.items()
    ]


def arms(found: Records | None = None) -> str:
    """One row an arm of a comparison, with its difference to the host alone."""
    head = ["comparison, arm", "seeds", "dense", "after the last epoch", "gain over the host alone", "MACs"]
    lines = []
    for family in families(gathered() if found is None else found):
        for arm, (name, records) in enumerate(zip(ARMS.values(), family.arms, strict=True)):
            if not records:
                continue
            dense = spread([r.dense.accuracy.value for r in records if r.dense.accuracy is not None])
            macs = spread([value for r in records if (value := r.ratio("macs")) is not None])
            gain = family.gain(arm) if arm else None
            means = [value.words() if value else "" for value in (dense, family.accuracy(arm))]
            cost = f"{macs.mean:.2f}x less" if macs else ""
            lines.append([f"{family.name}, {name}", str(len(records)), *means, gain.words() if gain else "", cost])
    return _told(head, lines)


def sensitivity(found: Records | None = None) -> str:
    """One row a change of the removal, beside the arm that it changes."""
    found = gathered() if found is None else found
    head = ["removal", "seeds", "test accuracy", "gain over the arm unchanged", "released", "of these stayed"]
    lines = []
    for title, records in found.items():
        name, _, changes = title.removeprefix(QUESTION).partition("-")
        if not title.startswith(QUESTION) or REMOVAL not in changes:
            continue
        mean, gain = spread(list(accuracies(records).values())), _gain(found.get(QUESTION + name, []), records)
        units = [unit for record in records for unit in fought_for(record.leavings)]
        stayed = f"{100 * sum(unit.stayed for unit in units) / len(units):.0f} %" if units else ""
        lines.append(
            [
                f"{name}, {changes.replace(REMOVAL, '').replace(',', ', ')}",
                str(len(records)),
                mean.words() if mean else "",
                gain.words() if gain else "",
                f"{len(units) / len(records):.1f}",
                stayed,
            ]
        )
    return _told(head, lines)


def _told(head: list[str], lines: list[list[str]]) -> str:
    gains = "Gains in points, a mean over paired seeds with its 95 % interval (Student's)."
    return f"{table(head, lines)}\n\n{ACCURACIES} {gains}" if lines else NOT_MEASURED


def _gain(first: Sequence[RunRecord], second: Sequence[RunRecord]) -> Difference | None:
    return paired(accuracies(first), accuracies(second))


def verdict(found: Records | None = None) -> str:
    """What the comparisons say, a sentence an arm: a gain, a loss, or nothing that seeds do not do by themselves."""
    told = []
    for family in families(gathered() if found is None else found):
        for arm, what in list(enumerate(ARMS.values()))[1:]:
            gain = family.gain(arm)
            if gain is not None:
                told.append(f"- {family.name}: {what} {_found(gain)}.")
    return "\n".join(told) if told else NOT_MEASURED


def _found(gain: Difference) -> str:
    points = f"{gain.words()} points over {gain.count} paired seeds, 95 % interval"
    if not gain.told:
        return f"makes no difference larger than the noise of seeds ({points})"
    return f"{'gains' if gain.mean > 0 else 'loses'} more than the noise of seeds ({points})"


TABLES = {"decay arms": arms, "decay sensitivity": sensitivity, "decay verdict": verdict}
