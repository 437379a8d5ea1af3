"""What the scripts of experiments have in common: how recipes are named, and one after the other carried out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from secateur import console
from secateur.errors import CheckpointError, SecateurError
from secateur.report.record import RunRecord
from secateur.run.experiments import Experiment, experiments, matching, sound

ROOT = Path(__file__).resolve().parent.parent

Carry = Callable[[Experiment, argparse.Namespace], tuple[Path, bool]]
"""Carries an experiment out; gives its file, and whether there was anything to do."""


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that name experiments and their folders; `about` is the script's docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("files", nargs="+", type=Path, help="recipes, experiments/QUESTION/NAME.yaml")
    made.add_argument("--seeds", nargs="+", type=int, default=[], help="instead of those that the files name")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes, told in the result's name")
    made.add_argument("--work", type=Path, default=ROOT / "runs", help="folder of the runs (default: runs/)")
    made.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    return made


def finished(experiment: Experiment, results: Path) -> RunRecord:
    """The record of an experiment that has been carried out; raises `CheckpointError` where it was not yet."""
    path = experiment.result(results)
    if not sound(path):
        raise CheckpointError(
            f"The run {experiment.name} is not finished: there is no result {path}. Carry it out first, by "
            "experiments/run.py with the same options."
        )
    return matching(experiment, path)


def each(given: argparse.Namespace, carry: Carry) -> int:
    """Carry out what the options name and tell each file; 2 for an error that a user can mend, 130 if stopped."""
    try:
        planned = [e for file in given.files for e in experiments(file, seeds=given.seeds, changes=given.set)]
        for number, experiment in enumerate(planned, start=1):
            print(f"[{number}/{len(planned)}] {experiment.name}", file=sys.stderr)
            path, done = carry(experiment, given)
            print(f"{path}{'' if done else ' (was there)'}")
    except (SecateurError, OSError) as error:
        console.tell_error(str(error))
        return 2
    except KeyboardInterrupt:
        console.tell_error("Stopped. The same command goes on from here.")
        return 130
    return 0
