"""The corruptions one image and often one pixel at a time, in float64, from their published definitions.

Each takes an image [height, width, channels] in [0, 1], the stream of that image and its constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from secateur.data.corruptions.draws import Draws

Array = NDArray[np.float64]


def published_bytes(values: Array) -> NDArray[np.uint8]:
    return np.uint8(np.clip(values, 0, 1) * 255)


def drawn(values: object) -> Array:
    return values[0].double().numpy()  # type: ignore[index]


def planes(values: Array) -> Array:
    """[channels, height, width] as drawn -> [height, width, channels]."""
    return np.moveaxis(values, 0, -1)


def luma(x: Array) -> Array:
    return x[..., 0] if x.shape[2] == 1 else x @ [0.299, 0.587, 0.114]


def smooth(x: Array, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """What scikit-image's gaussian does."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], mode=mode, truncate=truncate)


def shape_of(x: Array) -> tuple[int, int, int]:
    return x.shape[2], x.shape[0], x.shape[1]


def gaussian_noise(x: Array, draws: Draws, c: float) -> Array:
    return x + planes(drawn(draws.normal(*shape_of(x)))) * c


def speckle_noise(x: Array, draws: Draws, c: float) -> Array:
    return x + x * planes(drawn(draws.normal(*shape_of(x)))) * c


def impulse_noise(x: Array, draws: Draws, p: float) -> Array:
    chance = planes(drawn(draws.uniform(0, 1, *shape_of(x))))
    out = x.copy()
    for at in np.ndindex(x.shape):
        if chance[at] < p:
            out[at] = 0 if chance[at] < p / 2 else 1
    return out


def shot_noise(x: Array, draws: Draws, photons: int) -> Array:
    chance = planes((draws.halves(*shape_of(x))[0].long() & 0xFFFFFFFF).numpy()) / 2**32
    return stats.poisson.ppf(chance + 2**-33, x * photons) / photons


def gaussian_blur(x: Array, draws: Draws, sigma: float) -> Array:
    return smooth(x, sigma)


def defocus_blur(x: Array, draws: Draws, radius: float, alias: float) -> Array:
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-reach, reach + 1)
    disk = np.array([[float(a * a + b * b <= radius * radius) for a in axis] for b in axis])
    line = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias**2))
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(line, line) / line.sum() ** 2, mode="mirror")
    return np.stack([ndimage.correlate(plane, kernel, mode="mirror") for plane in np.moveaxis(x, -1, 0)], -1)


def glass_blur(x: Array, draws: Draws, sigma: float, reach: int, rounds: int, chance: float = 1) -> Array:
    height, width, channels = x.shape
    x = published_bytes(smooth(x, sigma))
    if channels == 1:
        x = x[..., 0]  # then the exchange below is of numbers, and of views where there are colours
    for _ in range(rounds):
        rows, columns = height - 2 * reach, width - 2 * reach
        offsets = draws.integers(-reach, reach, 2, rows, columns)[0].tolist()
        moves = drawn(draws.uniform(0, 1, rows, columns)) < chance
        for i, h in enumerate(range(height - reach, reach, -1)):
            for j, w in enumerate(range(width - reach, reach, -1)):
                if moves[i, j]:
                    h_other, w_other = h + offsets[0][i][j], w + offsets[1][i][j]
                    x[h, w], x[h_other, w_other] = x[h_other, w_other], x[h, w]
    return smooth(x.reshape(height, width, channels) / 255, sigma)


def motion(x: Array, degrees: float, radius: int, sigma: float) -> Array:
    height, width, _ = x.shape
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    out = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        across = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        rows = [min(max(h + down, 0), height - 1) for h in range(height)]
        columns = [min(max(w + across, 0), width - 1) for w in range(width)]
        out += weight * x[np.ix_(rows, columns)]
    return out


def motion_blur(x: Array, draws: Draws, radius: int, sigma: float) -> Array:
    return motion(x, float(draws.uniform(-45, 45)[0]), radius, sigma)


def clipped_zoom(x: Array, factor: float) -> Array:
    crops = [math.ceil(size / factor) for size in x.shape[:2]]
    tops = [(size - crop) // 2 for size, crop in zip(x.shape[:2], crops, strict=True)]
    part = x[tops[0] : tops[0] + crops[0], tops[1] : tops[1] + crops[1]]
    large = ndimage.zoom(part, (factor, factor, 1), order=1)
    trims = [(large.shape[axis] - x.shape[axis]) // 2 for axis in (0, 1)]
    return large[trims[0] : trims[0] + x.shape[0], trims[1] : trims[1] + x.shape[1]]


def zoom_blur(x: Array, draws: Draws, stop: float, step: float) -> Array:
    factors = np.arange(1, stop, step)
    return (x + sum(clipped_zoom(x, float(factor)) for factor in factors)) / (len(factors) + 1)


def elastic_transform(x: Array, draws: Draws, strength: float, sigma: float, jitter: float) -> Array:
    height, width, channels = x.shape
    side = min(height, width)
    moved = drawn(draws.uniform(-jitter * side, jitter * side, 3, 2))
    cx, cy, arm = width // 2, height // 2, side // 3
    before = np.array([[cx + arm, cy + arm], [cx + arm, cy - arm], [cx - arm, cy - arm]], dtype=float)
    forward = np.linalg.solve(np.c_[before, np.ones(3)], before + moved).T  # (x, y, 1) before -> after
    back = np.linalg.inv(np.r_[forward, [[0, 0, 1]]])
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    from_x, from_y = (back[i, 0] * columns + back[i, 1] * rows + back[i, 2] for i in (0, 1))
    planes = [ndimage.map_coordinates(x[..., c], [from_y, from_x], order=1, mode="mirror") for c in range(channels)]
    if strength == 0:
        return np.stack(planes, -1)
    noise = drawn(draws.uniform(-1, 1, 2, height, width))
    dx, dy = (smooth(part, sigma * side, "reflect", 3.0) * strength * side for part in noise)
    places = [rows + dy, columns + dx]
    return np.stack([ndimage.map_coordinates(plane, places, order=1, mode="reflect") for plane in planes], -1)


def plasma(draws: Draws, size: int, decay: float) -> Array:
    grid, wobble, step = np.zeros((size, size)), 100.0, size
    while step > 1:
        half, count = step // 2, size // step
        for down, across in ((half, half), (0, half), (half, 0)):
            drawn_here = drawn(draws.uniform(-(wobble**2), wobble**2, count, count))
            ways = ((half, half), (half, -half), (-half, half), (-half, -half))
            if (down, across) != (half, half):
                ways = ((half, 0), (-half, 0), (0, half), (0, -half))
            for i in range(count):
                for j in range(count):
                    h, w = i * step + down, j * step + across
                    near = sum(grid[(h + a) % size, (w + b) % size] for a, b in ways)
                    grid[h, w] = near / 4 + drawn_here[i, j]
        wobble, step = wobble / decay, half
    return (grid - grid.min()) / (grid.max() - grid.min())


def fog(x: Array, draws: Draws, amount: float, decay: float) -> Array:
    height, width, _ = x.shape
    size = next(2**k for k in range(12) if 2**k >= max(height, width))
    layer = plasma(draws, size, decay)[:height, :width, None]
    return (x + amount * layer) * x.max() / (x.max() + amount)


def snow(
    x: Array, draws: Draws, mean: float, std: float, size: float, least: float, radius: int, sigma: float, keep: float
) -> Array:
    layer = planes(drawn(draws.normal(1, *x.shape[:2]))) * std + mean
    layer = clipped_zoom(layer, size)
    layer[layer < least] = 0
    layer = motion(published_bytes(layer) / 255, float(draws.uniform(-135, -45)[0]), radius, sigma)
    layer = published_bytes(layer) / 255
    white = np.maximum(x, luma(x)[..., None] * 1.5 + 0.5)
    return keep * x + (1 - keep) * white + layer + np.rot90(layer, k=2)


def spatter(
    x: Array, draws: Draws, mean: float, std: float, sigma: float, least: float, amount: float, mud: bool
) -> Array:
    liquid = smooth(drawn(draws.normal(1, *x.shape[:2]))[0] * std + mean, sigma)
    liquid[liquid < least] = 0
    if mud:
        m = smooth((liquid > least).astype(float), amount)
        m[m < 0.8] = 0
        return x * (1 - m[..., None]) + m[..., None] * (np.array([63, 42, 20]) / 255)[: x.shape[2]]
    liquid = published_bytes(liquid) / 255
    dist = np.minimum(ndimage.distance_transform_edt(~canny(liquid, 50 / 255, 150 / 255)), 20)
    if not canny(liquid, 50 / 255, 150 / 255).any():
        dist = np.full_like(liquid, 20)
    near = np.floor(ndimage.correlate(dist, np.full((3, 3), 1 / 9), mode="mirror") + 1e-4).astype(int)
    levels, counts = np.unique(near, return_counts=True)
    if len(levels) > 1:
        below = np.cumsum(counts) - counts[0]
        near = np.rint(below * 255 / (near.size - counts[0]))[np.searchsorted(levels, near)]
    relief = ndimage.correlate(near.astype(float), np.array([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]]), mode="mirror")
    light = np.rint(ndimage.correlate(np.clip(relief, 0, 255), np.full((3, 3), 1 / 9), mode="mirror"))
    m = liquid * light
    m = m / m.max() * amount if m.max() > 0 else m
    return x + m[..., None] * (np.array([175, 238, 238]) / 255)[: x.shape[2]]


def canny(x: Array, low: float, high: float) -> NDArray[np.bool_]:
    down, across = ndimage.sobel(x, 0), ndimage.sobel(x, 1)
    length = np.hypot(down, across)
    height, width = x.shape
    weak = np.zeros(x.shape, dtype=bool)
    for h in range(1, height - 1):
        for w in range(1, width - 1):
            gy, gx = down[h, w], across[h, w]
            sy, sx = int(np.sign(gy)) or 1, int(np.sign(gx)) or 1
            ridge = True
            for way in (1, -1):
                slanted = length[h + way * sy, w + way * sx]
                if abs(gy) >= abs(gx):
                    straight, share = length[h + way * sy, w], abs(gx) / max(abs(gy), 1e-12)
                else:
                    straight, share = length[h, w + way * sx], abs(gy) / abs(gx)
                ridge &= bool(slanted * share + straight * (1 - share) <= length[h, w] + 1e-9)
            weak[h, w] = ridge and length[h, w] >= low
    parts, _ = ndimage.label(weak, np.ones((3, 3)))
    strong = np.unique(parts[weak & (length >= high)])
    return np.isin(parts, strong[strong > 0])


def hsv(x: Array, change: Callable[[float, float, float], tuple[float, float, float]]) -> Array:
    """Each pixel changed as hue, saturation and value."""
    import colorsys

    if x.shape[2] == 1:
        x = np.repeat(x, 3, 2)
        return np.apply_along_axis(lambda p: colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))), 2, x)[..., :1]
    return np.apply_along_axis(lambda p: colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))), 2, x)


def brightness(x: Array, draws: Draws, c: float) -> Array:
    return hsv(x, lambda h, s, v: (h, s, min(1.0, v + c)))


def saturate(x: Array, draws: Draws, factor: float, more: float) -> Array:
    return x if x.shape[2] == 1 else hsv(x, lambda h, s, v: (h, min(1.0, s * factor + more), v))


def contrast(x: Array, draws: Draws, c: float) -> Array:
    mean = x.mean((0, 1))
    return (x - mean) * c + mean


def pillow(x: Array) -> Image.Image:
    return Image.fromarray(np.rint(x * 255).astype(np.uint8).squeeze())


def pixelate(x: Array, draws: Draws, c: float) -> Array:
    height, width, _ = x.shape
    small = pillow(x).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)).reshape(x.shape) / 255


def jpeg_compression(x: Array, draws: Draws, quality: int) -> Array:
    file = BytesIO()
    pillow(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(x.shape) / 255


def warped(x: Array, matrix: list[list[float]], shift: tuple[int, int] = (0, 0)) -> Array:
    """Read at matrix (x, y) + shift from the centre, black outside."""
    middle = (np.array(x.shape[1::-1]) - 1) / 2
    out = np.zeros_like(x)
    for h in range(x.shape[0]):
        for w in range(x.shape[1]):
            at_x, at_y = np.array(matrix) @ (np.array([w, h]) - middle) + middle + shift
            for a in (math.floor(at_y), math.floor(at_y) + 1):
                for b in (math.floor(at_x), math.floor(at_x) + 1):
                    if 0 <= a < x.shape[0] and 0 <= b < x.shape[1]:
                        out[h, w] += x[a, b] * (1 - abs(at_y - a)) * (1 - abs(at_x - b))
    return out


def shear(x: Array, draws: Draws, c: float) -> Array:
    c *= int(draws.signs()[0])
    return warped(x, [[1, -math.sin(c)], [0, math.cos(c)]])


def rotate(x: Array, draws: Draws, c: float) -> Array:
    c *= int(draws.signs()[0])
    return warped(x, [[math.cos(c), -math.sin(c)], [math.sin(c), math.cos(c)]])


def scale(x: Array, draws: Draws, c: float) -> Array:
    return warped(x, [[c, 0], [0, c]])


def translate(x: Array, draws: Draws, c: int) -> Array:
    dx, dy = (c * draws.signs(2)[0]).tolist()
    return warped(x, [[1, 0], [0, 1]], (dx, dy))


def stripe(x: Array, draws: Draws) -> Array:
    quarter = x.shape[1] // 4
    inverted = (np.arange(x.shape[1]) < quarter) | (np.arange(x.shape[1]) >= x.shape[1] - quarter)
    return np.where(inverted[None, :, None], 1 - x, x)


def line(shape: tuple[int, ...], c0: float, r0: float, c1: float, r1: float) -> Array:
    out = np.zeros(shape[:2])
    for h in range(shape[0]):
        for w in range(shape[1]):
            if math.floor(c0) <= w < math.ceil(c1):
                away = min(abs(h - (r0 + (r1 - r0) / (c1 - c0) * (w - c0))), 2.3 - 1e-10)
                out[h, w] = max(0, math.log(1 - away / 2.3) + 1)
    return out


def dotted_line(x: Array, draws: Draws) -> Array:
    r0, r1 = draws.integers(0, x.shape[0] - 1, 2)[0].tolist()
    drawing = line(x.shape, 0, r0, x.shape[1] - 1, r1)
    for first in range(0, x.shape[1], 4):
        drawing[:, first : first + 2] = 0
    return x + drawing[..., None]


def zigzag(x: Array, draws: Draws) -> Array:
    a = b = 2.0
    c0, c1 = 2, x.shape[1] - 3
    r0 = int(draws.integers(0, x.shape[0] - 1)[0])
    r1 = r0 + int(draws.integers(-5, 5)[0])
    theta = math.atan((r1 - r0) / (c1 - c0))
    d = (c1 - c0) / math.cos(theta)
    corners = int((d - a) // (2 * a)) + 1
    points = [(0.0, 0.0), *(((2 * i + 1) * a, (-1) ** i * b) for i in range(corners))]
    most = 2 * a * (d // (2 * a))
    if d != most:
        points.append((d, points[-1][1] / (2 * (d - most))))
    turned = [
        (c0 + p * math.cos(theta) - q * math.sin(theta), r0 + p * math.sin(theta) + q * math.cos(theta))
        for p, q in points
    ]
    for (pc, pr), (qc, qr) in pairwise(turned):
        x = np.clip(x + line(x.shape, pc, pr, qc, qr)[..., None], 0, 1)
    return x


def canny_edges(x: Array, draws: Draws) -> Array:
    inside = ndimage.gaussian_filter(np.ones(x.shape[:2]), 1, mode="constant")
    found = canny(ndimage.gaussian_filter(luma(x), 1, mode="constant") / inside, 0.1, 0.2)
    return np.repeat(found[..., None], x.shape[2], 2).astype(float)
