"""Contributions as the papers define them, written out in loops, beside those by matrix products."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

import secateur
from secateur.errors import InputError
from secateur.sensitivity import sample_size, sipp
from secateur.sensitivity.products import Product, watch
from secateur.sensitivity.samples import spread
from secateur.zoo import networks

EPSILON = torch.finfo(torch.float32).eps


def of_patches(weight: Tensor, patches: Tensor) -> Tensor:
    """`g_ij,p`, by its definition: `[I, J, P]`, the larger of the shares of both signs."""
    found = torch.zeros(*weight.shape, patches.shape[1], dtype=weight.dtype)
    for i, row in enumerate(weight):
        for p, a in enumerate(patches.T):
            for part in (row.clamp_min(0), row.clamp_max(0)):
                z = sum(float(w) * float(x) for w, x in zip(part, a, strict=True))
                if abs(z) > EPSILON:
                    found[i, :, p] = torch.maximum(found[i, :, p], part * a / z)
    return found


def by_definition(weight: Tensor, patches: Tensor, over: str) -> Tensor:
    points = [patches] if bool((patches >= 0).all()) else [patches.clamp_min(0), patches.neg().clamp_min(0)]
    each = [of_patches(weight, a) for a in points]
    return torch.stack([g.mean(-1) if over == "mean" else g.amax(-1) for g in each]).amax(0)


def of_layer(layer: nn.Module, x: Tensor, over: str) -> Tensor:
    """The sensitivities of a layer's weight for one example, in the weight's shape."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return by_definition(weight, x.reshape(-1, x.shape[-1]).T, over)
    unfolded = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)[0]
    parts = zip(weight.flatten(1).chunk(layer.groups), unfolded.chunk(layer.groups), strict=True)
    return torch.cat([by_definition(w, a, over) for w, a in parts]).view(weight.shape)


LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "linear over tokens": (lambda: nn.Linear(6, 4), (3, 6)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 5)),
    "strided and padded": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)), (2, 6, 5)),
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 4, 4)),
}


@pytest.mark.parametrize("variant", ["deterministic", "random"])
@pytest.mark.parametrize("signs", ["activations", "any"])
@pytest.mark.parametrize("name", LAYERS)
def test_matrix_products_give_what_the_definition_says(name, signs, variant):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    net = nn.Sequential(build()).double().eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    x = x.relu() if signs == "activations" else x
    over = "mean" if variant == "deterministic" else "max"
    groups = secateur.elements(net)
    found = sipp(groups, [(x[:2], None), (x[2:], None)], samples=3, variant=variant)["0.weight"].double()
    expected = torch.stack([of_layer(net[0], one[None], over) for one in x]).amax(0).flatten()
    assert float(found.max()) <= 1 + 1e-12
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert float(expected.max()) > 0.1


def test_one_and_three_dimensions_are_seen_as_two_are():
    torch.manual_seed(0)
    flat, deep = (
        nn.Conv1d(2, 3, 3, stride=2, padding=1),
        nn.Conv3d(2, 3, (1, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0)),
    )
    deep.load_state_dict({"weight": flat.weight.view(3, 2, 1, 3, 1), "bias": flat.bias})
    x = torch.randn(1, 2, 7)
    first = sipp(secateur.elements(flat), [(x, None)], samples=1)["weight"]
    second = sipp(secateur.elements(deep), [(x.view(1, 2, 1, 7, 1), None)], samples=1)["weight"]
    assert torch.allclose(first, second, atol=1e-6)
    assert float(first.max()) > 0.1


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(10, 35), (1, 42), (0.1, 49), (0.01, 56), (1e-4, 70), (1e-6, 83), (1e-8, 97), (1e-10, 111), (1e-12, 125)],
)
def test_the_sample_sizes_of_lenet_are_those_published(failure, expected):
    assert sample_size([300, 100, 10], failure) == expected


def test_the_sample_size_of_resnet20_is_the_one_published():
    net = networks.model("resnet20").eval()
    watched = watch(net, dict(net.named_parameters()), [(torch.randn(1, 3, 32, 32), None)], lambda _: None)
    assert (watched.examples, watched.asked) == (1, 183)
    assert str(watched) == "examples=1 of 183"


def test_what_is_wrong_with_a_sample_size_is_told():
    with pytest.raises(InputError, match="'outputs' parameter of sample_size must name at least one layer"):
        sample_size([])
    with pytest.raises(InputError, match="'failure' parameter must be a float above 0"):
        sample_size([3], 0)
    assert spread(1, 9, 1e-16) == pytest.approx(2 * 3 * (5.0 + 36.84), rel=0.01)


class Odd(nn.Module):
    """Weights that no layer's class tells of: attention, a recurrent cell, a product written out, a tied embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell = nn.GRU(8, 6, batch_first=True)
        self.plain = nn.Parameter(torch.randn(6, 8))
        self.transposed = nn.ConvTranspose1d(8, 3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.cell(x)[0] @ self.plain
        return (x @ self.table.weight.T).sum(1) + self.transposed(x.mT).mean()


def test_layers_are_found_by_what_runs():
    torch.manual_seed(0)
    net = Odd().eval()
    before = copy.deepcopy(net.state_dict())
    seen: dict[str, set[tuple[int, ...]]] = {}

    def visit(product: Product) -> None:
        seen.setdefault(product.name, set()).add(tuple(product.weight.shape))
        parameter = dict(net.named_parameters())[product.name]
        assert torch.equal(parameter.detach().reshape(-1)[product.entries], product.weight)

    watch(net, dict(net.named_parameters()), [(torch.arange(5)[None], None)], visit, samples=1)
    assert {name: shapes for name, shapes in seen.items() if "cell" not in name} == {
        "attention.in_proj_weight": {(1, 24, 8)},
        "attention.out_proj.weight": {(1, 8, 8)},
        "plain": {(1, 8, 6)},
        "table.weight": {(1, 11, 8)},
    }
    assert {name for name in seen if "cell" in name} == {"cell.weight_ih_l0", "cell.weight_hh_l0"}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    scores = sipp(secateur.elements(net), [(torch.arange(5)[None], None)], samples=1)
    assert bool(torch.isinf(scores["transposed.weight"]).all())
    assert float(scores["plain"].max()) > 0.1


def test_training_mode_and_statistics_stay_as_they_were():
    net = torchvision.models.mobilenet_v2(num_classes=3).train()
    before = copy.deepcopy(net.state_dict())
    sipp(secateur.elements(net), [(torch.randn(1, 3, 32, 32), None)], samples=1)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_bad_examples_are_told():
    groups = secateur.elements(nn.Linear(3, 2))
    with pytest.raises(InputError, match="must yield at least one"):
        sipp(groups, [])
    with pytest.raises(InputError, match=r"must yield \(inputs, targets\) pairs. Got Tensor"):
        sipp(groups, [torch.zeros(2, 3)])
    with pytest.raises(InputError, match="one first dimension"):
        sipp(groups, [({"input": torch.zeros(2, 3), "other": torch.zeros(3, 3)}, None)])
    with pytest.raises(InputError, match="'samples' parameter must be a positive integer"):
        sipp(groups, [(torch.zeros(2, 3), None)], samples=0)
    with pytest.raises(InputError, match="'variant' parameter of sipp"):
        sipp(groups, [(torch.zeros(2, 3), None)], variant="det")
    groups.model.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="products with 'weight' must be finite"):
        sipp(groups, [(torch.zeros(2, 3), None)])
