"""One-shot pruning after training with every optimizer: tables over sparsity and their plots, a network each.

`NETWORK_NAME.yaml` trains a network under one budget; `NETWORK_given*.yaml` start from given weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.report.record import RunRecord
from secateur.report.seeds import Spread, spread
from tabled.common import ACCURACIES, Records, epochs, gathered, table
from tabled.panels import Curve, Panel, drawn

QUESTION = "gradient_sampling/"
NETWORKS = ("lenet5", "recurrent", "transformer", "resnet20", "resnet56", "resnet110", "resnet152")
ARMS = {
    "adam": "Adam, as published",
    "stochgradadam": "StochGradAdam, as published",
    "adam_tuned": "Adam, tuned",
    "stochgradadam_tuned": "StochGradAdam, tuned",
    "adamw": "AdamW, tuned",
    "stochgradadamw": "StochGradAdamW, tuned",
    "update_masking": "AdamW, updates masked",
    "sgd": "SGD",
    "given": "given SGD weights",
    "given_sgd": "given, then SGD",
    "given_cram": "given, then CrAM+",
    "given_p_norm": "given, then 1-norm decay",
}
"""How recipes are called in tables, in their order."""

GIVEN = "given"
RATE = "training.options.sampling_rate"
"""The key whose changes have a table of their own."""

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
PUBLISHED = {
    ("resnet56", "adam"): (80.28, 33.12),
    ("resnet56", "stochgradadam"): (83.95, 62.84),
    ("resnet110", "adam"): (82.70, 44.85),
    ("resnet110", "stochgradadam"): (85.64, 76.67),
    ("resnet152", "adam"): (81.61, 54.67),
    ("resnet152", "stochgradadam"): (82.02, 76.23),
}
"""Test accuracy of arXiv 2312.16020, per cent: dense, and with half of the weights at zero, batch norm as it was."""

NOT_MEASURED = "Not measured yet: `python experiments/run.py experiments/gradient_sampling/NAME.yaml` keeps a result."


@dataclass(frozen=True)
class Family:
    """What was trained from one start under one budget: the records of every arm, one a seed."""

    network: str
    changes: str
    given: bool
    arms: dict[str, list[RunRecord]]

    @property
    def title(self) -> str:
        """The network, its data and its budget, in words."""
        first = next(iter(self.arms.values()))[0]
        longest = max(epochs(records[0]) for records in self.arms.values())
        start = f"given weights, at most {longest} epochs more" if self.given else f"{longest} epochs from scratch"
        return f"{self.network} on {first.data}, {start}{f' ({self.changes})' if self.changes else ''}"


def families(found: Records) -> list[Family]:
    """What was measured, in the order of networks; `found` are records by the title of their experiment."""
    made: dict[tuple[str, str, bool], dict[str, list[RunRecord]]] = {}
    for title, records in found.items():
        stem, _, changes = title.removeprefix(QUESTION).partition("-")
        network, _, arm = stem.partition("_")
        measured = [record for record in records if record.prunability is not None]
        known = arm in ARMS and network in NETWORKS and RATE not in changes
        if title.startswith(QUESTION) and known and measured:
            made.setdefault((network, changes, arm.startswith(GIVEN)), {})[arm] = measured
    order = list(ARMS)
    return [
        Family(*key, {arm: arms[arm] for arm in sorted(arms, key=order.index)})
        for key, arms in sorted(made.items(), key=lambda item: (NETWORKS.index(item[0][0]), item[0][2], item[0][1]))
    ]


def accuracies(
    records: Sequence[RunRecord], sparsity: float, *, again: bool = False, scope: str = "global"
) -> dict[int, float]:
    """Seed -> test accuracy at one sparsity; at 0 that of the dense model."""
    found = {}
    for record in records:
        assert record.prunability is not None, "families holds no others"
        point = record.prunability.at(sparsity, scope=scope, reestimated=again)
        value = record.prunability.accuracy if sparsity == 0 else point.accuracy if point is not None else None
        if value is not None:
            found[record.seeds[0]] = value
    return found


def _mean(records: Sequence[RunRecord], sparsity: float, *, again: bool, scope: str) -> Spread | None:
    return spread(list(accuracies(records, sparsity, again=again, scope=scope).values()))


def measured(found: Records | None = None) -> str:
    """A table a network and threshold: a row an optimizer, and one more where batch norm can be estimated anew."""
    parts = []
    for family in families(gathered() if found is None else found):
        parts += [f"**{family.title}**", _table(family, "global"), _table(family, "layer")]
    told = (
        f"{ACCURACIES} “+ batch norm”: its statistics estimated anew on training images. “Smaller half”: the share of "
        "the squared norm that it holds; “size”: the mean of |w|."
    )
    return "\n\n".join([*parts, told]) if parts else NOT_MEASURED


def _table(family: Family, scope: str) -> str:
    threshold = "one threshold" if scope == "global" else "each layer the same share"
    heads = [f"{100 * sparsity:.0f} %" for sparsity in SPARSITIES]
    lines = []
    for arm, records in family.arms.items():
        rows = [record.prunability for record in records if record.prunability is not None]
        shape = [spread([getattr(row.weights, name) for row in rows]) for name in ("e50", "mean_size")]
        shapes = [f"{value.mean:.3g}" if value else "" for value in shape]
        lines.append([ARMS[arm], str(len(records)), *_cells(records, scope, again=False), *shapes])
        published = PUBLISHED.get((family.network, arm))
        if published and scope == "global":
            lines.append([f"{ARMS[arm]}: in the paper", "", *_published(*published), "", ""])
        again = _cells(records, scope, again=True)
        if any(again[1:]):
            lines.append([f"{ARMS[arm]}, + batch norm", "", "", *again[1:], "", ""])
    return table([threshold, "seeds", "dense", *heads, "smaller half", "size"], lines)


def _cells(records: Sequence[RunRecord], scope: str, *, again: bool) -> list[str]:
    means = [_mean(records, sparsity, again=again, scope=scope) for sparsity in (0, *SPARSITIES)]
    return [mean.words() if mean else "" for mean in means]


def _published(dense: float, half: float) -> list[str]:
    return [f"{dense:.2f}", *(f"{half:.2f}" if sparsity == 0.5 else "" for sparsity in SPARSITIES)]


def plots(found: Records | None = None) -> dict[str, str]:
    """SVG files by their names, one a network that was measured."""
    known = families(gathered() if found is None else found)
    made = {network: plot(network, known) for network in NETWORKS}
    return {f"gradient_sampling-{network}.svg": text for network, text in made.items() if text is not None}


def plot(network: str, known: Sequence[Family]) -> str | None:
    """Accuracy over sparsity under one threshold, without and with batch norm; None for a network not yet measured.

    Where several budgets were measured it is the longest, and given weights stand beside it.
    """
    of_network = [family for family in known if family.network == network]
    own = [max(some, key=_budget) for given in (False, True) if (some := [f for f in of_network if f.given == given])]
    arms = {arm: records for family in own for arm, records in family.arms.items()}
    panels = []
    for title, again in (("as it was", False), ("batch norm estimated anew", True)):
        curves = [
            Curve(ARMS[arm], points, dashed=arm.startswith(GIVEN))
            for arm, records in arms.items()
            if (points := _points(records, again=again))
        ]
        panels += [Panel(f"{network}, {title}", tuple(curves))] if curves else []
    if not panels:
        return None
    return drawn(panels, title=TOLD.format(network), across="weights set to zero, %", upwards="test accuracy, %")


def _budget(family: Family) -> int:
    return max(epochs(records[0]) for records in family.arms.values())


def _points(records: Sequence[RunRecord], *, again: bool) -> tuple[tuple[float, float, float], ...]:
    """(sparsity, mean, deviation) from the dense model on; nothing where no sparsity was measured this way."""
    found = [(s, _mean(records, s, again=again, scope="global")) for s in (0.0, *SPARSITIES)]
    points = tuple((s, mean.mean, mean.deviation or 0.0) for s, mean in found if mean is not None)
    return points if len(points) > 1 else ()


def shown(found: Records | None = None) -> str:
    """The plots as Markdown, for pages in docs/methods."""
    known = {family.network for family in families(gathered() if found is None else found)}
    lines = [f"![{TOLD.format(n)}](../images/gradient_sampling-{n}.svg)" for n in NETWORKS if n in known]
    return "\n\n".join(lines) or NOT_MEASURED


TOLD = "Accuracy of {} after one-shot pruning, over sparsity"
TABLES = {"gradient sampling": measured, "gradient sampling curves": shown}
