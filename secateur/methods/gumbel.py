"""Gumbel gates: weights and topology are learned together, by gradient descent on gates that have a price.

Z. Zhang, R. Tao & J. Zhang, Neural Network Pruning by Gradient Descent (arXiv 2311.12526). With weights w, gates z that
are sampled hard (`secateur.methods.sampling`) and E expected edges,

    loss = L(w z) + price(E, t)                  prices: `secateur.methods.prices`
    in the end a unit stays if its gate is more likely open than closed, d > 0

and what the budget does not hold of these leaves by the smallest d.

Differences from the paper's notebook (3riccc/neural_pruning): one logit a gate instead of two, which has the same law;
one sample a step, shared by the network and the price, which may also be taken from the exact expectation; prices that
rise or follow a schedule; units of any granularity; gates that keep every output and layer alive; the mask that comes
out is held while the weights are fine-tuned, and its groups are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam

from secateur.criteria import Scores
from secateur.methods.edges import Edges
from secateur.methods.gates import Gates, take_leave
from secateur.methods.guards import Guard
from secateur.methods.prices import Price, parse_price
from secateur.methods.pruner import Pruner
from secateur.methods.sampling import adam_step
from secateur.methods.snapshots import Snapshot, Snapshots
from secateur.planning import Budget
from secateur.schedule import Schedule
from secateur.training.streams import derive

if TYPE_CHECKING:
    from secateur.training.state import State


EVERY = 10
"""Steps from one look at what gates have cut off to the next."""


@dataclass(frozen=True)
class Reading:
    """The gates at the end of an epoch, in gates: those `open` most likely, and how far samples are from that.

    `expected` is the mean number of open ones in a sample; `stray` of them are most likely closed.
    """

    step: int
    expected: float
    open: int
    stray: float


@dataclass(eq=False, kw_only=True)
class Gumbel(Pruner):
    """Gates learned with the weights; the other fields are those of `Pruner`.

    start        0: gates are sampled from the first step on; before it the network is dense
    stop         0.75: gates are decided and the budget is met; the rest fine-tunes what is open
    price        what an edge costs, as a `Price` or in words: "ramp 3e-4", "log_schedule strength=2"
    penalty_on   "sample": the step's own edges are priced, as in the paper, so that a decided gate feels price and loss
                 by the same factor; or "expected" edges, exact and without noise, whose price decided gates hardly feel
    logits       1 or 2 numbers a gate
    keep         probability of an open gate at first, 0.9
    temperature  3, the paper's; a number, or a schedule over the time in which gates are sampled
    lr           learning rate of the gates, 0.05. They have an Adam of their own, whatever moves the weights
    outputs      left out: in a chain of layers every output keeps a path from an input, in other networks every row of
                 the last group a gate. Or the names of the groups of which every row keeps one gate open
    snapshots    budgets: `taken` has the network as it was when its open gates first met them, so that one training
                 under a rising price gives a curve

    Under a price that does not follow the budget, open gates alone remain: less than it, never more. `readings` tells
    how the gates stood, an epoch a row. A removal policy fades what the budget takes of open gates; closed ones need
    none.

    >>> groups = secateur.elements(model)
    >>> fit(model, data, epochs=60, methods=[Gumbel(groups=groups, budget="809 weights")], optimizer=...)
    """

    start: float = 0.0
    stop: float = 0.75
    price: Price | str = "log_schedule"
    penalty_on: Literal["expected", "sample"] = "sample"
    logits: int = 1
    keep: float = 0.9
    temperature: float | Schedule = 3.0
    lr: float = 0.05
    outputs: Sequence[str] | None = None
    snapshots: Sequence[str] = ()

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("rounds", "1: gates are decided once", self.rounds == 1)
        parse_price(self.price, type(self).__name__)
        self._require("penalty_on", '"expected" or "sample"', self.penalty_on in ("expected", "sample"))
        self._require("logits", "1 or 2", self.logits in (1, 2))
        self._require("keep", "a probability in (0, 1)", 0 < self.keep < 1)
        fits = callable(self.temperature) or self.temperature > 0
        self._require("temperature", "a float above 0 or a schedule", fits)
        self._require("lr", "a float above 0", self.lr > 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._price = parse_price(self.price, type(self).__name__)
        self.readings: list[Reading] = []
        self._snapshots = Snapshots(self.groups, self.snapshots)

    @property
    def taken(self) -> list[Snapshot]:
        """The snapshots so far, from large to small."""
        return self._snapshots.taken

    def times(self) -> list[int]:
        """No rounds: gates are decided where the budget is solved for good."""
        return []

    def prepare(self, state: State) -> list[dict[str, Any]]:
        """Put gates on the weights; the first sample is ready before the first step that wants one."""
        self.gates = Gates(self.groups, keep=self.keep, logits=self.logits)
        self.edges = Edges(self.groups, self.target, list(self.gates.logits))
        self.guard = Guard(self.groups, self.gates, self.outputs)
        parameters = list(self.gates.logits.values())
        self._adam = Adam(parameters, lr=self.lr, eps=1e-12, fused=parameters[0].device.type in ("cpu", "cuda"))
        self._seed, self._drawn = derive(state.seed, "gumbel"), -1
        self._begin = self.first if self.start > 0 else 0
        return [{"params": parameters, "lr": self.lr, "weight_decay": 0.0}]

    def setup(self, state: State) -> Iterable[dict[str, Any]] | None:
        """See that the pruning fits, and put the gates on."""
        added = super().setup(state)
        if self._begin == 0:
            self._ready(0)
        return added

    def penalty(self, state: State) -> Tensor | None:
        """The price of the edges, while gates are sampled."""
        if self.gates.mode != "sampled":
            return None
        return self.edges.penalty(self._price, self._units(self.penalty_on), self._progress(state.step))

    def look(self, state: State) -> None:
        """Move the gates; the optimizer of the weights finds no gradient for them."""
        parameters = self.gates.logits.values()
        reached = [p for p in parameters if p.grad is not None]
        self.guard.look_for_paths(state.model, state.batches[0][0], self.edges.asked)
        if self.gates.mode == "sampled" and reached and adam_step(self._adam, reached, kernels=self.gates.kernels):
            self._after_gates(state.step)
        for parameter in parameters:
            parameter.grad = None

    def moved(self, state: State) -> None:
        """Take snapshots that are due, and draw the next step's sample."""
        if self._snapshots.waiting and self.gates.mode == "sampled" and state.step <= self.solve_at:
            self._snapshots.look(state.step, {n: d > 0 for n, d in self.gates.differences()}, self.gates.names)
        if self._begin <= state.step < self.solve_at:
            self._ready(state.step)

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - the gates are here
        """The d of every gate; groups without gates stay, and so does what keeps an output from being lost."""
        values = {g.name: torch.full((g.units,), torch.inf) for g in self.groups}
        for name, difference in self.gates.differences():
            values[name] = difference.cpu().clone()
        for name, units in self.guard.needed().items():
            values[name][units.cpu()] = torch.inf
        return Scores(values, "gumbel gates")

    def last_budget(self, state: State) -> Budget:  # noqa: ARG002 - the gates are here
        """The budget; under a price that does not follow it what open gates spend, or the fewest units of a plan."""
        opened = {name: int((d > 0).sum()) for name, d in self.gates.differences()}
        return self.target.budget if self._price.follows else self.at_most(opened)

    def epoch_end(self, state: State) -> None:
        """Take a reading."""
        if self.gates.mode == "sampled":
            self._read(state.step)

    def after_step(self, state: State) -> None:
        """Draw the next sample; when it is time, read the gates once more and decide."""
        super().after_step(state)
        if state.step == self.solve_at:
            self._read(state.step)
            live = self.live()
            self.gates.fix({name: (d > 0).cpu() | live[name] for name, d in self.gates.differences()})

    def finish(self, state: State) -> None:
        """Take the gates out, then go on with the slim model, or with zeros where single weights were closed."""
        self.gates.remove()
        take_leave(state, self.gates.logits.values(), self.gates.names)
        super().finish(state)

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with the gates, their Adam and their price."""
        return {
            **super().state_dict(),
            "logits": {name: p.detach().clone() for name, p in self.gates.logits.items()},
            "adam": self._adam.state_dict()["state"],
            "mode": self.gates.mode,
            "fixed": dict(self.gates.fixed),
            "price": self._price.state_dict(),
            "readings": [asdict(reading) for reading in self.readings],
            "drawn": self._drawn,
            "snapshots": self._snapshots.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        for name, parameter in self.gates.logits.items():
            parameter.copy_(saved["logits"][name])
        self._adam.load_state_dict({**self._adam.state_dict(), "state": saved["adam"]})
        self._price.load_state_dict(saved["price"])
        self._snapshots.load_state_dict(saved["snapshots"])
        self.readings = [Reading(**reading) for reading in saved["readings"]]
        if saved["drawn"] >= 0:
            self._ready(saved["drawn"])
        self.gates.mode = saved["mode"]
        self.gates.fixed = {name: kept.to(self.gates.logits[name].device) for name, kept in saved["fixed"].items()}

    def _ready(self, step: int) -> None:
        """Let the gates be sampled in the step that follows `step`: a function of the seed and the step alone."""
        self.gates.draw(self._seed, step)
        progress, schedule = self._progress(step), self.temperature
        self.gates.temperature = float(schedule(progress) if callable(schedule) else schedule)
        self.gates.mode, self._drawn = "sampled", step

    def _read(self, step: int) -> None:
        d = torch.cat([difference for _, difference in self.gates.differences()])
        likely, opened = d.sigmoid(), d > 0
        self.readings.append(Reading(step, float(likely.sum()), int(opened.sum()), float(likely[~opened].sum())))

    def _progress(self, step: int) -> float:
        return min(1.0, max(0.0, (step - self._begin) / (self.solve_at - self._begin)))

    def _units(self, count: Literal["expected", "sample", "open"]) -> Tensor:
        """Units of every group: those expected, of this step's sample, or of gates that are most likely open."""
        if count == "sample":
            return self.gates.counts()
        differences = [self.gates.difference(name) for name in self.gates.logits]
        return torch.stack([(d.sigmoid() if count == "expected" else d > 0).sum() for d in differences])

    def _after_gates(self, step: int) -> None:
        """Let the price see the step, hold what it limits, and keep outputs and layers alive."""
        sees = self._price.sees
        if sees != "nothing":
            with torch.no_grad():
                units = dict(zip(self.gates.logits, self._units(sees).tolist(), strict=True))
            standing = self.edges.standing(units, self._progress(step))
            limit = self._price.limit(standing)
            if limit is not None and standing.edges > limit:
                self._project(limit)
            self._price.moved(standing)
        if step % EVERY == 0:
            self.guard.hold()

    @torch.no_grad()
    def _project(self, limit: float) -> None:
        """Move all probabilities down by one number, the least with which no more edges than `limit` are expected."""
        likely = {name: difference.sigmoid() for name, difference in self.gates.differences()}
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            edges = self.edges.expected({name: float((p - middle).clamp_min(0).sum()) for name, p in likely.items()})
            low, high = (middle, high) if edges > limit else (low, middle)
        for name, p in likely.items():
            self.gates.set(name, (p - high).clamp_min(0).logit(eps=1e-6))
