"""Writes the tables of README and docs from results/ and from the schema of recipes, so that nothing in them is typed.

python experiments/tables.py            write them
python experiments/tables.py --check    exit with 1 where they are stale
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from secateur.errors import SecateurError
from secateur.recipe import METHODS, shipping
from secateur.recipe.pruning import method_options
from secateur.recipe.shown import rows
from secateur.report.record import PrunabilityRow, RunRecord, StageName, StageRow
from secateur.report.seeds import Spread, spread
from secateur.report.text import duration
from secateur.run.experiments import kept

ROOT = Path(__file__).resolve().parent.parent
RESULTS, EXPERIMENTS = ROOT / "results", ROOT / "experiments"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def table(head: list[str], lines: list[list[str]], *, numbers: bool = True) -> str:
    """A Markdown table; all columns but the first are numbers, unless said otherwise."""
    marks = ["---", *["--:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, marks, *lines])


def gathered(results: Path = RESULTS, files: Path = EXPERIMENTS) -> dict[str, list[RunRecord]]:
    """The records of every experiment by its title, one a seed."""
    found: dict[str, list[RunRecord]] = {}
    for experiment, record in kept(results, files):
        found.setdefault(experiment.title, []).append(record)
    return found


def percent(stages: list[StageRow | None]) -> str:
    """Mean and deviation of the accuracy of a stage in per cent, or nothing where the runs had no such stage."""
    found = spread([stage.accuracy.value for stage in stages if stage and stage.accuracy])
    return found.words() if found else ""


def ratio(values: list[float | None]) -> str:
    """The mean of how many times less is needed."""
    found = spread([value for value in values if value is not None])
    return f"{found.mean:.2f}x" if found else ""


def epochs(record: RunRecord) -> int:
    """The epochs of all trainings of a run."""
    return sum(len(curve.epochs) for curve in record.curves)


def _link(title: str, records: list[RunRecord]) -> str:
    first = records[0]
    asked = f", {first.plan.asked}" if first.plan else ""
    where = f"results/{title}.json" if (RESULTS / f"{title}.json").exists() else f"results/{title.partition('/')[0]}"
    return f"[{title}]({where}): {first.model}, {first.data}{asked}, {epochs(first)} epochs"


ACCURACIES = "Test accuracy in per cent, test read once at each stage; mean ± standard deviation over the seeds."


def runs() -> str:
    """One row an experiment that prunes."""
    stages: tuple[StageName, ...] = ("dense", "cut", "batch norm re-estimated", "fine-tuned")
    lines = [
        [
            _link(title, records),
            str(len(records)),
            *(percent([record.stage(stage) for record in records]) for stage in stages),
            ratio([record.ratio("macs") for record in records]),
            ratio([record.ratio("params") for record in records]),
            ratio([record.ratio("latency") for record in records]),
        ]
        for title, records in gathered().items()
        if records[0].plan is not None
    ]
    head = ["run", "seeds", "dense", "cut", "+ batch norm", "+ fine-tuning", "MACs", "parameters", "latency"]
    return f"{table(head, lines)}\n\n{ACCURACIES}"


def dense(results: Path = RESULTS) -> str:
    """One row an experiment that cuts nothing and asks for no more, and one for the same by a plain PyTorch loop."""
    lines = []
    for title, records in gathered().items():
        if records[0].plan is not None or records[0].prunability is not None:
            continue
        found = [record.final.accuracy.value for record in records if record.final.accuracy]
        time = spread([sum(record.seconds.values()) for record in records])
        lines.append(
            [
                _link(title, records),
                str(len(records)),
                percent([record.final for record in records]),
                f"{100 * min(found):.2f} to {100 * max(found):.2f}" if len(found) > 1 else "",
                duration(time.mean if time else None),
                records[0].hardware.device,
            ]
        )
        lines += _plain_loop(title, results)
    head = ["network", "seeds", "test accuracy", "range", "time of a run", "device"]
    return f"{table(head, lines)}\n\n{ACCURACIES}"


def _plain_loop(title: str, results: Path) -> list[list[str]]:
    """The row of `benchmarks/plain.py` with the recipe of an experiment, if there is one."""
    files = sorted((results / "benchmarks" / "plain").glob(f"{title}-seed*.json"))
    found = [json.loads(file.read_text()) for file in files]
    accuracy, time = spread([one["accuracy"] for one in found]), spread([one["seconds"] for one in found])
    if accuracy is None or time is None:
        return []
    values = [one["accuracy"] for one in found]
    between = f"{100 * min(values):.2f} to {100 * max(values):.2f}" if len(values) > 1 else ""
    name = "the same by a plain PyTorch loop (`benchmarks/plain.py`)"
    return [[name, str(len(found)), accuracy.words(), between, duration(time.mean), "cpu"]]


SPARSITIES = (0.5, 0.7, 0.9)


def gradient_sampling() -> str:
    """One row an optimizer: dense, and after one-shot pruning under one threshold, without and with batch norm."""
    lines = []
    for title, records in gathered().items():
        found = [record.prunability for record in records if record.prunability is not None]
        if not title.startswith("gradient_sampling/") or not found:
            continue
        spreads = [_pruned(found, sparsity, again) for sparsity in SPARSITIES for again in (False, True)]
        cells = [value.words() if value else "" for value in spreads]
        shape = [spread([getattr(row.weights, name) for row in found]) for name in ("e50", "mean_size")]
        lines.append(
            [
                title.partition("/")[2],
                str(epochs(records[0])),
                str(len(records)),
                percent([record.dense for record in records]),
                *cells,
                *(f"{value.mean:.3g}" if value else "" for value in shape),
            ]
        )
    heads = [f"{100 * sparsity:.0f} %{extra}" for sparsity in SPARSITIES for extra in ("", ", + batch norm")]
    head = ["network, optimizer", "epochs", "seeds", "dense", *heads, "smaller half", "mean size"]
    told = (
        f"{ACCURACIES} “+ batch norm”: its statistics estimated anew on training images; “smaller half”: the share of "
        "the squared norm that it holds."
    )
    return f"{table(head, lines)}\n\n{told}" if lines else "No results are kept yet."


def _pruned(found: list[PrunabilityRow], sparsity: float, again: bool) -> Spread | None:
    """Accuracy at one sparsity over the seeds, or None where it was not measured."""
    points = [row.at(sparsity, reestimated=again) for row in found]
    return spread([point.accuracy for point in points if point is not None])


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
        f" Over all {len(result['models'])} classification models of torchvision (`--models all`), the median ratio is "
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


def training(results: Path = RESULTS) -> str:
    """Images a second of `fit` beside a plain PyTorch loop."""
    path = results / "benchmarks" / "training.json"
    if not path.exists():
        return "Not measured: `python benchmarks/training.py --compile` keeps a result."
    result: dict[str, Any] = json.loads(path.read_text())
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


def step(results: Path = RESULTS) -> str:
    """Processor time of a training step by the choices of `fit`, and the operators that take it."""
    path = results / "benchmarks" / "step.json"
    if not path.exists():
        return "Not measured: `python benchmarks/step.py` keeps a result."
    result: dict[str, Any] = json.loads(path.read_text())
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


def optim(results: Path = RESULTS) -> str:
    """Time of a step of StochGradAdam beside torch's fused Adam and the naive version."""
    path = results / "benchmarks" / "optim.json"
    if not path.exists():
        return "Not measured: `python benchmarks/optim.py` keeps a result."
    result: dict[str, Any] = json.loads(path.read_text())
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


def keys() -> str:
    """Every key of a recipe."""
    lines = [[f"`{key}`", f"`{value}`" if value else "", meaning.replace("|", "\\|")] for key, value, meaning in rows()]
    return table(["key", "default", "meaning"], lines, numbers=False)


def shipped() -> str:
    """The recipes that come with the package."""
    return table(
        ["name", "what it does"], [[f"`{name}`", told] for name, told in shipping.names().items()], numbers=False
    )


def methods() -> str:
    """One row a pruning method of a recipe, with its own words and what it can be told."""
    lines = []
    for name, kind in METHODS.items():
        words = (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0]
        told = ", ".join(f"{option} {_plain(value)}" for option, value in method_options(name).items())
        lines.append([f"`{name}`", words.partition(": ")[2], told])
    return table(["name", "what it does", "options and their defaults"], lines, numbers=False)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:.3g}"


TABLES: dict[str, Callable[[], str]] = {
    "runs": runs, "dense": dense, "surgery": surgery, "training": training, "step": step, "optim": optim,
    "recipe keys": keys,    "recipes": shipped, "methods": methods, "gradient sampling": gradient_sampling, "coverage": coverage,
    **{f"coverage of {name}": partial(coverage, name) for name in ("torchvision", "timm", "transformers")},
}  # fmt: skip


def written(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if marks.search(text):
            made = make()
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def main() -> int:
    """Write the pages, or say which are stale; 2 where a result is damaged or of another recipe than its name tells."""
    try:
        stale = [page for page in PAGES if written(page.read_text()) != page.read_text()]
    except SecateurError as error:
        print(error)
        return 2
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.name} is stale: run python experiments/tables.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(written(page.read_text()))
        print(f"wrote {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
