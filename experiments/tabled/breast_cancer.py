"""The worked example of `secateur.explain`: what small networks read of the breast cancer data."""

from __future__ import annotations

import json
from typing import Any

from secateur.report.seeds import spread
from tabled.common import RESULTS, table


def result() -> dict[str, Any]:
    """What `examples/breast_cancer.py` found."""
    found: dict[str, Any] = json.loads((RESULTS / "explain" / "breast_cancer.json").read_text())
    return found


def read_networks() -> str:
    """One row a seed of the worked example."""
    found = result()
    lines = []
    for row in found["runs"]:
        counts = row["counts"]
        lines.append([
            str(row["seed"]), str(counts["edges"]), str(counts["biases"]), str(len(row["importance"])),
            str(row["paths"]), f"{100 * row['accuracy']:.1f} %", f"{row['agreement']:.2f}",
        ])  # fmt: skip
    mean = spread([row["accuracy"] for row in found["runs"]])
    told = f"Test accuracy {mean.words()} on {found['runs'][0]['samples']} samples. " if mean else ""
    head = ["seed", "edges", "biases", "features read", "paths", "test accuracy", "agreement"]
    return (
        f"{table(head, lines)}\n\n{told}At most {found['asked']} edges were asked for, {found['epochs']} epochs; "
        "“agreement”: rank correlation of path products with permutation. "
        "`python examples/breast_cancer.py --seeds 0 1 2 3 4 --keep results/explain/breast_cancer.json`."
    )


def read_features(most: int = 12) -> str:
    """The features that most of the importance goes to, over the seeds."""
    runs = result()["runs"]
    names = {name for row in runs for name in row["importance"]}
    shares = {name: [row["importance"].get(name, 0.0) for row in runs] for name in names}
    order = sorted(names, key=lambda name: (-sum(shares[name]), name))[:most]
    lines = []
    for name in order:
        own = shares[name]
        read = sum(share > 0 for share in own)
        parts = [f"{100 * value:.0f} %" for value in (sum(own) / len(own), min(own), max(own))]
        lines.append([name, f"{read} of {len(own)}", *parts])
    return table(["feature", "networks that read it", "mean share", "least", "largest"], lines)


def read_paths() -> str:
    """The strongest paths of the first seed's network."""
    lines = [
        [" → ".join(row["through"]), "for" if row["sign"] > 0 else "against", f"{100 * row['share']:.1f} %"]
        for row in result()["runs"][0]["ways"]
    ]
    return table(["path", "speaks", "share of all strength"], lines)


def read_pairs() -> str:
    """The most alike inputs of the first seed's network."""
    lines = []
    for pair in result()["runs"][0]["pairs"]:
        values = [f"{pair['cosine']:+.2f}", f"{pair['swapped']:.2f}", f"{pair['negated']:.2f}"]
        lines.append([" and ".join(pair["inputs"]), *values])
    return table(["features", "cosine", "swapped", "swapped, negated"], lines) + (
        "\n\n“swapped”: how much the outputs change when the two change places, beside two features at random; "
        "near 0 they are interchangeable. “negated”: the same with both signs turned."
    )


TABLES = {
    "breast cancer networks": read_networks,
    "breast cancer features": read_features,
    "breast cancer paths": read_paths,
    "breast cancer pairs": read_pairs,
}
