"""Breast cancer by some thirty edges: which measurements are read, by which paths, and which are interchangeable.

    python examples/breast_cancer.py --page breast_cancer.html
    python examples/breast_cancer.py --seeds 0 1 2 3 4 --keep results/explain/breast_cancer.json

A network 30-16-8-2 learns its weights and its edges together under Gumbel gates, what is left of it is read, and the
page draws the first seed's. The data, 569 tumours with 30 measurements each, ship with scikit-learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam

import secateur
from secateur.data import Data, load
from secateur.explain import Study, study, write
from secateur.explain.page import ways
from secateur.files import atomic_write
from secateur.methods import Gumbel
from secateur.report.gather import versions
from secateur.sparse import Network, read


def trained(data: Data, *, edges: int = 30, epochs: int = 300, seed: int = 0) -> Network:
    """A network of at most so many edges, learned on the training part."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, data.classes)
    )
    biases = 16 + 8 + data.classes  # a budget counts them, and no gate can remove them
    method = Gumbel(groups=secateur.elements(net), budget=f"{edges + biases} weights")
    history = secateur.fit(
        net,
        data,
        epochs=epochs,
        optimizer=partial(Adam, lr=0.004),
        methods=[method],
        seed=seed,
        validate=False,
        progress=False,
    )
    return read(history.model, torch.zeros(1, *data.shape))


def explained(data: Data, network: Network) -> Study:
    """What the network tells of itself on the test part."""
    inputs, targets = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    return study(
        network, inputs, targets, names=data.feature_names, classes=data.class_names, title="Breast cancer, read"
    )


def told(found: Study, seed: int) -> dict[str, Any]:
    """A study in plain values."""
    importance = found.importances["path product × scale"]
    shares = (importance / importance.sum()).tolist()
    names = list(found.importances)
    return {
        "seed": seed,
        "counts": found.network.counts,
        "paths": found.ranked.paths,
        "accuracy": found.accuracy,
        "samples": found.measured,
        "components": len(found.components),
        "importance": dict(zip(found.names, shares, strict=True)),
        "agreement": float(found.correlations[0, names.index("permutation")]),
        "ways": [{"through": names, "share": share, "sign": sign} for names, share, sign in ways(found)],
        "pairs": [
            {
                "inputs": [found.names[pair.first], found.names[pair.second]],
                "cosine": pair.cosine,
                "swapped": pair.swapped,
                "negated": pair.negated,
            }
            for pair in found.pairs[:8]
        ],
    }


def main(seeds: Sequence[int] = (0,), epochs: int = 300, edges: int = 30, page: Path | None = None) -> dict[str, Any]:
    """What was found under each seed; the first one's page is written to `page`."""
    rows = []
    for seed in seeds:
        data = load("breast_cancer", batch_size=65, validation=0, seed=seed)
        found = explained(data, trained(data, edges=edges, epochs=epochs, seed=seed))
        rows.append(told(found, seed))
        if page is not None and seed == seeds[0]:
            write(found, page)
    return {"asked": edges, "epochs": epochs, "runs": rows, "versions": versions()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--edges", type=int, default=30)
    parser.add_argument("--page", type=Path, help="where the page of the first seed goes")
    parser.add_argument("--keep", type=Path, help="where the numbers go, as JSON")
    given = parser.parse_args()
    result = main(given.seeds, given.epochs, given.edges, given.page)
    for row in result["runs"]:
        first = sorted(row["importance"].items(), key=lambda one: -one[1])[:5]
        print(
            f"seed {row['seed']}: {row['counts']['edges']} edges, {100 * row['accuracy']:.1f} % of the test samples; "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in first)
        )
    if given.keep is not None:
        with atomic_write(given.keep) as partial_file:
            partial_file.write_text(json.dumps(result, indent=1) + "\n")
