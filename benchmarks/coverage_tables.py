"""What `coverage.py` measured, as lines, as a summary by library and as a table of each library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

OURS, THEIRS = "secateur", "torch-pruning"
CUTS = ("units", "macs")
WITHIN = 0.02  # of the budget

Row = Mapping[str, Any]


def good(row: Row) -> bool:
    """Whether a model was cut in both ways, with proof, and everything that worked still does."""
    if "error" in row:
        return False
    return all(
        part.get("proven") and not part["not proven"] and part["runs"] is True
        and part["batch"] in (None, True) and part["learns"] in (None, True)
        for part in (row[name] for name in CUTS)
    )  # fmt: skip


def met(row: Row) -> bool:
    """Whether half of the multiply-accumulates was reached."""
    return abs(2 * row.get("macs", {}).get("macs", 9) - 1) <= WITHIN


def line(key: str, tool: str, row: Row) -> str:
    """One row as text."""
    head = f"{key:44.44}"
    if "error" in row:
        return f"{head}{tool + ' ' if tool == THEIRS else ''}{row['error'][:150]}"
    if tool == THEIRS:
        return f"{head}{tool}: parameters {row['params']:.1%}, {row['seconds']:.1f} s"
    text = f"{head}{row['groups']:4} groups {row['prunable']:6.1%} "
    for name in CUTS:
        part = row[name]
        text += f" {name} " + (
            part["error"][:90] if "error" in part else f"{part['params']:6.1%}/{part['macs']:6.1%}"
            + ("" if part["proven"] else " UNPROVEN") + f" {len(part['not proven'])} out" * bool(part["not proven"])
            + "".join(f" {k}: {part[k][:90]}" for k in ("runs", "batch", "learns") if isinstance(part[k], str))
        )  # fmt: skip
    return text + f"  {sum(row['seconds'].values()):6.1f} s {row['memory'] / 1e6:6.0f} MB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def summary(libraries: Mapping[str, Row]) -> str:
    """One row for each library and kind of model."""
    kinds: dict[str, list[Row]] = {}
    for library, result in libraries.items():
        for row in result["models"].values():
            kinds.setdefault(f"{library} {row['kind']}".strip(), []).append(row)
    lines = []
    for kind, rows in kinds.items():
        done = [row[OURS] for row in rows if "error" not in row.get(OURS, {"error": ""})]
        peers = [row[THEIRS] for row in rows if THEIRS in row]
        times = [sum(row["seconds"].values()) for row in done] or [0.0]
        lines.append([
            kind, str(len(rows)), str(sum(row["groups"] > 0 for row in done)), str(sum(map(good, done))),
            str(sum(map(met, done))), percent(median(row["prunable"] for row in done) if done else 0),
            percent(median(row["units"].get("params", 1) for row in done) if done else 1),
            f"{median(times):.1f}", f"{max(times):.0f}",
            f"{max((row['memory'] for row in done), default=0) / 2**30:.1f}",
            f"{sum(row.get('pruned', False) for row in peers)} of {len(peers)}" if peers else "",
        ])  # fmt: skip
    head = [
        "", "models", "cut", "proven, run and learn", "50 % of MACs met", "prunable, median", "kept at half the units",
        "seconds, median", "most", "memory, most, GiB", "Torch-Pruning cuts",
    ]  # fmt: skip
    return table(head, lines)


def details(models: Mapping[str, Row]) -> str:
    """One row for each model of a library."""
    rows = []
    for name, model in models.items():
        row, peer = model.get(OURS, {"error": "not measured"}), model.get(THEIRS, {})
        other = "" if not peer else ("no" if "error" in peer else percent(peer["params"]))
        if "error" in row:
            rows.append([name, "", "", "", "", "", row["error"][:80].replace("|", "/"), other])
            continue
        why = next(iter(row["frozen"]), "").replace("|", "/") if row["prunable"] < 0.95 else ""
        rows.append([
            name, str(row["groups"]), percent(row["prunable"]), percent(row["units"].get("params")),
            percent(row["macs"].get("macs")), f"{sum(row['seconds'].values()):.1f}", why, other,
        ])  # fmt: skip
    head = [
        "model", "groups", "prunable", "parameters at half the units", "MACs where 50 % were asked", "seconds",
        "what stays, mostly", "Torch-Pruning",
    ]  # fmt: skip
    return table(head, rows)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def circumstances(libraries: Mapping[str, Row]) -> str:
    """What the columns mean, and what the numbers were measured with."""
    facts = max((result["facts"] for result in libraries.values()), key=lambda facts: str(facts["when"]))
    versions = ", ".join(f"{name} {number.partition('+')[0]}" for name, number in facts["versions"].items())
    return (
        "Every model is pruned without a hint, to half of every group's units and to half of its "
        "multiply-accumulates. *Proven, run and learn*: both smaller models equal their references in float64, run, "
        "run on a batch of another size and take a training step, wherever the whole model does. *Prunable* is the "
        "share of parameters in at least one group. Processor seconds go from the built model to the proven cut of "
        f"half the units, in a fresh process, on {facts['threads']} CPU thread(s). {versions}; "
        "`python benchmarks/coverage.py`."
    )
