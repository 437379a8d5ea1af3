"""Products with weights of which whole slices are zero are those with the zeros written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.surgery import zeroed
from secateur.surgery.verify import Verifier, _convolve, weights_of_products
from secateur.surgery.zeroed import Zeroed, filled

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 8, 7, 6), (12, 8, 3, 3), {}),
    "with a stride": ((2, 8, 7, 6), (12, 8, 3, 3), {"stride": [2], "padding": [1]}),
    "of lines": ((2, 8, 9), (12, 8, 3), {}),
    "of volumes": ((1, 8, 3, 4, 5), (12, 8, 1, 2, 2), {}),
    "in groups": ((2, 8, 5, 5), (12, 2, 3, 3), {"groups": 4}),
    "depthwise": ((2, 12, 5, 5), (12, 1, 3, 3), {"groups": 12}),
    "transposed": ((2, 12, 5, 5), (12, 8, 3, 3), {"transposed": True}),
}


def arguments(name: str, bias: bool) -> list[Any]:
    torch.manual_seed(0)
    shape, kernel, how = CONVOLUTIONS[name]
    axes = len(shape) - 2
    own = {"stride": [1] * axes, "padding": [0] * axes, "transposed": False, "groups": 1, **how}
    outer = kernel[1] if own["transposed"] else kernel[0]
    return [
        torch.randn(shape).double(), torch.randn(kernel), torch.randn(outer).double() if bias else None,
        own["stride"], own["padding"], [1] * axes, own["transposed"], [0] * axes, own["groups"],
    ]  # fmt: skip


def stays(size: int, count: int) -> Tensor:
    return torch.zeros(size, dtype=torch.bool).index_fill_(0, torch.randperm(size)[:count], True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, bias: bool) -> None:
    args = arguments(name, bias)
    weight = args[1]
    rows, columns = stays(len(weight), 5), stays(weight.shape[1], (weight.shape[1] + 1) // 2)
    alive = torch.arange(len(weight)) < 2 * len(weight) // max(args[-1], 2)  # two whole groups
    for lines in ({0: rows, 1: columns}, {0: rows}, {1: columns}, {0: alive}, {0: torch.zeros_like(rows)}):
        expected = _convolve([args[0], filled(weight, lines), *args[2:]])
        torch.testing.assert_close(zeroed.convolution(args, lines, _convolve), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers(bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, own = torch.randn(5, 40).double(), torch.randn(30, 40), torch.randn(30).double() if bias else None
    rows, columns = stays(30, 11), stays(40, 17)
    for lines in ({0: rows, 1: columns}, {0: rows}, {1: columns}, {1: torch.zeros_like(columns)}):
        expected = nn.functional.linear(x, filled(weight, lines), own)
        torch.testing.assert_close(zeroed.linear(own, x, weight, lines), expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_finite_is_not_left_out() -> None:
    args = arguments("plain", bias=True)
    columns = torch.arange(8) > 0
    args[0][:, 0] = float("inf")  # times zero is no number
    assert zeroed.convolution(args, {1: columns}, _convolve).isnan().any()
    x, weight = torch.full((2, 4), float("nan"), dtype=torch.float64), torch.randn(3, 4)
    assert zeroed.linear(None, x, weight, {1: torch.arange(4) > 4}).isnan().all()


def test_other_operators_read_the_zeros() -> None:
    known, weight = Zeroed(), torch.randn(4, 6)
    known.add(weight, 0, torch.tensor([True, False, True, True]))
    known.add(weight, 1, torch.arange(6) > 1)
    known.add(weight, 1, torch.arange(6) < 5)
    expected = weight.double()
    expected[1], expected[:, :2], expected[:, 5] = 0, 0, 0
    assert torch.equal(known.written(weight), expected)
    assert torch.equal(known.written(weight.t()), expected.t())
    assert known.written(expected) is expected
    with pytest.raises(ValueError, match=r"\(4, 6\) is read as \(2, 6\)"):
        known.of(weight[:2])


def test_weights_may_lie_in_memory_in_any_way() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3), nn.Flatten(), nn.Linear(96, 4))
    model.append(nn.Linear(4, 800)).append(nn.Linear(800, 800)).append(nn.Linear(800, 2))
    model[6].weight = nn.Parameter(torch.randn(800, 800).t())
    model = model.to(memory_format=torch.channels_last)
    found = secateur.groups(model, torch.randn(1, 3, 5, 5))
    assert weights_of_products(found.solution.recording) == {"2.weight", "6.weight"}
    small = secateur.slim(found, secateur.plan(found, budget="50% channels", allocation="uniform", round_to=1))
    assert secateur.record(small).proof.masked < 1e-12


class Twice(nn.Module):
    """A large weight that is read by a product, and one that is read in another way too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(800, 800), nn.Linear(800, 800), nn.Linear(800, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(x)) * self.second.weight.square().mean())


def test_only_weights_that_nothing_else_reads_are_left_as_they_are() -> None:
    torch.manual_seed(0)
    found = secateur.groups(Twice(), torch.randn(2, 800))
    assert weights_of_products(found.solution.recording) == {"first.weight"}


def test_a_wrong_cut_is_seen() -> None:
    """Rows of the slim model's large weights put in another order: the masked model tells."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3), nn.ReLU(), nn.Conv2d(96, 4, 3))
    found = secateur.groups(model, torch.randn(1, 3, 9, 9))
    assert weights_of_products(found.solution.recording) == {"2.weight"}
    plan = secateur.plan(found, budget="50% channels", allocation="uniform", round_to=1)
    verifier, small = Verifier(found), secateur.slim(found, plan, verify=False)
    assert verifier.prove(small, plan.keep).holds
    verifier._cut = lambda keep, cut=verifier._cut: {  # type: ignore[method-assign]
        name: t.roll(1, 0) if name == "2.weight" else t for name, t in cut(keep).items()
    }
    proof = verifier.prove(small, plan.keep)
    assert proof.replayed == 0
    assert proof.masked > 1e-3
