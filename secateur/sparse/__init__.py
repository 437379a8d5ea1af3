"""Networks of few edges: read from a model, cleaned of what reaches nothing, written in forms that need no torch."""

from secateur.sparse.cleaning import Live, compact, live
from secateur.sparse.formats import c_header, edges, load_network, python_source, save_network, to_json
from secateur.sparse.network import Layer, Network, read

__all__ = [
    "Layer",
    "Live",
    "Network",
    "c_header",
    "compact",
    "edges",
    "live",
    "load_network",
    "python_source",
    "read",
    "save_network",
    "to_json",
]
