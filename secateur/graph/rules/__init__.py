"""What each operator says about dimensions, one small function for a family of ATen operators.

`base` has what rules are made of; the other files hold the rules themselves and register them when they are imported.
"""

from __future__ import annotations

from secateur.graph.rules import arithmetic, layout, lookup
from secateur.graph.rules.base import RULES, Rule, Terms, apply, rule

__all__ = ["RULES", "Rule", "Terms", "apply", "arithmetic", "layout", "lookup", "rule"]
