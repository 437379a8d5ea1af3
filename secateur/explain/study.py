"""All that is told of one network on one set of samples, found once: what the page draws and a script can ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import InputError
from secateur.explain.columns import chain, read_inputs
from secateur.explain.comparison import Deletion, deletion_curve, rank_correlations
from secateur.explain.importance import importances
from secateur.explain.strongest import Ranked, ranked, strongest_part
from secateur.explain.structure import Component, components
from secateur.explain.symmetry import Pair, swap_symmetry
from secateur.sparse import Network, compact

EDGES_DRAWN, UNITS_DRAWN = 1200, 300
"""What a page draws of a network: edges in all, and units of a column."""

MEASURED = 1000
"""Samples that importances and symmetries are measured on, at most; accuracy is of all."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One input `[width]` to be looked at, with its label where there are labels."""

    inputs: Tensor
    label: int | None


@dataclass(frozen=True, eq=False)
class Study:
    """What was found of a network.

    `network` has live units alone, `drawn` is what of it a page draws; `scale` is the standard deviation of every
    column's values over the samples, in `drawn`. `names` are of the inputs in `network`, `grid` is (height, width)
    where inputs are pixels. `lost` are outputs that no input reaches. Importances are in `network`'s columns.
    """

    title: str
    network: Network
    drawn: Network
    names: tuple[str, ...]
    named: bool
    classes: tuple[str, ...]
    grid: tuple[int, int] | None
    lost: tuple[int, ...]
    samples: tuple[Sample, ...]
    measured: int
    accuracy: float | None
    scale: tuple[Tensor, ...]
    importances: dict[str, Tensor]
    correlations: Tensor
    deletions: dict[str, Deletion]
    pairs: tuple[Pair, ...]
    components: tuple[Component, ...]
    ranked: Ranked

    @property
    def whole(self) -> bool:
        """Whether every edge is drawn."""
        return self.drawn.counts["edges"] == self.network.counts["edges"]


def study(
    network: Network,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    title: str = "A sparse network",
    allow_lost: bool = False,
    edges_drawn: int = EDGES_DRAWN,
    units_drawn: int = UNITS_DRAWN,
    seed: int = 0,
) -> Study:
    """What a network tells of itself on `inputs` `[samples, ...]`, measured against `targets` where there are any.

    `names`: of all inputs; `classes`: of the outputs; `shape`: of one input, where (channels, height, width) with more
    than one pixel says that inputs are an image. Of a network with more than `edges_drawn` edges or `units_drawn`
    units in a column the strongest are drawn.

    Raises `InputError` for names that are not one an input and all different, for samples that do not fit, and for an
    output that no input reaches, unless `allow_lost`.
    """
    classes = _checked("classes", classes, len(network.units[-1])) or tuple(map(str, range(len(network.units[-1]))))
    whole = compact(network, names=classes, allow_lost=allow_lost)
    given = _checked("names", names, network.width)
    grid = (int(shape[1]), int(shape[2])) if shape is not None and len(shape) == 3 and shape[1] * shape[2] > 1 else None
    if not len(whole.units[0]):
        raise InputError("The network reads no input: all of its outputs are constant. Keep more edges.")
    _check_targets(targets, len(inputs), len(network.units[-1]))
    x = inputs[:MEASURED]
    y = None if targets is None else targets[:MEASURED].cpu()
    drawn = _drawn(whole, x, edges_drawn, units_drawn)
    found = importances(whole, x, y, seed=seed)
    followed = {} if y is None else {name: deletion_curve(whole, x, y, v) for name, v in found.items()}
    labels = None if targets is None or targets.is_floating_point() else targets.cpu()
    scale = _scales(drawn, x)
    return Study(
        title=title,
        network=whole,
        drawn=drawn,
        names=tuple(_name(i, given, grid) for i in whole.units[0].tolist()),
        named=given is not None or grid is not None,
        classes=classes,
        grid=grid,
        lost=tuple((~(whole.layers[-1].weight != 0).any(1)).nonzero().flatten().tolist()),
        samples=_samples(whole, inputs, labels) if drawn is whole else (),
        measured=len(x),
        accuracy=None if labels is None else _accuracy(whole, inputs, labels),
        scale=scale,
        importances=found,
        correlations=rank_correlations(found),
        deletions=followed,
        pairs=swap_symmetry(whole, x, seed=seed),
        components=components(whole),
        ranked=ranked(drawn, scale[0]),
    )


def _checked(which: str, names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """The names, one each and all different."""
    if names is None:
        return None
    if len(names) != count or len(set(names)) < count or not all(names):
        what = "inputs" if which == "names" else "outputs"
        raise InputError(
            f"The '{which}' parameter of study must be a different name for each of {count} {what}. Got {len(names)}, "
            f"of which {len(set(names) - {''})} differ."
        )
    return tuple(names)


def _check_targets(targets: Tensor | None, samples: int, outputs: int) -> None:
    """Raise `InputError` for targets that are not one a sample, or are labels without an output of their own."""
    if targets is None:
        return
    if len(targets) != samples:
        raise InputError(
            f"The 'targets' parameter of study must be one for each of {samples} samples. Got {len(targets)}."
        )
    if not targets.is_floating_point() and int(targets.max()) >= outputs:
        raise InputError(
            f"The 'targets' parameter of study must be labels below {outputs}, the number of outputs, or numbers. Got "
            f"the label {int(targets.max())}."
        )


def _name(index: int, names: tuple[str, ...] | None, grid: tuple[int, int] | None) -> str:
    """What an input is called, by its place among all."""
    if names is not None:
        return names[index]
    if grid is None:
        return f"input {index}"
    channel, pixel = divmod(index, grid[0] * grid[1])
    row, column = divmod(pixel, grid[1])
    return f"row {row + 1}, column {column + 1}" + (f", channel {channel + 1}" if channel else "")


def _drawn(whole: Network, x: Tensor, most_edges: int, most_units: int) -> Network:
    """What is drawn: all, or the strongest part."""
    if whole.counts["edges"] <= most_edges and max(map(len, whole.units)) <= most_units:
        return whole
    scale = read_inputs(whole, x).std(0, correction=0)
    part = strongest_part(whole, scale, edges_drawn=most_edges, units_drawn=most_units)
    return compact(part, allow_lost=True)


def _scales(network: Network, x: Tensor) -> tuple[Tensor, ...]:
    """The standard deviation of every unit's value over the samples, by column."""
    now = read_inputs(network, x)
    found = [now.std(0, correction=0)]
    for layer in network.layers:
        now = layer(now)
        found.append(now.std(0, correction=0))
    return tuple(found)


def _accuracy(network: Network, inputs: Tensor, labels: Tensor) -> float:
    return float((chain(network, read_inputs(network, inputs)).argmax(1) == labels).double().mean())


def _samples(network: Network, inputs: Tensor, labels: Tensor | None, most: int = 12) -> tuple[Sample, ...]:
    """Samples worth a look: the first of every class in turn that is told right, then the first that are not."""
    if labels is None:
        return tuple(Sample(one.flatten(), None) for one in inputs[:most])
    right = chain(network, read_inputs(network, inputs)).argmax(1) == labels
    wrong = (~right).nonzero().flatten().tolist()[:2]
    of_class = [(right & (labels == k)).nonzero().flatten().tolist() for k in range(len(network.units[-1]))]
    rounds = max(1, (most - len(wrong)) // len(of_class))
    chosen = [own[i] for i in range(rounds) for own in of_class if i < len(own)][: most - len(wrong)]
    return tuple(Sample(inputs[i].flatten(), int(labels[i])) for i in [*chosen, *wrong])
