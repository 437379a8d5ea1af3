"""Time and peak memory of pruning half of the channels: Secateur, without and with its proof, beside Torch-Pruning.

    python benchmarks/surgery.py --models resnet18 resnet50 --repeats 3
    python benchmarks/surgery.py --models resnet50 --rounds 50 --repeats 1     the same cut in fifty steps
    python benchmarks/surgery.py --models all --repeats 1 --first              all classification models, first calls

With rounds, every one of them plans anew and makes a smaller model, the last of which is proven. Each measurement is a
process of its own, forked from one that has imported all packages and done nothing else, with the same number of
threads, the same random weights and the same example. Timed is everything from the built model to the smaller one:
tracing, grouping, scoring, planning, cutting, and the proof where there is one; not imports, nor building the model.
*Cold* is the first call of a process, *warm* the second, on a freshly built model. Memory is the growth of the
process's peak over its level once the model is built. The tools take turns within a repeat, so that a busy machine
slows all of them; medians are over the repeats. A tool that fails on a model, or takes longer than `--limit` seconds,
is named with its error.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from secateur.files import atomic_write

MODELS = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small "
    "regnet_y_400mf resnet18 resnet50 resnet152 resnext50_32x4d squeezenet1_0 vgg16_bn vit_b_16"
).split()
OURS, PROVEN, THEIRS = "secateur", "secateur, proven", "torch-pruning"
TOOLS = (OURS, PROVEN, THEIRS)
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "surgery.json"
PRELOAD = ["torch", "torchvision", "torch_pruning", "secateur"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Cut = Callable[[Any, Any], Any]
Sample = dict[str, Any]


# One measurement, in a process of its own


def build(name: str) -> tuple[Any, Any]:
    """A torchvision model with random weights, in evaluation mode, and an example input."""
    import torch
    import torchvision

    torch.manual_seed(0)
    side_heads = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **side_heads).eval()
    size = 299 if name == "inception_v3" else 224
    return model, torch.randn(1, 3, size, size)


def secateur_cut(verify: bool, rounds: int) -> Cut:
    """Half of every group's units, by group magnitude, in as many rounds; the last one is proven."""
    from secateur import groups, plan, slim

    def cut(model: Any, example: Any) -> Any:
        found = groups(model, example)
        for number in range(1, rounds + 1):
            left = f"{100 - 50 * number / rounds}% channels"
            made = plan(found, budget=left, allocation="uniform", round_to=1)
            small = slim(found, made, verify=verify and number == rounds)
        return small

    return cut


def torch_pruning_cut(rounds: int) -> Cut:
    """Half of every layer's channels, by group magnitude; classifier kept and heads declared as its guide asks."""
    import torch_pruning
    from torch import nn

    def cut(model: Any, example: Any) -> Any:
        layers = list(model.modules())
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            iterative_steps=rounds,
            ignored_layers=[m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", 0)) == 1000],
            num_heads={m: m.num_heads for m in layers if isinstance(m, nn.MultiheadAttention)},
        )
        for _ in range(rounds):
            pruner.step()
        if hasattr(model, "conv_proj"):  # the vision transformer reads its width from an attribute
            model.hidden_dim = model.conv_proj.out_channels
        return model

    return cut


def measure(name: str, tool: str, *, threads: int, rounds: int, first: bool) -> Sample:
    """Seconds and peak memory of one tool on one model, and what is left of the parameters."""
    import torch

    torch.set_num_threads(threads)
    cut = torch_pruning_cut(rounds) if tool == THEIRS else secateur_cut(tool == PROVEN, rounds)
    model, example = build(name)
    before = sum(p.numel() for p in model.parameters())
    level = peak()
    small, cold, cold_cpu = timed(cut, model, example)
    grown = peak() - level
    after = sum(p.numel() for p in small.parameters())
    with torch.no_grad():
        small.eval()(example)
    sample = {"cold": cold, "cold_cpu": cold_cpu, "memory": grown, "kept": after / before}
    if not first:
        del model, small
        gc.collect()
        _, sample["warm"], sample["warm_cpu"] = timed(cut, *build(name))
    return sample


def timed(cut: Cut, model: Any, example: Any) -> tuple[Any, float, float]:
    """The smaller model, and the wall-clock and processor seconds it took."""
    wall, processor = time.perf_counter(), time.process_time()
    small = cut(model, example)
    return small, time.perf_counter() - wall, time.process_time() - processor


def peak() -> int:
    """The largest resident size that this process ever had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# All of them


def answer(pipe: Connection, name: str, tool: str, how: dict[str, Any]) -> None:
    """Send a measurement, or the error in one line, through a pipe."""
    try:
        pipe.send(measure(name, tool, **how))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])


def child(name: str, tool: str, limit: float, how: dict[str, Any]) -> Sample | str:
    """The measurement of a process of its own, or why there is none."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, name, tool, how))
    process.start()
    theirs.close()
    try:
        found: Sample | str = ours.recv() if ours.poll(limit) else f"no result after {limit:.0f} s"
    except EOFError:
        found = "its process came to an end"
    process.kill()
    process.join()
    return found


def compare(name: str, repeats: int, limit: float, how: dict[str, Any]) -> dict[str, Any]:
    """Medians of every tool on one model with all samples; `failed` has the errors of tools that cannot do it."""
    samples: dict[str, list[Sample]] = {tool: [] for tool in TOOLS}
    failed: dict[str, str] = {}
    for _ in range(repeats):
        for tool in TOOLS:
            found = child(name, tool, limit, how) if tool not in failed else failed[tool]
            if isinstance(found, str):
                failed[tool] = found
            else:
                samples[tool].append(found)
    medians = {
        tool: {key: statistics.median(s[key] for s in taken) for key in taken[0]}
        for tool, taken in samples.items()
        if tool not in failed
    }
    return {"model": name, "median": medians, "samples": samples, "failed": failed}


def ratio(row: Mapping[str, Any], tool: str, key: str) -> float:
    """Ours divided by theirs: below 1 is better than Torch-Pruning."""
    median = row["median"]
    return float(median[tool][key] / max(median[THEIRS][key], 1e-9))


def over(rows: Sequence[Mapping[str, Any]], middle: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """The ratios in the middle of the models that every tool could do: their geometric mean, or their median."""
    done = [row for row in rows if not row["failed"]]
    keys = [
        key for key in ("cold", "warm", "cold_cpu", "warm_cpu", "memory") if done and key in done[0]["median"][OURS]
    ]
    return {tool: {key: middle([ratio(row, tool, key) for row in done]) for key in keys} for tool in (OURS, PROVEN)}


def head(calls: Sequence[str]) -> str:
    """The names of the columns."""
    named = {"cold": "seconds, first call", "warm": "seconds, second call"}
    upper = f"{'':18}" + "".join(f"{named[call]:^27}{'ours / theirs':^16}" for call in calls)
    lower = f"{'model':18}" + f"{'theirs':>9}{'ours':>9}{'proven':>9}{'cut':>8}{'proven':>8}" * len(calls)
    upper += f"{'peak memory, MB':^24}{'parameters kept':^16}"
    return f"{upper}\n{lower}{'theirs':>8}{'ours':>8}{'proven':>8}{'theirs':>8}{'ours':>8}"


def line(row: Mapping[str, Any], calls: Sequence[str]) -> str:
    """One row of the table."""
    median, text = row["median"], f"{row['model']:18}"
    if row["failed"]:
        told = "; ".join(f"{tool} cannot do it: {error[:120]}" for tool, error in row["failed"].items())
        return text + told + "".join(f"; {tool} {m['cold']:.2f} s" for tool, m in median.items())
    for key in calls:
        text += "".join(f"{median[tool][key]:9.2f}" for tool in (THEIRS, OURS, PROVEN))
        text += "".join(f"{ratio(row, tool, key):8.2f}" for tool in (OURS, PROVEN))
    text += "".join(f"{median[tool]['memory'] / 1e6:8.0f}" for tool in (THEIRS, OURS, PROVEN))
    return text + "".join(f"{median[tool]['kept']:8.1%}" for tool in (THEIRS, OURS))


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is in the middle, in words, and who cannot do what."""
    named = {"cold": "first call", "warm": "second call", "cold_cpu": "first call, processor time", "memory": "memory"}
    lines = []
    for title, middle in (("Medians", statistics.median), ("Geometric means", statistics.geometric_mean)):
        lines.append(f"{title} of ours / theirs over {sum(not row['failed'] for row in rows)} models:")
        for tool, found in over(rows, middle).items():
            told = (f"{text} {found[key]:.2f}" for key, text in named.items() if key in found)
            lines.append(f"  {tool:18}" + ", ".join(told))
    for tool in TOOLS:
        failing = [row["model"] for row in rows if tool in row["failed"]]
        lines += [f"{tool} cannot do {len(failing)}: {', '.join(failing)}"] if failing else []
    return "\n".join(lines)


def circumstances(threads: int, repeats: int) -> dict[str, Any]:
    """What the numbers depend on: versions, processor, threads, load."""
    packages = ("secateur", "torch", "torchvision", "torch-pruning", "numpy")
    cpu = platform.processor()
    with contextlib.suppress(OSError, IndexError):
        found = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
        cpu = found[0].partition(":")[2].strip()
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "cpu": cpu, "cores": os.cpu_count(), "threads": threads, "repeats": repeats, "load": os.getloadavg(),
    }  # fmt: skip


def classifiers() -> list[str]:
    """The names of all classification models of torchvision."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of torchvision models, or: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="steps in which the cut is made")
    parser.add_argument("--first", action="store_true", help="measure the first call of a process alone")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a tool cannot do a model")
    parser.add_argument("--out", type=Path, help="the JSON file that is written")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    everything = asked.models == ["all"]
    os.environ.update(dict.fromkeys(THREADS, str(asked.threads)))  # for the processes that measure
    facts = circumstances(asked.threads, asked.repeats)
    how = {"threads": asked.threads, "rounds": asked.rounds, "first": asked.first}
    calls = ["cold"] if asked.first else ["cold", "warm"]
    print(head(calls))
    rows = []
    for name in classifiers() if everything else asked.models:
        rows.append(compare(name, asked.repeats, asked.limit, how))
        print(line(rows[-1], calls), flush=True)
    print(summary(rows))
    out = asked.out or OUT.with_name(
        "surgery_all.json" if everything else OUT.name if asked.rounds == 1 else "rounds.json"
    )
    middles = {"means": over(rows, statistics.geometric_mean), "medians": over(rows, statistics.median)}
    with atomic_write(out) as partial:
        partial.write_text(json.dumps({**facts, "rounds": asked.rounds, **middles, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
