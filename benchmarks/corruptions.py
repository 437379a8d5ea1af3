"""Images per second of every corruption: `secateur.data.corruptions` beside the package imagecorruptions.

    python benchmarks/corruptions.py                              32x32 and 224x224, some ten minutes on two cores
    python benchmarks/corruptions.py --sizes 32 --repeats 3

Both get the same random images with some structure, in the strengths of ImageNet-C at severity 3. imagecorruptions
takes one image after the other, as it is used; the batch is given as one. A corruption that the package refuses (its
release 1.1.2 fails for three of them on current numpy and scikit-image) has no ratio. The two take turns within a
repeat; medians are over the repeats, the geometric mean is over the corruptions that have a ratio. Where
imagecorruptions is not installed the own figures stand alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import training as whole

from secateur.data.corruptions import corrupt, kinds
from secateur.files import atomic_write

IMAGES = {32: (1000, 40), 224: (32, 8)}
"""Images in a measurement by their side: ours, theirs."""
TARGET = 10.0
"""Times as fast on the geometric mean at 32x32."""
SEVERITY = 3
OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "corruptions.json"


def images(number: int, size: int) -> torch.Tensor:
    """Smooth random images with noise on them, uint8 [number, 3, size, size], always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return ((smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1) * 255).to(torch.uint8)


def theirs() -> Callable[[Any, str], Any] | None:
    """One image through imagecorruptions; None where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from imagecorruptions import corrupt as one
    except ImportError as error:
        print(f"imagecorruptions is left out: {error}")
        return None
    return lambda image, kind: one(image, corruption_name=kind, severity=SEVERITY)


def rate(call: Callable[[], object], number: int) -> float:
    """Images a second of one call."""
    started = time.perf_counter()
    call()
    return number / (time.perf_counter() - started)


def compare(kind: str, size: int, repeats: int, other: Callable[[Any, str], Any] | None) -> dict[str, Any]:
    """Medians of both, all samples, and why the other one has none."""
    many, few = IMAGES[size]
    batch = images(many, size)
    arrays = [image.permute(1, 2, 0).numpy() for image in batch[:few]]

    def ours() -> object:
        return corrupt(batch, kind, SEVERITY, strengths="imagenet")

    def single() -> object:
        assert other is not None
        return [other(array, kind) for array in arrays]

    corrupt(batch[:2], kind, SEVERITY, strengths="imagenet")
    refused = ""
    if other is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other(arrays[0], kind)
        except Exception as error:  # whatever the package raises is the finding
            refused = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    found: dict[str, list[float]] = {"secateur": [], "imagecorruptions": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            found["secateur"].append(rate(ours, many))
            if other is not None and not refused:
                found["imagecorruptions"].append(rate(single, few))
    median = {tool: statistics.median(rates) for tool, rates in found.items() if rates}
    ratio = median["secateur"] / median["imagecorruptions"] if "imagecorruptions" in median else None
    return {"kind": kind, "median": median, "ratio": ratio, "refused": refused, "samples": found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--kinds", nargs="+", default=list(kinds("imagenet")), choices=list(kinds("imagenet")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file that is written")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    asked.device = "cpu"
    torch.set_num_threads(asked.threads)
    other = theirs()
    facts = whole.circumstances(asked) | {"repeats": asked.repeats, "severity": SEVERITY, "target": TARGET}
    facts.pop("workers")
    with contextlib.suppress(ImportError):
        facts["versions"]["imagecorruptions"] = whole.version("imagecorruptions")
    sizes = []
    for size in asked.sizes:
        rows = []
        for kind in asked.kinds:
            rows.append(compare(kind, size, asked.repeats, other))
            row = rows[-1]
            told = f"{row['ratio']:8.1f}x" if row["ratio"] else f"  {row['refused']}"
            print(f"{size:4} {kind:20}{row['median']['secateur']:12,.0f}{told}", flush=True)
        ratios = [row["ratio"] for row in rows if row["ratio"]]
        mean = statistics.geometric_mean(ratios) if ratios else None
        print(f"{size:4} geometric mean      {mean and f'{mean:.1f}x'}", file=sys.stderr)
        sizes.append({"size": size, "mean": mean, "rows": rows})
    with atomic_write(asked.out) as partial_file:
        partial_file.write_text(json.dumps({**facts, "sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
