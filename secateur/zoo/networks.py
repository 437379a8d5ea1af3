"""The networks that pruning papers report on, small enough to read: LeNet, ResNets and VGG for CIFAR.

Every constructor takes `classes` and `shape` (channels, height, width of one input). One multiply-accumulate is one
MAC; the numbers below count convolutions and linear layers without biases.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import InputError

Shape = tuple[int, int, int]
Shortcut = Literal["A", "B"]

VGG_BLOCKS: dict[int, tuple[tuple[int, int], ...]] = {
    16: ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    19: ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}
"""Depth of a VGG network -> (width, number of convolutions) of its five blocks (arXiv 1409.1556)."""


class LeNet300(nn.Sequential):
    """LeNet-300-100: a perceptron with two hidden layers (LeCun et al. 1998); 266,610 parameters on 28x28 inputs."""

    def __init__(self, classes: int = 10, shape: Shape = (1, 28, 28)) -> None:
        channels, height, width = shape
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels * height * width, 300)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(100, classes)


class LeNet5(nn.Sequential):
    """LeNet-5 as in Caffe's MNIST example: 20 and 50 filters of 5x5, 500 neurons; 431,080 parameters on 28x28 inputs.

    As there, the convolutions are followed by max pooling alone; the one rectifier stands after the hidden layer.
    """

    def __init__(self, classes: int = 10, shape: Shape = (1, 28, 28)) -> None:
        channels, height, width = shape
        rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        if rows < 1 or columns < 1:
            raise InputError(f"The 'shape' parameter of lenet5 must be at least 16x16. Got {height}x{width} instead.")
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(50 * rows * columns, 500)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(500, classes)


class PadShortcut(nn.Module):
    """Option A of a shortcut: every second pixel, and new channels of zeros on both sides. It has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape [batch, inputs, height, width] with fewer pixels and more channels."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(inputs: int, outputs: int, stride: int, option: Shortcut) -> nn.Module:
    """What carries a block's input past it: identity where shapes agree, else padding (A) or a 1x1 convolution (B)."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    if option == "A":
        return PadShortcut(inputs, outputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, option: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, planes, height / stride, width / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, four times wider at its end, and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, option: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.shortcut = _shortcut(inputs, 4 * planes, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, 4 planes, height / stride, width / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network with a 3x3 stem for small images; `blocks` residual blocks in each stage.

    Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2. Module names are
    those of the checkpoints at akamaster/pytorch_resnet_cifar10, so their state loads as it is. Convolutions and the
    linear layer start from He's normal initialisation.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        classes: int,
        shape: Shape,
        shortcut: Shortcut,
    ) -> None:
        if shortcut not in ("A", "B"):
            raise InputError(f"The 'shortcut' parameter of a ResNet must be 'A' or 'B'. Got {shortcut!r} instead.")
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        expansion = 4 if block is Bottleneck else 1
        inputs = widths[0]
        for stage, (count, planes) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for index in range(count):
                layers.append(block(inputs, planes, 2 if stage > 0 and index == 0 else 1, shortcut))
                inputs = expansion * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] -> logits [batch, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def resnet_cifar(
    depth: int,
    *,
    classes: int = 10,
    shape: Shape = (3, 32, 32),
    shortcut: Shortcut = "A",
    width: int = 16,
) -> ResNet:
    """The CIFAR ResNet of `depth` = 6n + 2 layers: three stages of n blocks, `width`, 2 `width` and 4 `width` channels.

    ResNet-56 has 0.86 M parameters and 125.5 M MACs with option A, 125.7 M with option B.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise InputError(
            f"The 'depth' parameter of a CIFAR ResNet must be 6n + 2 (8, 14, 20, ...). Got {depth} instead."
        )
    return ResNet(BasicBlock, (n,) * 3, (width, 2 * width, 4 * width), classes, shape, shortcut)


def resnet50_cifar(*, classes: int = 10, shape: Shape = (3, 32, 32), shortcut: Shortcut = "B") -> ResNet:
    """ResNet-50 with a 3x3 stem and no first pooling: 23.5 M parameters, 1.30 G MACs on 32x32 inputs."""
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), classes, shape, shortcut)


class VGG(nn.Module):
    """VGG-16 or VGG-19 with batch norm for small images: five blocks of 3x3 convolutions, average pooling, linear.

    `pools`: after how many of the first four blocks there is max pooling. With 4 the last block of a 32x32 input runs
    at 2x2 (VGG-19: 398.2 M MACs); with 3 it runs at 4x4 (511.4 M; Torch-Pruning's tables say 512.7 M because they
    count biases, batch norm, rectifiers and pooling too). `hidden`: neurons of one more linear layer with batch norm;
    512 gives the VGG-16 of HRank's tables (0: none).
    """

    def __init__(
        self,
        depth: int = 16,
        *,
        classes: int = 10,
        shape: Shape = (3, 32, 32),
        pools: int = 4,
        hidden: int = 0,
    ) -> None:
        if depth not in VGG_BLOCKS:
            raise InputError(f"The 'depth' parameter of VGG must be one of {sorted(VGG_BLOCKS)}. Got {depth} instead.")
        if pools not in range(5):
            raise InputError(f"The 'pools' parameter of VGG must be an integer in [0, 4]. Got {pools!r} instead.")
        super().__init__()
        layers: list[nn.Module] = []
        inputs = shape[0]
        for index, (width, count) in enumerate(VGG_BLOCKS[depth]):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            if index < pools:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        head: list[nn.Module] = [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU()] if hidden else []
        self.classifier = nn.Sequential(*head, nn.Linear(hidden or inputs, classes))
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type] # these convolutions have biases

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] -> logits [batch, classes]."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(x))))
        return logits


NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "lenet_300_100": LeNet300,
        "lenet5": LeNet5,
        "resnet8": partial(resnet_cifar, 8, shape=(1, 8, 8), shortcut="B", width=32),
        **{f"resnet{depth}": partial(resnet_cifar, depth) for depth in (20, 32, 44, 56, 110, 152)},
        "resnet50": resnet50_cifar,
        "vgg16_bn": partial(VGG, 16),
        "vgg19_bn": partial(VGG, 19, pools=3),
    }
)
"""Name -> constructor. `resnet8` is sized for scikit-learn's digits, `resnet50` is the bottleneck network for CIFAR."""


def names() -> list[str]:
    """The names that `model` knows, sorted."""
    return sorted(NETWORKS)


def model(name: str, **options: Any) -> nn.Module:
    """A freshly initialised network of the zoo.

    `options`: `classes`, `shape` (channels, height, width) and what else the network's constructor takes (`shortcut`
    and `width` of ResNets, `pools` and `hidden` of VGG). Initial weights come from torch's global generator. Raises
    `InputError` for a name or an option that is not known.

    >>> secateur.zoo.model("resnet56", classes=100, shortcut="B")
    """
    build = constructor(name)
    known = sorted(set(inspect.signature(build).parameters) - {"depth"})
    for option in options:
        if option not in known:
            raise InputError(f"There is no option {option!r} of {name}. It takes {', '.join(known)}.")
    if "classes" in options and (not isinstance(options["classes"], int) or options["classes"] < 1):
        raise InputError(
            f"The 'classes' parameter of {name} must be a positive int. Got {options['classes']!r} instead."
        )
    if "shape" in options:
        options["shape"] = checked_shape(name, options["shape"])
    return build(**options)


def constructor(name: str) -> Callable[..., nn.Module]:
    """The constructor behind `name`. Raises `InputError` with the nearest names where there is none."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4) or names()
        raise InputError(f"There is no network named {name!r} in the zoo. Nearest: {', '.join(near)}.")
    return NETWORKS[name]


def checked_shape(name: str, shape: Any) -> Shape:
    """`shape` as a tuple (channels, height, width). Raises `InputError` where it is not three positive integers."""
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"The 'shape' parameter of {name} must be three positive ints (channels, height, width). "
            f"Got {shape!r} instead."
        )
    return sizes
