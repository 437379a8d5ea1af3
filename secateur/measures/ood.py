"""Whether a classifier notices what it never learned: detection of images from elsewhere by a score.

The scores are the largest probability (Hendrycks and Gimpel, arXiv 1610.02136) and the energy (Liu et al., arXiv
2010.03759), as `Answers` have them: higher for what is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.errors import DataError, InputError

KNOWN_SHARE = 0.95


@dataclass(frozen=True)
class Detection:
    """`auroc`: the chance that a known image scores above a strange one, ties half; 0.5 is guessing.

    `fpr95`: the share of strange images let through by the threshold that keeps 95 % of the known ones. `aupr_in` and
    `aupr_out`: the areas under precision and recall with known, or strange, images as what is looked for.
    """

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float


def detection(known: Tensor, strange: Tensor) -> Detection:
    """How well a score, higher for known images, tells `known` from `strange` ones.

    >>> detection(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.8])).auroc
    0.875
    """
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not len(known) or not len(strange):
        raise DataError("Detection needs known and strange images. One of them is empty.")
    scores = np.concatenate([known.double().cpu().numpy(), strange.double().cpu().numpy()])
    if not np.isfinite(scores).all():
        raise InputError("Scores must be finite to be ranked. The energy is not defined for outputs in probabilities.")
    inside = np.repeat([1, 0], [len(known), len(strange)])
    # The largest threshold that keeps at least 95 % of the known images; what lies on it is kept.
    kept = np.sort(scores[: len(known)])[::-1][int(np.ceil(KNOWN_SHARE * len(known))) - 1]
    return Detection(
        auroc=float(roc_auc_score(inside, scores)),
        fpr95=float((scores[len(known) :] >= kept).mean()),
        aupr_in=float(average_precision_score(inside, scores)),
        aupr_out=float(average_precision_score(1 - inside, -scores)),
    )
