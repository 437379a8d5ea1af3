"""Smooth pruning: units shrink to exactly zero over many steps while everything trains on, and may be released.

Yang, Gao, Li, Li, Dong & Cui, Decay Pruning Method: Smooth Pruning With a Self-Rectifying Procedure (arXiv 2406.03879).
With x the joint weights of a unit, x~ what the optimizer made of them, L its norm when the decay began, and n = 1 .. N
counting steps,

    Decay            x = x~ (N - n) L / (N ||x~||)      the norm falls on a straight line, the direction stays free
    Multiplicative   x = x~ (N - n) / (N - n + 1)       the same line where the gradient does nothing (HESSO,
                     2409.09085)

One factor for all of a unit: row, bias, norm weight and norm bias. A unit's momentum shrinks with it. Columns that read
the unit are zeroed with its last step, by the masks.

Differences from the paper: none known for `Decay`; its code is not public. Releases are `Rectify`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.errors import CheckpointError, InputError
from secateur.graph.units import Groups
from secateur.removal.entries import Entries, Side
from secateur.removal.policy import Departure, unit_marks
from secateur.removal.rectify import Rectify, measure


@dataclass(eq=False)
class Fading(ABC):
    """A removal over `steps` steps; what a step does is left open.

    steps      N, how many steps of the optimizer a unit takes; 1 is immediate removal
    rectify    when a unit is released on its way; None: never
    side       "producers": rows, biases, norm weights and biases; "both": also the columns that read the unit, for
               networks whose producers end in a norm without weights

    What is decided stays on the device: the host waits for it at the last step of units alone, and when more start.
    """

    steps: int
    rectify: Rectify | None = None
    side: Side = "producers"

    def __post_init__(self) -> None:
        self._require("steps", "an integer of at least 1", isinstance(self.steps, int) and self.steps >= 1)
        self._require("side", "'producers' or 'both'", self.side in ("producers", "both"))
        self._sizes: dict[str, int] = {}
        self._book: dict[str, Tensor] = {}
        self._countdown = torch.empty(0, dtype=torch.long)
        self._certain = False
        self._entries: Entries | None = None
        self._before: Tensor | None = None
        self._news = False

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            kind = type(self).__name__
            raise InputError(f"The '{name}' parameter of {kind} must be {what}. Got {getattr(self, name)!r} instead.")

    @abstractmethod
    def factors(self, norms: Tensor, initial: Tensor, left: Tensor, whole: Tensor) -> Tensor:
        """What each leaving unit is multiplied by, shape `[leaving]`: `left` of `whole` steps remain after this one."""

    def paces(self, groups: Groups, starting: Mapping[str, Tensor]) -> Mapping[str, int]:  # noqa: ARG002 - all alike
        """Group name -> how many steps the units take that start to leave now, at most `steps`."""
        return dict.fromkeys(starting, self.steps)

    def start(self, groups: Groups, leaving: Mapping[str, Tensor], *, certain: bool = False) -> None:
        """Let units leave from now on; see `Removal.start`. Raises `InputError` for units that do not exist."""
        self._open(groups)
        self._settle()
        self._certain = self._certain or certain
        fresh = torch.zeros_like(self._countdown, dtype=torch.bool)
        for name, indices in leaving.items():
            fresh[self._range(name)] = unit_marks(groups, name, indices)
        fresh &= self._countdown == 0
        starting = {name: fresh[self._range(name)].nonzero().flatten() for name in leaving}
        for name, steps in self.paces(groups, {name: units for name, units in starting.items() if len(units)}).items():
            self._countdown[self._range(name)][starting[name]] = steps
        self._gather(groups)
        if self._entries is not None:
            marks = fresh.to(self._book["left"].device)
            norms = torch.zeros_like(self._book["initial"])
            norms[self._spots] = self._entries.norms(self._entries.weights())[self._within]
            for name in ("left", "whole"):
                self._book[name] = torch.where(marks, self._countdown.to(marks.device), self._book[name])
            self._book["initial"] = torch.where(marks, norms, self._book["initial"])
            self._book["starts"] += marks
            for name in ("rate", "length", "watched"):
                self._book[name].masked_fill_(marks, 0)

    def before_step(self, groups: Groups) -> None:  # noqa: ARG002 - the entries know their weights
        """Remember the weights of leaving units and their siblings, to see what the optimizer adds to them."""
        watching = self.rectify is not None and not self._certain
        self._before = self._entries.weights() if watching and self._entries is not None else None

    def after_step(self, groups: Groups, optimizer: Optimizer | None = None) -> dict[str, Departure]:
        """Shrink the leaving units by a step, and with `optimizer` their momentum; what ended, if something did."""
        if self._entries is None:
            return self._told()
        book, spots = self._book, self._spots
        weights = self._entries.weights()
        norms = self._entries.norms(weights)
        if self.rectify is not None and self._before is not None:
            self._watch(self.rectify, weights - self._before, norms)
        self._countdown[self._countdown > 0] -= 1
        book["left"][spots] -= 1
        shrunk = self.factors(norms[self._within], book["initial"][spots], book["left"][spots], book["whole"][spots])
        factors = torch.ones_like(norms)
        factors[self._within] = torch.where(book["freed"][spots] > 0, 1.0, shrunk)
        self._entries.scale(factors, optimizer)
        if self._on_their_way != int((self._countdown > 0).sum()):
            self._settle()
            self._gather(groups)
        return self._told()

    def leaving(self) -> dict[str, Tensor]:
        """The units on their way; one that is released counts until its flight ends or more units start."""
        return {name: self._countdown[self._range(name)] > 0 for name in self._sizes}

    def resting(self) -> dict[str, Tensor]:
        """The units whose cool-down is not over."""
        return {name: (self._book["rest"][self._range(name)] > 0).cpu() for name in self._sizes}

    def round_over(self) -> None:
        """Take a round off every cool-down."""
        if self._book:
            self._book["rest"] = (self._book["rest"] - 1).clamp(min=0)

    def state_dict(self) -> dict[str, Any]:
        """Where every unit is on its way, and what was seen of it."""
        flags = {"certain": self._certain, "news": self._news}
        return {"book": {name: line.clone() for name, line in self._book.items()}, **flags}

    def load_state_dict(self, groups: Groups, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, once the weights are those it was taken at.

        Raises `CheckpointError` for the state of another model.
        """
        self._sizes, self._book = {}, {}
        self._open(groups)
        if state["book"]:
            found, needed = len(state["book"]["left"]), len(self._book["left"])
            if found != needed:
                raise CheckpointError(
                    f"The state of {type(self).__name__} was made for a model of {found} units. This one has {needed}."
                )
            self._book = {name: state["book"][name].to(line.device).clone() for name, line in self._book.items()}
        self._countdown = self._book["left"].cpu().clone()
        self._certain, self._news = bool(state["certain"]), bool(state["news"])
        self._gather(groups)

    def _open(self, groups: Groups) -> None:
        """Give every unit of every group its place in the book, once; the book lies where the weights are."""
        if self._book:
            return
        self._sizes = {g.name: g.units for g in groups}
        device = next((groups.tensor(m.name).device for g in groups for m in g.members), torch.device("cpu"))
        units = sum(self._sizes.values())
        for kind, names in (
            (torch.int64, ("left", "whole", "freed", "releases", "rest", "starts", "steps", "watched")),
            (torch.float64, ("initial", "rate", "length", "kept")),
            (torch.bool, ("gone", "released")),
        ):
            self._book |= {name: torch.zeros(units, dtype=kind, device=device) for name in names}
        self._countdown = torch.zeros(units, dtype=torch.long)

    def _range(self, name: str) -> slice:
        """The places of a group's units in the book."""
        names = list(self._sizes)
        first = sum(self._sizes[other] for other in names[: names.index(name)])
        return slice(first, first + self._sizes[name])

    def _gather(self, groups: Groups) -> None:
        """Find the entries of the units on their way, and of their siblings where these are compared."""
        self._before = None
        marks = {name: indices for name, indices in self.leaving().items() if indices.any()}
        self._on_their_way = int((self._countdown > 0).sum())
        everyone = self.rectify is not None
        seen = {name: torch.ones_like(m) if everyone else m for name, m in marks.items()}
        self._entries = (
            Entries(groups, {name: m.nonzero().flatten() for name, m in seen.items()}, self.side) if marks else None
        )
        device = self._book["left"].device
        self._spots = (self._countdown > 0).nonzero().flatten().to(device)
        within = torch.cat([marks[name][m] for name, m in seen.items()]) if marks else torch.zeros(0)
        self._within = within.nonzero().flatten().to(device)

    def _watch(self, rectify: Rectify, moved: Tensor, norms: Tensor) -> None:
        """Take what a step of the optimizer says of leaving units into their averages; release those that resist."""
        assert self._entries is not None
        assert self._before is not None
        book, spots, within = self._book, self._spots, self._within
        shrink = torch.ones_like(norms)
        shrink[within] = book["initial"][spots] / book["whole"][spots]
        before, lengths = self._entries.norms(self._before), self._entries.norms(moved)
        rate, length = measure(before, norms, lengths, shrink, self._entries.sizes, rectify.variant)
        done = book["whole"][spots] - book["left"][spots]
        book["watched"][spots] += 1
        unbiased = 1 - rectify.memory ** book["watched"][spots].double()
        for name, value in (("rate", rate), ("length", length)):
            book[name][spots] = rectify.memory * book[name][spots] + (1 - rectify.memory) * value[within]
        rates, lengths = book["rate"][spots] / unbiased, book["length"][spots] / unbiased
        freed = rectify.resists(rates, lengths) & (book["freed"][spots] == 0)
        freed &= (done >= rectify.after) & (done <= rectify.until * book["whole"][spots])
        freed &= book["releases"][spots] < rectify.releases
        if rectify.most < 1:
            freed &= self._among_the_first(torch.where(freed, rectify.score(rates, lengths), -torch.inf), rectify.most)
        share = norms[within] / book["initial"][spots]
        book["freed"][spots] = torch.where(freed, done, book["freed"][spots])
        book["kept"][spots] = torch.where(freed, share, book["kept"][spots])
        book["releases"][spots] += freed

    def _among_the_first(self, scores: Tensor, most: float) -> Tensor:
        """Which of the leaving units have the largest scores, so many that `most` of all starts are released."""
        left = (most * self._book["starts"].sum() - 1e-6).ceil() - self._book["releases"].sum()
        places = torch.empty_like(self._spots)
        places[scores.argsort(descending=True, stable=True)] = torch.arange(len(places), device=places.device)
        return places < left

    def _settle(self) -> None:
        """Let the host know which units have ended: those released, and those without a step left."""
        if self._entries is None:
            return
        book = self._book
        ended = torch.zeros_like(book["gone"])
        ended[self._spots] = (book["left"][self._spots] == 0) | (book["freed"][self._spots] > 0)
        released = ended & (book["freed"] > 0)
        book["gone"] |= ended & ~released
        book["released"] |= released
        book["steps"] = torch.where(ended, torch.where(released, book["freed"], book["whole"]), book["steps"])
        if self.rectify is not None:
            book["rest"].masked_fill_(released, self.rectify.cooldown)
        for name in ("left", "freed"):
            book[name].masked_fill_(ended, 0)
        self._countdown[ended.cpu()] = 0
        self._news = True

    def _told(self) -> dict[str, Departure]:
        """What has ended and was not told yet."""
        if not self._news:
            return {}
        self._news = False
        lines = {name: self._book[name].cpu() for name in ("gone", "released", "steps", "kept")}
        for name in ("gone", "released"):
            self._book[name] = torch.zeros_like(self._book[name])
        parts = {name: {key: line[self._range(name)] for key, line in lines.items()} for name in self._sizes}
        return {name: Departure(**part) for name, part in parts.items() if (part["gone"] | part["released"]).any()}


class Decay(Fading):
    """The norm of a unit falls on a straight line to zero, whatever the optimizer does.

    >>> removal = Decay(steps=500, rectify=Rectify())
    """

    def factors(self, norms: Tensor, initial: Tensor, left: Tensor, whole: Tensor) -> Tensor:
        """`left L / (N ||x~||)`; a unit that is zero stays zero."""
        return torch.where(norms > 0, left * initial / (whole * norms), 0.0)


class Multiplicative(Fading):
    """A unit is multiplied by `left / (left + 1)` in each step, whatever norm the optimizer left it: HESSO's rule.

    Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning
    (arXiv 2409.09085). Where the gradient does nothing it is `Decay`.
    """

    def factors(self, norms: Tensor, initial: Tensor, left: Tensor, whole: Tensor) -> Tensor:  # noqa: ARG002 - the rule is relative
        """`left / (left + 1)`."""
        return (left / (left + 1)).to(norms)
