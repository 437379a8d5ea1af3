"""What happened to the units of a network while it was pruned: who left when, who was released, who is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

What = Literal["leaving", "released", "gone"]


@dataclass(frozen=True)
class Event:
    """Units of one group to which the same happened at the same step of the training.

    Of units released, `kept` is the share of its norm that each had then, and `after` how many steps it had decayed.
    """

    step: int
    group: str
    what: What
    units: tuple[int, ...]
    kept: tuple[float, ...] = ()
    after: tuple[int, ...] = ()

    @staticmethod
    def of(
        step: int, group: str, what: What, units: Tensor, kept: Tensor | None = None, after: Tensor | None = None
    ) -> Event:
        """The event of tensors."""
        return Event(
            step,
            group,
            what,
            tuple(units.tolist()),
            () if kept is None else tuple(kept.tolist()),
            () if after is None else tuple(after.tolist()),
        )


class Fought(NamedTuple):
    """A unit that was released: how often, the share of its norm at the last release, and whether it stayed."""

    group: str
    unit: int
    times: int
    kept: float
    stayed: bool


@dataclass
class Story:
    """All events of one pruning, in order.

    >>> [(event.step, event.group, event.units) for event in method.story.events if event.what == "released"]
    """

    events: list[Event] = field(default_factory=list)

    def add(self, events: Iterable[Event]) -> None:
        """What has just happened."""
        self.events.extend(events)

    def over_time(self, group: str) -> list[tuple[int, int, int, int]]:
        """(step, leaving, released so far, gone) of one group, a row for every step at which one of them changed."""
        rows: list[tuple[int, int, int, int]] = []
        leaving = released = gone = 0
        for event in (e for e in self.events if e.group == group):
            many = len(event.units)
            leaving += many if event.what == "leaving" else -many
            released += many * (event.what == "released")
            gone += many * (event.what == "gone")
            if rows and rows[-1][0] == event.step:
                rows.pop()
            rows.append((event.step, leaving, released, gone))
        return rows

    def fought_for(self) -> list[Fought]:
        """Every unit that was released, those released most often first."""
        times: dict[tuple[str, int], tuple[int, float]] = {}
        gone = {(e.group, unit) for e in self.events if e.what == "gone" for unit in e.units}
        for event in (e for e in self.events if e.what == "released"):
            for unit, kept in zip(event.units, event.kept, strict=True):
                times[event.group, unit] = (times.get((event.group, unit), (0, 0.0))[0] + 1, kept)
        rows = [Fought(*place, often, kept, place not in gone) for place, (often, kept) in times.items()]
        return sorted(rows, key=lambda row: (-row.times, row.group, row.unit))

    def state_dict(self) -> dict[str, Any]:
        """The events as plain values."""
        return {"events": [asdict(event) for event in self.events]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.events = [Event(**{k: _tuple(v) for k, v in event.items()}) for event in saved["events"]]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
