"""What an open gate costs: the knob by which learned sparsity is steered.

A price turns a number of edges into a penalty, and says what one more would cost. An *edge* is one of what the
method's budget counts: a weight, for single weights; a multiply-accumulate, parameter or channel, for groups. Biases
and whatever else no gate can remove are not counted, neither in what stands nor in what is asked for.

    Constant      price * edges                                            Zhang, Tao & Zhang, arXiv 2311.12526
    Ramp          price * min(1, t / until) * edges
    Climb         the price of now * edges; it rises as in Ramp while more gates are open than asked for, and goes back
                  five times as fast while fewer are
    Aim           price * |edges - asked|                                  the same paper's loss, for a density above 0
    LogSchedule   strength * relu(log edges - log scheduled(t))            the schedule is a line in logarithms
    DualAscent    lambda * edges,  lambda += rate * (edges - asked) / dense, never below 0
    Projection    none: after every step the probabilities are moved down alike until no more edges than scheduled(t)
                  are expected (X. Zhou et al., Effective Sparsification of Neural Networks with Global Sparsity
                  Constraint, arXiv 2105.01571)

t is progress in [0, 1] from the first sample to the step at which gates are decided; scheduled(t) falls from all edges
to those asked for, in equal factors, and is there at `until`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from secateur.errors import InputError
from secateur.schedule import exponential


@dataclass(frozen=True)
class Standing:
    """Where a training stands: `edges` now, those `asked` for, those of the `dense` network; `progress` in [0, 1]."""

    edges: float
    asked: float
    dense: float
    progress: float


class Charge(NamedTuple):
    """What edges cost: `nats` in all, and the `rate` that one more would add."""

    nats: float
    rate: float


@dataclass
class Price:
    """A price of nothing, which the others refine.

    Where it `follows` the budget, what remains spends the budget; else open gates alone remain, at most the budget.
    """

    follows: ClassVar[bool] = True
    sees: ClassVar[Literal["nothing", "expected", "open"]] = "nothing"
    """Which edges it is shown after a step: those expected, or of gates most likely open. Counting them takes time."""

    def charge(self, standing: Standing) -> Charge | None:  # noqa: ARG002 - a projection asks for none
        """What joins the loss, if anything does."""
        return None

    def limit(self, standing: Standing) -> float | None:  # noqa: ARG002 - most prices only ask
        """The most edges that may be expected after the step, where the price does not only ask."""
        return None

    def moved(self, standing: Standing) -> None:
        """What the price makes of a step."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""


@dataclass
class Constant(Price):
    """`price` nats an edge."""

    follows: ClassVar[bool] = False
    price: float

    def __post_init__(self) -> None:
        _positive(self, "price")

    def charge(self, standing: Standing) -> Charge:
        """`price * edges`."""
        return Charge(self.price * standing.edges, self.price)


@dataclass
class Ramp(Price):
    """A price that rises in a line from 0 to `price` nats an edge, which it has at `until`."""

    follows: ClassVar[bool] = False
    price: float
    until: float = 0.8

    def __post_init__(self) -> None:
        _positive(self, "price")
        _share(self, "until")

    def charge(self, standing: Standing) -> Charge:
        """The price of now, times the edges."""
        now = self.price * min(1.0, standing.progress / self.until)
        return Charge(now * standing.edges, now)


@dataclass
class Climb(Price):
    """A ramp that halts at the budget: up by `price` nats an edge in all the time, but for the steps that go back.

    Back it goes five times as fast: gates that are on their way to close go on for a while.
    """

    follows: ClassVar[bool] = False
    sees: ClassVar[Literal["nothing", "expected", "open"]] = "open"
    price: float

    def __post_init__(self) -> None:
        _positive(self, "price")
        self.now, self.progress = 0.0, 0.0

    def charge(self, standing: Standing) -> Charge:
        """The price of now, times the edges."""
        return Charge(self.now * standing.edges, self.now)

    def moved(self, standing: Standing) -> None:
        """Go up, or back, by what passed since the step before."""
        rise = self.price * max(0.0, standing.progress - self.progress)
        self.now = max(0.0, self.now + (rise if standing.edges > standing.asked else -5 * rise))
        self.progress = standing.progress

    def state_dict(self) -> dict[str, Any]:
        """The price of now, and since when."""
        return {"now": self.now, "progress": self.progress}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.now, self.progress = float(saved["now"]), float(saved["progress"])


@dataclass
class Aim(Price):
    """`price` nats for every edge above, or below, those that the budget asks for."""

    price: float

    def __post_init__(self) -> None:
        _positive(self, "price")

    def charge(self, standing: Standing) -> Charge:
        """`price * |edges - asked|`."""
        surplus = standing.edges - standing.asked
        return Charge(self.price * abs(surplus), math.copysign(self.price, surplus))


@dataclass
class LogSchedule(Price):
    """`strength` nats for every e-fold of edges above a schedule that ends at the budget; it needs no other scale."""

    strength: float = 1.0
    until: float = 0.8

    def __post_init__(self) -> None:
        _positive(self, "strength")
        _share(self, "until")

    def charge(self, standing: Standing) -> Charge:
        """`strength * relu(log edges - log scheduled)`."""
        times = standing.edges / _scheduled(standing, self.until)
        return (
            Charge(self.strength * math.log(times), self.strength / standing.edges) if times > 1 else Charge(0.0, 0.0)
        )


@dataclass
class DualAscent(Price):
    """A price that rises while there are more edges than asked for and falls while there are fewer."""

    sees: ClassVar[Literal["nothing", "expected", "open"]] = "expected"
    rate: float

    def __post_init__(self) -> None:
        _positive(self, "rate")
        self.price = 0.0

    def charge(self, standing: Standing) -> Charge:
        """The price of now, times the edges."""
        return Charge(self.price * standing.edges, self.price)

    def moved(self, standing: Standing) -> None:
        """Let the price follow what is expected after the step."""
        surplus = (standing.edges - standing.asked) / standing.dense
        self.price = max(0.0, self.price + self.rate * surplus)

    def state_dict(self) -> dict[str, Any]:
        """The price of now."""
        return {"price": self.price}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.price = float(saved["price"])


@dataclass
class Projection(Price):
    """No price: expected edges are held at a schedule that ends at the budget."""

    sees: ClassVar[Literal["nothing", "expected", "open"]] = "expected"
    until: float = 0.8

    def __post_init__(self) -> None:
        _share(self, "until")

    def limit(self, standing: Standing) -> float:
        """The edges of the schedule."""
        return _scheduled(standing, self.until)


PRICES: dict[str, type[Price]] = {
    "constant": Constant,
    "ramp": Ramp,
    "climb": Climb,
    "aim": Aim,
    "log_schedule": LogSchedule,
    "dual_ascent": DualAscent,
    "projection": Projection,
}
"""The prices by their names in recipes."""


def parse_price(price: Price | str, owner: str) -> Price:
    """A price as it is, or from words: its name, then its numbers in order or by name, as in "ramp 3e-4 until=0.9".

    Raises `InputError`, in which `owner` is whose parameter it is.
    """
    if isinstance(price, Price) and type(price) is not Price:
        return price
    name, *numbers = price.split() if isinstance(price, str) else [""]
    try:
        pairs = [number.rpartition("=") for number in numbers]
        plain = [float(value) for key, _, value in pairs if not key]
        return PRICES[name](*plain, **{key: float(value) for key, _, value in pairs if key})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The 'price' parameter of {owner} must be a Price or its name ({', '.join(PRICES)}) and numbers, such as "
            f"'ramp 3e-4 until=0.9'. Got {price!r} instead."
        ) from error


def _scheduled(standing: Standing, until: float) -> float:
    return exponential(min(1.0, standing.progress / until), start=standing.dense, end=standing.asked)


def _positive(price: Price, name: str) -> None:
    value = getattr(price, name)
    if isinstance(value, bool) or not value > 0:
        kind = type(price).__name__
        raise InputError(f"The '{name}' parameter of {kind} must be a float above 0. Got {value!r} instead.")


def _share(price: Price, name: str) -> None:
    value = getattr(price, name)
    if isinstance(value, bool) or not 0 < value <= 1:
        kind = type(price).__name__
        raise InputError(f"The '{name}' parameter of {kind} must be a share in (0, 1]. Got {value!r} instead.")
