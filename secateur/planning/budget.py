"""Budgets: what must remain of a model, read from text like "50% macs", "2x macs", "1.2M params" or "30% channels"."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from secateur.errors import BudgetError

Form = Literal["share", "factor", "absolute"]
Unit = Literal["macs", "params", "channels", "weights"]

UNITS: dict[str, Unit] = {
    "macs": "macs",
    "mac": "macs",
    "params": "params",
    "param": "params",
    "parameters": "params",
    "channels": "channels",
    "channel": "channels",
    "units": "channels",
    "weights": "weights",
    "weight": "weights",
}
MULTIPLIERS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
EXAMPLES = "'50% macs', '2x macs', '300M macs', '1.2M params', '30% channels' or '10% weights'"
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What must remain: a share of the dense model in percent, the dense model divided by a factor, or a number.

    `unit`: `"macs"` and `"params"` are those of `Cost`; `"channels"` counts the units of all groups; `"weights"`
    counts the parameters that are not masked to zero, which for channels are all parameters.
    """

    amount: float
    form: Form
    unit: Unit

    @staticmethod
    def parse(text: str | Budget) -> Budget:
        """The budget that a text such as "50% macs" asks for; a `Budget` is returned as it is.

        Raises `BudgetError` for text without a number or a known unit, for zero, negative and NaN amounts, for shares
        above 100 % and factors below 1.

        >>> Budget.parse("2x macs")
        Budget(amount=2.0, form='factor', unit='macs')
        """
        if isinstance(text, Budget):
            return text
        match = NUMBER.match(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise _unreadable(text, _with_unit(text))
        mark, unit = _mark_and_unit(text, match[0], text.strip()[match.end() :].strip())
        if mark == "%":
            return _share(text, float(match[0]), unit)
        if mark == "x":
            return _factor(text, float(match[0]), unit)
        return _absolute(text, float(match[0]) * MULTIPLIERS[mark], unit)

    def target(self, dense: float) -> float:
        """The number asked for, given the dense model's number. Raises `BudgetError` if it is above the dense one."""
        if self.form == "share":
            return dense * self.amount / 100
        if self.form == "factor":
            return dense / self.amount
        if self.amount > dense:
            raise BudgetError(
                f"The budget '{self}' is above the {pretty(dense)} {self.unit} of the dense model, so nothing would be "
                f"removed. A budget says what remains."
            )
        return self.amount

    def __str__(self) -> str:
        if self.form == "share":
            return f"{_plain(self.amount)}% {self.unit}"
        if self.form == "factor":
            return f"{_plain(self.amount)}x {self.unit}"
        for suffix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            short = f"{self.amount / scale:.6g}"
            if self.amount >= scale and "e" not in short and float(short) * scale == self.amount:
                return f"{short}{suffix} {self.unit}"
        return f"{_plain(self.amount)} {self.unit}"


def pretty(number: float) -> str:
    """A number to three or four digits with a metric suffix: 62.7M, 1.2k, 96."""
    for suffix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.4g}{suffix}"
    return f"{number:.4g}"


def _plain(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _mark_and_unit(text: str, number: str, rest: str) -> tuple[str, Unit]:
    """What follows the number: `%`, `x` or a multiplier, and the unit, with or without a space or "of" between them."""
    for word in sorted(UNITS, key=len, reverse=True):
        mark = rest.lower().removesuffix(word).strip()
        mark = mark.removesuffix("of").strip()
        if rest.lower().endswith(word) and (mark in ("%", "x") or mark in MULTIPLIERS):
            return mark, UNITS[word]
    mark, _, word = (
        rest.rpartition(" ") if " " in rest else (rest[:1], "", rest[1:]) if rest[:1] in "%x" else ("", "", rest)
    )
    if not word:
        raise _unreadable(text, _with_unit(text))
    if word.lower() in ("flops", "flop"):
        amount = number if mark in ("%", "x") else f"{float(number) / 2:g}"
        raise _unreadable(text, f" One multiply-accumulate is two FLOPs: say '{amount}{mark} macs'.")
    if word.lower() in UNITS:
        raise _unreadable(text, f" {mark!r} is no multiplier; use k, M or G.")
    close = difflib.get_close_matches(word.lower(), UNITS, n=1, cutoff=0.6)
    raise _unreadable(text, f" Did you mean '{number}{mark} {UNITS[close[0]]}'?" if close else "")


def _with_unit(given: object) -> str:
    try:
        number = float(str(given).strip().rstrip("%xX"))
    except ValueError:
        return ""
    if isinstance(given, str) and given.strip()[-1:] in ("%", "x", "X"):
        return f" It does not say of what: did you mean '{given.strip()} macs'?"
    return f" It has no unit: did you mean '{_plain(100 * number)}% macs'?" if 0 < number < 1 else " It has no unit."


def _share(text: str, number: float, unit: Unit) -> Budget:
    if not 0 < number <= 100:
        hint = " A budget says what remains, not what is removed." if number < 0 or number > 100 else ""
        raise BudgetError(
            f"The budget {text!r} must be a share above 0 % and at most 100 %. Got {number:g} % instead.{hint}"
        )
    return Budget(number, "share", unit)


def _factor(text: str, number: float, unit: Unit) -> Budget:
    if not 1 <= number < math.inf:
        hint = f" Did you mean '{_plain(1 / number)}x {unit}'?" if 0 < number < 1 else ""
        raise BudgetError(
            f"The budget {text!r} must be a factor of at least 1: '2x {unit}' leaves half of the dense model's. "
            f"Got {number:g} instead.{hint}"
        )
    return Budget(number, "factor", unit)


def _absolute(text: str, number: float, unit: Unit) -> Budget:
    if not 1 <= number < math.inf:
        hint = f" Did you mean '{_plain(100 * number)}% {unit}'?" if 0 < number < 1 else ""
        raise BudgetError(f"The budget {text!r} must be a number of at least 1. Got {number:g} instead.{hint}")
    return Budget(number, "absolute", unit)


def _unreadable(given: object, hint: str) -> BudgetError:
    return BudgetError(f"The 'budget' parameter must read like {EXAMPLES}. Got {given!r} instead.{hint}")
