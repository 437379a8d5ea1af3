"""Random networks from seeds: drawn, cut at random and held against the laws; what fails is made small, then told.

>>> check(drawn(17))  # the network of seed 17
>>> smallest(drawn(17))  # the fewest of its steps that still fail
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from laws.reference import difference, exact, masked_outputs, outputs, outputs_of, permuted, random_plan, redraw
from laws.steps import STEPS, Step
from laws.token_steps import LENGTH
from torch import Tensor, nn

import secateur

LAYOUTS = ("volume", "image", "line", "tokens")
FOLLOWS = {"volume": LAYOUTS, "image": LAYOUTS[1:], "line": LAYOUTS[1:], "tokens": LAYOUTS[1:]}
HEADS = ("flatten", "mean", "largest", "first", "two", "tied")
WIDEST = 40  # channels
SLOW = ("Encoder", "Multihead", "Recurrent", "Rotary")  # many operators or trial cuts each: drawn more seldom


@dataclass(frozen=True)
class Spec:
    """A network, its random numbers and how much of it stays. `steps`: the name of each and what it is drawn from."""

    start: str
    steps: tuple[tuple[str, int], ...]
    head: str
    seed: int = 0
    share: float = 0.5


def drawn(seed: int) -> Spec:
    """The network of a seed."""
    draw = Random(seed)
    names = draw.choices(sorted(STEPS), [1 if n in SLOW else 4 for n in sorted(STEPS)], k=draw.randint(1, 5))
    steps = tuple((name, draw.randrange(100)) for name in names)
    start = draw.choice(LAYOUTS)
    return Spec(start, steps, draw.choice(HEADS), seed, draw.choice((0.1, 0.3, 0.5, 0.75)))


class Network(nn.Module):
    """A start, the steps that fit one after the other, and a head; what fits is listed in `told`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        starts = {
            "volume": lambda: nn.Conv3d(3, 12, 1),
            "image": lambda: nn.Conv2d(3, 16, 1),
            "line": lambda: nn.Conv1d(3, 12, 3, padding=1),
            "tokens": lambda: nn.Embedding(11, 16),
        }
        self.stem = starts[spec.start]()
        width, layout = 16 if spec.start in ("image", "tokens") else 12, spec.start
        self.told, self.ways = [f"{spec.start} {width}"], []
        built: list[Step] = []
        for name, number in spec.steps:
            kind = STEPS[name]
            if kind.layout not in FOLLOWS[layout] or width % kind.divisor or not 4 <= width <= WIDEST:
                continue
            built.append(kind(width, Random(number)))
            self.ways.append((layout, kind.layout))
            self.told.append(f"{name}({number}) {width} -> {built[-1].out}")
            width, layout = built[-1].out, kind.layout
        self.steps, self.last = nn.ModuleList(built), layout
        tied = spec.head == "tied" and spec.start == "tokens" and width == 16
        self.head_kind = "tied" if tied else "mean" if spec.head == "tied" else spec.head
        places = LENGTH * (2 if layout == "volume" else 1) if self.head_kind == "flatten" else 1
        if not tied:
            self.hidden, self.head = nn.Linear(width * places, 9), nn.Linear(9, 5)

    @property
    def counted(self) -> bool:
        """Whether a step counts its channels, which the reference of the tests does not follow."""
        return any(step.counted for step in self.steps if isinstance(step, Step))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        for (given, wanted), step in zip(self.ways, self.steps, strict=True):
            x = step(laid(x, given, wanted))
        kind = self.head_kind
        if kind == "tied":
            return F.linear(laid(x, self.last, "tokens"), self.stem.weight)
        if kind == "flatten":
            return self.head(F.relu(self.hidden(x.flatten(1))))
        x = laid(x, self.last, "tokens")
        y = x.amax(1) if kind == "largest" else x[:, 0] if kind == "first" else x.mean(1)
        y = F.relu(self.hidden(y))
        return (self.head(y), self.head(y).softmax(-1)) if kind == "two" else self.head(y)


def laid(x: Tensor, given: str, wanted: str) -> Tensor:
    """A tensor of one layout in another."""
    if given == wanted:
        return x
    if given == "volume":
        x, given = x.mean(2), "image"
    elif given == "tokens":
        x, given = x.transpose(1, 2), "line"
    if given == "image" and wanted != "image":
        x, given = x.flatten(2), "line"
    elif given == "line" and wanted == "image":
        x, given = x.unflatten(2, (4, 2)), "image"
    return x.transpose(1, 2) if wanted == "tokens" else x


def example(spec: Spec) -> Tensor:
    """What a network of the spec is called with."""
    shapes = {"volume": (2, 3, 2, 4, 2), "image": (2, 3, 4, 2), "line": (2, 3, 8), "tokens": (2, 8)}
    shape = shapes[spec.start]
    return torch.randint(0, 11, shape) if spec.start == "tokens" else torch.randn(shape)


@dataclass(frozen=True)
class Outcome:
    """How many groups were found, and what was taken out of them by the proof alone, with its reason."""

    groups: int
    refused: tuple[str, ...] = ()


def check(spec: Spec, tell: Callable[[str], object] = lambda text: None) -> Outcome:
    """A random plan of a random network gives the masked network or a refusal in words, never another function."""
    torch.manual_seed(spec.seed)
    model = redraw(Network(spec), spec.seed)
    assert isinstance(model, Network)
    tell("; ".join(model.told))
    groups = secateur.groups(model, example(spec))
    count = len(groups)
    tell("groups: " + ", ".join(f"{g.name} {g.units} {g.proof}" for g in groups))
    assert count > 0 or model.head_kind == "tied", "nothing can be pruned"
    assert not groups.unknown, f"no rule for {groups.unknown}"
    assert all(frozen.reason for frozen in groups.frozen)
    assert difference(outputs_of(permuted(groups, spec.seed), groups.inputs), whole(model, groups)) < 1e-9
    only = exact if model.counted and spec.seed % 2 else None  # else the package's own proof must do
    plan = random_plan(groups, seed=spec.seed, share=spec.share, only=only)
    slim = secateur.slim(groups, plan)
    refused = tuple(f"{f.name}: {f.reason}" for f in groups.frozen if "proven" in f.reason)
    if refused:
        return Outcome(count, refused)
    assert sum(p.numel() for p in slim.parameters()) == plan.reached.params
    if not model.counted or only is not None:
        assert difference(whole(slim, groups), masked_outputs(groups, plan.keep)) < 1e-9
    return Outcome(count)


def whole(model: nn.Module, groups: secateur.Groups) -> list[Tensor]:
    """What a module returns in float64, the module itself untouched."""
    return outputs(model, groups.inputs)


def tried(spec: Spec) -> tuple[str, int]:
    """What is wrong with a network, in one line, and its groups; a refusal by the proof alone counts as wrong."""
    try:
        outcome = check(spec)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0], 0
    return f"refused by the proof: {outcome.refused[0]}" if outcome.refused else "", outcome.groups


def failure(spec: Spec) -> str:
    """What is wrong with a network; empty where nothing is."""
    return tried(spec)[0]


def smallest(spec: Spec) -> Spec:
    """The network without the steps, and with the plainest head, that its failure does not need."""
    changed = True
    while changed:
        changed = False
        parts = [replace(spec, steps=spec.steps[:i] + spec.steps[i + 1 :]) for i in range(len(spec.steps))]
        for part in [*parts, *([replace(spec, head="mean")] if spec.head != "mean" else [])]:
            if failure(part):
                spec, changed = part, True
                break
    return spec
