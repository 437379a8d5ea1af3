"""The corruptions that MNIST-C adds: images moved as a whole, striped, drawn over, or reduced to their edges.

Images are float32 [batch, channels, height, width] in [0, 1]; results may leave that range. Constants made for 28
pixels are taken from the border of the image, so that any size will do.
"""

from __future__ import annotations

from math import cos, sin

import torch
from torch import Tensor

from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.edges import edges
from secateur.data.corruptions.linear import blurred, sampled
from secateur.data.corruptions.values import grey

_THICK = 2.3
"""Where a drawn line has faded to nothing, in pixels from its middle."""


def shear(images: Tensor, draws: Draws, angle: float) -> Tensor:
    """Sheared about the centre by plus or minus `angle` radians, as scikit-image did when the data were made."""
    turn = draws.signs()
    return _mapped(images, (1.0, -sin(angle) * turn), (0.0, cos(angle)))


def rotate(images: Tensor, draws: Draws, angle: float) -> Tensor:
    """Turned about the centre by plus or minus `angle` radians."""
    turn = draws.signs()
    return _mapped(images, (cos(angle), -sin(angle) * turn), (sin(angle) * turn, cos(angle)))


def scale(images: Tensor, draws: Draws, factor: float) -> Tensor:  # noqa: ARG001 - nothing is random
    """Shrunk about the centre by `factor`."""
    return _mapped(images, (factor, 0.0), (0.0, factor))


def translate(images: Tensor, draws: Draws, pixels: int) -> Tensor:
    """Moved by `pixels` up or down and by as many to a side."""
    moved = pixels * draws.signs(2)
    return _mapped(images, (1.0, 0.0), (0.0, 1.0), moved[:, 0], moved[:, 1])


def _mapped(
    images: Tensor,
    to_x: tuple[Tensor | float, Tensor | float],
    to_y: tuple[Tensor | float, Tensor | float],
    more_x: Tensor | float = 0.0,
    more_y: Tensor | float = 0.0,
) -> Tensor:
    """Each pixel read at x = to_x · (x, y) + more_x from the centre, y alike; black from outside."""
    count, _, height, width = images.shape
    y, x = torch.meshgrid(
        *(torch.arange(size, device=images.device) - (size - 1) / 2 for size in (height, width)), indexing="ij"
    )
    places = []
    for (by_x, by_y), more, size in ((to_y, more_y, height), (to_x, more_x, width)):
        weights = [
            torch.as_tensor(part, device=images.device).double().expand(count).view(-1, 1, 1)
            for part in (by_x, by_y, more)
        ]
        places.append(weights[0] * x + weights[1] * y + weights[2] + (size - 1) / 2)
    return sampled(images, places[0], places[1], "zeros")


def stripe(images: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001
    """The left and the right quarter inverted."""
    quarter = images.shape[-1] // 4
    out = 1 - images
    out[..., quarter:-quarter] = images[..., quarter:-quarter]
    return out


def dotted_line(images: Tensor, draws: Draws) -> Tensor:
    """A line from the left to the right border on top, at random heights; every other two columns are left out."""
    height, width = images.shape[-2:]
    ends = draws.integers(0, height - 1, 2).double()
    line = _line(
        torch.zeros_like(ends[:, 0]), ends[:, 0], torch.full_like(ends[:, 0], width - 1), ends[:, 1], height, width
    )
    dots = torch.arange(width, device=images.device) // 2 % 2
    return images + (line * dots).unsqueeze(1).to(images)


def zigzag(images: Tensor, draws: Draws) -> Tensor:
    """A zigzag of length and width 2 on top, about a line from two columns inside the left border to the right.

    The line starts at a random height and ends up to five rows above or below.
    """
    height, width = images.shape[-2:]
    begin = draws.integers(0, height - 1).double()
    rise, run = draws.integers(-5, 5).double(), float(width - 5)
    along, off = _turns((rise**2 + run**2).sqrt(), step=2.0)
    angle = torch.atan(rise / run).unsqueeze(1)
    across = 2 + along * angle.cos() - off * angle.sin()
    down = begin.unsqueeze(1) + along * angle.sin() + off * angle.cos()
    drawn = torch.zeros(len(begin), height, width, dtype=torch.float64, device=images.device)
    for i in range(1, across.shape[1]):
        drawn += _line(across[:, i - 1], down[:, i - 1], across[:, i], down[:, i], height, width)
    return images + drawn.unsqueeze(1).to(images)


def _turns(lengths: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The corners of zigzags as long as `lengths`, before they are turned: along and off the line, [batch, corners].

    Rows with fewer corners than others repeat their last.
    """
    counts = ((lengths - step) / (2 * step)).floor().long() + 1
    i = torch.arange(int(counts.max()), device=lengths.device)
    rest = lengths - 2 * step * (lengths / (2 * step)).floor()
    last = (1 - 2.0 * ((counts - 1) % 2)) * step
    # the end, as the released code has it, is off by the last corner's distance over twice the rest
    off_end = torch.where(rest > 0, last / (2 * rest.clamp(min=1e-12)), last)
    along_end = torch.where(rest > 0, lengths, (2 * counts - 1) * step)
    inside = i < counts.unsqueeze(1)
    along = torch.where(inside, (2 * i + 1) * step, along_end.unsqueeze(1))
    off = torch.where(inside, (1 - 2.0 * (i % 2)) * step, off_end.unsqueeze(1))
    start = torch.zeros_like(along[:, :1])
    return torch.cat([start, along, along_end.unsqueeze(1)], 1), torch.cat([start, off, off_end.unsqueeze(1)], 1)


def _line(from_x: Tensor, from_y: Tensor, to_x: Tensor, to_y: Tensor, height: int, width: int) -> Tensor:
    """log(1 - d / 2.3) + 1, at least 0, where d is how many rows a pixel is from the line: [batch, height, width].

    Columns before that of the start and from that of the end on are empty, and so is all where the two are one.
    """
    y, x = (torch.arange(size, device=from_x.device) for size in (height, width))
    begin, start, end, stop = (part.unsqueeze(1) for part in (from_x, from_y, to_x, to_y))
    run = end - begin
    at = start + (stop - start) / torch.where(run == 0, 1, run) * (x - begin)
    away = (y.view(1, -1, 1) - at.unsqueeze(1)).abs().clamp(max=_THICK - 1e-10)
    drawn = (x >= begin.floor()) & (x < end.ceil()) & (run != 0)
    return (torch.log1p(-away / _THICK) + 1).clamp(min=0) * drawn.unsqueeze(1)


def canny_edges(images: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001
    """The edges alone, in white, of the image blurred by one pixel; thresholds 0.1 and 0.2, as in scikit-image."""
    found = edges(blurred(grey(images), 1.0, "none"), 0.1, 0.2)
    return found.to(images).expand_as(images)
