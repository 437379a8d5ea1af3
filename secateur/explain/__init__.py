"""What a sparse network tells of itself: which inputs matter, which are alike, which paths lead where."""

from secateur.explain.comparison import Deletion, deletion_curve, rank_correlations
from secateur.explain.contributions import Contributions, contributions
from secateur.explain.importance import degree, gradient_input, importances, path_product, permutation
from secateur.explain.ordering import crossings, untangled
from secateur.explain.page import render, write
from secateur.explain.strongest import Way, strongest_paths
from secateur.explain.structure import Component, components, reachability, subgraph
from secateur.explain.study import Study, study
from secateur.explain.symmetry import Pair, map_symmetry, swap_symmetry, weight_symmetry

__all__ = [
    "Component",
    "Contributions",
    "Deletion",
    "Pair",
    "Study",
    "Way",
    "components",
    "contributions",
    "crossings",
    "degree",
    "deletion_curve",
    "gradient_input",
    "importances",
    "map_symmetry",
    "path_product",
    "permutation",
    "rank_correlations",
    "reachability",
    "render",
    "strongest_paths",
    "study",
    "subgraph",
    "swap_symmetry",
    "untangled",
    "weight_symmetry",
    "write",
]
