"""What benchmarks measured: seconds, images a second, memory, and how many models can be cut."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from secateur.report.text import duration
from tabled.common import RESULTS, ROOT, table

Result = dict[str, Any]
"""What a benchmark wrote."""


def _measured(command: str) -> Callable[[Callable[[Result], str]], Callable[..., str]]:
    """A table of what `python benchmarks/COMMAND` keeps, or a line that says how to measure it."""
    name = command.partition(".py")[0]

    def of(told: Callable[[Result], str]) -> Callable[..., str]:
        @wraps(told)
        def made(results: Path = RESULTS) -> str:
            path = results / "benchmarks" / f"{name}.json"
            if not path.exists():
                return f"Not measured: `python benchmarks/{command}` keeps a result."
            return told(json.loads(path.read_text()))

        return made

    return of


def surgery(results: Path = RESULTS) -> str:
    """Seconds and memory of pruning half of the channels, beside Torch-Pruning."""
    result: dict[str, Any] = json.loads((results / "benchmarks" / "surgery.json").read_text())
    ours, proven, theirs = "secateur", "secateur, proven", "torch-pruning"
    lines = []
    for row in result["models"]:
        middle = row.get("median", {})
        if not {ours, proven, theirs} <= set(middle):
            continue
        seconds = [f"{middle[tool]['cold']:.2f}" for tool in (theirs, ours, proven)]
        ratios = [f"{middle[tool]['cold'] / middle[theirs]['cold']:.2f}" for tool in (ours, proven)]
        lines.append([row["model"], *seconds, *ratios, f"{middle[proven]['memory'] / middle[theirs]['memory']:.2f}"])
    means = result["means"]
    lines.append(
        ["geometric mean", "", "", ""]
        + [f"**{means[tool]['cold']:.2f}**" for tool in (ours, proven)]
        + [f"**{means[proven]['memory']:.2f}**"]
    )
    head = [
        "50 % of the channels",
        "Torch-Pruning, s",
        "Secateur, s",
        "+ proof, s",
        "ratio",
        "+ proof",
        "memory, + proof",
    ]
    versions = result["versions"]
    return table(head, lines) + (
        f"\n\nFrom tracing to the cut model in a fresh process, {result['threads']} CPU threads, medians of "
        f"{result['repeats']} taken in turn; ratios below 1 are in favour of Secateur. Torch-Pruning "
        f"{versions['torch-pruning']}, torch {versions['torch'].partition('+')[0]}; `python benchmarks/surgery.py`."
        f"{_over_all(results)}{_in_rounds(results)}"
    )


def _over_all(results: Path) -> str:
    """The medians over all classification models, and what cannot be done, in sentences."""
    path = results / "benchmarks" / "surgery_all.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    ours, proven = (f"**{result['medians'][tool]['cold']:.2f}**" for tool in ("secateur", "secateur, proven"))
    done = sum(not row["failed"] for row in result["models"])
    text = (
        f" Over all {len(result['models'])} classification models of torchvision (`--models all`, first call, CPU "
        f"threads: {result['threads']}, repeats: {result['repeats']}), the median ratio is "
        f"{ours}, {proven} with the proof, of the {done} that both can do."
    )
    for tool, name in (("torch-pruning", "Torch-Pruning"), ("secateur, proven", "Secateur")):
        failing = [row["model"] for row in result["models"] if tool in row["failed"]]
        text += f" {name} cannot do {', '.join(failing)}." if failing else ""
    return text


def _in_rounds(results: Path) -> str:
    """The same cut made in many rounds, in a sentence."""
    path = results / "benchmarks" / "rounds.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    told = []
    for row in result["models"]:
        proven, theirs = (f"{row['median'][tool]['cold']:.1f} s" for tool in ("secateur, proven", "torch-pruning"))
        told.append(f"{row['model']} {proven} (Torch-Pruning {theirs})")
    return f" In {result['rounds']} rounds without tracing anew, the last one proven: {', '.join(told)}."


@_measured("training.py --compile")
def training(result: Result) -> str:
    """Images a second of `fit` beside a plain PyTorch loop."""
    plain, *ours = list(result["models"][0]["median"])
    lines = []
    for row in result["models"]:
        rates = [f"{row['median'][tool]:,.0f}" for tool in (plain, *ours)]
        ratios = ["{median:.2f}x ({low:.2f} to {high:.2f})".format(**row["ratio"][tool]) for tool in ours]
        how = ", ".join(row["computed"][ours[0]].values())
        lines.append([f"{row['model']}, {row['data']}", *rates, *ratios, f"{row['target']:g}x", how])
    names = [tool.removeprefix("secateur, ") for tool in ours]
    head = ["images a second", plain, *names, *(f"ratio, {name}" for name in names), "target", "computed in"]
    device = result["gpu"] or f"{result['cpu']} ({', '.join(result['cpu_units'])})"
    count = ", ".join(dict.fromkeys(str(row["repeats"]) for row in result["models"]))
    return table(head, lines) + (
        f"\n\n{device}, {result['threads']} threads, batches of {result['models'][0]['batch']}, the plain loop with "
        f"{result['workers']} workers beside them; medians of {count} repeats taken in turn, least and largest ratio "
        f"of a repeat. torch {result['versions']['torch'].partition('+')[0]}; "
        "`python benchmarks/training.py --compile`."
    )


@_measured("step.py")
def step(result: Result) -> str:
    """Processor time of a training step by the choices of `fit`, and the operators that take it."""
    models = result["models"]
    first = {row["model"]: next(iter(row["median"].values()))["ms"] for row in models}
    lines = []
    for choice in models[0]["median"]:
        cells = []
        for row in models:
            found = row["median"][choice]
            times = first[row["model"]] / found["ms"]
            cells += [f"{found['ms']:,.0f}", f"{times:.2f}x", f"{found['faults']:,.0f}"]
        lines.append([choice, *cells])
    heads = [f"{row['model']}, {what}" for row in models for what in ("ms", "ratio", "page faults")]
    shares = [[kind, *(f"{100 * row['shares'][kind]:.0f} %" for row in models)] for kind in models[0]["shares"]]
    parts = table(["of a step with kept heap", *(row["model"] for row in models)], shares)
    return (
        f"{table(['choices, added up', *heads], lines)}\n\n{parts}\n\nProcessor time of a step on one thread of "
        f"{result['cpu']} ({', '.join(result['cpu_units'])}), medians of {result['repeats']} processes taken in turn; "
        f"torch {result['versions']['torch'].partition('+')[0]}; `python benchmarks/step.py`."
    )


@_measured("optim.py")
def optim(result: Result) -> str:
    """Time of a step of StochGradAdam beside torch's fused Adam and the naive version."""
    models, targets = result["models"], result["targets"]
    lines = []
    for form in models[0]["seconds"]:
        cells = [f"{1000 * row['seconds'][form]:,.1f} ms, {row['ratios'][form]:.2f}x" for row in models]
        lines.append([form, *cells, f"{targets[form]:g}x" if form in targets else ""])
    lines.append(["masks, share of the gradients' memory", *(f"{row['mask_memory']:.3f}" for row in models), "0.125"])
    heads = [f"{row['model']}, {row['parameters'] / 1e6:.1f} M parameters" for row in models]
    return (
        f"{table(['a step, ratio to Adam (fused)', *heads, 'target'], lines)}\n\nProcessor time on {result['threads']} "
        f"thread of {result['cpu']}, medians of {result['repeats']} repeats taken in turn; targets hold from a million "
        f"parameters on. torch {result['versions']['torch'].partition('+')[0]}; `python benchmarks/optim.py`."
    )


def measured() -> dict[str, Any]:
    """What the coverage of every library was found to be."""
    files = sorted((RESULTS / "benchmarks" / "coverage").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def coverage(library: str | None = None) -> str:
    """How many models of every library are cut and proven; or, of one library, a row a model."""
    tables, found = runpy.run_path(str(ROOT / "benchmarks" / "coverage_tables.py")), measured()
    if library is None:
        return f"{tables['summary'](found)}\n\n{tables['circumstances'](found)}"
    return str(tables["details"](found[library]["models"]))


@_measured("fuzz.py --save")
def fuzz(result: Result) -> str:
    """What became of random networks, in a sentence, with every seed that was refused or failed."""
    ranges = result["ranges"]
    networks, groups = (sum(part[key] for part in ranges) for key in ("networks", "groups"))
    counts, told = [], []
    for kind, words in (("wrong", "wrong"), ("refused", "refused by the proof alone"), ("crashed", "crashed")):
        rows = [row for part in ranges for row in part[kind]]
        counts.append(f"**{len(rows)}** {words}")
        told += [f"seed {row['seed']} {kind} ({row['failure']})" for row in rows]
    seeds = ", ".join(f"{part['first']:,} to {part['first'] + part['networks'] - 1:,}" for part in ranges)
    torch = ", ".join(dict.fromkeys(part["versions"]["torch"].partition("+")[0] for part in ranges))
    commits = ", ".join(dict.fromkeys(part["commit"] or "unknown" for part in ranges))
    return (
        f"{networks:,} random networks over all families of operators, with {groups:,} groups, were cut at random and "
        f"held against the laws: {', '.join(counts)}. {''.join(f'{one}. ' for one in told)}Seeds {seeds}, torch {torch}"
        f", commit {commits}; `python benchmarks/fuzz.py --save` goes on."
    )


@_measured("evaluate.py")
def evaluate(result: Result) -> str:
    """Time and memory of the whole evaluation of one network."""
    target, parts = result["target"], result["parts"]
    corrupted = sum(seconds for name, seconds in parts.items() if name.startswith("corruption"))
    others = [[name, duration(seconds)] for name, seconds in parts.items() if not name.startswith("corruption")]
    lines = [*others, [f"{result['sheets'] - 1} sheets of corruptions", duration(corrupted)]]
    lines.append(["**in all**", f"**{duration(result['seconds'])}** (at most {target['minutes']:g} min asked)"])
    lines.append(["largest memory", f"{result['gibibytes']:.2f} GiB (at most {target['gibibytes']:g} GiB asked)"])
    return table(["ResNet-20 on CIFAR-10, dense and one pruned model", "time"], lines) + (
        f"\n\n{result['images']:,} images, {result['draws']} draws of noise, {result['threads']} threads of "
        f"{result['cpu']}; torch {result['versions']['torch'].partition('+')[0]}; `python benchmarks/evaluate.py`."
    )


@_measured("corruptions.py")
def corruptions(result: Result) -> str:
    """Images a second of every corruption beside imagecorruptions."""
    heads, rows = ["images a second"], dict[str, list[str]]()
    for size in result["sizes"]:
        heads += [f"{size['size']}x{size['size']}", "imagecorruptions", "ratio"]
        for row in size["rows"]:
            theirs = row["median"].get("imagecorruptions")
            cells = [f"{row['median']['secateur']:,.0f}", f"{theirs:,.0f}" if theirs else ""]
            rows.setdefault(row["kind"], []).extend([*cells, f"{row['ratio']:.1f}x" if row["ratio"] else ""])
    means = [cell for size in result["sizes"] for cell in ("", "", f"**{size['mean']:.1f}x**" if size["mean"] else "")]
    lines = [[kind, *cells] for kind, cells in rows.items()] + [["geometric mean", *means]]
    return table(heads, lines) + (
        f"\n\nSeverity {result['severity']} of ImageNet-C's strengths, {result['threads']} threads of {result['cpu']}, "
        f"medians of {result['repeats']} repeats taken in turn; at least {result['target']:g}x asked at 32x32. Where "
        "there is no figure imagecorruptions failed or was not there; `python benchmarks/corruptions.py`."
    )


@_measured("gates.py --save")
def gates(result: Result) -> str:
    """What gates add to a training step, and what a network of few edges saves in inference."""
    targets = result["targets"]
    steps = [
        [
            f"{row['model']}, batch of {row['batch']}",
            f"{1000 * row['plain']:.1f} ms",
            f"{1000 * row['gated']:.1f} ms",
            f"{row['ratio']:.2f}x (at most {targets['step']:g}x asked)",
        ]
        for row in result["steps"]
    ]
    forms = [[row["form"], f"{1000 * row['seconds']:.2f} ms", f"{row['times']:.1f}x"] for row in result["inference"]]
    clock = "Processor time on 1 thread" if result["threads"] == 1 else f"Time on {result['threads']} threads"
    return (
        f"{table(['training step', 'plain', 'with gates', 'ratio'], steps)}\n\n"
        f"{table(['399 edges, batch of 256', 'time', 'faster than dense'], forms)}\n\n{clock} of {result['cpu']}, "
        f"medians of {result['repeats']} taken in turn; at least {targets['inference']:g}x is asked of a compact "
        f"network. torch {result['versions']['torch'].partition('+')[0]}; `python benchmarks/gates.py`."
    )


TABLES = {
    "surgery": surgery, "training": training, "step": step, "optim": optim, "coverage": coverage,
    "fuzz": fuzz, "evaluate": evaluate, "corruptions": corruptions, "gates": gates,
    **{f"coverage of {name}": partial(coverage, name) for name in ("torchvision", "timm", "transformers")},
}  # fmt: skip
