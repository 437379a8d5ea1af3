"""Time and memory of a step of StochGradAdam beside torch's Adam and the sampling one writes at first.

    python benchmarks/optim.py --models resnet56 resnet50 transformer --repeats 9

Parameters have the shapes of a model and random gradients; nothing else is run. Each model is a fresh process. The
optimizers take turns within a repeat, a few steps each, so that a busy machine slows all of them; reported are the
median over the repeats of the time, and the median of its ratio to `torch.optim.Adam(fused=True)` in the same repeat.
On the CPU the time is that of the process's own work, on one thread unless asked otherwise. Memory is the largest
amount that the making of masks holds at once, as a share of the gradients in float32.
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
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur.files import atomic_write

MODELS = ("resnet56", "resnet50", "transformer")
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "optim.json"
FUSED, FOREACH, NAIVE = "Adam, fused", "Adam, foreach", "naive, rand_like"
KERNEL, SAMPLE, IN_PLACE = "one kernel", "mask, then fused", "the same, in place"
EAGER, MODE = "eager, then fused", "update mode, fused"
TARGETS = {KERNEL: 1.3, SAMPLE: 1.8, IN_PLACE: 1.8}

Row = dict[str, Any]


# One model, in a process of its own


def shapes(name: str) -> list[tuple[int, ...]]:
    """The shapes of a model's parameters."""
    if name == "resnet56":
        from secateur.zoo.networks import model

        return [tuple(p.shape) for p in model("resnet56").parameters()]
    if name == "resnet50":
        import torchvision

        return [tuple(p.shape) for p in torchvision.models.resnet50().parameters()]
    width = 768  # a decoder of 12 layers with a vocabulary of 20 000: 101 million parameters
    layer = [(3 * width, width), (3 * width,), (width, width), (width,), (4 * width, width), (4 * width,)]
    layer += [(width, 4 * width), (width,), *[(width,)] * 4]
    return [(20_000, width), (1024, width), *layer * 12, (width,), (width,)]


def optimizers(name: str, device: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Optimizers by name; they move the same parameters, which saves memory and changes no time."""
    import torch
    from torch.optim import Adam

    from secateur.optim import StochGradAdam, sample_gradients

    class Naive(Adam):
        """Masks of `rand_like`, multiplied in, and Adam as it comes."""

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            whole = [p.grad for p in params]
            for p in params:
                p.grad = p.grad * (torch.rand_like(p.grad) < 0.8)
            loss = super().step(closure)
            for p, gradient in zip(params, whole, strict=True):
                p.grad = gradient
            return loss

    makers: dict[str, Callable[[Any], Any]] = {
        FUSED: lambda p: Adam(p, fused=True),
        FOREACH: lambda p: Adam(p, foreach=True),
        NAIVE: lambda p: Naive(p, foreach=False),
        KERNEL: lambda p: StochGradAdam(p, fused=True, compiled="step"),
        SAMPLE: lambda p: StochGradAdam(p, fused=True, compiled="sample"),
        IN_PLACE: lambda p: StochGradAdam(p, fused=True, compiled="sample", in_place=True),
        EAGER: lambda p: StochGradAdam(p, fused=True),
        MODE: lambda p: sample_gradients(Adam(p, fused=True), 0.8, mode="update").optimizer,
    }
    sizes = shapes(name)
    params = [torch.randn(size, device=device, requires_grad=True) for size in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    return {key: makers[key](params) for key in wanted}


def seconds(step: Callable[[], Any], steps: int, device: str) -> float:
    """Seconds a step: of this process's work on the CPU, of the clock on a GPU."""
    import torch

    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(steps):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / steps


def mask_memory(name: str, device: str) -> float:
    """The most that is held while masks are made, as a share of the gradients' memory."""
    import torch

    from secateur.hashing import Draw
    from secateur.optim.places import bases, pieces, place

    params = [torch.empty(size, device="meta") for size in shapes(name)]
    first = bases([{"params": params}])
    places = [place(p, first[p], "element") for p in params]
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        for _ in pieces(places, Draw(0, 1, 0.8), torch.device(device)):
            pass
        return float(torch.cuda.max_memory_allocated() / (4 * sum(p.numel() for p in params)))
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        for _ in pieces(places, Draw(0, 1, 0.8), torch.device(device)):
            pass
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return float(most / (4 * sum(p.numel() for p in params)))


def measure(name: str, threads: int, repeats: int, device: str, wanted: Sequence[str]) -> Row:
    """The row of one model."""
    import torch

    torch.set_num_threads(threads)
    made = optimizers(name, device, wanted)
    number = sum(p.numel() for p in made[FUSED].param_groups[0]["params"])
    first = {key: seconds(optimizer.step, 1, device) for key, optimizer in made.items()}
    for optimizer in made.values():
        optimizer.step()
    steps = max(1, 4_000_000 // number)
    taken: dict[str, list[float]] = {key: [] for key in made}
    for _ in range(repeats):
        for key, optimizer in made.items():
            taken[key].append(seconds(optimizer.step, steps, device))
    ratios = {
        key: statistics.median(t / base for t, base in zip(times, taken[FUSED], strict=True))
        for key, times in taken.items()
    }
    medians = {key: statistics.median(times) for key, times in taken.items()}
    memory = mask_memory(name, device)
    return {
        "model": name, "parameters": number, "tensors": len(made[FUSED].param_groups[0]["params"]),
        "first": first, "seconds": medians, "ratios": ratios, "mask_memory": memory, "samples": taken,
    }  # fmt: skip


# All of them


def child(name: str, asked: argparse.Namespace) -> Row:
    """The row of a fresh process; raises `RuntimeError` with its last words where it fails."""
    command = [sys.executable, __file__, "--one", name, "--threads", str(asked.threads), "--repeats"]
    command += [str(asked.repeats), "--device", asked.device, *(["--no-compile"] if asked.no_compile else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
    row: Row = json.loads(done.stdout)
    return row


def table(row: Row) -> str:
    """One model as text."""
    head = f"{row['model']}: {row['parameters'] / 1e6:.2f} M parameters in {row['tensors']} tensors"
    lines = [f"{head}, masks hold {row['mask_memory']:.3f} of the gradients' memory"]
    for key, taken in row["seconds"].items():
        ratio = row["ratios"][key]
        target = f"  (target {TARGETS[key]})" if key in TARGETS else ""
        naive = row["ratios"][NAIVE] / ratio
        lines.append(f"  {key:20}{taken * 1e3:10.2f} ms{ratio:8.2f}x fused{naive:8.2f} times faster than naive{target}")
    return "\n".join(lines)


def circumstances(asked: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on: versions, processor, threads, load."""
    cpu = platform.processor()
    with contextlib.suppress(OSError, IndexError):
        found = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
        cpu = found[0].partition(":")[2].strip()
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("secateur", "torch")}},
        "cpu": cpu, "cores": os.cpu_count(), "threads": asked.threads, "device": asked.device,
        "repeats": asked.repeats, "load": os.getloadavg(), "targets": TARGETS,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled forms out")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file that is written")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.one:
        compiled = () if asked.no_compile else (KERNEL, SAMPLE, IN_PLACE)
        wanted = (FUSED, FOREACH, NAIVE, *compiled, EAGER, MODE)
        with contextlib.redirect_stdout(sys.stderr):
            row = measure(asked.one, asked.threads, asked.repeats, asked.device, wanted)
        print(json.dumps(row))
        return
    facts = circumstances(asked)
    rows = []
    for name in asked.models:
        rows.append(child(name, asked))
        print(table(rows[-1]), flush=True)
    with atomic_write(asked.out) as partial:
        partial.write_text(json.dumps({**facts, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
