"""Two processes: replicas stay equal and shards are parts of the whole, though their random generators differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from secateur.optim import StochGradAdam, sample_gradients

pytestmark = pytest.mark.slow

STEPS = 20
SHAPES = ((7, 5), (6, 4, 3))  # of seven rows, one process holds four and the other three


class _NaiveSampling(torch.optim.Adam):
    """Masks from the global generator, as one writes them at first."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(torch.rand_like(p.grad) < 0.5)
        return super().step(closure)


def _replicas(kind, **options) -> list[Tensor]:
    """All replicas' weights after training, flat, one a process."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(10, 10))
    optimizer = kind(model.parameters(), **options)
    torch.manual_seed(100 + dist.get_rank())
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(4, 10)).square().mean().backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    gathered = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(gathered, flat)
    return gathered


def _trained(params: list[Tensor], make) -> list[Tensor]:
    optimizer = make(params)
    for step in range(3):
        for number, p in enumerate(params):
            gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + number))
            p.grad = distribute_tensor(gradient, p.device_mesh, p.placements) if isinstance(p, DTensor) else gradient
        optimizer.step()
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in params]


MAKERS = {
    "adam": lambda params: StochGradAdam(params, sampling_rate=0.5),
    "foreach": lambda params: StochGradAdam(params, sampling_rate=0.5, foreach=True),
    "rows": lambda params: StochGradAdam(params, sampling_rate=0.5, granularity="row"),
    **{
        mode: lambda params, mode=mode: sample_gradients(SGD(params, lr=0.1, momentum=0.9), 0.5, mode=mode).optimizer
        for mode in ("gradient", "update", "lazy", "aligned")
    },
}


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    report: dict[str, bool] = {}
    for name, kind, options in (("ours", StochGradAdam, {"sampling_rate": 0.5}), ("naive", _NaiveSampling, {})):
        one, other = _replicas(kind, **options)
        report[name] = torch.equal(one, other)
    mesh = init_device_mesh("cpu", (2,))
    starts = [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(SHAPES)]
    for axis in (0, 1):
        for name, make in MAKERS.items():
            whole = _trained([s.clone().requires_grad_() for s in starts], make)
            shards = [distribute_tensor(s, mesh, [Shard(axis)]).requires_grad_() for s in starts]
            close = [torch.allclose(a, b, atol=1e-7) for a, b in zip(whole, _trained(shards, make), strict=True)]
            report[f"{name}, axis {axis}"] = all(close)
    if rank == 0:
        torch.save(report, Path(folder) / "report")
    dist.barrier()
    os._exit(0)  # meshes keep the group and its threads, which may abort a process whose interpreter ends before them


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[str, bool]:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(_work, args=(str(folder),), nprocs=2)
    return torch.load(folder / "report")


def test_replicas_stay_equal_with_different_generators(report) -> None:
    assert report["ours"]


def test_a_generators_masks_would_not(report) -> None:
    assert not report["naive"]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_sharded_run_is_the_whole_run(report, name: str, axis: int) -> None:
    assert report[f"{name}, axis {axis}"]
