"""Random networks by the thousand, held against the laws: no silent error, and a reason for every refusal.

    python benchmarks/fuzz.py --networks 20000 --seed 0 --jobs 2 --out fuzz.jsonl
    python benchmarks/fuzz.py --networks 500 --save      the next 500 seeds, counted in results/benchmarks/fuzz.json

One line of JSON a network goes to `--out`; a run that was stopped goes on where it was. Every seed that fails is
printed with the fewest of its steps that still do, as a line of Python. Ends with 1 where any failed. What `--save`
keeps is a range of seeds: how many networks and groups, which of them were wrong (the slim network computes something
else), refused (by the proof alone, with its reason) or crashed, on which torch and commit. Ranges add up; one that is
run again takes the place of what it overlaps.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from laws.fuzzing import drawn, smallest, tried

from secateur.files import atomic_write

CHUNK = 20
SAVED = Path(__file__).parents[1] / "results" / "benchmarks" / "fuzz.json"
console = Console()


def run(seed: int) -> dict[str, Any]:
    """What became of the network of a seed."""
    torch.set_num_threads(1)
    wrong, groups = tried(drawn(seed))
    if wrong:
        small = smallest(drawn(seed))
        return {"seed": seed, "failure": wrong, "reproduce": f"check({small!r}, print)"}
    return {"seed": seed, "groups": groups}


def known(out: Path) -> dict[int, dict[str, Any]]:
    """What an earlier run wrote, by seed; a last line that was cut short is dropped."""
    found = {}
    for line in out.read_text().splitlines() if out.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["seed"]] = row
    return found


def kind(failure: str) -> str:
    """What a failure is: a law that does not hold is wrong, whatever else is raised is a crash."""
    first = failure.partition(":")[0]
    return {"refused by the proof": "refused", "AssertionError": "wrong"}.get(first, "crashed")


def ranged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of the networks of neighbouring seeds."""
    failed = [row for row in rows if "failure" in row]
    told: dict[str, list[dict[str, Any]]] = {"wrong": [], "refused": [], "crashed": []}
    for row in failed:
        told[kind(row["failure"])].append(dict(row))
    groups = sum(row.get("groups", 0) for row in rows)
    return {"first": rows[0]["seed"], "networks": len(rows), "groups": groups, **told, **circumstances()}


def circumstances() -> dict[str, Any]:
    """Which code was tried: versions and the commit, with a mark where files differ from it."""
    versions = {"python": platform.python_version(), "torch": version("torch"), "secateur": version("secateur")}
    asked = ["git", "-C", str(SAVED.parents[2]), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return {"versions": versions, "commit": found.stdout.strip() or None}


def kept(path: Path) -> list[dict[str, Any]]:
    """The ranges of seeds that were saved, in order."""
    return json.loads(path.read_text())["ranges"] if path.is_file() else []


def save(path: Path, entry: dict[str, Any]) -> None:
    """Add a range of seeds to those that were saved, in the place of any that it overlaps."""
    end = entry["first"] + entry["networks"]
    others = [r for r in kept(path) if r["first"] + r["networks"] <= entry["first"] or end <= r["first"]]
    with atomic_write(path) as partial:
        ranges = joined(sorted([*others, entry], key=lambda r: r["first"]))
        partial.write_text(json.dumps({"ranges": ranges}, indent=1) + "\n")


def joined(ranges: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ranges with neighbours made one where the same code was tried."""
    result: list[dict[str, Any]] = []
    for part in ranges:
        last = result[-1] if result else None
        alike = last is not None and all(last[key] == part[key] for key in ("versions", "commit"))
        if last is not None and alike and last["first"] + last["networks"] == part["first"]:
            added = ("networks", "groups", "wrong", "refused", "crashed")
            result[-1] = {**last, **{key: last[key] + part[key] for key in added}}
        else:
            result.append(part)
    return result


def following(path: Path) -> int:
    """The first seed after all that were saved."""
    return max((r["first"] + r["networks"] for r in kept(path)), default=0)


def main(
    networks: Annotated[int, typer.Option(help="How many.", min=1)] = 2000,
    seed: Annotated[int | None, typer.Option(help="The first seed; 0, or with --save the first not saved yet.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at once, of one thread each.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Where each network's line goes.")] = Path("fuzz.jsonl"),
    keep: Annotated[bool, typer.Option("--save", help="Count them in results/benchmarks/fuzz.json.")] = False,
) -> None:
    """Check networks and tell what failed."""
    rows = known(out)
    first = seed if seed is not None else following(SAVED) if keep else 0
    wanted = range(first, first + networks)
    left = [s for s in wanted if s not in rows]
    with atomic_write(out) as whole:  # without a line that was cut short
        whole.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    with ProcessPoolExecutor(jobs) as pool, out.open("a") as file:
        for row in track(
            pool.map(run, left, chunksize=CHUNK), total=len(left), console=console, description="networks"
        ):
            rows[row["seed"]] = row
            print(json.dumps(row), file=file, flush=True)
            if "failure" in row:
                console.print(
                    f"seed {row['seed']}: {row['failure']}\n  {row['reproduce']}", markup=False, soft_wrap=True
                )
    bad = [rows[s]["failure"] for s in wanted if "failure" in rows[s]]
    groups = sum(rows[s].get("groups", 0) for s in wanted)
    console.print(f"{networks} networks, {groups} groups, {len(bad)} failures")
    for kind, count in Counter(text.split(":")[0] for text in bad).most_common():
        console.print(f"  {count} x {kind}", markup=False)
    if keep:
        save(SAVED, ranged([rows[s] for s in wanted]))
    raise typer.Exit(bool(bad))


if __name__ == "__main__":
    typer.run(main)
