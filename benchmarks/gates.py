"""What gates cost in training, and what a sparse network saves in inference.

    python benchmarks/gates.py [--repeat 30] [--threads 1] [--save]

Prints, as a table: the time of a training step with gates over that of a plain one, for LeNet-300-100 (single weights)
and ResNet-20 (groups); and of a LeNet-300-100 of 399 edges, the time of a batch of 256 dense, as CSR matrices, and
compacted to its live units. Times are medians, of the processor on one thread and of the clock on more; both sides of a
ratio take turns, with the heap kept as `fit` keeps it. With `--save` the result is kept under results/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

import secateur
from secateur import sparse
from secateur.files import atomic_write
from secateur.graph.units import Groups
from secateur.methods import Gumbel
from secateur.training import Moments, State
from secateur.training.heap import kept_heap
from secateur.zoo import model as build

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "gates.json"
TARGETS = {"step": 1.5, "inference": 5}
Run = Callable[[], object]


def turns(runs: Sequence[Run], repeat: int) -> list[float]:
    """The median seconds of each run, taken in turns after a few to warm up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(repeat + 3):
        for taken, run in zip(seconds, runs, strict=True):
            begin = clock()
            run()
            if turn >= 3:
                taken.append(clock() - begin)
    return [statistics.median(taken) for taken in seconds]


def training_step(model: nn.Module, batch: tuple[Tensor, Tensor], methods: Sequence[Gumbel]) -> Run:
    """One step of a training under the methods, at its beginning."""
    state = State(model, epochs=1000, steps_per_epoch=1000, moments=Moments(methods))
    added = state.moments.setup(state)
    state.optimizer = Adam([{"params": list(model.parameters())}, *added], lr=1e-3, fused=True)
    model.train()

    def step() -> None:
        state.begin_step(batch)
        state.backward(state.objective()[0])
        state.moments("before_step", state)
        state.optimizer_step()
        state.step += 1
        state.moments("after_step", state)

    return step


def gated_over_plain(made: Callable[[], Groups], shape: tuple[int, ...], budget: str, repeat: int) -> list[float]:
    """The median seconds of a plain step and of one with gates."""
    batch = torch.randn(shape), torch.randint(10, shape[:1])
    plain, gated = made(), made()
    runs = [
        training_step(plain.model, batch, []),
        training_step(gated.model, batch, [Gumbel(groups=gated, budget=budget)]),
    ]
    return turns(runs, repeat)


def few_edges(count: int = 399) -> nn.Module:
    """A LeNet-300-100 of which `count` random weights are left, on live paths as far as chance has it."""
    model = build("lenet_300_100", classes=10)
    groups = secateur.elements(model)
    return secateur.masked(groups, secateur.plan(groups, budget=f"{count + 410} weights")).eval()


def as_csr(network: sparse.Network) -> Callable[[Tensor], Tensor]:
    """The network with CSR matrices in the place of its weights."""
    weights = [layer.weight.to_sparse_csr() for layer in network.layers]

    def run(x: Tensor) -> Tensor:
        x = x.flatten(1)[:, network.units[0]]
        for layer, weight in zip(network.layers, weights, strict=True):
            x = layer.activate(nn.functional.linear(x, weight, layer.bias))
        return x

    return run


def steps(repeat: int) -> list[dict[str, Any]]:
    """A row a network: seconds of a plain step and of one with gates."""
    cases: dict[str, tuple[Callable[[], Groups], tuple[int, ...], str]] = {
        "LeNet-300-100": (
            lambda: secateur.elements(build("lenet_300_100", classes=10)),
            (250, 1, 28, 28),
            "809 weights",
        ),
        "ResNet-20": (
            lambda: secateur.groups(build("resnet20", classes=10), torch.zeros(1, 3, 32, 32)),
            (128, 3, 32, 32),
            "2x macs",
        ),
    }
    rows = []
    for name, (made, shape, budget) in cases.items():
        plain, gated = gated_over_plain(made, shape, budget, repeat)
        row = {"model": name, "batch": shape[0], "plain": plain, "gated": gated, "ratio": gated / plain}
        print(f"{f'{name}, {shape[0]}':<30}{1e3 * plain:>10.2f}{1e3 * gated:>16.2f}{gated / plain:>8.2f}", flush=True)
        rows.append(row)
    return rows


def inference(repeat: int) -> list[dict[str, Any]]:
    """A row a form of a network of 399 edges: seconds of a batch."""
    model, x = few_edges(), torch.randn(256, 1, 28, 28)
    network = sparse.read(model, x[:1])
    small = sparse.compact(network, allow_lost=True)
    with torch.no_grad():
        seconds = turns([partial(net, x) for net in (model, as_csr(network), small, as_csr(small))], repeat)
    rows = []
    for form, taken in zip(("dense", "CSR", "compact", "compact CSR"), seconds, strict=True):
        print(f"{form:<30}{1e3 * taken:>9.3f}{seconds[0] / taken:>13.1f}")
        rows.append({"form": form, "seconds": taken, "times": seconds[0] / taken})
    return rows


def circumstances(asked: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "versions": {"secateur": secateur.__version__, "torch": torch.__version__},
        "cpu": found[0].partition(":")[2].strip() if found else platform.processor(),
        "cores": os.cpu_count(), "threads": asked.threads, "repeats": asked.repeat, "load": os.getloadavg(),
        "targets": TARGETS,
    }  # fmt: skip


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the result under results/benchmarks")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    with kept_heap(torch.device("cpu")):
        print("training step, batch            plain ms   with gates ms   ratio")
        trained = steps(asked.repeat)
        print("\n399 edges, batch of 256              ms   dense / it")
        rows = inference(asked.repeat)
    if asked.save:
        with atomic_write(OUT) as partly:
            partly.write_text(
                json.dumps({**circumstances(asked), "steps": trained, "inference": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
