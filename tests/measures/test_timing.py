"""What latency and compare do around the passes they time; the times themselves are the machine's."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from secateur.errors import InputError
from secateur.measures import compare, latency


class Sleeper(nn.Module):
    def __init__(self, seconds: float, diary: list[str] | None = None, name: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seconds, self.diary, self.name = seconds, diary, name

    def forward(self, x, scale=None):
        assert not torch.is_grad_enabled()
        assert not self.training
        if self.diary is not None:
            self.diary.append(self.name)
        time.sleep(self.seconds)
        return x * self.weight


def test_the_median_is_that_of_the_passes() -> None:
    found = latency(Sleeper(0.004), torch.ones(8, 2), runs=7, warmup=1)
    assert found.low_ms <= found.median_ms <= found.high_ms
    assert found.median_ms >= 4
    assert found.throughput == pytest.approx(8 / found.median_ms * 1000)
    assert (found.batch, found.runs, found.device) == (8, 7, "cpu")
    assert "batch 8, cpu" in str(found)


def test_models_take_turns_and_the_ratio_is_paired() -> None:
    diary: list[str] = []
    slow, fast = Sleeper(0.008, diary, "a"), Sleeper(0.002, diary, "b")
    found = compare(slow, fast, torch.ones(1, 2), runs=5, warmup=2)
    assert diary == ["a", "b"] * 7
    assert found.low <= found.ratio <= found.high
    assert found.ratio > 1.5
    assert found.a.median_ms > found.b.median_ms
    assert found.a.runs == found.b.runs == 5


@pytest.mark.parametrize("example", [(torch.ones(3, 2), torch.ones(1)), {"x": torch.ones(3, 2), "scale": None}])
def test_examples_of_several_arguments(example) -> None:
    assert latency(Sleeper(0), example, runs=1, warmup=0).batch == 3


def test_threads_and_modes_are_put_back_even_on_an_error() -> None:
    before, seen = torch.get_num_threads(), []

    class Fails(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            raise KeyError("inside")

    model = nn.Sequential(Fails(), nn.Dropout()).train()
    with pytest.raises(KeyError):
        latency(model, torch.ones(1), threads=before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert all(module.training for module in model.modules())
    assert latency(Sleeper(0), torch.ones(1), threads=1, runs=1).threads == 1


@pytest.mark.parametrize(
    ("change", "name"), [({"runs": 0}, "runs"), ({"warmup": -1}, "warmup"), ({"threads": 0}, "threads")]
)
def test_bad_numbers(change, name) -> None:
    with pytest.raises(InputError, match=f"'{name}' parameter"):
        latency(nn.Identity(), torch.ones(1), **change)
