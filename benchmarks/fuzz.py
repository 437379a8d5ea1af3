"""Random networks by the thousand, held against the laws: no silent error, and a reason for every refusal.

    python benchmarks/fuzz.py --networks 20000 --seed 0 --jobs 2 --out fuzz.jsonl

One line of JSON a network goes to `--out`; a run that was stopped goes on where it was. Every seed that fails is
printed with the fewest of its steps that still do, as a line of Python. Ends with 1 where any failed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from laws.fuzzing import check, drawn, failure, smallest

from secateur.files import atomic_write

CHUNK = 20
console = Console()


def run(seed: int) -> dict[str, Any]:
    """What became of the network of a seed."""
    torch.set_num_threads(1)
    wrong = failure(drawn(seed))
    if wrong:
        small = smallest(drawn(seed))
        return {"seed": seed, "failure": wrong, "reproduce": f"check({small!r}, print)"}
    return {"seed": seed, "groups": check(drawn(seed)).groups}


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


def main(
    networks: Annotated[int, typer.Option(help="How many.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="The seed of the first; the others follow.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes at once, of one thread each.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Where each network's line goes.")] = Path("fuzz.jsonl"),
) -> None:
    """Check networks and tell what failed."""
    rows = known(out)
    wanted = range(seed, seed + networks)
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
    raise typer.Exit(bool(bad))


if __name__ == "__main__":
    typer.run(main)
