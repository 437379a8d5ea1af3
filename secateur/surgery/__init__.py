"""From a plan to a smaller module: parameters cut, attributes repaired, the result proven, saved and loaded."""

from __future__ import annotations

from secateur.surgery.checkpoint import describe, load, save
from secateur.surgery.program import slim_program
from secateur.surgery.record import GroupCut, Proof, Record, record
from secateur.surgery.slim import prune, slim

__all__ = ["GroupCut", "Proof", "Record", "describe", "load", "prune", "record", "save", "slim", "slim_program"]
