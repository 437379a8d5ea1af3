"""Function distance under noise, and informative pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.data.corruptions.draws import Draws
from secateur.errors import DataError, InputError
from secateur.measures.distance import function_distance
from secateur.measures.features import backselect, backselect_by_gradient, cross_confidence


def net(seed: int, pixels: int = 12, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


def batches(size: int, images: int = 30) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    inputs, labels = torch.randn(images, 3, 2, 2, generator=generator), torch.arange(images) % 4
    return list(zip(*(part.split(size) for part in (inputs, labels, torch.arange(images))), strict=True))


def test_a_network_is_at_no_distance_from_itself() -> None:
    levels = function_distance(net(0), {"same": net(0)}, batches(30), draws=2)["same"]
    assert len(levels) == 15
    assert all((level.agreement, level.distance) == (1.0, 0.0) for level in levels)


def test_one_level_and_draw_by_hand() -> None:
    ((inputs, labels, indices),) = batches(30)
    dense, other = net(0), net(1)
    found = function_distance(dense, {"other": other}, batches(30), epsilons=[0.3], draws=1, seed=7)
    noisy = inputs + 0.3 * Draws.of(7, "noise", 0, indices).uniform(-1, 1, 3, 2, 2)
    a, b = dense(noisy), other(noisy)
    (level,) = found["other"]
    assert level.agreement == pytest.approx((a.argmax(1) == b.argmax(1)).double().mean().item())
    assert level.distance == pytest.approx((a.softmax(1) - b.softmax(1)).norm(dim=1).mean().item(), abs=1e-6)
    assert level.accuracies == (pytest.approx((b.argmax(1) == labels).double().mean().item()),)
    assert found["dense"][0].accuracies == (pytest.approx((a.argmax(1) == labels).double().mean().item()),)


def test_all_draws_without_noise_are_one() -> None:
    levels = function_distance(net(0), {"b": net(1)}, batches(7), epsilons=[0.0, 0.5], draws=3)["b"]
    assert len(set(levels[0].accuracies)) == 1
    assert levels[0].agreement_deviation == levels[0].distance_deviation == 0
    assert levels[1].distance_deviation > 0


def test_how_images_are_batched_does_not_matter() -> None:
    a, b = (function_distance(net(0), {"b": net(1)}, batches(size), epsilons=[0.5], draws=3) for size in (30, 7))
    assert a["b"][0].distance == pytest.approx(b["b"][0].distance, abs=1e-9)
    assert a["b"][0].accuracies == pytest.approx(b["b"][0].accuracies)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="same classes"):
        function_distance(net(0), {"odd": net(0, classes=3)}, batches(30))
    with pytest.raises(InputError, match="belongs to the dense"):
        function_distance(net(0), {"dense": net(1)}, batches(30))
    with pytest.raises(DataError, match="at least one image"):
        function_distance(net(0), {}, [])


def brute_force(network: nn.Module, image: Tensor) -> list[int]:
    """BackSelect as it is defined, one evaluation after the other."""
    label = int(network(image.unsqueeze(0)).argmax())
    hidden: list[int] = []
    while len(hidden) < 36:
        best, sure = -1, -1.0
        for pixel in (p for p in range(36) if p not in hidden):
            shown = image.clone()
            for gone in [*hidden, pixel]:
                shown[:, gone // 6, gone % 6] = 0
            now = float(network(shown.unsqueeze(0)).double().softmax(dim=1)[0, label])
            if now > sure:
                best, sure = pixel, now
        hidden.append(best)
    return hidden


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_backselect_is_brute_force_on_six_by_six(seed: int) -> None:
    network = net(seed, pixels=72).double()
    image = torch.randn(2, 6, 6, dtype=torch.float64)
    assert backselect(network, image, batch=10).tolist() == brute_force(network, image)


class OnePixel(nn.Module):
    """Two classes by one pixel alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 2, 3], -x[:, 0, 2, 3]], dim=1)


def test_the_one_pixel_that_matters_comes_last_and_equals_leave_in_order() -> None:
    order = backselect(OnePixel(), torch.ones(1, 6, 6))
    assert order[-1] == 2 * 6 + 3
    assert order[:-1].tolist() == [p for p in range(36) if p != 15]
    assert backselect_by_gradient(OnePixel(), torch.ones(2, 1, 6, 6), at_once=5)[:, -1].tolist() == [15, 15]


def test_gradients_rank_a_linear_network_as_backselect_does() -> None:
    """The log-odds of two classes are linear in what is shown, so the first order is exact."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    images = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    quick = backselect_by_gradient(network, images, at_once=4)
    assert quick.sort(dim=1).values.equal(torch.arange(36).expand(3, 36))
    for image, order in zip(images, quick, strict=True):
        assert order.tolist() == backselect(network, image).tolist()


def test_cross_confidence_shows_each_network_the_pixels_of_the_other() -> None:
    images, labels = torch.ones(2, 1, 6, 6), torch.zeros(2, dtype=torch.long)
    first = torch.arange(36).roll(20).expand(2, 36)  # ends with pixel 15
    table = cross_confidence([OnePixel(), OnePixel()], images, [first, first.flip(1)], labels, share=1 / 36)
    seen, blind = torch.tensor([1.0, -1.0]).softmax(0)[0].item(), 0.5
    assert table.tolist() == [[pytest.approx(seen)] * 2, [pytest.approx(blind)] * 2]
