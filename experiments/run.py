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

from command import each, parser

from secateur import console
from secateur.run.experiments import Experiment, carry_out


def carried(experiment: Experiment, given: argparse.Namespace) -> tuple[Path, bool]:
    """The result of an experiment, and whether there was anything to do."""
    with console.stages() as progress:
        return carry_out(experiment, given.results, given.work, progress)


def main() -> int:
    """Carry out what the arguments name; 2 for an error that a user can mend."""
    return each(parser(__doc__).parse_args(), carried)


if __name__ == "__main__":
    sys.exit(main())
