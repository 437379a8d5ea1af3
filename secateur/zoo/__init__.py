"""Models by name: the networks of pruning papers, torchvision, timm, the user's own files; and weights for them."""

from secateur.zoo.networks import model, names
from secateur.zoo.sources import Source, resolve
from secateur.zoo.weights import load_weights

__all__ = ["Source", "load_weights", "model", "names", "resolve"]
