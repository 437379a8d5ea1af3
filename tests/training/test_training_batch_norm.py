"""Re-estimated statistics against the definition."""

from __future__ import annotations

import copy

import pytest
import torch
from tinynet import batches, net, same_tensors
from torch import nn

from secateur.errors import DataError, InputError, TrainingError
from secateur.training import reestimate_batch_norm


def uneven(sizes=(6, 6, 3)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 2, 4, 4, generator=generator) * (1 + k) + 3 * k for k, size in enumerate(sizes)]


def test_one_norm_holds_the_statistics_of_all_values() -> None:
    norm, data = nn.BatchNorm2d(2), uneven()
    assert reestimate_batch_norm(norm, data) == 1
    everything = torch.cat(data).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, everything.mean(1).float())
    torch.testing.assert_close(norm.running_var, everything.var(1).float())
    assert norm.num_batches_tracked == 3
    with torch.no_grad():
        out = norm.eval()(torch.cat(data)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1), torch.ones(2), atol=1e-4, rtol=0)


def test_large_offsets_lose_no_digits() -> None:
    norm = nn.BatchNorm1d(1, dtype=torch.float64)
    data = [torch.randn(32, 1, dtype=torch.float64) + 1e6 for _ in range(5)]
    reestimate_batch_norm(norm, data)
    torch.testing.assert_close(norm.running_var, torch.cat(data).var(0), rtol=1e-8, atol=0)


def test_later_norms_see_what_training_would_show_them_and_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.9), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).train()
    data = uneven()
    values = []
    with torch.no_grad():
        for batch in data:
            mean, var = batch.mean((0, 2, 3), keepdim=True), batch.var((0, 2, 3), keepdim=True, unbiased=False)
            values.append(model[2]((batch - mean) / (var + 1e-5).sqrt()))
    everything = torch.cat(values).transpose(0, 1).flatten(1)
    assert reestimate_batch_norm(model, data) == 2
    torch.testing.assert_close(model[3].running_mean, everything.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[3].running_var, everything.var(1), rtol=1e-4, atol=1e-5)


def test_instance_norm_averages_over_instances() -> None:
    norm, data = nn.InstanceNorm2d(2, track_running_stats=True), uneven()
    assert reestimate_batch_norm(norm, data) == 1
    everything = torch.cat(data).flatten(2)
    torch.testing.assert_close(norm.running_mean, everything.mean(2).mean(0))
    torch.testing.assert_close(norm.running_var, everything.var(2).mean(0))


def test_a_norm_that_is_shared_pools_all_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            self.norm(input=x)
            self.norm(x + 10)

    model, x = Twice(), torch.randn(8, 1)
    reestimate_batch_norm(model, [x])
    torch.testing.assert_close(model.norm.running_var, torch.cat([x, x + 10]).var(0))


def test_only_statistics_change() -> None:
    model = net().eval()
    model.drop.train()
    model.norm.momentum = 0.37
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before = copy.deepcopy(model)
    assert reestimate_batch_norm(model, batches(), batches=2) == 1
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert model.norm.momentum == 0.37
    assert model.conv.weight.grad.eq(1).all()
    assert not model.norm._forward_hooks
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert model.norm.num_batches_tracked == 2


def test_statistics_that_were_nan_are_healed() -> None:
    model = net()
    model.norm.running_mean.fill_(float("nan"))
    reestimate_batch_norm(model, batches())
    assert model.norm.running_mean.isfinite().all()


def test_without_batch_norm_it_does_nothing() -> None:
    assert reestimate_batch_norm(nn.Linear(2, 2), [torch.ones(1, 2)]) == 0
    assert reestimate_batch_norm(nn.BatchNorm1d(2, track_running_stats=False), [torch.ones(2, 2)]) == 0


def test_an_unused_norm_keeps_its_statistics() -> None:
    model = net()
    model.spare = nn.BatchNorm1d(2)
    model.spare.running_mean.fill_(5.0)
    assert reestimate_batch_norm(model, batches()) == 1
    assert model.spare.running_mean.eq(5).all()


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], DataError, "It is empty"),
        ([*batches(2), (torch.full((2, 1, 5, 5), float("nan")), None)], TrainingError, "The statistics of 'norm'"),
        ([*batches(1), (torch.ones(2, 9, 5, 5), None)], RuntimeError, "channels"),
    ],
)
def test_on_an_error_all_is_as_before(loader, error, message) -> None:
    model = net()
    reestimate_batch_norm(model, batches(seed=3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        reestimate_batch_norm(model, loader)
    assert same_tensors(model.state_dict(), before)
    assert model.norm.momentum == 0.1
    assert not model.norm._forward_hooks


def test_a_batch_of_one_is_told() -> None:
    with pytest.raises(TrainingError, match="Got a batch of one sample"):
        reestimate_batch_norm(nn.BatchNorm1d(2), [torch.ones(1, 2)])
    with pytest.raises(InputError, match="'batches' parameter"):
        reestimate_batch_norm(nn.BatchNorm1d(2), [torch.ones(2, 2)], batches=0)
