"""Secateur makes a trained PyTorch network smaller and faster, and proves what it cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.version import __version__

if TYPE_CHECKING:
    from secateur import methods, removal
    from secateur.criteria import magnitude, norm_scale, random, taylor
    from secateur.errors import SecateurError
    from secateur.graph.discovery import groups
    from secateur.graph.elements import blocks, elements
    from secateur.graph.units import Group, Groups
    from secateur.masks import Masks, masked
    from secateur.optim import StochGradAdam, StochGradAdamW, sample_gradients
    from secateur.planning import Budget, Plan, plan
    from secateur.surgery import load, prune, record, save, slim, slim_program
    from secateur.training import fit, reestimate_batch_norm

_HOMES = {
    "secateur.criteria": ("magnitude", "norm_scale", "random", "taylor"),
    "secateur.errors": ("SecateurError",),
    "secateur.graph.discovery": ("groups",),
    "secateur.graph.elements": ("blocks", "elements"),
    "secateur.graph.units": ("Group", "Groups"),
    "secateur.masks": ("Masks", "masked"),
    "secateur.optim": ("StochGradAdam", "StochGradAdamW", "sample_gradients"),
    "secateur.planning": ("Budget", "Plan", "plan"),
    "secateur.surgery": ("load", "prune", "record", "save", "slim", "slim_program"),
    "secateur.training": ("fit", "reestimate_batch_norm"),
}
_MODULES = ("methods", "removal")
"""Whole families that are reached by their module's name: `secateur.methods.HESSO`."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Budget", "Group", "Groups", "Masks", "Plan", "SecateurError", "StochGradAdam", "StochGradAdamW", "__version__",
    "blocks", "elements", "fit", "groups", "load", "magnitude", "masked", "methods", "norm_scale", "plan", "prune",
    "random", "record", "reestimate_batch_norm", "removal", "sample_gradients", "save", "slim", "slim_program",
    "taylor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `secateur --help` does not wait for torch."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return import_module(f"secateur.{name}")
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
