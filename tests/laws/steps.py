"""Small steps that random networks are made of: on images, volumes and lines of channels.

A step is a module made from the width it is given and a `Random` of its own; `out` is the width it gives, and `divisor`
must divide the width. Where removed units are not zeros by nature (means and softmax over channels, standardised
weights), `counted` says that the reference of the tests does not know what a cut means and the proof alone must do.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

STEPS: dict[str, type[Step]] = {}


class Step(nn.Module):
    """A module on tensors of a layout: `[n, c, 4, 2]`, `[n, c, 2, 4, 2]`, `[n, c, 8]` or, as tokens, `[n, 8, c]`."""

    layout: ClassVar[str] = ""
    divisor: ClassVar[int] = 1
    counted: ClassVar[bool] = False
    out: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = width

    def __init_subclass__(cls, layout: str = "", divisor: int = 1, counted: bool = False) -> None:
        if layout:
            cls.layout = layout
        else:
            cls.divisor, cls.counted = divisor, counted
            STEPS[cls.__name__] = cls


class Image(Step, layout="image"):
    pass


class Volume(Step, layout="volume"):
    pass


class Line(Step, layout="line"):
    pass


class Conv(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((8, 12, 16)))
        k = pick.choice((1, 3))
        mode = pick.choice(("zeros", "zeros", "replicate", "circular"))
        self.a = nn.Conv2d(c, self.out, k, padding=k // 2, padding_mode=mode, bias=pick.random() < 0.7)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))


class Grouped(Image, divisor=4):
    def __init__(self, c: int, pick: Random) -> None:
        groups = pick.choice((2, 4))
        super().__init__(groups * pick.choice((3, 4)))
        self.a = nn.Conv2d(c, self.out, 3, padding=1, groups=groups, bias=pick.random() < 0.7)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.a(x))


class Depthwise(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c * pick.choice((1, 2)))
        self.a = nn.Conv2d(c, self.out, 3, padding=1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


class Transposed(Image, divisor=4):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(8)
        self.a = nn.ConvTranspose2d(c, 8, 3, padding=1, groups=pick.choice((1, 2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))


class BatchNorm(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm = nn.BatchNorm2d(c, affine=pick.random() < 0.8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x))


class GroupNorm(Image, divisor=4):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm = nn.GroupNorm(pick.choice((1, 2, 4)), c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class LayerNorm2d(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InstanceNorm(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.norm = nn.InstanceNorm2d(c, affine=pick.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Residual(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        hidden = pick.choice((6, 10))
        self.a, self.b, self.norm = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 3, padding=1), nn.BatchNorm2d(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.norm(self.a(x))))


class Concat(Image):
    def __init__(self, c: int, pick: Random) -> None:
        grown = pick.choice((4, 6, 8))
        super().__init__(c + grown)
        self.a, self.first = nn.Conv2d(c, grown, 1), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), x] if self.first else [x, self.a(x)], 1)


class Chunk(Image, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.chunks = nn.Conv2d(c // 2, c // 2, 3, padding=1), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.chunks else x.split(x.shape[1] // 2, 1)
        return torch.cat([left, F.relu(self.a(right))], 1)


class Gate(Image, divisor=4):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c // 2)
        self.whole = pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.whole:
            return F.glu(x, 1)
        left, right = x.chunk(2, 1)
        return left * torch.sigmoid(right)


class Uneven(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(6)
        self.at = pick.randrange(2, c - 1)
        self.a, self.b = nn.Conv2d(self.at, 6, 1), nn.Conv2d(c - self.at, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.a(x[:, : self.a.in_channels])) + self.b(x[:, self.a.in_channels :])


class Shuffle(Image, divisor=4):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.groups, self.ready = pick.choice((2, 4)), pick.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        if self.ready:
            return torch.channel_shuffle(x, self.groups)
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Excite(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.b, self.linear = nn.Conv2d(c, 5, 1), nn.Conv2d(5, c, 1), pick.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            y = F.linear(x.mean((2, 3)), self.a.weight.flatten(1), self.a.bias)
            return x * torch.sigmoid(self.b(F.relu(y)[:, :, None, None]))
        return x * torch.sigmoid(self.b(F.relu(self.a(F.adaptive_avg_pool2d(x, 1)))))


class Pixel(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((4, 6)))
        self.a, self.average = nn.Conv2d(c, 4 * self.out, 1), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.a(x), 2)
        return F.avg_pool2d(y, 2) if self.average else F.max_pool2d(y, 2)


class Unpixel(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(10)
        self.a, self.mode = nn.Conv2d(4 * c, 10, 1), pick.choice(("nearest", "bilinear"))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.relu(self.a(F.pixel_unshuffle(x, 2))), scale_factor=2, mode=self.mode)


class Pad(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c + 4)
        self.a = nn.Conv2d(c, c + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 2, 2)) + self.a(x)


class Pooled(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(2 * c)
        self.pool = pick.choice((nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.interpolate(self.pool(x), x.shape[2:])], 1)


class Scale(Image):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.scale, self.shift = nn.Parameter(torch.rand(c, 1, 1)), nn.Parameter(torch.rand(1, c, 1, 1))
        self.bend = nn.PReLU(pick.choice((1, c)))

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(x * self.scale + self.shift)


class Weighted(Image):
    """Branches added with weights that are learned, as in BiFPN or with a softmax."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.b = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 3, padding=1)
        self.weights, self.soft = nn.Parameter(torch.rand(3)), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.soft:
            return (torch.stack([x, self.a(x), self.b(x)], -1) * self.weights.softmax(0)).sum(-1)
        w = F.relu(self.weights)
        return (w[0] * x + w[1] * self.a(x) + w[2] * self.b(x)) / (w.sum() + 1e-3)


class Selective(Image):
    """Branches weighed by attention over them, channel by channel, as in selective kernels."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(8)
        self.a, self.b = nn.Conv2d(c, 8, 1), nn.Conv2d(c, 8, 3, padding=1)
        self.squeeze, self.excite, self.wide = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 16, 1), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        weights = self.excite(F.relu(self.squeeze(y.sum(1).mean((2, 3), keepdim=True))))
        if self.wide:
            return (y * weights.unflatten(1, (2, -1)).softmax(1)).sum(1)
        n, _, c, _, _ = y.shape
        return (y * weights.view(n, 2, c, 1, 1).softmax(1)).sum(1)


class Product(Image):
    """A matrix of its own, in an einsum or a matrix product."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((8, 10)))
        self.matrix, self.how = nn.Parameter(torch.randn(self.out, c)), pick.choice(("einsum", "matmul", "conv"))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "einsum":
            return torch.einsum("nchw,oc->nohw", x, self.matrix)
        if self.how == "matmul":
            return (self.matrix @ x.flatten(2)).unflatten(2, x.shape[2:])
        return F.conv2d(x, self.matrix[:, :, None, None])


class Standardised(Image, counted=True):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(10)
        self.a, self.ready = nn.Conv2d(c, 10, 3, padding=1), pick.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        w = self.a.weight
        if self.ready:
            w = F.batch_norm(w.reshape(1, w.shape[0], -1), None, None, training=True).reshape_as(w)
        else:
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.a.bias, padding=1)


class WeightNorm(Image, counted=True):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(10)
        self.a = weight_norm(nn.Conv2d(c, 10, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))


class Spatial(Image, counted=True):
    """A gate for each place, from the mean and the maximum over channels."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class Normalise(Image, counted=True):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.response = pick.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 3) if self.response else F.normalize(x, dim=1)


class Halves(Image, divisor=4):
    """Channels paired by strides, by views or by a rotation."""

    def __init__(self, c: int, pick: Random) -> None:
        self.how = pick.choice(("stride", "view", "maxout", "rotate"))
        super().__init__(c if self.how == "rotate" else c // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "stride":
            return x[:, ::2] * x[:, 1::2]
        if self.how == "view":
            return x.unflatten(1, (2, -1)).sum(1)
        if self.how == "maxout":
            n, c, h, w = x.shape
            return x.reshape(n, c // 2, 2, h, w).amax(2)
        half = x.shape[1] // 2
        return torch.cat([-x[:, half:], x[:, :half]], 1) + x


class Shared(Image):
    """One convolution called twice, or two that share their weight."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.b = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        if pick.random() < 0.5:
            self.b.weight = self.a.weight
        else:
            self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))))


class Split(Image):
    """YOLO's block of two parts and bottlenecks after one another."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(12)
        self.c, self.chunks = pick.choice((4, 6)), pick.random() < 0.5
        self.a, self.b = nn.Conv2d(c, 2 * self.c, 1), nn.Conv2d(4 * self.c, 12, 1)
        self.m = nn.ModuleList(nn.Conv2d(self.c, self.c, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.a(x).chunk(2, 1) if self.chunks else self.a(x).split((self.c, self.c), 1))
        y.extend(F.silu(m(y[-1])) for m in self.m)
        return self.b(torch.cat(y, 1))


class Ghost(Image):
    """Cheap channels made of the first ones, cut to the width asked for."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((8, 12)))
        half = self.out // 2
        self.a, self.cheap = nn.Conv2d(c, half, 1), nn.Conv2d(half, half, 3, padding=1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return torch.cat([y, self.cheap(y)], 1)[:, : self.out]


class Conditional(Image, counted=True):
    """Kernels mixed for each image, run as one grouped convolution."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(6)
        self.route, self.kernels = nn.Linear(c, 3), nn.Parameter(torch.randn(3, 6 * c))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.route(x.mean((2, 3))).softmax(-1) @ self.kernels
        return F.conv2d(x.reshape(1, n * c, h, w), weight.view(n * 6, c, 1, 1), groups=n).view(n, 6, h, w)


class Conv3d(Volume):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(pick.choice((6, 8)))
        kernel, padding = pick.choice((((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (0, 1, 1)), ((2, 1, 1), "same")))
        self.a, self.norm = nn.Conv3d(c, self.out, kernel, padding=padding), nn.BatchNorm3d(self.out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.a(x)))


class Transposed3d(Volume, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(8)
        self.a = nn.ConvTranspose3d(c, 8, 3, padding=1, groups=pick.choice((1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(F.interpolate(self.a(x), scale_factor=2), 2)


class Conv1d(Line, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        groups = pick.choice((1, 1, 2, c))
        super().__init__(c if groups == c else 8)
        self.a = nn.Conv1d(c, self.out, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.a(x))


class Transposed1d(Line, divisor=2):
    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(8)
        self.a, self.norm = nn.ConvTranspose1d(c, 8, 2, stride=2, groups=pick.choice((1, 2))), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(self.norm(self.a(x)), 2)


class Mixing(Line):
    """A layer over places, with a norm over channels."""

    def __init__(self, c: int, pick: Random) -> None:
        super().__init__(c)
        self.a, self.b = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.gelu(self.a(x)))
