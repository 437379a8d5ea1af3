"""What can be pruned of every model of a library: groups, proof, budgets, time and memory; what stays whole, and why.

    python benchmarks/coverage.py --libraries torchvision --models 'resnet*' --peers

A library is a file `zoo_NAME.py` beside this one, whose `MODELS` maps names to functions that build a model and what
it is called with; `KIND_OF` may sort them. Every model has a fresh process with a limit of time and memory. It is
pruned twice: to half of every group's units, and to half of its multiply-accumulates; both cuts are proven. The smaller
model is then run on a batch of another size and trained for one step, wherever the whole one can do that. Seconds are
the processor's, so that other work on the machine does not count. Results are written after every model; models that
were done are not done again unless `--again` or `--failed` says so. `experiments/tables.py` writes docs/coverage.md.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from coverage_tables import OURS, THEIRS, good, line, summary
from surgery import circumstances, peak

from secateur.files import atomic_write

HERE = Path(__file__).parent
OUT = HERE.parent / "results" / "benchmarks" / "coverage"
LIBRARIES = ("torchvision", "timm", "transformers")
BUDGETS = {"units": ("50% channels", "uniform"), "macs": ("50% macs", "global")}
MEMORY = 6 * 2**30  # beyond one copy of the model

Row = dict[str, Any]


# One model, in a process of its own


def ours(model: Any, example: Any) -> Row:
    """Everything that is measured of this package on one model."""
    from secateur import groups

    level, start = peak(), time.process_time()
    found = groups(model, example)
    row: Row = {
        "groups": len(found),
        "seconds": {"groups": time.process_time() - start},
        "prunable": prunable(found),
        "frozen": reasons(found),
        "unknown": list(found.unknown),
        "unreached": len(found.unreached),
        "repairs": repairs(found),
        "learned": len(found.solution.equal) if found.solution else 0,
    }
    for name, (budget, allocation) in BUDGETS.items():
        row[name], seconds, small = cut(found, budget, allocation)
        if name == "units":
            row["seconds"] |= seconds
            row["memory"] = peak() - level
        if small is not None:
            row[name] |= still(model, small, found.inputs)
    return row


def cut(found: Any, budget: str, allocation: str) -> tuple[Row, dict[str, float], Any]:
    """What one cut reached and whether it is proven; the seconds it took; the smaller model, if there is one."""
    from secateur import plan, record, slim
    from secateur.errors import SecateurError

    before, seconds = len(found), {}
    try:
        for stage in ("plan", "cut", "proof"):
            start = time.process_time()
            if stage == "plan":
                chosen = plan(found, budget=budget, allocation=allocation, round_to=1)
            else:
                small = slim(found, chosen, verify=stage == "proof")
            seconds[stage] = time.process_time() - start
        seconds["proof"] = max(0.0, seconds["proof"] - seconds["cut"])
    except SecateurError as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}, seconds, None
    entry = record(small)
    proof = entry.proof
    row = {
        "params": entry.after["params"] / entry.before["params"],
        "macs": entry.after["macs"] / max(1, entry.before["macs"]),
        "proven": bool(proof and proof.holds),
        "errors": [proof.masked, proof.replayed, proof.statistics] if proof else [],
        "not proven": [f.reason for f in found.frozen[len(found) - before :]] if len(found) < before else [],
    }
    return row, seconds, small


def still(model: Any, small: Any, inputs: Any) -> Row:
    """Whether the smaller model runs, on a batch twice as large too, and learns; None where the whole model cannot."""
    import torch
    from torch.utils._pytree import tree_map_only

    args, kwargs = inputs
    larger = tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.dim() > 1 else t, inputs)
    if args and isinstance(args[0], list):  # of pictures
        larger = ((args[0] * 2, *args[1:]), kwargs)
    answer: Row = {"runs": works(lambda: forward(small, args, kwargs))}
    for name, job in (("batch", lambda m: forward(m, *larger)), ("learns", lambda m: learn(m, inputs))):
        answer[name] = works(lambda job=job: job(small)) if works(lambda job=job: job(model)) is True else None
    return answer


def forward(model: Any, args: Any, kwargs: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(*args, **kwargs)


def learn(model: Any, inputs: Any) -> None:
    """One forward and backward pass in training mode on a copy; raises where a parameter gets no finite gradient."""
    import copy

    import torch

    from secateur.graph.trace import tensors_of

    pupil = copy.deepcopy(model).train()
    outputs = [t for t in tensors_of(pupil(*inputs[0], **inputs[1])) if t.requires_grad]
    torch.stack([t.float().square().mean() for t in outputs]).sum().backward()
    if not all(p.grad.isfinite().all() for p in pupil.parameters() if p.grad is not None):
        raise RuntimeError("a gradient is not finite")


def works(job: Callable[[], Any]) -> bool | str:
    """True, or the error that a job ends with."""
    try:
        job()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return True


def prunable(found: Any) -> float:
    """The share of parameters that lie in at least one group."""
    members = {m.name for g in found for m in g.members}
    sizes = {name: p.numel() for name, p in found.model.named_parameters()}
    return sum(n for name, n in sizes.items() if name in members) / max(1, sum(sizes.values()))


def reasons(found: Any) -> dict[str, int]:
    """Why dimensions stay whole, and how many of them for each reason; those that never could leave are left out."""
    told = Counter(
        f"{f.reason} ({f.operator})" if f.operator else f.reason for f in found.frozen if "fixed size" not in f.reason
    )
    return dict(told.most_common(12))


def repairs(found: Any) -> list[str]:
    """The attributes that follow sizes, once for each class."""
    if found.solution is None:
        return []
    modules = dict(found.model.named_modules())
    return sorted({f"{type(modules[r.module]).__name__}.{r.attribute}" for r in found.solution.repairs})


def theirs(model: Any, example: Any) -> Row:
    """The same of Torch-Pruning at half of every layer's channels, with what its guide asks a user to declare."""
    import torch
    import torch_pruning
    from torch import nn

    from secateur.graph.trace import normalise

    args, kwargs = normalise(example)
    if kwargs or any(not isinstance(a, torch.Tensor) for a in args):
        example = kwargs or list(args)
    before, wanted = sum(p.numel() for p in model.parameters()), shapes(forward(model, args, kwargs))
    level, start = peak(), time.process_time()
    layers = list(model.modules())
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=last_layers(model, args, kwargs),
        num_heads={m: m.num_heads for m in layers if isinstance(m, nn.MultiheadAttention)},
    )
    pruner.step()
    if hasattr(model, "conv_proj") and hasattr(model, "hidden_dim"):  # it reads its width from an attribute
        model.hidden_dim = model.conv_proj.out_channels
    seconds = time.process_time() - start
    after = sum(p.numel() for p in model.parameters())
    if shapes(forward(model, args, kwargs)) != wanted:
        raise RuntimeError("the pruned model returns other shapes")
    return {"params": after / before, "seconds": seconds, "memory": peak() - level, "pruned": after < before}


def shapes(output: Any) -> list[tuple[int, ...]]:
    from secateur.graph.trace import tensors_of

    return [tuple(t.shape) for t in tensors_of(output)]


def last_layers(model: Any, args: Any, kwargs: Any) -> list[Any]:
    """The layers whose width is a model's output: its channels where it is an image, else its last dimension."""
    from torch import nn

    ends = {n for s in shapes(forward(model, args, kwargs)) for n in (s[1:2] if len(s) > 3 else s[-1:])}
    widths = ((m, getattr(m, "out_features", getattr(m, "out_channels", None))) for m in model.modules())
    found = [m for m, width in widths if isinstance(m, nn.Linear | nn.Conv2d) and width in ends]
    return found[-1:] if len(found) > 4 else found  # a width met so often is no sign


def measure(library: str, name: str, tool: str, threads: int) -> Row:
    """What one tool makes of one model."""
    import torch

    torch.set_num_threads(threads)
    build = import_module(f"zoo_{library}").MODELS[name]
    model, example = build()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    limit_memory(MEMORY + size)
    facts = {"size": sum(p.numel() for p in model.parameters()), "class": type(model).__name__}
    return facts | (theirs if tool == THEIRS else ours)(model, example)


def limit_memory(bytes_more: int) -> None:
    """Let the process have so many bytes more than it has now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + bytes_more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# All of them


def child(library: str, name: str, tool: str, threads: int, limit: float) -> Row:
    """What a fresh process measured, or the error it ended with."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", library, name, tool]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than {limit:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:500]}
    row: Row = json.loads(done.stdout)
    return row


def kind_of(library: str, name: str) -> str:
    return str(getattr(import_module(f"zoo_{library}"), "KIND_OF", {}).get(name, ""))


def wanted(asked: argparse.Namespace, known: Mapping[str, Row]) -> list[tuple[str, str, str]]:
    """The library, model and tool of every measurement that is asked for and missing."""
    jobs = []
    for library in asked.libraries:
        if not (HERE / f"zoo_{library}.py").is_file():
            continue
        for name in import_module(f"zoo_{library}").MODELS:
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in asked.models):
                continue
            for tool in (OURS, THEIRS) if asked.peers else (OURS,):
                done = known.get(library, {"models": {}})["models"].get(name, {}).get(tool)
                if done is None or asked.again or (asked.failed and not good(done)):
                    jobs.append((library, name, tool))
    return jobs


def results(folder: Path) -> dict[str, Any]:
    """What was measured before, of every library: a file for each."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def save(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), help="which zoo_NAME.py files to use")
    parser.add_argument("--models", nargs="+", default=["*"], help="shell patterns over their names")
    parser.add_argument("--peers", action="store_true", help="measure Torch-Pruning as well")
    parser.add_argument("--again", action="store_true", help="also models that were done")
    parser.add_argument("--failed", action="store_true", help="also models that were done and failed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds for the process of one model")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder with a JSON file for each library")
    parser.add_argument("--one", nargs=3, metavar=("LIBRARY", "MODEL", "TOOL"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.one:
        with contextlib.redirect_stdout(sys.stderr):
            row = measure(*asked.one, asked.threads)
        print(json.dumps(row))
        return
    known = results(asked.out)
    for library, name, tool in wanted(asked, known):
        row = child(library, name, tool, asked.threads, asked.limit)
        print(line(f"{library}/{name}", tool, row), flush=True)
        known = results(asked.out)  # others may have measured meanwhile
        result = known.setdefault(library, {"models": {}})
        result["facts"] = circumstances(asked.threads, 1)
        result["models"].setdefault(name, {"kind": kind_of(library, name)})[tool] = row
        save(asked.out / f"{library}.json", result)
    print(summary(known))


if __name__ == "__main__":
    main()
