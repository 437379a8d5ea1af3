"""From scores and a budget to the units that stay."""

from __future__ import annotations

from secateur.planning.allocation import Choice
from secateur.planning.budget import Budget
from secateur.planning.planner import plan
from secateur.planning.plans import Plan, Row

__all__ = ["Budget", "Choice", "Plan", "Row", "plan"]
