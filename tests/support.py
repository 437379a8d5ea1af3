"""Structural groups written by hand, so that criteria, plans and masks are tested without the tracer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.graph.cost import Cost, CostModel
from secateur.graph.units import Frozen, Group, Groups, Member, Role, Slices


class Polynomial(CostModel):
    """A cost given by two functions of the widths; remembers how often it was asked."""

    def __init__(self, widths: Mapping[str, int], macs: Callable[..., int], params: Callable[..., int]) -> None:
        self.widths, self.macs, self.params, self.calls = dict(widths), macs, params, 0

    def cost(self, counts: Mapping[str, int]) -> Cost:
        self.calls += 1
        widths = {**self.widths, **counts}
        macs, params = self.macs(widths), self.params(widths)
        return Cost(macs=macs, params=params, weights=params, nonzero_macs=macs)


class SmallNet(nn.Module):
    """Two convolutions with batch norm and two linear layers on 1 x 8 x 8 images."""

    def __init__(self, a: int = 16, b: int = 32, c: int = 24) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a)
        self.conv2, self.bn2 = nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)
        self.fc1, self.fc2 = nn.Linear(4 * b, c), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def member(model: nn.Module, name: str, dim: int, units: int, role: Role, repeat: int = 1) -> Slices:
    path, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), attribute)
    labels = torch.arange(units).repeat_interleave(repeat)
    buffer = not isinstance(tensor, nn.Parameter)
    return Slices(name, tuple(tensor.shape), units, role, buffer, dim=dim, labels=labels)


def small_groups(seed: int = 0, a: int = 16, b: int = 32, c: int = 24) -> Groups:
    """The groups of a `SmallNet` with random weights and statistics."""
    torch.manual_seed(seed)
    net = SmallNet(a, b, c).eval()
    for norm in (net.bn1, net.bn2):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            tensor.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)

    def norm_members(norm: str, units: int) -> list[Member]:
        names = ("weight", "bias", "running_mean", "running_var")
        return [member(net, f"{norm}.{name}", 0, units, "producer") for name in names]

    items = (
        Group(
            "conv1",
            a,
            (
                member(net, "conv1.weight", 0, a, "producer"),
                member(net, "conv1.bias", 0, a, "producer"),
                *norm_members("bn1", a),
                member(net, "conv2.weight", 1, a, "consumer"),
            ),
            modules=("conv1", "bn1", "conv2"),
        ),
        Group(
            "conv2",
            b,
            (
                member(net, "conv2.weight", 0, b, "producer"),
                *norm_members("bn2", b),
                member(net, "fc1.weight", 1, b, "consumer", repeat=4),
            ),
            modules=("conv2", "bn2", "fc1"),
        ),
        Group(
            "fc1",
            c,
            (
                member(net, "fc1.weight", 0, c, "producer"),
                member(net, "fc1.bias", 0, c, "producer"),
                member(net, "fc2.weight", 1, c, "consumer"),
            ),
            modules=("fc1", "fc2"),
        ),
    )
    cost = Polynomial(
        {"conv1": a, "conv2": b, "fc1": c},
        macs=lambda w: (
            64 * 9 * w["conv1"] + 64 * 9 * w["conv1"] * w["conv2"] + 4 * w["conv2"] * w["fc1"] + 10 * w["fc1"]
        ),
        params=lambda w: (
            12 * w["conv1"] + 9 * w["conv1"] * w["conv2"] + 2 * w["conv2"] + (4 * w["conv2"] + 1 + 10) * w["fc1"] + 10
        ),
    )
    frozen = (Frozen("fc2.bias[0]", 10, "it is the model's output"),)
    return Groups("slices", net, items, cost, frozen=frozen, inputs=((torch.zeros(1, 1, 8, 8),), {}))


def chain_groups(widths: Sequence[int], multiples: Sequence[int] = (), outputs: int = 10, seed: int = 0) -> Groups:
    """The groups of a chain of linear layers; unit `i` of group `k` stands for `multiples[k]` neighbouring neurons."""
    torch.manual_seed(seed)
    factors = list(multiples) or [1] * len(widths)
    sizes = [8, *(w * m for w, m in zip(widths, factors, strict=True)), outputs]
    net = nn.Sequential(*(nn.Linear(i, o) for i, o in itertools.pairwise(sizes)))
    items = tuple(
        Group(
            f"hidden{k}",
            units,
            (
                member(net, f"{k}.weight", 0, units, "producer", repeat=factors[k]),
                member(net, f"{k}.bias", 0, units, "producer", repeat=factors[k]),
                member(net, f"{k + 1}.weight", 1, units, "consumer", repeat=factors[k]),
            ),
            multiple=factors[k],
            modules=(f"{k}", f"{k + 1}"),
        )
        for k, units in enumerate(widths)
    )

    def line(w: Mapping[str, int]) -> list[int]:
        return [8, *(w[f"hidden{k}"] * m for k, m in enumerate(factors)), outputs]

    cost = Polynomial(
        {f"hidden{k}": units for k, units in enumerate(widths)},
        macs=lambda w: sum(i * o for i, o in itertools.pairwise(line(w))),
        params=lambda w: sum(i * o + o for i, o in itertools.pairwise(line(w))),
    )
    return Groups("slices", net, items, cost, inputs=((torch.zeros(1, 8),), {}))
