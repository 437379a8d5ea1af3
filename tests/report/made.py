"""A record made by hand, for tests that need no run."""

from __future__ import annotations

import math

from secateur.report.record import (
    AccuracyRow,
    CheckRow,
    Curve,
    EpochRow,
    FrozenRow,
    GroupRow,
    Hardware,
    LatencyRow,
    MannerRow,
    PlanRow,
    ProofRow,
    RunRecord,
    SpeedupRow,
    StageRow,
)


def accuracy(correct: int, total: int = 10_000) -> AccuracyRow:
    value = correct / total
    half = 1.96 * math.sqrt(value * (1 - value) / total)
    return AccuracyRow(value=value, low=value - half, high=value + half, correct=correct, total=total)


def latency(milliseconds: float) -> LatencyRow:
    return LatencyRow(
        median_ms=milliseconds,
        p10_ms=milliseconds * 0.95,
        p90_ms=milliseconds * 1.12,
        throughput=1000 / milliseconds,
        batch=1,
        threads=2,
    )


def _stages() -> tuple[StageRow, ...]:
    big = {"params": 855_770, "macs": 125_490_000}
    small = {"params": 431_210, "macs": 62_410_000}
    return (
        StageRow(stage="dense", accuracy=accuracy(9339), loss=0.28394, bytes=3_454_100, latency=latency(11.42), **big),
        StageRow(stage="masked", accuracy=accuracy(1923), loss=4.512, latency=latency(11.51), **big,
                 nonzero_macs=62_410_000, nonzero_params=431_210),
        StageRow(stage="cut", accuracy=accuracy(1923), loss=4.512, **small),
        StageRow(stage="batch norm re-estimated", accuracy=accuracy(8417), loss=0.6612, **small),
        StageRow(stage="fine-tuned", accuracy=accuracy(9271), loss=0.29871, bytes=1_748_200, latency=latency(7.318),
                 **small),
    )  # fmt: skip


def _epochs(count: int) -> tuple[EpochRow, ...]:
    return tuple(
        EpochRow(
            epoch=e,
            train_loss=0.45 * 0.8**e + 0.02,
            train_accuracy=1 - 0.14 * 0.8**e,
            validation_loss=0.33 * 0.9**e + 0.1,
            validation_accuracy=0.9 + 0.03 * (1 - 0.7**e),
            lr=0.01 * (1 - (e - 1) / count),
            seconds=88.1,
        )
        for e in range(1, count + 1)
    )


def made_record(groups: int = 30, **changes: object) -> RunRecord:
    """A run over a residual network with so many groups."""
    widths = (16, 32, 64) if groups < 100 else (64, 256, 1024, 2048)
    rows = tuple(
        GroupRow(
            name=f"layer{1 + i * len(widths) // groups}.{i % 9}.conv1",
            before=(width := widths[i * len(widths) // groups]),
            after=max(4, int(width * (0.35 + 0.6 * math.sin(i) ** 2)) // 4 * 4),
            proof="exact" if i % 7 else "kept statistics",
        )
        for i in range(groups)
    )
    frozen = (
        FrozenRow(name="conv1.weight[1]", units=3, reason="The model's input has this width.", operator="input"),
        FrozenRow(name="linear.weight[0]", units=10, reason="The model's output has this width.", operator="output"),
        *(
            FrozenRow(
                name=f"layer{n}.0.shortcut",
                units=width,
                reason="Zero padding of a channel dimension fixes how many channels stand before it.",
                operator="aten.constant_pad_nd",
                module=f"layer{n}.0.shortcut",
            )
            for n, width in ((2, 32), (3, 64))
        ),
    )
    values: dict[str, object] = {
        "model": "zoo:resnet56",
        "data": "cifar10",
        "recipe": {
            "model": {"spec": "zoo:resnet56", "weights": "resnet56.th"},
            "data": {"name": "cifar10", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            "pruning": {"budget": "2x macs", "criterion": "magnitude", "round_to": 4},
            "training": {"fine_tune": 10, "lr": 0.01},
            "seed": 0,
        },
        "versions": {"secateur": "0.1.0", "torch": "2.15.0", "python": "3.11.7"},
        "hardware": Hardware(cpu="Example CPU @ 2.60 GHz", threads=2),
        "started": "2026-11-21 12:00:00 +0000",
        "seeds": (0,),
        "plan": PlanRow(
            asked="2x macs", reached="49.7% macs", criterion="magnitude", allocation="global", round_to=4
        ),
        "stages": _stages(),
        "groups": rows,
        "frozen": frozen,
        "proof": ProofRow(
            proven=True,
            checks=(
                CheckRow(name="slim model against masked model", error=2.1e-15, passed=True),
                CheckRow(name="slim model against the recording on cut tensors", error=8.7e-16, passed=True),
            ),
            tolerance=1e-9,
            dtype="float64",
        ),
        "speedup": SpeedupRow(ratio=1.56, low=1.49, high=1.63),
        "curves": (
            Curve(
                name="fine-tuning",
                manner=MannerRow(precision="bf16", channels_last=True, compiled=False, ranks=2),
                epochs=_epochs(10),
            ),
        ),
        "seconds": {
            "load": 1.2, "measure dense": 14.3, "find groups": 2.4, "plan": 0.31, "cut and prove": 3.1,
            "measure cut": 8.2, "re-estimate batch norm": 11.5, "fine-tune": 884.2, "measure slim": 9.4,
        },
    }  # fmt: skip
    return RunRecord.model_validate(values | changes)
