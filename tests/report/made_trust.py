"""The record of an evaluation made by hand, for tests that need no models."""

from __future__ import annotations

from made import accuracy

from secateur.measures.distance import EPSILONS
from secateur.report.trust_record import (
    AdversarialRow,
    AnswersRow,
    BinRow,
    CalibrationRow,
    ClassRow,
    DetectionRow,
    FeaturesRow,
    FlipsRow,
    LevelRow,
    ModelRow,
    NoiseRow,
    NominalRow,
    OodRow,
    PotentialRow,
    SheetRow,
    TrustRecord,
    WorstRow,
)

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = f"data:image/png;base64,{PIXEL}"
KINDS = ("gaussian_noise", "defocus_blur", "glass_blur", "fog", "jpeg_compression")


def answers(correct: int) -> AnswersRow:
    return AnswersRow(accuracy=accuracy(correct), nll=0.4, brier=0.13, ece=0.03, aurc=0.01)


def sheet(kind: str, severity: int, correct: list[int], reach: float = 0.8) -> SheetRow:
    lost = [correct[0] - each for each in correct[1:]]
    return SheetRow(
        kind=kind,
        severity=severity,
        answers=tuple(map(answers, correct)),
        flips=(None, *(FlipsRow(changed=400 + n, negative=150 + n, positive=150, p_value=0.001 if n > 40 else 0.4)
                       for n in lost)),
        potential=PotentialRow(value=reach, contiguous=reach, interpolated=reach, censored=reach >= 0.9,
                               low=reach - 0.1, high=min(0.9, reach + 0.05), safe=max(0.0, reach - 0.3)),
    )  # fmt: skip


def calibration(ece: float) -> CalibrationRow:
    bins = tuple(
        BinRow(
            low=i / 15, high=(i + 1) / 15, number=20 + 40 * i * i, confidence=(i + 0.5) / 15, accuracy=(i + 0.2) / 15
        )
        for i in range(3, 15)
    )
    return CalibrationRow(
        bins=bins, ece=ece, mce=0.1, nll=0.4, brier=0.13, temperature=1.4, ece_after=0.008, nll_after=0.3,
        brier_after=0.12, aurc=0.01, aurc_excess=0.008,
    )  # fmt: skip


def classes(lost: float) -> tuple[ClassRow, ...]:
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    return tuple(
        ClassRow(label=i, name=name, images=1000, before=0.93, after=0.93 - lost * (i - 3) / 6,
                 p_value=0.001 if i > 7 else 1.0)
        for i, name in enumerate(names)
    )  # fmt: skip


def noise(models: int) -> NoiseRow:
    levels = tuple(
        tuple(
            LevelRow(agreement=1 - 0.5 * e * m, agreement_deviation=0.01, distance=0.4 * e * m + 0.05 * m,
                     distance_deviation=0.01, accuracy=0.9 - e, accuracy_deviation=0.01)
            for e in EPSILONS
        )
        for m in (0, 0.5, 1.0, 0.9)[:models]
    )  # fmt: skip
    reach = tuple(max(0.0, 0.8 - 1.5 * e) for e in EPSILONS)
    return NoiseRow(epsilons=EPSILONS, draws=10, images=1000, levels=levels, potential=reach,
                    potential_deviation=(0.02,) * 15)  # fmt: skip


def made_trust(several: bool = True, **changes: object) -> TrustRecord:
    """Two pruned models and a control beside the dense one; or one pruned model alone, under nothing but what is."""
    models = [
        ModelRow(name="dense", role="dense", params=270_000, nonzero=270_000, ratio=0.0, computed="folded"),
        ModelRow(name="pruned", role="pruned", params=270_000, nonzero=54_000, ratio=0.8),
    ]
    if not several:
        return TrustRecord(
            data="digits", images=10_000, strengths="cifar", seed=0, margin=0.005, models=tuple(models),
            sheets=(sheet("nominal", 0, [9339, 9271]),), **changes,
        )  # fmt: skip
    models.insert(1, ModelRow(name="half", role="pruned", params=270_000, nonzero=135_000, ratio=0.5))
    models.append(ModelRow(name="other seed", role="control", params=270_000, nonzero=270_000, ratio=0.0))
    sheets = [sheet("nominal", 0, [9339, 9320, 9271, 9312])]
    for k, kind in enumerate(KINDS):
        sheets += [
            sheet(
                kind, s, [c := 9300 - 300 * s - 200 * k, c - 10 * s, c - 90 * s + 60 * k, c - 4], 0.9 - 0.06 * s * k / 2
            )
            for s in range(1, 6)
        ]
    detection = DetectionRow(auroc=0.912, fpr95=0.4, aupr_in=0.9, aupr_out=0.9)
    worst = tuple(
        WorstRow(kind=kind, severity=severity, model="pruned", index=i, label="cat", answered="dog", confidence=0.97,
                 picture=PICTURE)
        for kind, severity in (("nominal", 0), ("gaussian_noise", 5)) for i in range(12)
    )  # fmt: skip
    values: dict[str, object] = {
        "data": "cifar10", "images": 10_000, "strengths": "cifar", "seed": 0, "margin": 0.005, "models": models,
        "sheets": sheets, "worst": worst, "noise": noise(4),
        "nominal": NominalRow(calibration=tuple(calibration(0.03 + 0.01 * i) for i in range(4)),
                              classes=((), classes(0.01), classes(0.06), ())),
        "ood": (OodRow(name="cifar100", images=10_000, msp=(detection,) * 4, energy=(detection,) * 3 + (None,)),),
        "adversarial": AdversarialRow(kind="apgd", epsilon=8 / 255, steps=20,
                                      accuracies=tuple(accuracy(n, 500) for n in (31, 30, 22, 29))),
        "features": FeaturesRow(images=64, share=0.1, confidence=((0.9, 0.8, 0.5, 0.5),) * 4),
        "seconds": {"networks": 20.0, "nominal": 12.0},
    }  # fmt: skip
    return TrustRecord.model_validate(values | changes)
