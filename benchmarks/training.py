"""Images per second of training: `secateur.training.fit` beside a plain PyTorch loop with a DataLoader.

    python benchmarks/training.py --compile                          all networks, some 20 minutes on two cores
    python benchmarks/training.py --models resnet20 --repeats 7

The plain loop is what a tutorial teaches: a data set of PIL images, torchvision's transforms, a DataLoader with two
workers, SGD with momentum, float32. `fit` has the same network, images, augmentation, batch size and optimizer, and
every other choice left to its defaults; with --compile it is measured compiled as well. Each measurement is a fresh
process with the same number of threads. The first quarter of the steps warms up (caches, worker processes, compiling);
the following ones are timed, with everything that happens between them. The competitors take turns within a repeat, so
that a busy machine slows all of them, and change their order from one to the next; medians are over the repeats. The
data sets are looked for in SECATEUR_DATA.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from plain import PlainImages

from secateur.files import atomic_write

SETS = {"resnet20": "cifar10", "resnet56": "cifar10", "vgg16_bn": "cifar10", "lenet_300_100": "mnist"}
STEPS = {"resnet20": 60, "resnet56": 24, "vgg16_bn": 12, "lenet_300_100": 800}
"""Steps that are timed; a quarter of them more warms up. On a GPU all take those of the smallest network."""
REPEATS = {"resnet20": 5, "resnet56": 3, "vgg16_bn": 3, "lenet_300_100": 5}
"""How often each competitor is measured: less often where a measurement is long."""
TARGETS = {"cpu": {"cifar10": 3.5, "mnist": 5.0}, "cuda": {"cifar10": 5.0, "mnist": 5.0}}
BATCH, WORKERS, LR, MOMENTUM, DECAY = 128, 2, 0.01, 0.9, 5e-4
OURS, COMPILED, PLAIN = "secateur", "secateur, compiled", "plain PyTorch"
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "training.json"

Sample = dict[str, Any]


# One measurement, in a process of its own


def plain(name: str, steps: int, device: str) -> Sample:
    """The plain loop: images a second over `steps` steps after a quarter as many."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from secateur import zoo

    model = zoo.model(name).to(device)
    images = PlainImages(SETS[name], train=True)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS, pin_memory=device == "cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    criterion = nn.CrossEntropyLoss()
    model.train()
    done, started, total, warm = 0, 0.0, 0.0, steps // 4
    while done < warm + steps:
        for inputs, targets in islice(loader, warm + steps - done):
            inputs, targets = inputs.to(device), targets.to(device)  # noqa: PLW2901 (as it is usually written)
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
            done += 1
            if done == warm:
                started = time.perf_counter()
    seconds = time.perf_counter() - started
    return {"rate": steps * BATCH / seconds, "precision": "fp32", "layout": "contiguous", "loss": total / done}


def ours(name: str, steps: int, device: str, compiled: bool) -> Sample:
    """`fit` with its defaults: images a second over four epochs of `steps` / 4 after one."""
    from torch.optim import SGD

    from secateur import zoo
    from secateur.data import load
    from secateur.training import fit
    from secateur.training.precision import resolve_channels_last

    model = zoo.model(name).to(device)
    last = resolve_channels_last("auto", model)
    data = load(SETS[name], batch_size=BATCH, validation=0, device=device, channels_last=last)
    ends: list[float] = []
    history = fit(
        model,
        data,
        optimizer=partial(SGD, lr=LR, momentum=MOMENTUM, weight_decay=DECAY),
        epochs=5,
        steps_per_epoch=steps // 4,
        schedule="constant",
        compile=compiled,
        progress=False,
        on_epoch=lambda _: ends.append(time.perf_counter()),
    )
    return {
        "rate": 4 * (steps // 4) * BATCH / (ends[-1] - ends[0]),
        "precision": history.manner.precision,
        "layout": "channels last" if history.manner.channels_last else "contiguous",
        "loss": statistics.mean(row.train_loss for row in history.rows),
    }


def measure(name: str, tool: str, asked: argparse.Namespace) -> Sample:
    """Images a second of one competitor with one network, and how it computed."""
    import torch

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    steps = steps_of(name, asked)
    if tool == PLAIN:
        return plain(name, steps, asked.device)
    return ours(name, steps, asked.device, compiled=tool == COMPILED)


def steps_of(name: str, asked: argparse.Namespace) -> int:
    """How many steps are timed: a multiple of four."""
    steps = asked.steps or (STEPS[name] if asked.device == "cpu" else max(STEPS.values()))
    return max(4, steps // 4 * 4)


# All of them


def child(name: str, tool: str, asked: argparse.Namespace) -> Sample:
    """The measurement of a fresh process; raises `RuntimeError` with its last words where it fails."""
    command = [sys.executable, __file__, "--threads", str(asked.threads), "--device", asked.device]
    command += ["--steps", str(asked.steps or 0), "--one", name, tool]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


def compare(name: str, tools: Sequence[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Medians of all competitors with one network, all samples, and how each computed."""
    samples: dict[str, list[Sample]] = {tool: [] for tool in tools}
    for number in range(asked.repeats or REPEATS[name]):
        for tool in tools if number % 2 == 0 else tools[::-1]:
            samples[tool].append(child(name, tool, asked))
    rates = {tool: [sample["rate"] for sample in taken] for tool, taken in samples.items()}
    return {
        "model": name,
        "data": SETS[name],
        "batch": BATCH,
        "steps": steps_of(name, asked),
        "repeats": len(samples[PLAIN]),
        "target": TARGETS[asked.device][SETS[name]],
        "median": {tool: statistics.median(found) for tool, found in rates.items()},
        "ratio": {tool: compared(rates[tool], rates[PLAIN]) for tool in tools if tool != PLAIN},
        "computed": {tool: {key: taken[0][key] for key in ("precision", "layout")} for tool, taken in samples.items()},
        "samples": samples,
    }


def compared(own: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The median, least and largest ratio of a repeat: of neighbours in time, so that what slows both cancels."""
    ratios = [one / two for one, two in zip(own, other, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    text = f"{row['model']:15}{row['median'][PLAIN]:10,.0f}"
    for tool in (OURS, COMPILED):
        if tool in row["ratio"]:
            text += f"{row['median'][tool]:12,.0f}{row['ratio'][tool]['median']:8.2f}x"
    how = row["computed"][OURS]
    return text + f"   target {row['target']:.1f}x   {how['precision']}, {how['layout']}"


def circumstances(asked: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on: versions, processor, threads, load."""
    import torch

    cpu, flags = platform.processor(), ""
    with contextlib.suppress(OSError):
        table = dict(text.partition(":")[::2] for text in Path("/proc/cpuinfo").read_text().splitlines())
        told = {key.strip(): value.strip() for key, value in table.items()}
        cpu, flags = told.get("model name", cpu), told.get("flags", "")
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("secateur", "torch", "torchvision", "pillow", "numpy")},
        },
        "cpu": cpu,
        "cpu_units": [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags.split()],
        "gpu": torch.cuda.get_device_name() if asked.device == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": asked.threads,
        "workers": WORKERS,
        "load": os.getloadavg(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--steps", type=int, help="steps that are timed; else a number for each network")
    parser.add_argument("--repeats", type=int, help="measurements of each competitor; else a number for each network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure fit with torch.compile as well")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file that is written")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "TOOL"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.one:
        with contextlib.redirect_stdout(sys.stderr):
            sample = measure(*asked.one, asked)
        print(json.dumps(sample))
        return
    facts = circumstances(asked)
    tools = [PLAIN, OURS, *([COMPILED] if asked.compile else [])]
    print(f"Images a second, {asked.threads} threads, {facts['gpu'] or facts['cpu']} {' '.join(facts['cpu_units'])}")
    print(f"{'model':15}{'plain':>10}" + "".join(f"{tool.removeprefix('secateur, '):>12}{'':9}" for tool in tools[1:]))
    rows = []
    for name in asked.models:
        rows.append(compare(name, tools, asked))
        print(line(rows[-1]), flush=True)
    with atomic_write(asked.out) as partial_file:
        partial_file.write_text(json.dumps({**facts, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
