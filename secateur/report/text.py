"""Numbers as a person reads them: counts, bytes, times, shares and ratios."""

from __future__ import annotations

import math

MISSING = "–"
"""What stands where nothing was measured."""

_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SPACE = "\N{NO-BREAK SPACE}"


def count(value: float | None) -> str:
    """Three to four digits and a decimal prefix: `125_490_000` -> "125.5 M"."""
    if value is None:
        return MISSING
    for size, prefix in _DECIMAL:
        if abs(value) >= size * 0.99995:
            scaled = value / size
            return f"{scaled:.{2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 999.5 else 0}f}{_SPACE}{prefix}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def tick(value: float) -> str:
    """A count on an axis, without zeros that say nothing: `50_000_000` -> "50 M"."""
    for size, prefix in _DECIMAL:
        if abs(value) >= size:
            return f"{value / size:g}{_SPACE}{prefix}"
    return f"{value:g}"


def error(value: float) -> str:
    """A relative difference or a tolerance: `1e-09` -> "1e-9", `2.1e-15` -> "2.1e-15", `0.0` -> "0"."""
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}" if power else mantissa


def size(value: int | None) -> str:
    """Bytes with a decimal prefix: `3_424_000` -> "3.42 MB"."""
    if value is None:
        return MISSING
    return f"{count(value)}B" if abs(value) >= 999.95 else f"{value}{_SPACE}B"


def share(value: float | None, digits: int = 2) -> str:
    """A share in [0, 1] as a percentage: `0.9339` -> "93.39 %"."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}{_SPACE}%"


def points(change: float | None) -> str:
    """A difference of two shares in percentage points, always with a sign: `-0.0068` -> "−0.68 points"."""
    if change is None or math.isnan(change):
        return MISSING
    rounded = round(100 * change, 2)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.2f} points"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with so many digits: `0.28394` -> "0.284"; what is not finite is spelt out."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    """A latency: `4.8213` -> "4.82 ms"; below a tenth of a millisecond in microseconds."""
    if value is None:
        return MISSING
    if value < 0.1:
        return f"{value * 1000:.3g}{_SPACE}µs"
    return f"{value:.3g}{_SPACE}ms" if value < 1000 else f"{value / 1000:.3g}{_SPACE}s"


def duration(value: float | None) -> str:
    """A time a person waits: `3.21` -> "3.2 s", `754` -> "12 min 34 s", `7300` -> "2 h 2 min"."""
    if value is None:
        return MISSING
    if value < 59.95:
        return f"{value:.1f}{_SPACE}s" if value >= 0.1 else f"{value * 1000:.0f}{_SPACE}ms"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {seconds}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def ratio(value: float | None) -> str:
    """How many times less: `2.013` -> "2.01×"."""
    if value is None:
        return MISSING
    return f"{value:.{2 if value < 9.995 else 1}f}×"


def change(value: float | None, less: str, more: str) -> str:
    """A ratio dense / slim in words: `(2.01, "smaller", "larger")` -> "2.01× smaller"."""
    if value is None or value <= 0:
        return MISSING
    if abs(value - 1) < 0.005:
        return "unchanged"
    return f"{ratio(value)} {less}" if value > 1 else f"{ratio(1 / value)} {more}"
