"""The masks: fair, independent, the same wherever they are made."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.hashing import Draw, hash_, hashed, mixed, mixed_number, signed
from secateur.optim.places import CHUNK, Place, bases, pieces, place, whole_mask

CPU = torch.device("cpu")
N = 200_000


def mask(rate: float = 0.8, seed: int = 0, step: int = 1, n: int = N, start: int = 0) -> torch.Tensor:
    return whole_mask(Place(start, (n,), (1,)), Draw(seed, step, rate), CPU)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])


@given(st.integers(0, 2**32 - 1))
def test_the_hash_of_a_tensor_is_that_of_numbers(x: int) -> None:
    assert mixed(torch.tensor([signed(x)], dtype=torch.int32)).item() == signed(mixed_number(x))


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_hashing_in_place_is_hashing(x: int, first: int, second: int) -> None:
    indices = torch.tensor([x], dtype=torch.int32)
    expected = hashed(indices, first, second)
    assert expected.item() >= 0
    assert torch.equal(hash_(indices, torch.empty_like(indices), first, second), expected)


def test_known_bits_never_change() -> None:
    """Another device, version or compiler that gives other bits would break resumed runs."""
    bits = mask(0.5, seed=7, step=3, n=64).int().tolist()
    assert int("".join(map(str, bits)), 2) == 0xD73730F37E1A6327


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.8, 0.999])
def test_the_share_kept_is_the_rate(rate: float) -> None:
    for step in (1, 2, 1000, 2**31):
        kept = int(mask(rate, step=step).sum())
        assert abs(kept - rate * N) < 5 * math.sqrt(N * rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_masks_are_unrelated(rate: float) -> None:
    one = mask(rate)
    limit = 5 / math.sqrt(N)
    others = [mask(rate, step=2), mask(rate, step=11), mask(rate, seed=1), mask(rate, seed=2**32)]
    others += [mask(rate, start=N), mask(rate, start=2**31 - 1000)]
    assert all(abs(correlation(one, other)) < limit for other in others)
    for shift in (1, 2, 3, 9, 64, 256, CHUNK):
        assert abs(correlation(one[shift:], one[:-shift])) < limit
        for step in (2, 3):  # no mask is another's, shifted
            assert abs(correlation(one[shift:], mask(rate, step=step)[:-shift])) < limit


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8])
def test_masks_are_unrelated_where_their_first_keys_agree(rate: float) -> None:
    """The worst alignment of two steps: indices exchanged so that only the second key tells the masks apart."""
    generator = torch.Generator().manual_seed(3)
    count, bound = 1 << 16, Draw(0, 1, rate).bound
    indices = torch.arange(count, dtype=torch.int32)
    scores = []
    for _ in range(150):
        keys = [int(key) for key in torch.randint(-(2**31), 2**31, (3,), generator=generator)]
        one, other = (hashed(indices, keys[0], second) < bound for second in keys[1:])
        scores.append(correlation(one, other) * math.sqrt(count))
    assert max(map(abs, scores)) < 5
    assert torch.tensor(scores).std().item() == pytest.approx(1, abs=0.25)


def test_runs_of_kept_entries_have_their_lengths() -> None:
    """The chi-square of run lengths against the geometric law."""
    bits = mask(0.5).int()
    ends = torch.nonzero(bits.diff()).flatten()
    lengths = ends.diff()
    observed = torch.stack([(lengths == k).sum() for k in range(1, 9)] + [(lengths > 8).sum()]).double()
    shares = torch.tensor([0.5**k for k in range(1, 9)] + [0.5**8], dtype=torch.float64)
    expected = shares * len(lengths)
    assert float(((observed - expected) ** 2 / expected).sum()) < 27.9  # 8 degrees of freedom, one in 2000


def test_the_same_seed_and_step_give_the_same_mask_as_number_and_as_tensor() -> None:
    indices = torch.arange(1000, dtype=torch.int32)
    for step in (1, 77, 2**31 + 5, 2**40 + 3):
        by_number = Draw(5, step, 0.3).kept(indices)
        assert torch.equal(by_number, Draw(5, torch.tensor(step), 0.3).kept(indices))
        assert torch.equal(by_number, whole_mask(Place(0, (1000,), (1,)), Draw(5, torch.tensor(step), 0.3), CPU))


def test_seeds_of_any_size_and_sign_differ() -> None:
    masks = [mask(0.5, seed=s, n=512) for s in (0, 1, -1, 2**31, 2**32, 2**63, -(2**40))]
    assert len({tuple(m.tolist()) for m in masks}) == len(masks)


def test_chunks_and_neighbours_do_not_matter() -> None:
    """One long place, several in a row, and single elements are the same bits."""
    draw = Draw(3, 9, 0.6)
    whole = whole_mask(Place(100, (3 * CHUNK + 17,), (1,)), draw, CPU)
    cuts = [0, 5, 6, CHUNK, 2 * CHUNK + 1, len(whole)]
    places = [Place(100 + a, (b - a,), (1,)) for a, b in pairwise(cuts)]
    found = [torch.empty(p.units, dtype=torch.bool) for p in places]
    for number, rows, piece in pieces(places, draw, CPU):
        (found[number] if rows is None else found[number][rows]).copy_(piece != 0)
    assert torch.equal(torch.cat(found), whole)
    assert torch.equal(draw.kept(torch.arange(100, 100 + len(whole), dtype=torch.int32)), whole)


def test_shards_are_parts_of_the_whole() -> None:
    """Sharding by rows and by columns: local indices with the strides of the whole."""
    shape = (12, 10, 3)
    draw = Draw(0, 4, 0.5)
    whole = whole_mask(Place(50, shape, (30, 3, 1)), draw, CPU)
    for rows in (slice(0, 5), slice(5, 12)):
        part = Place(50 + rows.start * 30, (rows.stop - rows.start, 10, 3), (30, 3, 1))
        assert torch.equal(whole_mask(part, draw, CPU), whole[rows])
    for columns in (slice(0, 4), slice(4, 10)):
        part = Place(50 + columns.start * 3, (12, columns.stop - columns.start, 3), (30, 3, 1))
        assert not part.in_order
        assert torch.equal(whole_mask(part, draw, CPU), whole[:, columns])


def test_rows_and_tensors_are_kept_as_one() -> None:
    weight = torch.empty(40, 3, 2, 2)
    draw = Draw(0, 1, 0.5)
    rows = whole_mask(place(weight, 10, "row"), draw, CPU)
    assert rows.shape == (40, 1, 1, 1)
    assert 5 < int(rows.sum()) < 35
    assert whole_mask(place(weight, 10, "tensor"), draw, CPU).shape == (1, 1, 1, 1)
    kept = sum(int(whole_mask(place(weight, base, "tensor"), draw, CPU)) for base in range(0, 4000, 10))
    assert 150 < kept < 250


def test_indices_beyond_32_bits_have_masks_of_their_own() -> None:
    far = torch.empty(1000)
    near, beyond = (whole_mask(place(far, base, "element"), Draw(0, 1, 0.5), CPU) for base in (8, 8 + 2**32))
    assert not torch.equal(near, beyond)


def test_bases_count_all_elements_in_order() -> None:
    a, b, c = torch.empty(3, 4), torch.empty(()), torch.empty(5)
    assert bases([{"params": [a, b]}, {"params": [c]}]) == {a: 0, b: 12, c: 13}


def test_the_memory_of_masks_is_a_small_part_of_the_gradients() -> None:
    """Everything allocated while masks are made, against an eighth of the gradients in float32."""
    sizes = [300_000, 1_000_000, 64, 700_000]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    places = [Place(start, (n,), (1,)) for start, n in zip(starts, sizes, strict=True)]
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in pieces(places, Draw(0, 1, 0.8), CPU):
            pass
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert 0 < allocated <= 4 * sum(sizes) / 8
