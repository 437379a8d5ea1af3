"""Measures of a model, one question a file: how often it is right, what it weighs, how long it takes, what broke."""

from secateur.measures.adversarial import Attack, adversarial_right
from secateur.measures.answers import Answers
from secateur.measures.churn import Flips, flips
from secateur.measures.classification import Accuracy, accuracy
from secateur.measures.confidence import Calibration, calibration, temperature, tempered
from secateur.measures.corruption import mean_corruption_error
from secateur.measures.cost import Size, size
from secateur.measures.coverage import Selective, selective
from secateur.measures.damage import ClassDamage, class_damage, class_damage_over
from secateur.measures.distance import function_distance
from secateur.measures.excess import excess_difference, excess_slope
from secateur.measures.exemplars import Exemplars, identified_exemplars
from secateur.measures.features import backselect, backselect_by_gradient, cross_confidence
from secateur.measures.ood import Detection, detection
from secateur.measures.potential import Potential, paired, potential_interval, prune_potential
from secateur.measures.prunability import Prunability, prunability
from secateur.measures.timing import Comparison, Latency, compare, latency

__all__ = [
    "Accuracy", "Answers", "Attack", "Calibration", "ClassDamage", "Comparison", "Detection", "Exemplars", "Flips",
    "Latency", "Potential", "Prunability", "Selective", "Size", "accuracy", "adversarial_right", "backselect",
    "backselect_by_gradient", "calibration", "class_damage", "class_damage_over", "compare", "cross_confidence",
    "detection", "excess_difference", "excess_slope", "flips", "function_distance", "identified_exemplars", "latency",
    "mean_corruption_error", "paired", "potential_interval", "prunability", "prune_potential", "selective", "size",
    "temperature", "tempered",
]  # fmt: skip
