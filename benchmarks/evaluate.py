"""Time and memory of the whole evaluation of ResNet-20 on CIFAR-10, dense beside one pruned model.

    python benchmarks/evaluate.py                                 10,000 images, some ten minutes on two cores
    python benchmarks/evaluate.py --images 500 --severities 3     a look at it

All 19 corruptions at 5 severities, noise (15 levels, 1,000 images; --draws 100 as published), calibration, flips,
classes, strange images (CIFAR-100, noise, blobs), and the page. The dense network has the weights of the file
`resnet20-12fca82f.th` in SECATEUR_WEIGHTS, or is initialised at random where there is none, which costs the same; the
pruned one is cut to half of its MACs by magnitude, its batch norm estimated anew. It runs in a process of its own,
whose largest memory is the system's figure. The data sets are looked for in SECATEUR_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import training as whole

from secateur.files import atomic_write

WEIGHTS = "resnet20-12fca82f.th"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What those weights were trained with."""
MINUTES, GIBIBYTES = 15.0, 4.0
"""What it must stay under on two cores."""
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "evaluate.json"


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The evaluation in this process: seconds in all and by part, and what it found in a few numbers."""
    import torch

    import secateur
    from secateur import zoo
    from secateur.data import load
    from secateur.data.pictures import Pictures
    from secateur.evaluating import strange_for
    from secateur.report import trust as page
    from secateur.run.evaluation import Settings
    from secateur.run.subjects import Subject
    from secateur.run.trusting import trust

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    data = load("cifar10", mean=MEAN, std=STD, limit=2000)
    dense = zoo.model("resnet20").eval()
    weights = Path(os.environ.get("SECATEUR_WEIGHTS", "")) / WEIGHTS
    if weights.is_file():
        zoo.load_weights(dense, weights)
    pruned = secateur.prune(dense, torch.randn(1, 3, 32, 32), budget="50% macs")
    secateur.reestimate_batch_norm(pruned, data.train, batches=10)
    pictures = Pictures.of(data.test, asked.images)
    settings = Settings(tuple(asked.severities), draws=asked.draws, compile=asked.compile or "auto")
    started = time.perf_counter()
    record = trust(
        [Subject("dense", dense, "dense"), Subject("pruned", pruned)],
        pictures,
        folder,
        data="cifar10",
        settings=settings,
        strange=strange_for(None, data, pictures, 0),
    )
    path = page.write(record, folder)
    seconds = time.perf_counter() - started
    nominal = record.at("nominal", 0)
    assert nominal is not None
    return {
        "seconds": seconds,
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "page_bytes": path.stat().st_size,
        "parts": record.seconds,
        "computed": {model.name: model.computed for model in record.models},
        "weights": weights.name if weights.is_file() else "random",
        "accuracy": [each.accuracy.value for each in nominal.answers],
        "sheets": len(record.sheets),
    }


def child(asked: argparse.Namespace) -> dict[str, Any]:
    """The measurement of a fresh process; raises `RuntimeError` with its last words where it fails."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"The evaluation ended with {done.returncode}.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--draws", type=int, default=10, help="of the noise; the paper has 100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile whatever the number of images")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file that is written")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(asked, Path(folder))))
        return
    asked.device = "cpu"
    facts = whole.circumstances(asked)
    facts.pop("workers")
    found = child(asked)
    minutes = found["seconds"] / 60
    print(f"{found['sheets']} sheets of {asked.images:,} images, {asked.threads} threads: {minutes:.1f} min "
          f"(target {MINUTES:g}), {found['gibibytes']:.2f} GiB (target {GIBIBYTES:g})")  # fmt: skip
    for name, seconds in found["parts"].items():
        print(f"  {name:32}{seconds:8.1f} s")
    told = {"images": asked.images, "draws": asked.draws, "severities": asked.severities}
    targets = {"minutes": MINUTES, "gibibytes": GIBIBYTES}
    with atomic_write(asked.out) as partial_file:
        partial_file.write_text(json.dumps({**facts, **told, "target": targets, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
