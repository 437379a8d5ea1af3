"""Recipes: everything a run can be told, read from YAML and checked.

>>> recipe = Recipe.load("recipe.yaml")
>>> recipe.training.epochs
60
"""

from __future__ import annotations

from secateur.recipe.choices import CRITERIA, METHODS, OPTIMIZERS, SET_BY_RUN
from secateur.recipe.parts import default
from secateur.recipe.pruning import MethodPart, PruningPart
from secateur.recipe.schema import Recipe
from secateur.recipe.text import Written, changed
from secateur.recipe.trainings import FineTuningPart, TrainingPart

__all__ = [
    "CRITERIA", "METHODS", "OPTIMIZERS", "SET_BY_RUN", "FineTuningPart", "MethodPart", "PruningPart", "Recipe",
    "TrainingPart", "Written", "changed", "default",
]  # fmt: skip
