from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from secateur import zoo
from secateur.data import load
from secateur.errors import InputError
from secateur.zoo.networks import NETWORKS, VGG, resnet_cifar


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def counted(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Operations of one call by kind, counted by hooks.

    `macs` of convolutions and linear layers, their `bias` additions, two for every element that passes a batch
    `norm`, one for every element that leaves a `relu` module, one for every element that enters a `pool`.
    """
    counts = dict.fromkeys(("macs", "bias", "norm", "relu", "pool"), 0)

    def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        match module:
            case nn.Conv2d() | nn.Linear():
                counts["macs"] += output.numel() * module.weight[0].numel()
                counts["bias"] += output.numel() if module.bias is not None else 0
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                counts["norm"] += 2 * output.numel()
            case nn.ReLU():
                counts["relu"] += output.numel()
            case nn.MaxPool2d() | nn.AdaptiveAvgPool2d():
                counts["pool"] += inputs[0].numel()

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    with torch.no_grad():
        model.eval()(example)
    for handle in handles:
        handle.remove()
    return counts


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    return counted(model, torch.zeros(1, *shape))["macs"]


@pytest.mark.parametrize(
    ("name", "expected"), [("lenet_300_100", 266_610), ("lenet5", 431_080), ("resnet50", 23_520_842)]
)
def test_parameters_are_exactly_the_published_ones(name: str, expected: int) -> None:
    assert params(zoo.model(name)) == expected


@pytest.mark.parametrize(
    ("name", "options", "millions", "digits"),
    [
        ("resnet20", {}, 0.27, 2),
        ("resnet32", {}, 0.46, 2),
        ("resnet44", {}, 0.66, 2),
        ("resnet56", {}, 0.85, 2),
        ("resnet56", {"shortcut": "B"}, 0.86, 2),
        ("resnet110", {}, 1.7, 1),
        ("vgg16_bn", {}, 14.7, 1),
        ("vgg19_bn", {"classes": 100}, 20.09, 2),
    ],
)
def test_parameters_round_to_the_published_ones(
    name: str, options: dict[str, Any], millions: float, digits: int
) -> None:
    """He et al. table 6 (truncated to two digits there: 0.85 for option A) and Torch-Pruning's tables."""
    assert round(params(zoo.model(name, **options)) / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("resnet20", {}, 40.6),
        ("resnet56", {}, 125.5),
        ("resnet56", {"shortcut": "B"}, 125.7),
        ("resnet110", {}, 252.9),
        ("resnet50", {}, 1297.8),
        ("vgg16_bn", {}, 313.2),
        ("vgg19_bn", {"classes": 100}, 511.4),
        ("vgg19_bn", {"classes": 100, "pools": 4}, 398.2),
    ],
)
def test_macs_of_convolutions_and_linear_layers(name: str, options: dict[str, Any], millions: float) -> None:
    assert round(macs(zoo.model(name, **options), (3, 32, 32)) / 1e6, 1) == millions


def test_vgg19_has_the_512_7_million_of_the_tables_with_what_they_count() -> None:
    """Torch-Pruning counts biases, batch norm, pooling, and rectifiers except those at the ends of blocks."""
    counts = counted(VGG(19, classes=100, pools=3), torch.zeros(1, 3, 32, 32))
    ends = sum(width * size**2 for width, size in ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)))
    assert round((sum(counts.values()) - ends) / 1e6, 2) == 512.73


def test_vgg16_with_a_hidden_layer_has_the_313_7_million_of_hrank() -> None:
    """HRank (arXiv 2002.10179) counts 313.73 M: convolutions with their biases, and the hidden linear layer."""
    counts = counted(VGG(16, hidden=512), torch.zeros(1, 3, 32, 32))
    assert (counts["macs"] + counts["bias"]) / 1e6 == pytest.approx(313.73, abs=0.02)


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_trains_one_step_and_takes_its_options(name: str) -> None:
    from secateur.zoo import resolve

    source = resolve(f"zoo:{name}", classes=7)
    model = source.build()
    output = model.train()(source.example.repeat(2, 1, 1, 1))
    assert output.shape == (2, 7)
    output.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_an_option_a_shortcut_takes_every_second_pixel_and_pads_both_sides() -> None:
    model = resnet_cifar(8)
    shortcut = model.get_submodule("layer2.0.shortcut")
    x = torch.randn(2, 16, 6, 6)
    y = shortcut(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()
    assert not list(shortcut.parameters())


def test_grey_and_small_inputs_fit_by_shape() -> None:
    assert zoo.model("resnet20", shape=(1, 8, 8)).eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert zoo.model("lenet5", shape=[3, 32, 32])(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_an_unknown_network_gets_the_nearest_names() -> None:
    with pytest.raises(InputError, match=r"no network named 'resnet65' in the zoo. Nearest: resnet56"):
        zoo.model("resnet65")
    assert zoo.names() == sorted(NETWORKS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet56", {"pools": 3}, "no option 'pools' of resnet56. It takes classes, shape, shortcut, width"),
        ("resnet56", {"depth": 20}, "no option 'depth'"),
        ("resnet56", {"shortcut": "C"}, "'shortcut' parameter of a ResNet must be 'A' or 'B'. Got 'C'"),
        ("resnet56", {"classes": 0}, "'classes' parameter of resnet56 must be a positive int. Got 0"),
        ("resnet56", {"shape": (32, 32)}, "'shape' parameter of resnet56 must be three positive ints"),
        ("vgg16_bn", {"pools": 5}, r"'pools' parameter of VGG must be an integer in \[0, 4\]. Got 5"),
        ("lenet5", {"shape": (1, 8, 8)}, "'shape' parameter of lenet5 must be at least 16x16. Got 8x8"),
    ],
)
def test_a_bad_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.model(name, **options)


def test_depths_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be 6n \+ 2 .* Got 21"):
        resnet_cifar(21)
    with pytest.raises(InputError, match=r"must be one of \[16, 19\]. Got 11"):
        VGG(11)


def test_resnet8_learns_the_digits_in_seconds() -> None:
    torch.manual_seed(0)
    digits, model, epochs = load("digits", validation=0), zoo.model("resnet8"), 8
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(digits.train))
    for epoch in range(epochs):
        digits.train.set_epoch(epoch)
        for inputs, targets in digits.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(inputs).argmax(1) == targets).sum()) for inputs, targets in digits.test)
    assert right / digits.test.samples > 0.97
