"""How units leave a network: at once, or over many steps with a way back."""

from __future__ import annotations

from secateur.removal.adaptive import Adaptive
from secateur.removal.decay import Decay, Fading, Multiplicative
from secateur.removal.entries import Entries
from secateur.removal.policy import Departure, Immediate, Removal, unit_marks
from secateur.removal.rectify import Rectify

__all__ = [
    "Adaptive",
    "Decay",
    "Departure",
    "Entries",
    "Fading",
    "Immediate",
    "Multiplicative",
    "Rectify",
    "Removal",
    "unit_marks",
]
