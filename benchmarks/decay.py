"""Time of a training step in which 30 % of the channels decay and are watched, beside the plain step.

    python benchmarks/decay.py --models resnet56 vgg16_bn --batch 128 --repeats 9

Both steps are those of SGD with momentum on random images of 32 x 32. They take turns within a repeat, so that a busy
machine slows both; reported are the medians over the repeats of both times and of their ratio. The target is 1.05.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import secateur
from secateur.criteria import random
from secateur.files import atomic_write
from secateur.masks import Masks
from secateur.removal import Decay, Rectify
from secateur.zoo.networks import model

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "decay.json"
SHARE, TARGET, STEPS = 0.3, 1.05, 1_000_000


def plain(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """The plain step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def decaying(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, rectify: Rectify | None) -> Callable[[], None]:
    """The step with masks and a decay of a share of all channels."""
    groups = secateur.groups(net, images[:1])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    masks, removal = Masks(groups), Decay(STEPS, rectify)
    removal.start(groups, {n: s.argsort()[: int(SHARE * len(s))].sort().values for n, s in random(groups).items()})

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        masks.before_step()
        removal.before_step(groups)
        optimizer.step()
        masks.advance(removal, optimizer)

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    """The time of one step, all its work done."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measured(name: str, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """The row of one model."""
    torch.manual_seed(0)
    net = model(name).to(device).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    steps = {"plain": plain(copy.deepcopy(net), images, labels)}
    steps["decay"] = decaying(copy.deepcopy(net), images, labels, None)
    steps["rectify"] = decaying(copy.deepcopy(net), images, labels, Rectify())
    for step in steps.values():
        step()
    times = [{kind: seconds(step, device) for kind, step in steps.items()} for _ in range(repeats)]
    row: dict[str, Any] = {"model": name, "batch": batch, "device": device, "repeats": repeats}
    for kind in steps:
        row[f"{kind}_seconds"] = statistics.median(t[kind] for t in times)
        row[f"{kind}_ratio"] = statistics.median(t[kind] / t["plain"] for t in times)
    return row


def main() -> None:
    """Print a table, and leave it as JSON with `--save`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet56", "vgg16_bn"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help=f"write {OUT.name} too")
    given = parser.parse_args()
    rows = []
    for name in given.models:
        rows.append(measured(name, given.batch, given.repeats, given.device))
        row = rows[-1]
        print(
            f"{name:12} batch {given.batch}: plain {1e3 * row['plain_seconds']:.1f} ms, "
            f"decay {row['decay_ratio']:.3f}x, decay and rectify {row['rectify_ratio']:.3f}x (target {TARGET}x)",
            flush=True,
        )
    if given.save:
        facts = {"torch": str(torch.__version__), "machine": platform.machine(), "threads": torch.get_num_threads()}
        made = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        with atomic_write(OUT) as partial:
            partial.write_text(json.dumps({**facts, "made": made, "share": SHARE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
