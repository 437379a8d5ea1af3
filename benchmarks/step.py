"""Processor time of one step of training on a CPU: what each choice of `fit` saves, and which operators take the rest.

    python benchmarks/step.py

Every measurement is a fresh process with one thread, whose processor time (its own and the system's for it) is counted,
so that other processes on the machine matter little. Choices add up from line to line and take turns within a repeat.
Inputs are random: data sets are not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training as whole

from secateur.files import atomic_write

CHOICES = ("contiguous", "channels last", "+ kept heap", "+ compiled")
STEPS = {"resnet20": 8, "vgg16_bn": 3}
KINDS = {
    "convolution, backward": ("aten::convolution_backward",),
    "convolution, forward": ("aten::mkldnn_convolution", "aten::_conv_depthwise2d"),
    "batch norm": ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "ReLU": ("aten::clamp_min", "aten::threshold_backward"),
    "sums of branches and gradients": ("aten::add", "aten::add_"),
}
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "step.json"


def measure(name: str, choice: str) -> dict[str, Any]:
    """Milliseconds of processor time and page faults of a step, medians; and the shares of operators, where eager."""
    import torch

    from secateur import zoo
    from secateur.training.heap import kept_heap

    torch.set_num_threads(1)
    torch.manual_seed(0)
    level = CHOICES.index(choice)
    kind = torch.channels_last if level else torch.contiguous_format
    model: Any = zoo.model(name).train().to(memory_format=kind)
    inputs = torch.randn(whole.BATCH, 3, 32, 32).contiguous(memory_format=kind)
    targets = torch.randint(10, (whole.BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=whole.LR, momentum=whole.MOMENTUM, fused=True)
    called = torch.compile(model) if level == 3 else model

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(called(inputs), targets).backward()
        optimizer.step()

    with kept_heap(torch.device("cpu" if level > 1 else "meta")):
        for _ in range(3):
            step()
        taken = [spent(step) for _ in range(STEPS[name])]
        shares = {} if level == 3 else operators(step)
    return {
        "ms": statistics.median(ms for ms, _ in taken),
        "faults": statistics.median(count for _, count in taken),
        "shares": shares,
    }


def spent(step: Callable[[], None]) -> tuple[float, int]:
    """Milliseconds of processor time and page faults of one step."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * seconds, after.ru_minflt - before.ru_minflt


def operators(step: Callable[[], None]) -> dict[str, float]:
    """The shares of a step's time by kinds of operators."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    shares = {kind: sum(times.get(name, 0.0) for name in names) / total for kind, names in KINDS.items()}
    return {**shares, "all else": 1 - sum(shares.values())}


def child(name: str, choice: str) -> dict[str, Any]:
    """The measurement of a fresh process."""
    command = [sys.executable, __file__, "--one", name, choice]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(name: str, repeats: int) -> dict[str, Any]:
    """All choices with one network: samples, medians, and the operators of the last eager one."""
    samples: dict[str, list[dict[str, Any]]] = {choice: [] for choice in CHOICES}
    for number in range(repeats):
        for choice in CHOICES if number % 2 == 0 else CHOICES[::-1]:
            samples[choice].append(child(name, choice))
    middle = {
        choice: {key: statistics.median(sample[key] for sample in taken) for key in ("ms", "faults")}
        for choice, taken in samples.items()
    }
    eager = samples["+ kept heap"]
    shares = {kind: statistics.median(sample["shares"][kind] for sample in eager) for kind in eager[0]["shares"]}
    for choice, found in middle.items():
        print(f"{name:10} {choice:14} {found['ms']:8.1f} ms {found['faults']:9,.0f} page faults", flush=True)
    return {"model": name, "median": middle, "shares": shares, "samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file that is written")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "CHOICE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with contextlib.redirect_stdout(sys.stderr):
            sample = measure(*asked.one)
        print(json.dumps(sample))
        return
    facts = whole.circumstances(argparse.Namespace(device="cpu", threads=1))
    rows = [compare(name, asked.repeats) for name in STEPS]
    with atomic_write(asked.out) as partial_file:
        partial_file.write_text(json.dumps({**facts, "repeats": asked.repeats, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
