from __future__ import annotations

import corruption_reference as reference
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from secateur.data.corruptions import corrupt, kinds, severities
from secateur.data.corruptions.draws import Draws
from secateur.data.corruptions.edges import distances
from secateur.data.corruptions.jpeg import compressed
from secateur.data.corruptions.linear import box, disk
from secateur.data.corruptions.strengths import STRENGTHS
from secateur.errors import InputError

EVERY = [(strengths, kind) for strengths in STRENGTHS for kind in kinds(strengths)]
DEFINED = [(strengths, kind) for strengths, kind in EVERY if kind != "frost"]  # whose photographs are not at hand
ROUNDED_WITHIN = ("glass_blur", "snow", "spatter")
SEED = 3


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth pictures with sharp shapes on them, dark and bright; uint8."""
    generator = torch.Generator().manual_seed(count + channels + height)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    images[:, :, height // 4 : height // 2, width // 3 : -3] *= 0.3
    images[:, :, -6:-2, 2 : width // 2] = 1
    return (images * 255).byte()


@pytest.mark.parametrize(("strengths", "kind"), DEFINED)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 29)], ids=["colour", "grey"])
def test_every_corruption_is_its_published_definition(strengths: str, kind: str, shape: tuple[int, int, int]) -> None:
    images = pictures(1, *shape)
    indices = torch.tensor([7])
    for severity in severities(kind, strengths):
        found = corrupt(images, kind, severity, strengths=strengths, seed=SEED, indices=indices)
        draws = Draws.of(SEED, kind, severity, indices)
        image = images[0].permute(1, 2, 0).double().numpy() / 255
        arguments = STRENGTHS[strengths][kind][severity - 1]
        wanted = np.clip(getattr(reference, kind)(image, draws, *arguments), 0, 1) * 255
        bytes_ = found[0].permute(1, 2, 0).double().numpy()
        off = np.maximum(wanted - 1 - bytes_, bytes_ - wanted)  # at most 0 where it is `wanted` rounded down
        # a byte stored on the way may fall to either side of what float32 rounds, and an edge where lengths are near
        assert (off > 1e-3).mean() <= (0.04 if kind in ROUNDED_WITHIN else 0.002), severity
        assert (off > 1.01).mean() <= 0.002, severity


@pytest.mark.parametrize(("strengths", "kind"), EVERY)
def test_an_image_gets_the_same_alone_and_in_any_batch(strengths: str, kind: str) -> None:
    images = pictures(5, 3, 16, 20)
    whole = corrupt(images, kind, 1, strengths=strengths, seed=SEED)
    order = torch.tensor([3, 0, 4])
    some = corrupt(images[order], kind, 1, strengths=strengths, seed=SEED, indices=order)
    assert (some.int() - whole[order].int()).abs().max() <= 1  # sums of a batched product may round
    assert torch.equal(corrupt(images, kind, 1, strengths=strengths, seed=SEED), whole)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"])
def test_seed_severity_and_index_each_change_what_is_drawn(kind: str) -> None:
    images = pictures(1, 3, 32, 32).repeat(2, 1, 1, 1)
    first = corrupt(images, kind, 3, strengths="imagenet", seed=0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, corrupt(images, kind, 3, strengths="imagenet", seed=1))
    drawn = [Draws.of(0, kind, severity, torch.arange(2)).keys for severity in (1, 2)]
    assert not torch.isin(drawn[0], drawn[1]).any()


@pytest.mark.parametrize("kind", kinds("cifar"))
def test_images_of_many_sizes_are_taken(kind: str) -> None:
    for shape in ((1, 8, 8), (3, 8, 11), (1, 28, 28), (3, 40, 33)):
        images = pictures(2, *shape)
        for strengths in ("cifar", "imagenet"):
            assert corrupt(images, kind, 5, strengths=strengths).shape == images.shape


def test_streams_are_splitmix64() -> None:
    bits = Draws(torch.tensor([1234567])).halves(10)[0].tolist()
    joined = [(low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32 for low, high in zip(bits[::2], bits[1::2], strict=True)]
    # the published first numbers of seed 1234567
    assert joined == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_what_streams_give_has_the_distributions_it_says() -> None:
    draws = Draws.of(0, "any", 1, torch.arange(20))
    assert stats.kstest(draws.normal(2000).flatten(), "norm").pvalue > 1e-3
    assert stats.kstest(draws.uniform(-2, 3, 2001).flatten(), stats.uniform(-2, 5).cdf).pvalue > 1e-3
    whole = draws.integers(-2, 3, 2000)
    assert whole.unique().tolist() == [-2, -1, 0, 1, 2]
    assert stats.chisquare(whole.flatten().add(2).bincount()).pvalue > 1e-3
    between = np.corrcoef(draws.normal(4000).numpy())
    assert np.abs(between - np.eye(20)).max() < 5 / np.sqrt(4000)


def test_shot_noise_has_the_mean_and_the_variance_of_poisson() -> None:
    for level, photons in ((26, 60), (128, 500), (51, 5)):
        images = torch.full((8, 1, 64, 64), level, dtype=torch.uint8)
        severity = [each[0] for each in STRENGTHS["cifar"]["shot_noise"] + STRENGTHS["imagenet"]["shot_noise"]].index(
            photons
        )
        strengths = "cifar" if severity < 5 else "imagenet"
        noisy = corrupt(images, "shot_noise", severity % 5 + 1, strengths=strengths).double() / 255
        counts = (noisy * photons).ceil() if photons <= 60 else noisy * photons
        rate, size = level / 255 * photons, counts.numel()
        assert abs(counts.mean() - rate) < 5 * (rate / size) ** 0.5 + (photons > 255)
        assert counts.var() == pytest.approx(rate, rel=0.05)


def test_impulse_noise_is_half_black_and_half_white() -> None:
    images = torch.full((4, 3, 64, 64), 100, dtype=torch.uint8)
    noisy = corrupt(images, "impulse_noise", 5, strengths="imagenet")
    for value in (0, 255):
        assert (noisy == value).double().mean() == pytest.approx(0.27 / 2, abs=0.006)
    assert sorted(noisy.unique().tolist()) == [0, 100, 255]


@pytest.mark.parametrize(
    ("severity", "centre", "edge", "corner"),
    [(1, 0.845, 0.0371, 0.0016), (2, 0.619, 0.0838, 0.0113), (3, 0.445, 0.111, 0.0277)],
)
def test_small_defocus_kernels_are_those_measured(severity: int, centre: float, edge: float, corner: float) -> None:
    kernel = disk(*STRENGTHS["cifar"]["defocus_blur"][severity - 1])
    assert kernel.shape == (3, 3)
    assert kernel[1, 1] == pytest.approx(centre, abs=6e-4)
    assert kernel[0, 1] == pytest.approx(edge, abs=6e-4)
    assert kernel[0, 0] == pytest.approx(corner, abs=6e-5)


def test_large_defocus_kernels_are_a_plus_and_a_square() -> None:
    plus, square = (disk(*STRENGTHS["cifar"]["defocus_blur"][i]) for i in (3, 4))
    for kernel, wanted in ((plus, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5), (square, np.full((3, 3), 1 / 9))):
        middle = slice(len(kernel) // 2 - 1, len(kernel) // 2 + 2)
        assert kernel[middle, middle] == pytest.approx(wanted, abs=1e-4)
        assert kernel.sum() == pytest.approx(1)


@pytest.mark.parametrize("size", [8, 24, 28, 29, 32, 33, 48])
def test_box_matrices_are_pillows(size: int) -> None:
    unit = np.eye(size, dtype=np.float32)
    for share in (0.95, 0.9, 0.85, 0.75, 0.65, 0.6, 0.5, 0.4, 0.3, 0.25):
        small = int(size * share)
        for before, after in ((size, small), (small, size)):
            columns = Image.fromarray(unit[:before, :before]).resize((after, before), Image.Resampling.BOX)
            assert pytest.approx(np.asarray(columns), abs=1e-6) == box(before, after).T


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (3, 33, 40), (3, 8, 11), (3, 47, 9), (1, 29, 24), (1, 28, 28), (3, 56, 40)]
)
def test_jpeg_is_pillows_to_the_last_byte(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=generator)
    images = torch.cat([pictures(2, *shape), noise, noise // 128 * 255])
    for quality in (100, 80, 58, 40, 25, 10, 1):
        found = compressed(images.float(), quality)
        for image, after in zip(images.movedim(1, -1).numpy(), found.movedim(1, -1).numpy(), strict=True):
            wanted = reference.jpeg_compression(image / 255, Draws(torch.zeros(1).long()), quality) * 255
            assert np.array_equal(after, wanted.round())


def test_a_horizontal_motion_blur_has_the_published_kernel() -> None:
    from secateur.data.corruptions.blur import smeared

    point = torch.zeros(1, 1, 9, 31)
    point[..., 4, 20] = 1
    line = smeared(point, torch.zeros(1), 6, 1.0)[0, 0, 4]
    assert line[[20, 19, 18]].tolist() == pytest.approx([0.57, 0.346, 0.077], abs=1e-3)
    assert smeared(point, torch.zeros(1), 6, 2.0)[0, 0, 4, 16:21].flip(0).tolist() == pytest.approx(
        [0.333, 0.294, 0.202, 0.108, 0.045], abs=1e-3
    )


def test_frost_is_as_bright_as_its_severity_and_never_twice_alike() -> None:
    black = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    for strengths in ("cifar", "imagenet"):
        for severity in severities("frost", strengths):
            amount = STRENGTHS[strengths]["frost"][severity - 1][1]
            frozen = corrupt(black, "frost", severity, strengths=strengths).double() / 255
            assert frozen.max() <= amount
            assert 0.1 < frozen.mean() / amount < 0.7
            assert np.abs(np.corrcoef(frozen.mean(1).flatten(1).numpy()) - np.eye(6)).max() < 0.9


def test_distances_are_exact_and_bounded() -> None:
    from scipy import ndimage

    marked = torch.rand(3, 1, 30, 41, generator=torch.Generator().manual_seed(0)) < 0.004
    found = distances(marked, 20)
    for mask, distance in zip(marked[:, 0], found[:, 0], strict=True):
        wanted = np.minimum(ndimage.distance_transform_edt(~mask.numpy()), 20) if mask.any() else np.full((30, 41), 20)
        assert distance.numpy() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"severity": 6}, r"\[1, 5\] for fog of strengths 'cifar'. Got 6"),
        ({"severity": 0}, r"\[1, 5\]"),
        ({"kind": "frog"}, "no corruption 'frog' of strengths 'cifar'. Nearest: fog, frost"),
        ({"strengths": "svhn"}, "one of cifar, imagenet, mnist. Got 'svhn'"),
        ({"seed": -1}, "at least 0. Got -1"),
        ({"images": torch.zeros(2, 3, 32, 32)}, "must be uint8"),
        ({"images": torch.zeros(2, 4, 32, 32, dtype=torch.uint8)}, r"1 or 3, height, width\]"),
        ({"images": torch.zeros(2, 3, 7, 32, dtype=torch.uint8)}, "at least 8 rows and columns. Got 7 x 32"),
        ({"indices": torch.arange(3)}, r"int64 of shape \[2\]"),
    ],
)
def test_what_cannot_be_corrupted_is_told(change: dict[str, object], said: str) -> None:
    asked = {"images": pictures(2, 3, 32, 32), "kind": "fog", "severity": 1, **change}
    images, kind, severity = (asked.pop(name) for name in ("images", "kind", "severity"))
    with pytest.raises(InputError, match=said):
        corrupt(images, kind, severity, **asked)  # type: ignore[arg-type]


def test_no_images_stay_none() -> None:
    assert corrupt(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "fog", 1).shape == (0, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("strengths", "kind"), EVERY)
def test_a_gpu_gives_what_the_cpu_gives(strengths: str, kind: str) -> None:
    images = pictures(4, 3, 32, 32)
    there = corrupt(images.cuda(), kind, 1, strengths=strengths, seed=SEED)
    assert there.is_cuda
    apart = (there.cpu().int() - corrupt(images, kind, 1, strengths=strengths, seed=SEED).int()).abs()
    assert (apart > 1).double().mean() <= 0.002
