"""Measures of a model, one question a file: how often it is right, what it weighs, how long it takes."""

from secateur.measures.classification import Accuracy, accuracy
from secateur.measures.cost import Size, size
from secateur.measures.prunability import Prunability, prunability
from secateur.measures.timing import Comparison, Latency, compare, latency

__all__ = [
    "Accuracy",
    "Comparison",
    "Latency",
    "Prunability",
    "Size",
    "accuracy",
    "compare",
    "latency",
    "prunability",
    "size",
]
