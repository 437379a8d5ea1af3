"""The kernels of proofs equal torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur
from secateur.surgery import verify, zeroed
from secateur.surgery.kernels import depthwise, grouped, is_depthwise, is_grouped, is_streamed, streamed

CONVOLUTION = torch.ops.aten.convolution.default


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [([1], [0], [1]), ([2, 1], [1, 2], [1]), ([3], [4], [2, 1])]
)
def test_it_equals_torch(kernel: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 13, 11).double(), torch.randn(5, 1, *kernel).double()
    for bias in (None, torch.randn(5).double()):
        ours = depthwise(x, weight, bias, stride, padding, dilation)
        theirs = functional.conv2d(x, weight, bias, stride, padding, dilation, groups=5)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_channels_last_stays() -> None:
    x, weight = torch.randn(2, 6, 8, 8).double().to(memory_format=torch.channels_last), torch.randn(6, 1, 3, 3).double()
    ours = depthwise(x, weight, None, [1], [1], [1])
    torch.testing.assert_close(ours, functional.conv2d(x, weight, padding=1, groups=6), rtol=1e-13, atol=1e-13)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_many_channels_are_worked_on_in_blocks() -> None:
    x, weight = torch.randn(1, 70, 40, 40).double(), torch.randn(70, 1, 3, 3).double()
    ours = depthwise(x, weight, None, [1], [1], [1])
    torch.testing.assert_close(ours, functional.conv2d(x, weight, padding=1, groups=70), rtol=1e-13, atol=1e-13)


def test_only_depthwise_calls_are_taken() -> None:
    def call(x: torch.Tensor, weight: torch.Tensor, groups: int, transposed: bool = False) -> bool:
        return is_depthwise(CONVOLUTION, (x, weight, None, [1], [0], [1], transposed, [0], groups))

    x, weight = torch.randn(1, 4, 5, 5).double(), torch.randn(4, 1, 3, 3).double()
    assert call(x, weight, 4)
    assert not call(x, weight, 4, transposed=True)
    assert not call(x.float(), weight.float(), 4)
    assert not call(x, torch.randn(8, 1, 3, 3).double(), 4)
    assert not call(x, torch.randn(4, 2, 3, 3).double(), 2)
    assert not call(x[:, :, 0], weight[:, :, 0], 4)
    assert not is_depthwise(torch.ops.aten.relu.default, (x,))


@pytest.mark.parametrize("rows", [1, 7])
def test_products_with_large_weights_equal_torchs(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 700).double(), torch.randn(1500, 700), torch.randn(1500).double()
    for half in (weight, weight.bfloat16()):
        torch.testing.assert_close(streamed(bias, x, half), x @ half.double().t() + bias, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(streamed(None, x, weight), x @ weight.double().t(), rtol=1e-12, atol=1e-12)
    chosen, columns = torch.arange(3, 1400, 2), torch.arange(0, 700, 3)
    expected = x[:, columns] @ weight[chosen][:, columns].double().t()
    ours = streamed(None, x[:, columns], weight, chosen, columns)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_only_large_weights_of_linear_layers_are_streamed() -> None:
    x, large, small = torch.randn(2, 700), torch.randn(1500, 700), torch.randn(15, 700)
    mm, addmm = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
    assert is_streamed(mm, (x, large.t()))
    assert is_streamed(addmm, (torch.zeros(1500), x, large.t()))
    assert not is_streamed(mm, (x, small.t()))
    assert not is_streamed(mm, (x, large.double().t()))
    assert not is_streamed(mm, (x, large.t().contiguous()))
    assert not is_streamed(torch.ops.aten.add.Tensor, (x, large.t()))


def test_a_proof_reads_large_weights_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(bias: torch.Tensor | None, x: torch.Tensor, weight: torch.Tensor, *chosen: torch.Tensor) -> torch.Tensor:
        sizes.append(weight.numel())
        return streamed(bias, x, weight, *chosen)

    for module in (verify, zeroed):
        monkeypatch.setattr(module, "streamed", spy)
    model = nn.Sequential(nn.Linear(700, 3000), nn.ReLU(), nn.Linear(3000, 700), nn.ReLU(), nn.Linear(700, 3))
    found = secateur.groups(model.eval(), torch.randn(2, 700))
    small = secateur.slim(found, secateur.plan(found, budget="50% channels", allocation="uniform", round_to=1))
    assert sorted(sizes) == [525_000, 1_050_000, 2_100_000, 2_100_000]
    assert secateur.record(small).proof.masked < 1e-12


def experts(left: Tensor, right: Tensor, ends: Tensor | None) -> Tensor:
    """Torch's own products of experts, in the precision that it has them for."""
    return functional.grouped_mm(left.bfloat16(), right.bfloat16(), offs=ends).double()


@pytest.mark.parametrize(
    ("left", "right", "runs"),
    [
        ((24, 16), (3, 16, 8), True),
        ((3, 24, 16), (16, 24), True),
        ((8, 24), (24, 16), True),
        ((3, 8, 16), (3, 16, 8), False),
    ],
    ids=["rows", "columns", "what is summed over", "none"],
)
def test_products_of_experts_in_all_their_forms(left: tuple[int, ...], right: tuple[int, ...], runs: bool) -> None:
    a, b = (torch.randint(-3, 4, shape).double() for shape in (left, right))  # exact in bfloat16
    ends = torch.tensor([8, 16, 24], dtype=torch.int32) if runs else None
    assert is_grouped(torch.ops.aten._grouped_mm.default, [a, b, ends])
    assert torch.equal(grouped(a, b, ends), experts(a, b, ends))


class Batched(nn.Module):
    """Experts that all see as many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.matrices, self.out = nn.Linear(4, 16), nn.Parameter(torch.randn(3, 16, 8)), nn.Linear(24, 24)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.inner(x).expand(3, -1, -1).contiguous()
        made = functional.grouped_mm(rows, self.matrices)
        return self.last(functional.relu(self.out(made.transpose(0, 1).flatten(1))))


def test_a_model_with_experts_in_another_form_is_proven_around_them() -> None:
    small = secateur.prune(Batched(), torch.randn(8, 4), budget="80% params", round_to=1)
    entry = secateur.record(small)
    assert entry is not None
    assert entry.proof is not None
    assert entry.proof.holds
    assert small.out.out_features < 24
    assert small.inner.out_features == 16
