"""Carries out experiments and keeps their results.

python experiments/run.py experiments/dense/resnet20.yaml                           every seed that the file names
python experiments/run.py experiments/dense/*.yaml --seeds 0 1 --set training.epochs=20 --work DIR

Every run has a folder of its own under the one for work; started again after a kill, it goes on there. Results that
exist are left alone, those that are damaged are made anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from secateur import console
from secateur.errors import SecateurError
from secateur.run.experiments import carry_out, experiments

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Carry out what the arguments name; 2 for an error that a user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="recipes, experiments/QUESTION/NAME.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="instead of those that the files name")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes, told in the result's name")
    parser.add_argument("--work", type=Path, default=ROOT / "runs", help="folder of the runs (default: runs/)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    given = parser.parse_args()
    try:
        planned = [e for file in given.files for e in experiments(file, seeds=given.seeds, changes=given.set)]
        for number, experiment in enumerate(planned, start=1):
            print(f"[{number}/{len(planned)}] {experiment.name}", file=sys.stderr)
            with console.stages() as progress:
                path, done = carry_out(experiment, given.results, given.work, progress)
            print(f"{path}{'' if done else ' (was there)'}")
    except (SecateurError, OSError) as error:
        console.tell_error(str(error))
        return 2
    except KeyboardInterrupt:
        console.tell_error("Stopped. The same command goes on from here.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
