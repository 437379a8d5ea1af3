"""Paths through gates, against all paths written out; what keeps outputs from being lost."""

from __future__ import annotations

import itertools

import pytest
import torch
from method_nets import PLAIN, Residual, batches
from torch import nn

import secateur
from secateur import sparse
from secateur.errors import BudgetError
from secateur.methods import Gumbel
from secateur.methods.gates import Gates
from secateur.methods.guards import ALIVE, Guard
from secateur.methods.paths import Paths, find_paths
from secateur.training import fit

SHAPES = {"a": (3, 4), "b": (4, 3, 2), "c": (2, 8)}  # b reads 3 units by a kernel of 2, c 4 units over 2 places each
READS = {"a": 4, "b": 3, "c": 4}


def every_path(output):
    """All paths to an output: for each, the flat index of its entry in every layer."""
    for x, i, j, place, kernel in itertools.product(range(4), range(3), range(4), range(2), range(2)):
        yield {"a": i * 4 + x, "b": (j * 3 + i) * 2 + kernel, "c": output * 8 + j * 2 + place}


def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1)),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(54, 5), nn.Tanh(), nn.Linear(5, 3)),
        )


@pytest.mark.parametrize("seed", range(8))
def test_lost_outputs_and_best_paths_are_those_of_all_paths_written_out(seed):
    generator = torch.Generator().manual_seed(seed)
    paths = Paths(READS, outputs=2)
    opened = {name: torch.rand(shape, generator=generator) < 0.2 + 0.05 * seed for name, shape in SHAPES.items()}
    reached = [any(all(opened[n].flatten()[k] for n, k in path.items()) for path in every_path(o)) for o in range(2)]
    assert paths.lost(opened) == [output for output in range(2) if not reached[output]]

    chances = {name: torch.rand(shape, generator=generator).log() for name, shape in SHAPES.items()}

    def likely(path):
        return sum(float(chances[name].flatten()[k]) for name, k in path.items())

    for output in range(2):
        best = {name: int(k) for name, k in paths.best(chances, [output]).items()}
        assert best == max(every_path(output), key=likely)


def test_chains_have_paths_and_other_networks_none():
    found = find_paths(convolutional(), torch.zeros(2, 1, 8, 8))
    assert found.layers == {"0.weight": 1, "4.weight": 4, "7.weight": 6, "9.weight": 5}
    assert found.outputs == 3
    assert find_paths(Residual(), torch.zeros(2, 1, 5, 5)) is None
    assert find_paths(nn.Conv2d(2, 4, 3, groups=2), torch.zeros(2, 2, 5, 5)) is None
    assert find_paths(nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), torch.zeros(2, 4)) is None
    assert find_paths(nn.Linear(4, 4), torch.zeros(2, 5)) is None  # it does not run


def test_a_lost_path_is_lifted_where_it_is_likeliest_and_only_there():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    groups = secateur.elements(net, exclude=["2"])
    gates = Gates(groups, keep=0.9)
    guard = Guard(groups, gates, None)
    guard.look_for_paths(net, torch.zeros(1, 2), edges=4)
    gates.set("0.weight", torch.tensor([-3.0, -1.0, -2.0, -4.0]))
    assert guard.lost({"0.weight": torch.zeros(4, dtype=torch.bool)}) == [0, 1]
    guard.hold()
    assert gates.difference("0.weight").tolist() == [-3.0, ALIVE, -2.0, -4.0]  # one path serves both outputs
    assert guard.needed()["0.weight"].tolist() == [1]


@pytest.mark.parametrize(("kind", "edges"), [("elements", 14), ("blocks", 30)])
def test_no_output_is_lost_however_small_the_budget(kind, edges):
    net = convolutional()
    groups = secateur.elements(net) if kind == "elements" else secateur.blocks(net, 1, 2)
    rest = sum(p.numel() for p in net.parameters() if p.dim() < 2)
    method = Gumbel(groups=groups, budget=f"{rest + edges} weights", lr=0.3)
    data = [(nn.functional.pad(x, (0, 3, 0, 3)), y) for x, y in batches()]
    fit(net, data, epochs=6, methods=[method], **PLAIN)
    assert method.plan.reached.weights <= rest + edges
    paths = find_paths(net, data[0][0])
    assert paths.lost({name: net.get_parameter(name) != 0 for name in paths.layers}) == []


def test_a_budget_without_room_for_paths_is_told_before_gates_move():
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.ReLU(), nn.Linear(4, 3))
    method = Gumbel(groups=secateur.elements(net), budget="9 weights", lr=0.3)  # of which 7 are biases
    with pytest.raises(BudgetError, match=r"leaves 2 weights .* paths to 3 outputs take 2 each"):
        fit(net, batches(), epochs=3, methods=[method], **PLAIN)


def test_rows_are_kept_instead_of_paths_if_outputs_are_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.ReLU(), nn.Linear(4, 3))
    method = Gumbel(groups=secateur.elements(net), budget="11 weights", lr=0.3, outputs=["3.weight"])
    small = fit(net, batches(), epochs=3, methods=[method], **PLAIN).model
    assert all(bool(row.any()) for row in small[3].weight)
    assert sparse.read(small, batches()[0][0]).counts["edges"] == 4
